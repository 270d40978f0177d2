"""Processes that run functions together, with a watchdog: what hangs fails, and says where every process stood."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from support.forked import context


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a function returned, or raised, in one process."""

    value: Any = None
    error: str = ""
    message: str = ""
    trace: str = ""


class Processes:
    """``count`` processes, each of which runs one function after the other.

    A function gets its rank, the number of ranks, and a port for the process group that it makes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers: list[_Worker] = []

    def run(self, function: Callable[..., Any], *arguments: Any, seconds: float = 120) -> list[Any]:
        """Results by rank; a failure anywhere is one of the test, with all traces."""
        outcomes = self.outcomes(function, *arguments, seconds=seconds)
        if any(outcome.error for outcome in outcomes):
            pytest.fail("\n".join(f"rank {rank}: {item.trace or 'returned'}" for rank, item in enumerate(outcomes)))
        return [outcome.value for outcome in outcomes]

    def outcomes(self, function: Callable[..., Any], *arguments: Any, seconds: float = 120) -> list[Outcome]:
        """Results or errors by rank. After an error, or too long, the processes are replaced."""
        if not self._workers:
            with tempfile.TemporaryDirectory() as folder:
                self._workers = [_Worker(rank, Path(folder)) for rank in range(self.count)]
                self._collect(_nothing, (), seconds)
        with tempfile.TemporaryDirectory() as folder:
            for worker in self._workers:
                worker.dumps = Path(folder)
            outcomes = self._collect(function, arguments, seconds)
        if any(outcome.error for outcome in outcomes):
            self.close()
        return outcomes

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _collect(self, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> list[Outcome]:
        port = free_port()
        for worker in self._workers:
            worker.send(function, (worker.rank, self.count, port, *arguments))
        deadline = time.monotonic() + seconds
        outcomes = [worker.receive(deadline) for worker in self._workers]
        if None in outcomes:
            where = "\n".join(f"rank {worker.rank}:\n{worker.stack()}" for worker in self._workers)
            self.close()
            pytest.fail(f"{function.__name__}{arguments} hangs after {seconds} seconds\n{where}")
        return outcomes


class _Worker:
    def __init__(self, rank: int, dumps: Path) -> None:
        self.rank, self.dumps = rank, dumps
        made = context()
        self._pipe, other = made.Pipe()
        self._process = made.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def send(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._pipe.send((function, arguments, str(self.dumps / str(self.rank))))

    def receive(self, deadline: float) -> Outcome | None:
        try:
            return self._pipe.recv() if self._pipe.poll(max(0.0, deadline - time.monotonic())) else None
        except EOFError:
            return Outcome(error="Ended", message=f"exit code {self._process.exitcode}", trace="the process has ended")

    def stack(self) -> str:
        """Where all threads are."""
        path = self.dumps / str(self.rank)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        for _ in range(50):
            time.sleep(0.1)
            if path.exists() and path.stat().st_size:
                break
        return path.read_text() if path.exists() else "nothing was written"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def serve(pipe: Connection) -> None:
    """Run what comes, until the parent is gone."""
    with contextlib.suppress(EOFError):
        while True:
            function, arguments, dump = pipe.recv()
            with Path(dump).open("w") as file:
                faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
                pipe.send(_outcome(function, arguments))
                faulthandler.unregister(signal.SIGUSR1)


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    try:
        return Outcome(function(*arguments))
    except BaseException as error:
        return Outcome(error=type(error).__name__, message=str(error), trace=traceback.format_exc())


def _nothing(*_: Any) -> None:
    pass


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def process_group(rank: int, size: int, port: int, seconds: float = 60) -> Iterator[Any]:
    """The default group, over gloo."""
    from datetime import timedelta

    import torch
    from torch import distributed

    torch.set_num_threads(1)
    torch._dynamo.reset()
    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=seconds),
    )
    try:
        yield distributed.group.WORLD
    finally:
        distributed.destroy_process_group()
