"""Which images are used, and which of them are for testing: seeded, balanced over the classes."""

import random
from collections import defaultdict
from collections.abc import Sequence

TEST_SHARE = 0.2


def choose_split(
    labels: Sequence[str], is_test: Sequence[bool | None], limit: int, seed: int
) -> tuple[list[int], list[int]]:
    """Choose training and test images.

    Args:
        labels: class of each image.
        is_test: the split the data came with, per image; None where it came with none.
        limit: images in total; 0 or more than there are takes all. A given split keeps its proportion.
        seed: of the choice and of the 80/20 split that is made where none was given.

    Returns:
        Indices of the training images and of the test images, each ascending, disjoint.
    """
    rng = random.Random(seed)
    count = min(limit, len(labels)) or len(labels)
    if any(flag is None for flag in is_test):
        return _stratified(balanced(labels, range(len(labels)), count, rng), labels, rng)
    train = [i for i, flag in enumerate(is_test) if not flag]
    test = [i for i, flag in enumerate(is_test) if flag]
    test_count = max(1, round(count * len(test) / len(labels)))
    return balanced(labels, train, count - test_count, rng), balanced(labels, test, test_count, rng)


def balanced(labels: Sequence[str], indices: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """At most `count` of `indices`, ascending, as evenly from the classes as their sizes allow."""
    chosen: list[int] = []
    by_class = sorted(_by_class(labels, indices), key=len)
    for position, members in enumerate(by_class):
        # Smallest class first: what it cannot fill is shared out among the classes still to come.
        share = (count - len(chosen)) // (len(by_class) - position)
        chosen += rng.sample(members, min(share, len(members)))
    return sorted(chosen)


def _stratified(indices: Sequence[int], labels: Sequence[str], rng: random.Random) -> tuple[list[int], list[int]]:
    test: set[int] = set()
    for members in _by_class(labels, indices):
        # A class of one image can only train; from two on, each side gets at least one.
        count = max(1, round(len(members) * TEST_SHARE)) if len(members) > 1 else 0
        test.update(rng.sample(members, count))
    return [i for i in indices if i not in test], sorted(test)


def _by_class(labels: Sequence[str], indices: Sequence[int]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i in indices:
        groups[labels[i]].append(i)
    return [groups[label] for label in sorted(groups)]
