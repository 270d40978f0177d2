"""Processes that do not do the same get an error that names the ranks; nothing hangs."""

from __future__ import annotations

from support.works import works
from tests.distributed import disagreeing
from tests.distributed.processes import Processes


@works("disagreement")
def test_different_lam(two: Processes) -> None:
    for message, seconds in two.run(disagreeing.different_lam, seconds=60):
        assert message.startswith("DisagreementError")
        assert "covariance of stem.weight: lam is 0.1 on rank 0; 0.2 on rank 1." in message
        assert seconds < 30


@works("disagreement")
def test_relative_lam_on_one_rank(two: Processes) -> None:
    for message, _ in two.run(disagreeing.relative_on_one_rank, seconds=60):
        assert "covariance of stem.weight: relative is False on rank 0; True on rank 1." in message


@works("disagreement")
def test_lam_that_is_set_on_one_rank_later(two: Processes) -> None:
    for message, _ in two.run(disagreeing.lam_is_set_on_one_rank, seconds=60):
        assert "lam is 0.2 on rank 0; 0.3 on rank 1." in message


@works("disagreement")
def test_different_layers(two: Processes) -> None:
    for message, _ in two.run(disagreeing.different_layers, seconds=60):
        assert "weights is ['stem.weight'] on rank 0; ['head.weight'] on rank 1" in message
        assert "features is 27 on rank 0; 168 on rank 1" in message


@works("disagreement")
def test_one_rank_without_a_match(two: Processes) -> None:
    (message, seconds), (other, _) = two.run(disagreeing.no_match, seconds=60)
    assert message.startswith("DisagreementError: rank 1 of process group")
    assert "there is no first layer" in message
    assert seconds < 20
    assert other == ""


@works("disagreement")
def test_one_rank_with_a_layer_that_cannot_be_rewritten(two: Processes) -> None:
    (message, _), (other, _) = two.run(disagreeing.unsupported, seconds=60)
    assert "rank 1 of process group" in message
    assert "the rows of a bilinear layer" in message
    assert "UnsupportedLayerError" in other or "TrAct cannot be applied" in other


@works("disagreement")
def test_one_rank_that_never_comes(two: Processes) -> None:
    (message, seconds), _ = two.run(disagreeing.never_there, seconds=60)
    assert "rank 1 did not reach the covariance of stem.weight within 1.5 seconds" in message
    assert "TRACT_FX_AGREE_TIMEOUT" in message
    assert 1.5 <= seconds < 30


@works("disagreement")
def test_graphs_without_a_match_that_all_ranks_have(two: Processes) -> None:
    assert [message for message, _ in two.run(disagreeing.other_graphs_without_a_match, seconds=60)] == ["", ""]


@works("disagreement")
def test_one_rank_skips_a_backward(two: Processes) -> None:
    """As for the engine's own collectives, it is the group's timeout that ends it."""
    (message, seconds), _ = two.run(disagreeing.one_skips_a_backward, seconds=60)
    assert "imed out" in message
    assert seconds < 5


@works("disagreement")
def test_join(two: Processes) -> None:
    messages = two.run(disagreeing.joined, seconds=60)
    assert any("DistributedDataParallel.join() lets a process without data" in message for message, _ in messages)
    assert all(message for message, _ in messages)
