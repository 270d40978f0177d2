"""What the ways to a Gram matrix are built from."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.memory import peak_memory
from tract_fx.ops.cpu import blocks
from tract_fx.ops.cpu.blocks import PartialSums, Scratch, boxes, mirror_upper_, row_steps


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 40))
def test_boxes_cover_every_point_once_and_are_small(sizes: list[int], limit: int) -> None:
    points = []
    for box in boxes(sizes, limit):
        inside = list(itertools.product(*(range(part.start, part.stop) for part in box)))
        assert len(inside) <= max(1, limit)
        points += inside
    assert sorted(points) == list(itertools.product(*map(range, sizes)))


@given(st.integers(1, 2000))
def test_row_steps_cover_every_row_once(size: int) -> None:
    assert [row for rows in row_steps(size) for row in range(rows.start, rows.stop)] == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 64, 129, 300])
def test_the_upper_triangle_becomes_both(size: int) -> None:
    upper = torch.randn(size, size).triu()
    lower = torch.full((size, size), float("nan")).tril(-1)
    assert torch.equal(mirror_upper_(upper + lower), upper + upper.triu(1).T)


def test_scratch_reuses_its_memory() -> None:
    scratch = Scratch()
    first = scratch.fill(torch.ones(4, 5))
    address = first.data_ptr()
    second = scratch.fill(torch.arange(6.0, dtype=torch.float32).view(2, 3).T)
    assert second.data_ptr() == address
    assert torch.equal(second, torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], dtype=torch.float64))


def test_partial_sums_add_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS_PER_SUM", 10)
    total = torch.zeros(3, 2)
    sums = PartialSums(total.add_, torch.zeros(2))
    for rows in (4, 4, 4, 25, 1):
        sums.part_for(rows).add_(float(rows))
    sums.flush()
    sums.flush()
    assert torch.equal(total, torch.full((3, 2), 38.0))


def test_partial_sums_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS_PER_SUM", 100)
    added: list[float] = []
    sums = PartialSums(lambda part: added.append(part.item()), torch.zeros(()))
    for _ in range(350):
        sums.part_for(1).add_(1.0)
    sums.flush()
    assert added == [100.0, 100.0, 100.0, 50.0]


def test_a_larger_block_takes_the_place_of_a_smaller_one() -> None:
    """Both at once would be more memory than either needs."""
    small, large = torch.randn(1000), torch.randn(1500)

    def fill() -> None:
        scratch = Scratch()
        scratch.fill(small)
        scratch.fill(large)

    assert peak_memory(fill) == 8 * 1500
