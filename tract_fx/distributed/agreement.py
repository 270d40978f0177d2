"""Before the first collective, processes that share a covariance check that they mean the same one.

A collective that one process starts and another never does, hangs. So each process posts what it is about to do to the
key-value store of the group, and waits until all have. That takes place once for each layer, in its first backward pass.
A process that cannot take part posts that too, when it compiles, and need not be waited for.

Each process reads a fixed number of keys while it waits, whatever the size of the group; individual posts are read only
when there is an error to report.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from tract_fx import compat, process_state
from tract_fx.errors import DisagreementError
from tract_fx.wording import listed

__all__ = ["TIMEOUT_VARIABLE", "Group", "agree_once", "disagree", "is_simulated", "refuse", "watch_engine"]

TIMEOUT_VARIABLE = "TRACT_FX_AGREE_TIMEOUT"

# Between two looks at the store, in seconds: compilation may take one process minutes longer than another.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.5
# Seconds for which a process that is about to raise stays, so that the others can read the reason (one serves the store).
GRACE = 5.0
RANKS_SHOWN = 8


class Group(NamedTuple):
    """A process group, by the name that PyTorch registers it under, and the number of its ranks."""

    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name!r} of {self.size}"


def agree_once(group_name: str, layer: str, lam: Callable[[], float]) -> None:
    """Wait until every rank is about to share the covariance of the same layer on the same terms.

    Args:
        group_name: of the process group.
        layer: description of the layer, in JSON; once it has been agreed on, further calls return at once.
        lam: returns this rank's ``lam``; called only when there is something to agree on.

    Raises:
        DisagreementError: naming the ranks that are missing or differ, and in what.
    """
    agreement = _agreement(group_name)
    agreement.check_engines()
    if layer not in agreement.agreed and not is_simulated(group_name):
        agreement.exchange({**json.loads(layer), "lam": lam()})
        agreement.agreed.add(layer)


def disagree(group_name: str, layer: str, lam: Callable[[], float]) -> None:
    """Find out in what the ranks differ, after each has seen that they do. Returns if it is not within this group.

    Args:
        group_name: of the process group.
        layer: as in :func:`agree_once`.
        lam: returns this rank's ``lam``.

    Raises:
        DisagreementError: naming the ranks that differ, and in what.
    """
    _agreement(group_name).exchange({**json.loads(layer), "lam": lam()})


def is_simulated(group_name: str) -> bool:
    """Whether the other ranks do not exist (PyTorch's "fake" backend): collectives then return what they are given."""
    return compat.is_fake(compat.group_named(group_name))


def refuse(groups: Iterable[Group], names: Iterable[str], reason: str) -> None:
    """Inform the other ranks that this process rewrites no layer in a graph.

    Args:
        groups: the groups that would have shared a covariance.
        names: names of the inputs of the graph.
        reason: why no layer is rewritten.
    """
    for group in groups:
        if is_simulated(group.name):
            continue
        _agreement(group.name).refuse({"names": sorted(names), "reason": reason})


def watch_engine(groups: Iterable[Group], engine: torch.nn.Module) -> None:
    """Remember a ``DistributedDataParallel`` module that averages gradients, since it may be used with ``join()``."""
    for group in groups:
        _agreement(group.name).engines.add(engine)


def _agreement(group_name: str) -> RankAgreement:
    group = compat.group_named(group_name)
    agreement = process_state.agreements.get(group_name)
    if agreement is None or agreement.group() is not group:  # destroyed and created again under the same name
        agreement = process_state.agreements[group_name] = RankAgreement(group_name, group)
    return agreement


class RankAgreement:
    """What the processes of one group have posted."""

    def __init__(self, name: str, group: Any) -> None:
        self.name = name
        self.group = weakref.ref(group)
        self.rank, self.size = group.rank(), group.size()
        self.agreed: set[str] = set()
        self.engines: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._store = compat.group_store(group, "tract_fx")
        self._timeout = _timeout(group)
        self._exchanges = 0
        self._refusals: list[dict[str, Any]] = []

    def check_engines(self) -> None:
        """Raise under ``join()``: ranks without data repeat the collectives of the engine, not those of this package."""
        if any(map(compat.is_joining, self.engines)):
            raise DisagreementError(
                "DistributedDataParallel.join() lets a process without data take part in averaging the gradients, but not "
                "in the covariance of the first layer. Give every process the same number of batches, which may have "
                "different sizes, or leave process_group out."
            )

    def refuse(self, post: dict[str, Any]) -> None:
        """Post a refusal."""
        self._refusals.append(post)
        try:
            index = self._store.add("refusals", 1)
            self._store.set(f"refusal/{index}", json.dumps({"rank": self.rank, **post}))
        except RuntimeError as error:
            raise self._lost(error) from error

    def exchange(self, post: dict[str, Any]) -> None:
        """Post, wait for all ranks, and raise unless all have posted the same."""
        text = json.dumps(post, sort_keys=True)
        topic = f"exchange/{self._exchanges}"
        same = f"{topic}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._exchanges += 1
        try:
            self._store.set(f"{topic}/{self.rank}", text)
            self._store.add(same, 1)
            self._store.add(topic, 1)
            problem = self._wait(topic, same, post)
            if problem is not None:
                self._leave(topic)
            else:
                self._clear(topic, same)
        except RuntimeError as error:
            raise self._lost(error) from error
        if problem is not None:
            raise DisagreementError(problem)

    def _wait(self, topic: str, same: str, post: dict[str, Any]) -> str | None:
        """Returns what is wrong, or None when all have posted the same."""
        deadline, pause = time.monotonic() + self._timeout, SHORTEST_PAUSE
        while time.monotonic() < deadline:
            # In this order: every rank counts itself under `same` before it does under `topic`, so that what is read
            # under `same` is final when all have been counted under `topic` before.
            posted = self._store.add(topic, 0)
            if self._store.add(same, 0) == self.size:
                return None
            if posted == self.size:
                return self._differences(topic, post)
            if (refusal := self._refusal(post)) is not None:
                return refusal
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        missing = [rank for rank in range(self.size) if not self._store.check([f"{topic}/{rank}"])]
        return (
            f"Of process group {self.name!r}, {_ranks(missing)} did not reach {_what(post)} within "
            f"{self._timeout:g} seconds ({TIMEOUT_VARIABLE} changes the limit). Every process must compile the same "
            "model with the same backend and run the same backward passes."
            + "".join(
                f" Rank {item['rank']} reported: {item['reason']}"
                for item in self._posted_refusals()
                if item["rank"] in missing
            )
        )

    def _differences(self, topic: str, own: dict[str, Any]) -> str:
        posts = [json.loads(self._store.get(f"{topic}/{rank}")) for rank in range(self.size)]
        differences = []
        for key in sorted({key for post in posts for key in post}):
            by_value: dict[str, list[int]] = {}
            for rank, post in enumerate(posts):
                by_value.setdefault(json.dumps(post.get(key)), []).append(rank)
            if len(by_value) > 1:
                values = "; ".join(f"{json.loads(value)!r} on {_ranks(ranks)}" for value, ranks in by_value.items())
                differences.append(f"{key} is {values}")
        return f"Processes of group {self.name!r} disagree about {_what(own)}: " + ". ".join(differences) + "."

    def _refusal(self, own: dict[str, Any]) -> str | None:
        """A refusal of another rank that concerns the layer of this post and is not also this rank's own."""
        weights = set(own["weights"])
        for found in self._posted_refusals():
            rank = found.pop("rank")
            if rank != self.rank and found not in self._refusals and not weights.isdisjoint(found["names"]):
                return (
                    f"{_ranks([rank])} of process group {self.name!r} does not rewrite {_what(own)}: {found['reason']}"
                )
        return None

    def _posted_refusals(self) -> Iterator[dict[str, Any]]:
        for index in range(1, self._store.add("refusals", 0) + 1):
            if self._store.check([f"refusal/{index}"]):
                yield json.loads(self._store.get(f"refusal/{index}"))

    def _clear(self, topic: str, same: str) -> None:
        """The last rank that has read the counters removes them, since a group created later counts in the same store."""
        done = f"{topic}/done"
        if self._store.add(done, 1) == self.size:
            for key in (topic, same, done):
                self._store.delete_key(key)

    def _leave(self, topic: str) -> None:
        """Stay until all that have posted have read what is wrong, for some seconds at most."""
        left, deadline = f"{topic}/left", time.monotonic() + min(GRACE, self._timeout)
        self._store.add(left, 1)
        while self._store.add(left, 0) < self._store.add(topic, 0) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _lost(self, error: RuntimeError) -> DisagreementError:
        return DisagreementError(
            f"The key-value store of process group {self.name!r} cannot be reached; the process that serves it, or "
            f"another one, has ended: {error}"
        )


def _timeout(group: Any) -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "").strip()
    try:
        return float(text) if text else compat.group_timeout(group)
    except ValueError:
        raise DisagreementError(
            f"The environment variable {TIMEOUT_VARIABLE}={text!r} must be a number of seconds."
        ) from None


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {listed([*map(str, ranks)], RANKS_SHOWN)}"


def _what(post: dict[str, Any]) -> str:
    return f"the covariance of {', '.join(post['weights'])}"
