"""Some of the seeds of ``python -m tests.fuzz --pieces``; a failure prints the ways that are wrong and the network."""

import pytest

import fuzz.pieces
from fuzz.check import FuzzError
from fuzz.pieces import check_pieces
from tract_fx import tract_backend


@pytest.mark.parametrize("seed", range(3))
def test_one_way(seed: int) -> None:
    check_pieces(seed, count=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_several_ways(seed: int) -> None:
    check_pieces(seed)


@pytest.mark.slow
def test_a_broken_promise_names_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ``lam`` that the oracle does not know of, every first layer is wrong."""
    monkeypatch.setattr(fuzz.pieces, "tract_backend", lambda lam, **options: tract_backend(3 * lam, **options))
    with pytest.raises(FuzzError, match=r"pieces of seed 0:\n- Way\(compiled='whole'.*\n  call 0: gradient of stem"):
        check_pieces(0)
