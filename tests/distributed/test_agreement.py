"""What a process reads from the store while others write to it, in every order of both."""

import collections
import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch import distributed

from tract_fx.distributed import agreement
from tract_fx.distributed.agreement import RankAgreement
from tract_fx.errors import DisagreementError

POST = {"weights": ["conv.weight"], "lam": 0.1}


class Store:
    """A key-value store in which another rank makes ``burst`` steps after each look of this one from the n-th on."""

    def __init__(self, other: dict, after: int, burst: int) -> None:
        self.values: dict[str, str] = {}
        self.counts: collections.Counter[str] = collections.Counter()
        self.looks, self.after, self.burst = 0, after, burst
        text = json.dumps(other, sort_keys=True)
        same = f"exchange/0/{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.steps = [
            lambda: self.set("exchange/0/1", text),
            lambda: self.counts.update([same]),
            lambda: self.counts.update(["exchange/0"]),
        ]

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> str:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def delete_key(self, key: str) -> bool:
        return self.counts.pop(key, None) is not None

    def add(self, key: str, amount: int) -> int:
        self.counts[key] += amount
        count = self.counts[key]
        if not amount:
            self.looks += 1
            for _ in range(self.burst if self.looks >= self.after else 0):
                if self.steps:
                    self.steps.pop(0)()
        return count


def board(other: dict, after: int, burst: int) -> RankAgreement:
    return board_over(Store(other, after, burst))


def board_over(store: Any, rank: int = 0, timeout: float = 1.0) -> RankAgreement:
    made = RankAgreement.__new__(RankAgreement)
    made.name, made.rank, made.size = "0", rank, 2
    made._store, made._timeout, made._exchanges, made._refusals = store, timeout, 0, []
    return made


@pytest.fixture(autouse=True)
def nobody_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "GRACE", 0.0)


ORDERS = list(itertools.product(range(1, 8), (1, 2, 3)))


def test_ranks_that_agree_never_see_a_difference() -> None:
    for after, burst in ORDERS:
        board(POST, after, burst).exchange(POST)


def test_ranks_that_differ_are_named_with_what_differs() -> None:
    for after, burst in ORDERS:
        with pytest.raises(DisagreementError, match=r"lam is 0\.1 on rank 0; 0\.2 on rank 1"):
            board({**POST, "lam": 0.2}, after, burst).exchange(POST)


def test_a_group_that_is_made_anew_over_the_same_store() -> None:
    """What the first one has counted there is not in the way of the second, as in a script that trains twice."""
    store = distributed.HashStore()
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            boards = [board_over(store, rank, timeout=20.0) for rank in range(2)]
            for done in [threads.submit(made.exchange, POST) for made in boards]:
                assert done.result() is None
