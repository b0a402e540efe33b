"""Pictures of samples: decoded back to what went in, and only for what looks like an image."""

import base64
import struct
import zlib

import numpy as np
import pytest

from lepton_core.report.thumbnails import picture_of, pictures_on, worst_pictures
from lepton_core.samples import Samples


def decode(uri: str) -> np.ndarray:
    """Read an unfiltered 8-bit PNG back."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    start = data.index(b"IDAT")
    size = struct.unpack(">I", data[start - 4 : start])[0]
    channels = {0: 1, 2: 3}[colour]
    assert depth == 8
    raw = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + size]), np.uint8)
    return raw.reshape(height, 1 + width * channels)[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("shape", [(8, 6), (1, 8, 6), (8, 6, 1)])
def test_a_grey_image_comes_back_stretched(shape):
    pixels = np.linspace(-1, 1, 48).astype(np.float32)
    uri = picture_of(pixels.reshape(shape))
    expected = np.round((pixels.astype(np.float64) + 1) * 127.5).reshape(8, 6, 1)
    assert np.abs(decode(uri).astype(float) - expected).max() <= 1


@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_colours_keep_their_place(layout):
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 2] = 255
    uri = picture_of(np.moveaxis(image, 2, 0) if layout == "chw" else image)
    assert decode(uri)[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(64, np.float32),
        np.zeros((2, 2), np.float32),
        np.zeros((5, 8, 8), np.float32),
        np.zeros((8, 8), np.int64),
        np.full((8, 8), np.nan, np.float32),
        np.zeros((8, 999), np.float32),
    ],
)
def test_what_is_no_image_has_no_picture(array):
    assert picture_of(array) is None


def test_worst_rows_are_found_by_their_original_number():
    samples = Samples({"x": np.arange(3 * 64, dtype=np.float32).reshape(3, 8, 8)})
    chosen = samples.rows([2, 0])
    found = worst_pictures({"worst": [{"row": 2}, {"row": 1}]}, chosen)
    assert list(found) == [2]


def test_pictures_are_taken_over_from_a_page_and_nothing_else_is():
    uri = picture_of(np.arange(64, dtype=np.float32).reshape(8, 8))
    other = '<img class="sample" src="data:image/svg+xml,<script/>" alt="sample 4">'
    away = '<img class="sample" src="https://example.org/x.png" alt="sample 5">'
    page = f'<p>{other}{away}<img class="sample" src="{uri}" alt="sample 12">12</p>'
    assert pictures_on(page) == {12: uri}
    assert pictures_on("") == {}
