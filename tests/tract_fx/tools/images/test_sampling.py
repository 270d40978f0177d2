import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tract_fx.tools.images.sampling import balanced, choose_split

LABELS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=60)


@given(labels=LABELS, limit=st.integers(0, 70), seed=st.integers(0, 9))
def test_own_split_is_disjoint_stratified_and_within_the_limit(labels, limit, seed):
    train, test = choose_split(labels, [None] * len(labels), limit, seed)
    assert not set(train) & set(test)
    assert len(set(train)) + len(set(test)) == min(limit or len(labels), len(labels))
    used, tested = Counter(labels[i] for i in train + test), Counter(labels[i] for i in test)
    for label, count in used.items():
        assert abs(tested[label] - 0.2 * count) <= 0.8
        assert tested[label] < count
        assert tested[label] > 0 or count == 1


@given(labels=LABELS, count=st.integers(1, 70), seed=st.integers(0, 9))
def test_balanced_choice_takes_no_class_while_a_smaller_share_could_grow(labels, count, seed):
    chosen = balanced(labels, range(len(labels)), count, random.Random(seed))
    assert len(set(chosen)) == len(chosen) == min(count, len(labels))
    available, taken = Counter(labels), Counter(labels[i] for i in chosen)
    for label in available:
        not_exhausted = taken[label] < available[label]
        assert not not_exhausted or taken[label] >= max(taken.values()) - 1


@given(flags=st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda flags: 0 < sum(flags) < len(flags)))
def test_given_split_is_kept(flags):
    train, test = choose_split(["a"] * len(flags), flags, 0, 0)
    assert test == [i for i, flag in enumerate(flags) if flag]
    assert train == [i for i, flag in enumerate(flags) if not flag]


def test_limit_keeps_the_proportion_of_a_given_split():
    flags = [i % 6 == 0 for i in range(600)]
    labels = [str(i // 60) for i in range(600)]
    train, test = choose_split(labels, flags, 120, 0)
    assert (len(train), len(test)) == (100, 20)
    assert set(Counter(labels[i] for i in train).values()) == {10}
    assert set(Counter(labels[i] for i in test).values()) == {2}
    assert not any(flags[i] for i in train)
    assert all(flags[i] for i in test)


def test_seed_decides():
    labels = ["a", "b"] * 50
    splits = [choose_split(labels, [None] * 100, 0, seed) for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]
