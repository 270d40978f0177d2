"""From the bytes of an image file to a square array of pixels."""

import io
import struct

import numpy as np
from PIL import Image, ImageOps

BROKEN_IMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
GRAY_MODES = frozenset({"1", "L", "LA", "La"})


def decode(data: bytes, size: int) -> tuple[np.ndarray, bool] | None:
    """Decode one file, cut its centre square and resize that.

    Args:
        data: contents of an image file in any format Pillow reads.
        size: side of the result in pixels.

    Returns:
        uint8 pixels of shape `(3, size, size)` and whether the file held shades of gray only; None if Pillow
        cannot read it.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (2 * size, 2 * size))  # lets the JPEG decoder skip detail that is resized away
            upright = _eight_bit(ImageOps.exif_transpose(image))
            gray = upright.mode in GRAY_MODES
            square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except BROKEN_IMAGE:
        return None
    return np.asarray(square).transpose(2, 0, 1), gray


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit gray as 8-bit gray: Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).clip(0, 65535) // 257
    return Image.fromarray(levels.astype(np.uint8))
