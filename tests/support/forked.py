"""New processes, forked from one that has imported everything and compiled nothing: a start costs next to nothing.

Importing Inductor takes longer than most tests. What a process imports is the same in each; what it compiles is not, and
neither are its counters, its caches in memory, and what the backend knows.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest


def context() -> Any:
    """Of ``multiprocessing``; all tests of a session share the process that is forked."""
    paths = (str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, os.pathsep.join(paths).split(os.pathsep))))
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.support.preloaded", "tests.distributed.training"])
    return made


def call(function: Callable[..., Any], *arguments: Any, seconds: float = 300, **environment: str) -> Any:
    """What a function of a module gives back in a new process, with these environment variables."""
    made = context()
    receiver, sender = made.Pipe(duplex=False)
    process = made.Process(target=_answer, args=(sender, environment, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        result, trace = receiver.recv() if receiver.poll(seconds) else (None, f"no result after {seconds} seconds")
    except EOFError:
        result, trace = None, "the process has ended"
    finally:
        process.kill()
        process.join()
    if trace:
        pytest.fail(f"{function.__name__}{arguments}: {trace}")
    return result


def _answer(pipe: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: tuple) -> None:
    os.environ.update(environment)
    try:
        pipe.send((function(*arguments), ""))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
