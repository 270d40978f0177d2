import io

import numpy as np
import pytest
from PIL import Image

from tract_fx.tools.images.decoding import decode


def png(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_image_of_the_wanted_size_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    decoded, gray = decode(png(pixels), 8)
    np.testing.assert_array_equal(decoded, pixels.transpose(2, 0, 1))
    assert not gray


def test_gray_image_is_told_from_a_coloured_one():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    decoded, gray = decode(png(pixels), 8)
    np.testing.assert_array_equal(decoded, np.stack([pixels] * 3))
    assert gray


def test_sixteen_bit_gray_keeps_its_shades():
    shades = np.array([0, 65535 // 4, 65535 // 2, 65535], dtype=np.uint16)
    decoded, gray = decode(png(np.repeat(shades, 16).reshape(8, 8)), 8)
    assert gray
    np.testing.assert_allclose(decoded[0, ::2, 0], [0, 64, 127, 255], atol=1)


def test_wide_image_is_cut_to_its_centre():
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = 200
    decoded, _ = decode(png(pixels), 8)
    assert (decoded == 200).all()


def test_camera_orientation_is_applied():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    decoded, _ = decode(png(pixels, exif=exif), 8)
    assert (decoded[:, 4:] == 255).all()
    assert (decoded[:, :4] == 0).all()


@pytest.mark.parametrize("data", [b"", b"not an image", png(np.zeros((64, 64, 3), np.uint8))[:60]])
def test_unreadable_file_gives_none(data):
    assert decode(data, 8) is None
