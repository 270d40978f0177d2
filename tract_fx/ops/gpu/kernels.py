"""Triton kernels for ``X^T X`` and ``X^T dZ``: patches are gathered straight from the image and never stored.

Layout contract, beyond the one of :mod:`tract_fx.ops.patches`: always three spatial dimensions ``(z, y, x)``, a convolution
with fewer has leading ones of size 1, and all three have size 1 for a linear layer. A row is ``(image, z, y, x)``, a feature
of a group is ``(channel, k_z, k_y, k_x)``, and the address of the pixel that they share is the sum of what each
contributes by itself::

    address(row, feature)   = origin(group) + row_offset(row) + feature_offset(feature)
    row_offset              = image * stride_batch + (step * output - padding) . strides
    feature_offset          = channel * stride_channel + (dilation * k) . strides

so that an element of a tile costs one addition, and one comparison where there is padding. What belongs to features is made
once, and coordinates of rows are divided out once and then moved. Where the step is the kernel's size and nothing is padded,
this is the addressing of a reshaped image: the compiler sees runs of neighbouring pixels and loads them as vectors.

:func:`partial_gram` gives each program a tile of the upper triangle (or three, which share what they load), one group, and
some consecutive rows::

    workspace[split, group, i, j] = sum over rows of the split  X[row, i] X[row, j]        for i <= j

The weight gradient is more of the same product: with the gradient ``dZ`` of the output, ``[X | dZ]`` is one matrix,
and the kernel computes ``X^T [X | dZ]``, so that the image is read by programs that run together. In the workspace, the
columns of ``X^T dZ`` stand behind those of ``X^T X``.

:func:`reduce_splits` adds the splits, in their order, writes both triangles from the upper one, and transposes ``X^T dZ``.
There are no atomic additions: the same call gives the same bits.

``PRODUCTS`` says how products are added:

- ``"float64"``, for float64 and float32 inputs: products of float32 numbers are exact in float64. Matrix instructions exist
  for it from compute capability 8.0 on.
- ``"float32"``, for bfloat16 and float16 inputs, whose products are exact in float32: ``ROWS_PER_SUM`` rows are summed in
  float32, and these sums are added in float64, as the rounding error grows with the rows of one sum. With 256 rows, sums of
  squares of 8-bit pixels stay below 2^24 and are exact.
- ``"ieee"``, for float32 inputs where float64 is slow: as before, but with products of float32 numbers, which are rounded.

``COMPENSATED`` is for devices where float64 is slow: sums of ``ROWS_PER_SUM`` rows are added in pairs of float32 numbers by
Knuth's TwoSum, and a pair has twice the digits of float32. ``SCALED`` multiplies what is loaded by powers of two, so that
products of float32 numbers neither overflow nor vanish. What is rounded are the products and sums of ``ROWS_PER_SUM`` rows.
Against the float64 closed form on photographs, the gradient of a float32 layer is off by 1e-6 to 1e-5 for pixels that are
standardised or in -1..1 or 0..1, and by 1e-5 to 1e-4 for raw ones; with products in float64 it is 1e-12.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["partial_gram", "reduce_splits"]


@triton.jit
def _place_features(
    block,
    features,
    strides,
    KERNEL: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    RESHAPED: tl.constexpr,
    RUN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What the features of a block add to an address and to coordinates, their marks, and which of them exist.

    Unless the loads of a feature that does not exist are masked, the last one takes its place: its sums are not stored.
    """
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < features
    if not RESHAPED:
        index = tl.minimum(index, features - 1)
    x = index % KERNEL[2]
    y = index // KERNEL[2] % KERNEL[1]
    z = index // (KERNEL[2] * KERNEL[1]) % KERNEL[0]
    channel = index // (KERNEL[2] * KERNEL[1] * KERNEL[0])
    marks = tl.zeros_like(index)
    if PADDING[2] > 0:
        marks |= 1 << x
    if PADDING[1] > 0:
        marks |= (1 << y) << KERNEL[2] * (PADDING[2] > 0)
    if PADDING[0] > 0:
        marks |= (1 << z) << KERNEL[2] * (PADDING[2] > 0) + KERNEL[1] * (PADDING[1] > 0)
    x, y, z = x * DILATION[2], y * DILATION[1], z * DILATION[0]
    if WIDE:
        channel = channel.to(tl.int64)
    offset = channel * strides[1] + z * strides[2] + y * strides[3] + x * strides[4]
    if RUN > 0:
        run = index % RUN
        if WIDE:
            run = run.to(tl.int64)
        offset = run + index // RUN % KERNEL[1] * strides[3] + index // (RUN * KERNEL[1]) * strides[2]
    return offset, z, y, x, marks, exists


@triton.jit
def _inside(start, size, KERNEL: tl.constexpr, DILATION: tl.constexpr):
    """Bit ``k`` says whether the pixel at ``start + DILATION * k`` is inside the image, for ``k < KERNEL``."""
    before = tl.minimum(tl.maximum(DILATION - 1 - start, 0) // DILATION, KERNEL)
    until = tl.minimum(tl.maximum(size - start + DILATION - 1, 0) // DILATION, KERNEL)
    return (1 << until) - (1 << before)


@triton.jit
def _place_rows(  # noqa: D417
    start,
    last,
    position,
    sizes,
    strides,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    FLAT: tl.constexpr,
    MARKED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """What rows add to an address and to coordinates, their marks, and which of them exist.

    Args:
        start: the first row.
        last: the row before which to stop.
        position: ``(image, z, y, x)`` of each row.
        sizes: of the image.
        strides: of the image's memory.

    The marks have one bit for each offset along each padded dimension: whether it meets the image. A pixel is inside if all
    marks of the feature, one for each padded dimension, are among those of the row.
    """
    row = start + tl.arange(0, ROWS)
    exists = row < last
    image, z, y, x = position
    z, y, x = z * STEP[0] - PADDING[0], y * STEP[1] - PADDING[1], x * STEP[2] - PADDING[2]
    marks = tl.zeros_like(x)
    if FLAT:
        image = row
    offset = image * strides[0] + z * strides[2] + y * strides[3] + x * strides[4]
    if MARKED:
        if PADDING[2] > 0:
            marks |= _inside(x, sizes[2], KERNEL[2], DILATION[2])
        if PADDING[1] > 0:
            marks |= _inside(y, sizes[1], KERNEL[1], DILATION[1]) << KERNEL[2] * (PADDING[2] > 0)
        if PADDING[0] > 0:
            shift: tl.constexpr = KERNEL[2] * (PADDING[2] > 0) + KERNEL[1] * (PADDING[1] > 0)
            marks |= _inside(z, sizes[0], KERNEL[0], DILATION[0]) << shift
        marks = tl.where(exists, marks, 0)
    return offset, z, y, x, marks, exists


@triton.jit
def _position(row, outputs, WIDE: tl.constexpr):
    """``(image, z, y, x)`` of a row."""
    image = row // outputs[2] // outputs[1] // outputs[0]
    z = row // outputs[2] // outputs[1] % outputs[0]
    y = row // outputs[2] % outputs[1]
    x = row % outputs[2]
    if WIDE:
        z, y, x = z.to(tl.int32), y.to(tl.int32), x.to(tl.int32)
    return image, z, y, x


@triton.jit
def _move(outputs, ROWS: tl.constexpr):
    """What ``ROWS`` rows later means for each coordinate, before carries."""
    image = ROWS // outputs[2] // outputs[1] // outputs[0]
    return image, ROWS // outputs[2] // outputs[1] % outputs[0], ROWS // outputs[2] % outputs[1], ROWS % outputs[2]


@triton.jit
def _moved(position, move, outputs, FLAT: tl.constexpr):
    """The position some rows later. Divisions of vectors in the loop would cost as much as the loads."""
    if FLAT:
        return position
    image, z, y, x = position
    x += move[3]
    over = x >= outputs[2]
    x = tl.where(over, x - outputs[2], x)
    y += move[2] + over.to(tl.int32)
    over = y >= outputs[1]
    y = tl.where(over, y - outputs[1], y)
    z += move[1] + over.to(tl.int32)
    over = z >= outputs[0]
    z = tl.where(over, z - outputs[0], z)
    return image + move[0] + over.to(tl.int32), z, y, x


@triton.jit
def _feature_axis(values, ROWS_FIRST: tl.constexpr):
    """One value for each feature, along the axis of features of a tile."""
    return values[None, :] if ROWS_FIRST else values[:, None]


@triton.jit
def _row_axis(values, ROWS_FIRST: tl.constexpr):
    """One value for each row, along the axis of rows of a tile."""
    return values[:, None] if ROWS_FIRST else values[None, :]


@triton.jit
def _load(
    origin,
    columns,
    rows,
    sizes,
    PADDING: tl.constexpr,
    RESHAPED: tl.constexpr,
    MARKED: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
):
    """A tile of ``X^T``, ``(BLOCK, ROWS)``, with zeros for padding and for rows that do not exist."""
    offset, z, y, x, marks, exists = columns
    row_offset, row_z, row_y, row_x, row_marks, row_exists = rows
    if MARKED:
        marks = _feature_axis(marks, ROWS_FIRST)
        inside = (_row_axis(row_marks, ROWS_FIRST) & marks) == marks
    else:
        inside = _row_axis(row_exists, ROWS_FIRST)
        if RESHAPED:
            inside = inside & _feature_axis(exists, ROWS_FIRST)
        # As unsigned numbers, coordinates before the image are large ones: one comparison for both sides.
        if PADDING[0] > 0:
            z = _feature_axis(z, ROWS_FIRST) + _row_axis(row_z, ROWS_FIRST)
            inside = inside & (z.to(tl.uint32) < sizes[0])
        if PADDING[1] > 0:
            y = _feature_axis(y, ROWS_FIRST) + _row_axis(row_y, ROWS_FIRST)
            inside = inside & (y.to(tl.uint32) < sizes[1])
        if PADDING[2] > 0:
            x = _feature_axis(x, ROWS_FIRST) + _row_axis(row_x, ROWS_FIRST)
            inside = inside & (x.to(tl.uint32) < sizes[2])
    address = _row_axis(origin + row_offset, ROWS_FIRST) + _feature_axis(offset, ROWS_FIRST)
    tile = tl.load(address, mask=inside, other=0.0)
    return tl.trans(tile) if ROWS_FIRST else tile


@triton.jit
def _load_outputs(
    origin,
    block,
    start,
    last,
    position,
    outputs,
    strides,
    FLAT: tl.constexpr,
    OUTPUT_ROWS_FIRST: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A tile of ``dZ^T``, ``(BLOCK, ROWS)``, with zeros for rows and outputs that do not exist."""
    row = start + tl.arange(0, ROWS)
    output = block * BLOCK + tl.arange(0, BLOCK)
    image, z, y, x = position
    if FLAT:
        image = row
    if WIDE:
        output = output.to(tl.int64)
    row_offset = image * strides[0] + z * strides[2] + y * strides[3] + x * strides[4]
    offset = output * strides[1]
    inside = _row_axis(row < last, OUTPUT_ROWS_FIRST) & _feature_axis(output < outputs, OUTPUT_ROWS_FIRST)
    address = _row_axis(origin + row_offset, OUTPUT_ROWS_FIRST) + _feature_axis(offset, OUTPUT_ROWS_FIRST)
    tile = tl.load(address, mask=inside, other=0.0)
    return tl.trans(tile) if OUTPUT_ROWS_FIRST else tile


@triton.jit
def _add_part(total, low, part, COMPENSATED: tl.constexpr):
    """``total + low + part`` as a sum and what it lacks, which is zero in float64."""
    if COMPENSATED:
        above = total + part
        added = above - total
        low += (total - (above - added)) + (part - added)
        total = above
    else:
        total += part.to(tl.float64)
    return total, low


@triton.jit
def _in_float64(total, low, COMPENSATED: tl.constexpr):
    """What :func:`_add_part` has added up."""
    if COMPENSATED:
        total = total.to(tl.float64) + low.to(tl.float64)
    return total


@triton.jit
def _multiplied(
    left, right, total, low, part, rows_done, PRODUCTS: tl.constexpr, COMPENSATED: tl.constexpr,
    ROWS_PER_SUM: tl.constexpr,
):  # fmt: skip
    """Add ``left @ right^T``, ``rows_done`` being the number of rows with these, to the sums of :func:`_add_part`."""
    if PRODUCTS == "float64":
        wide_left, wide_right = left.to(tl.float64), right.to(tl.float64)
        total = tl.dot(wide_left, tl.trans(wide_right), total, input_precision="ieee", out_dtype=tl.float64)
    else:
        if PRODUCTS == "ieee":
            left, right = left.to(tl.float32), right.to(tl.float32)
        part = tl.dot(left, tl.trans(right), part, input_precision="ieee", out_dtype=tl.float32)
        if rows_done % ROWS_PER_SUM == 0:
            total, low = _add_part(total, low, part, COMPENSATED)
            part = tl.zeros_like(part)
    return total, low, part


@triton.jit
def _one_tile(
    origin,
    scales,
    first,
    last,
    block_i,
    block_j,
    features,
    outputs,
    sizes,
    strides,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    FLAT: tl.constexpr,
    RESHAPED: tl.constexpr,
    RUN: tl.constexpr,
    MARKED: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    WIDE: tl.constexpr,
    PRODUCTS: tl.constexpr,
    COMPENSATED: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_PER_SUM: tl.constexpr,
    BLOCK: tl.constexpr,
    DIAGONAL: tl.constexpr,
):
    """Tile ``(block_i, block_j)`` over the rows from ``first`` to ``last``; one on the diagonal loads its pixels once."""
    columns_i = _place_features(block_i, features, strides, KERNEL, PADDING, DILATION, RESHAPED, RUN, WIDE, BLOCK)
    columns_j = _place_features(block_j, features, strides, KERNEL, PADDING, DILATION, RESHAPED, RUN, WIDE, BLOCK)
    position = _position(first + tl.arange(0, ROWS), outputs, WIDE)
    move = _move(outputs, ROWS)
    total = tl.zeros((BLOCK, BLOCK), tl.float32 if COMPENSATED else tl.float64)
    low = tl.zeros((BLOCK, BLOCK), tl.float32)
    part = tl.zeros((BLOCK, BLOCK), tl.float32)
    scale = tl.load(scales) if SCALED else 1.0
    for start in range(first, last, ROWS):
        rows = _place_rows(start, last, position, sizes, strides, KERNEL, STEP, PADDING, DILATION, FLAT, MARKED, ROWS)
        left = _load(origin, columns_i, rows, sizes, PADDING, RESHAPED, MARKED, ROWS_FIRST)
        if SCALED:
            left *= scale
        right = left
        if not DIAGONAL:
            right = _load(origin, columns_j, rows, sizes, PADDING, RESHAPED, MARKED, ROWS_FIRST)
            if SCALED:
                right *= scale
        total, low, part = _multiplied(
            left, right, total, low, part, start - first + ROWS, PRODUCTS, COMPENSATED, ROWS_PER_SUM
        )
        position = _moved(position, move, outputs, FLAT)
    if PRODUCTS != "float64":
        total, low = _add_part(total, low, part, COMPENSATED)
    return _in_float64(total, low, COMPENSATED)


@triton.jit
def _gradient_tile(
    origin,
    output_origin,
    scales,
    first,
    last,
    block_i,
    block_j,
    features,
    output_features,
    outputs,
    sizes,
    strides,
    output_strides,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    FLAT: tl.constexpr,
    RESHAPED: tl.constexpr,
    RUN: tl.constexpr,
    MARKED: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    OUTPUT_ROWS_FIRST: tl.constexpr,
    WIDE: tl.constexpr,
    PRODUCTS: tl.constexpr,
    COMPENSATED: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_PER_SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tile ``(block_i, block_j)`` of ``X^T dZ`` over the rows from ``first`` to ``last``."""
    columns = _place_features(block_i, features, strides, KERNEL, PADDING, DILATION, RESHAPED, RUN, WIDE, BLOCK)
    position = _position(first + tl.arange(0, ROWS), outputs, WIDE)
    move = _move(outputs, ROWS)
    total = tl.zeros((BLOCK, BLOCK), tl.float32 if COMPENSATED else tl.float64)
    low = tl.zeros((BLOCK, BLOCK), tl.float32)
    part = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(first, last, ROWS):
        rows = _place_rows(start, last, position, sizes, strides, KERNEL, STEP, PADDING, DILATION, FLAT, MARKED, ROWS)
        left = _load(origin, columns, rows, sizes, PADDING, RESHAPED, MARKED, ROWS_FIRST)
        right = _load_outputs(
            output_origin, block_j, start, last, position, output_features, output_strides, FLAT, OUTPUT_ROWS_FIRST,
            WIDE, ROWS, BLOCK,
        )  # fmt: skip
        if SCALED:
            left *= tl.load(scales)
            right *= tl.load(scales + 1)
        total, low, part = _multiplied(
            left, right, total, low, part, start - first + ROWS, PRODUCTS, COMPENSATED, ROWS_PER_SUM
        )
        position = _moved(position, move, outputs, FLAT)
    if PRODUCTS != "float64":
        total, low = _add_part(total, low, part, COMPENSATED)
    return _in_float64(total, low, COMPENSATED)


@triton.jit
def _three_tiles(
    origin,
    first,
    last,
    features,
    outputs,
    sizes,
    strides,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    RESHAPED: tl.constexpr,
    RUN: tl.constexpr,
    MARKED: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_PER_SUM: tl.constexpr,
    BLOCK: tl.constexpr,
    THIRD: tl.constexpr,
):
    """The tiles ``(0, 0)``, ``(0, 1)``, ``(1, 1)`` from two loads, or ``(0, 2)``, ``(1, 2)``, ``(2, 2)`` from three.

    Where gathering costs more than multiplying this is about twice as fast as tiles by themselves.
    """
    columns_0 = _place_features(0, features, strides, KERNEL, PADDING, DILATION, RESHAPED, RUN, WIDE, BLOCK)
    columns_1 = _place_features(1, features, strides, KERNEL, PADDING, DILATION, RESHAPED, RUN, WIDE, BLOCK)
    columns_2 = _place_features(2, features, strides, KERNEL, PADDING, DILATION, RESHAPED, RUN, WIDE, BLOCK)
    position = _position(first + tl.arange(0, ROWS), outputs, WIDE)
    move = _move(outputs, ROWS)
    total_0 = tl.zeros((BLOCK, BLOCK), tl.float64)
    total_1 = tl.zeros((BLOCK, BLOCK), tl.float64)
    total_2 = tl.zeros((BLOCK, BLOCK), tl.float64)
    for begin in range(first, last, ROWS_PER_SUM):
        part_0 = tl.zeros((BLOCK, BLOCK), tl.float32)
        part_1 = tl.zeros((BLOCK, BLOCK), tl.float32)
        part_2 = tl.zeros((BLOCK, BLOCK), tl.float32)
        for start in range(begin, min(begin + ROWS_PER_SUM, last), ROWS):
            rows = _place_rows(
                start, last, position, sizes, strides, KERNEL, STEP, PADDING, DILATION, False, MARKED, ROWS
            )
            tile_0 = _load(origin, columns_0, rows, sizes, PADDING, RESHAPED, MARKED, ROWS_FIRST)
            tile_1 = _load(origin, columns_1, rows, sizes, PADDING, RESHAPED, MARKED, ROWS_FIRST)
            if THIRD:
                right = tl.trans(_load(origin, columns_2, rows, sizes, PADDING, RESHAPED, MARKED, ROWS_FIRST))
                part_0 = tl.dot(tile_0, right, part_0, input_precision="ieee", out_dtype=tl.float32)
                part_1 = tl.dot(tile_1, right, part_1, input_precision="ieee", out_dtype=tl.float32)
                part_2 = tl.dot(tl.trans(right), right, part_2, input_precision="ieee", out_dtype=tl.float32)
            else:
                right = tl.trans(tile_1)
                part_0 = tl.dot(tile_0, tl.trans(tile_0), part_0, input_precision="ieee", out_dtype=tl.float32)
                part_1 = tl.dot(tile_0, right, part_1, input_precision="ieee", out_dtype=tl.float32)
                part_2 = tl.dot(tile_1, right, part_2, input_precision="ieee", out_dtype=tl.float32)
            position = _moved(position, move, outputs, False)
        total_0 += part_0.to(tl.float64)
        total_1 += part_1.to(tl.float64)
        total_2 += part_2.to(tl.float64)
    return total_0, total_1, total_2


@triton.jit
def _store(matrix, block_i, block_j, features, width, total, BLOCK: tl.constexpr):
    """Write what a tile has of the upper triangle of ``X^T X``, a row of the matrix having ``width`` entries."""
    i = (block_i * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[:, None]
    j = (block_j * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[None, :]
    tl.store(matrix + i * width + j, total, mask=(j < features) & (i <= j))


@triton.jit
def _store_gradient(matrix, block_i, block_j, features, output_features, width, total, BLOCK: tl.constexpr):
    """Write a tile of ``X^T dZ``, whose columns end where the rows of the matrix end."""
    i = (block_i * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[:, None]
    j = (block_j * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[None, :]
    column = width - output_features + j
    tl.store(matrix + i * width + column, total, mask=(i < features) & (j < output_features))


def _partial_gram(  # noqa: D417
    input,
    output_gradient,
    scales,
    workspace,
    rows,
    rows_per_split,
    features,
    output_features,
    outputs_z,
    outputs_y,
    outputs_x,
    size_z,
    size_y,
    size_x,
    stride_group,
    stride_batch,
    stride_channel,
    stride_z,
    stride_y,
    stride_x,
    output_stride_group,
    output_stride_batch,
    output_stride_channel,
    output_stride_z,
    output_stride_y,
    output_stride_x,
    GROUPS: tl.constexpr,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    FLAT: tl.constexpr,
    RESHAPED: tl.constexpr,
    RUN: tl.constexpr,
    MARKED: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    OUTPUT_ROWS_FIRST: tl.constexpr,
    WIDE: tl.constexpr,
    GRAM: tl.constexpr,
    GRADIENT: tl.constexpr,
    PRODUCTS: tl.constexpr,
    COMPENSATED: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_PER_SUM: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYOUT: tl.constexpr,
    CAPABILITY: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """Tiles of ``X^T [X | dZ]`` of one group, over the rows of one split.

    Args:
        input: the image, at channel 0 of image 0.
        output_gradient: ``dZ``, at channel 0 of image 0; not read without ``GRADIENT``.
        scales: two float32 numbers, by which what is loaded of ``X`` and of ``dZ`` is multiplied; not read without
            ``SCALED``.
        workspace: ``(splits, groups, features, width)`` in float64. ``width`` counts ``features`` columns with ``GRAM``, of
            which the upper triangle is written, and ``output_features`` with ``GRADIENT``.
        rows: ``r``.
        rows_per_split: a multiple of ``ROWS_PER_SUM``.
        features: ``n``, of one group.
        output_features: ``m``, of one group.
        outputs_z, outputs_y, outputs_x: size of the convolution's output.
        size_z, size_y, size_x: size of the image.
        stride_group: from a group's first channel to the next group's, in elements, as the other strides.
        stride_batch, stride_channel, stride_z, stride_y, stride_x: of the image's memory.
        output_stride_group, output_stride_batch, output_stride_channel, output_stride_z, output_stride_y, output_stride_x:
            the same of ``dZ``.
        GROUPS: number of groups.
        KERNEL, STEP, PADDING, DILATION: the geometry, three numbers each; a step is a convolution's stride.
        FLAT: whether there is one row for each image, as in a linear layer; never with ``TILES = 3``.
        RESHAPED: whether ``X`` is a reshaped image, in which neighbouring features are neighbours in memory.
        RUN: 0; or, for a reshaped image whose channels lie together, the pixels of a patch that are neighbours in memory:
            channels times ``KERNEL[2]``. Features are then ordered as in memory, ``(k_z, k_y, k_x, channel)``, in the
            workspace too.
        MARKED: whether there is padding, and 30 bits are enough for the offsets along all padded dimensions.
        ROWS_FIRST: whether the first axis of a loaded tile is that of rows. Neighbouring threads load neighbours along the
            axis that the compiler prefers where it sees no run of pixels, and this should be the axis of rows.
        OUTPUT_ROWS_FIRST: the same for a tile of ``dZ``.
        WIDE: whether offsets or rows need 64 bits.
        GRAM, GRADIENT: which of the two products are computed.
        PRODUCTS, COMPENSATED, SCALED: see the module's docstring.
        ROWS: rows of one product, a divisor of ``ROWS_PER_SUM``.
        ROWS_PER_SUM: rows that are added in float32 before float64 takes over.
        WIDTH, LAYOUT, CAPABILITY: ``n`` rounded up, the order of the tensors' dimensions in memory, and the device's compute
            capability; for the choice of ``BLOCK`` and ``TILES`` only.
        BLOCK: width of a tile.
        TILES: 1; or 3 for ``n <= 3 * BLOCK``, with ``PRODUCTS = "float32"`` and without ``COMPENSATED``.

    There is one program for each tile (or three of ``X^T X``), group and split. Tiles change fastest, so that programs
    that run together share rows.
    """
    blocks = tl.cdiv(features, BLOCK)
    gram_tiles = tl.cdiv(blocks * (blocks + 1) // 2, TILES) if GRAM else 0
    tiles = gram_tiles + (blocks * tl.cdiv(output_features, BLOCK) if GRADIENT else 0)
    width = (features if GRAM else 0) + (output_features if GRADIENT else 0)
    program = tl.program_id(0)
    tile = program % tiles
    group = program // tiles % GROUPS
    split = program // tiles // GROUPS
    matrix = workspace + (split.to(tl.int64) * GROUPS + group) * features * width
    if WIDE:
        split = split.to(tl.int64)
        group = group.to(tl.int64)
    first = split * rows_per_split
    last = min(first + rows_per_split, rows)
    origin = input + group * stride_group
    outputs = (outputs_z, outputs_y, outputs_x)
    sizes = (size_z, size_y, size_x)
    strides = (stride_batch, stride_channel, stride_z, stride_y, stride_x)
    if GRADIENT and tile >= gram_tiles:
        output_origin = output_gradient + group * output_stride_group
        output_strides = (
            output_stride_batch, output_stride_channel, output_stride_z, output_stride_y, output_stride_x
        )  # fmt: skip
        block_i, block_j = (tile - gram_tiles) % blocks, (tile - gram_tiles) // blocks
        total = _gradient_tile(
            origin, output_origin, scales, first, last, block_i, block_j, features, output_features, outputs, sizes,
            strides, output_strides, KERNEL, STEP, PADDING, DILATION, FLAT, RESHAPED, RUN, MARKED, ROWS_FIRST,
            OUTPUT_ROWS_FIRST, WIDE, PRODUCTS, COMPENSATED, SCALED, ROWS, ROWS_PER_SUM, BLOCK,
        )  # fmt: skip
        _store_gradient(matrix, block_i, block_j, features, output_features, width, total, BLOCK)
    else:
        if GRAM:
            if TILES == 3:
                if tile == 0:
                    total_0, total_1, total_2 = _three_tiles(
                        origin, first, last, features, outputs, sizes, strides, KERNEL, STEP, PADDING, DILATION,
                        RESHAPED, RUN, MARKED, ROWS_FIRST, WIDE, ROWS, ROWS_PER_SUM, BLOCK, False,
                    )  # fmt: skip
                    _store(matrix, 0, 0, features, width, total_0, BLOCK)
                    _store(matrix, 0, 1, features, width, total_1, BLOCK)
                    _store(matrix, 1, 1, features, width, total_2, BLOCK)
                else:
                    total_0, total_1, total_2 = _three_tiles(
                        origin, first, last, features, outputs, sizes, strides, KERNEL, STEP, PADDING, DILATION,
                        RESHAPED, RUN, MARKED, ROWS_FIRST, WIDE, ROWS, ROWS_PER_SUM, BLOCK, True,
                    )  # fmt: skip
                    _store(matrix, 0, 2, features, width, total_0, BLOCK)
                    _store(matrix, 1, 2, features, width, total_1, BLOCK)
                    _store(matrix, 2, 2, features, width, total_2, BLOCK)
            else:
                # The pairs (i, i + d) modulo the number of blocks, for d up to half of it, are each pair of blocks once.
                one = tile % blocks
                other = (one + tile // blocks) % blocks
                block_i, block_j = min(one, other), max(one, other)
                if block_i == block_j:
                    total = _one_tile(
                        origin, scales, first, last, block_i, block_j, features, outputs, sizes, strides, KERNEL, STEP,
                        PADDING, DILATION, FLAT, RESHAPED, RUN, MARKED, ROWS_FIRST, WIDE, PRODUCTS, COMPENSATED,
                        SCALED, ROWS, ROWS_PER_SUM, BLOCK, True,
                    )  # fmt: skip
                else:
                    total = _one_tile(
                        origin, scales, first, last, block_i, block_j, features, outputs, sizes, strides, KERNEL, STEP,
                        PADDING, DILATION, FLAT, RESHAPED, RUN, MARKED, ROWS_FIRST, WIDE, PRODUCTS, COMPENSATED,
                        SCALED, ROWS, ROWS_PER_SUM, BLOCK, False,
                    )  # fmt: skip
                _store(matrix, block_i, block_j, features, width, total, BLOCK)


# With these specialised, each batch size would be compiled for itself.
partial_gram = triton.jit(_partial_gram, do_not_specialize=["rows", "rows_per_split"])


def _reduce_splits(  # noqa: D417
    workspace,
    gram,
    gradient,
    splits,
    entries,
    features,
    output_features,
    channels,
    GRAM: tl.constexpr,
    GRADIENT: tl.constexpr,
    RUN: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``X^T X`` and ``dZ^T X`` from the sums over splits, added in a fixed order.

    Args:
        workspace: of :func:`partial_gram`, ``(splits, groups, features, width)``.
        gram: ``(groups, features, features)``, of whose entries those of the lower triangle are mirrored.
        gradient: ``(groups, output_features, features)``.
        splits: their number.
        entries: of one split: ``groups * features * width``.
        features: ``n``.
        output_features: ``m``.
        channels: of one group.
        GRAM, GRADIENT: which of the two are there.
        RUN: as of :func:`partial_gram`; what is stored has features in the order ``(channel, k_z, k_y, k_x)`` again.
        SPLITS: splits that are added at once.
        BLOCK: entries for each program.
    """
    columns = features if GRAM else 0
    width = columns + (output_features if GRADIENT else 0)
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = index < entries
    group = index // width // features
    i = index // width % features
    j = index % width
    in_gram = j < columns
    from_i, from_j = i, j
    if RUN > 0:
        offsets = features // channels
        from_i = i % offsets * channels + i // offsets
        from_j = tl.where(in_gram, j % offsets * channels + j // offsets, j)
    row = tl.where(in_gram, tl.minimum(from_i, from_j), from_i)
    column = tl.where(in_gram, tl.maximum(from_i, from_j), from_j)
    source = workspace + (group * features + row) * width + column
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        inside = (split < splits)[:, None] & exists[None, :]
        addresses = source[None, :] + split.to(tl.int64)[:, None] * entries
        total += tl.sum(tl.load(addresses, mask=inside, other=0.0), 0)
    if GRAM:
        tl.store(gram + (group * features + i) * features + j, total, mask=exists & in_gram)
    if GRADIENT:
        output = j - columns
        tl.store(gradient + (group * output_features + output) * features + i, total, mask=exists & (j >= columns))


reduce_splits = triton.jit(_reduce_splits, do_not_specialize=["splits", "entries"])
