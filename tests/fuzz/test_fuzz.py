"""Some of the seeds of ``python -m tests.fuzz``; a failure prints the network and how to replay it."""

import pytest

from fuzz.check import FuzzError, Outcome, check_seed
from fuzz.network import make_case
from support.marks import codegen
from support.works import works


def is_quick(seed: int) -> bool:
    """Whether few graphs are compiled: the time goes into that and into nothing else."""
    case = make_case(seed)
    return len(set(case.batches)) * len(case.net.segments) <= 3


# Networks of all kinds; those that take longest are left to the command.
SEEDS = list(filter(is_quick, range(80)))[:28]
THROUGH_INDUCTOR = (3, 5)


@works("random")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_network(seed: int) -> None:
    assert check_seed(seed) is not Outcome.NO_PLAIN_COMPILE, "nothing was compared"


@codegen
@works("random")
@pytest.mark.parametrize("seed", THROUGH_INDUCTOR)
def test_a_random_network_through_generated_code(seed: int) -> None:
    assert check_seed(seed, "inductor") is not Outcome.NO_PLAIN_COMPILE, "nothing was compared"


def test_a_seed_is_always_the_same_network() -> None:
    assert [str(make_case(seed)) for seed in range(100)] == [str(make_case(seed)) for seed in range(100)]


def test_a_broken_promise_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ``lam`` that the oracle does not know of, every first layer is wrong."""
    from tract_fx import tract_backend

    monkeypatch.setattr("fuzz.check.tract_backend", lambda lam, **options: tract_backend(3 * lam, **options))
    seed = next(seed for seed in range(100) if single_step_with_a_first_layer(seed))
    with pytest.raises(
        FuzzError, match=rf"python -m tests.fuzz --seed {seed} --inner aot_eager\n- step 0: gradient of"
    ):
        check_seed(seed)


def single_step_with_a_first_layer(seed: int) -> bool:
    case = make_case(seed)
    plain = not case.reduced and not case.net.unsupported and len(case.batches) == 1
    return plain and bool(case.net.calls_with_gradient())
