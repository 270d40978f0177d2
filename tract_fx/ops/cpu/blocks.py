"""What the algorithms for a Gram matrix share: bounded memory, and one triangle for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["PartialSums", "Scratch", "boxes", "mirror_upper_", "padded_chunks", "row_steps", "rows_at_once"]

# Where only a triangle of a matrix is wanted, about how many of its rows are treated at once, and in how many parts at
# most. Fewer parts spend more on the other triangle; more are slower products, and threads that wait for each other
# more often, which costs a lot where other processes use the same cores.
TRIANGLE_STEP = 64
MOST_STEPS = 8

# Elements of a block that is multiplied at once: 1 MiB in float64, which caches hold. A GPU wants larger products.
BLOCK_ELEMENTS = 2**17
BLOCK_ELEMENTS_ON_GPU = 2**24

# Elements of the padded copy of some images, in the dtype of the input.
PADDED_ELEMENTS = 2**22

# On a CPU, fewer rows than this leave a product waiting for memory.
FEWEST_ROWS = 256

# Rows that may be added to one running sum, one after the other, which is what BLAS does with the result of ``addmm_``:
# the rounding error grows with their number. Sums of parts are added then.
ROWS_PER_SUM = 2**14


class Scratch:
    """Memory for one float64 tensor after another.

    A fresh allocation for each block would spend more on page faults than the copy itself takes.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def fill(self, view: Tensor) -> Tensor:
        """``view`` in float64 and contiguous, valid until the next call."""
        if self._memory is None or self._memory.numel() < view.numel():
            self._memory = None  # before there is more, not after
            self._memory = torch.empty(view.numel(), dtype=torch.float64, device=view.device)
        return self._memory[: view.numel()].view(view.shape).copy_(view)

    def columns(self, view: Tensor, split: int) -> Tensor:
        """Some columns of ``X^T`` or ``dZ^T`` in float64, valid until the next call.

        Args:
            view: of patches or of output gradients.
            split: how many of its dimensions, the first ones, are features or outputs; all others are rows of ``X``.
        """
        if view.ndim == 2 and view.stride(1) != 1:
            # Rows of a linear layer are contiguous already, and to transpose them costs more than a transposed product.
            return self.fill(view.T).T
        return self.fill(view).flatten(split).flatten(0, split - 1)


class PartialSums:
    """Sums of products of :data:`ROWS_PER_SUM` rows, or a few more.

    Args:
        add: is given each sum, to add it to the total.
        part: zeros of the shape of a sum.
    """

    def __init__(self, add: Callable[[Tensor], object], part: Tensor) -> None:
        self._add = add
        self._part = part
        self._rows = 0

    def part_for(self, rows: int) -> Tensor:
        """The tensor to add the next product, of so many rows, to."""
        if self._rows and self._rows + rows > ROWS_PER_SUM:
            self.flush()
        self._rows += rows
        return self._part

    def flush(self) -> None:
        """Add what is not yet in the total."""
        self._add(self._part)
        self._part.zero_()
        self._rows = 0


def rows_at_once(input: Tensor, elements: int) -> int:
    """How many rows to multiply at once on the device of ``input`` when a row takes so many elements of a block."""
    if input.device.type != "cpu":
        return max(1, BLOCK_ELEMENTS_ON_GPU // elements)
    return min(ROWS_PER_SUM, max(FEWEST_ROWS, BLOCK_ELEMENTS // elements))


def boxes(sizes: Sequence[int], limit: int) -> Iterator[tuple[slice, ...]]:
    """Boxes that cover ``range(sizes[0]) x range(sizes[1]) x ...`` once, each of at most ``max(limit, 1)`` points.

    Leading dimensions are cut first, so that a box is contiguous where the dimensions are.
    """
    inner = math.prod(sizes[1:])
    if inner <= limit or len(sizes) == 1:
        step = max(1, limit // max(1, inner))
        for start in range(0, sizes[0], step):
            yield slice(start, min(start + step, sizes[0])), *(slice(0, size) for size in sizes[1:])
        return
    for index in range(sizes[0]):
        for rest in boxes(sizes[1:], limit):
            yield slice(index, index + 1), *rest


def padded_chunks(input: Tensor) -> tuple[Tensor, ...]:
    """``input`` in parts of which a padded copy is small; one image where that is not."""
    return input.split(max(1, PADDED_ELEMENTS // input[0].numel()))


def row_steps(size: int) -> Iterator[slice]:
    """Ranges of rows of about equal size, for loops over the upper triangle of a matrix."""
    count = min(MOST_STEPS, max(1, round(size / TRIANGLE_STEP)))
    for index in range(count):
        yield slice(size * index // count, size * (index + 1) // count)


def mirror_upper_(matrix: Tensor) -> Tensor:
    """Write the upper triangle of an ``(n, n)`` matrix over the lower one, so that it is symmetric to the last bit."""
    for rows in row_steps(matrix.shape[0]):
        square = matrix[rows, rows]
        square.copy_(square.triu() + square.triu(1).T)
        matrix[rows.stop :, rows] = matrix[rows, rows.stop :].T
    return matrix
