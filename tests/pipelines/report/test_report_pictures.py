"""Data URIs that a browser reads, outlines that enclose just the mask."""

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pipelines.report.pictures import data_uri, mask_outline, outline_path
from schemas.errors import CorruptDataError
from schemas.images import encode_png


def _filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside the path by the even-odd rule: a left-to-right count of crossed edges."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for loop in path.split("M")[1:]:
        moves = loop.partition("h")[0].partition("v")[0]
        x, y = (int(number) for number in moves.split())
        first_y = y
        for direction, length in re.findall(r"([hv])(-?\d+)", loop):
            if direction == "h":
                x += int(length)
            else:
                crossings[min(y, y + int(length)) : max(y, y + int(length)), x] += 1
                y += int(length)
        crossings[min(y, first_y) : max(y, first_y), x] += 1  # z
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_an_outline_encloses_just_its_mask(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(_filled(outline_path(mask), mask.shape), mask)


def test_large_masks_are_outlined_on_a_small_grid() -> None:
    mask = np.zeros((1024, 512), bool)
    mask[:512] = True
    assert mask_outline(encode_png(mask)) == ("M0 0h48v48h-48z", (48, 96))


@pytest.mark.parametrize("broken", [b"", b"no png", encode_png(np.zeros((4, 4), bool))])
def test_broken_and_empty_masks_have_no_outline(broken: bytes) -> None:
    assert mask_outline(broken) is None


@given(st.sampled_from([(32, 32), (64, 40), (300, 900), (65, 65)]))
def test_small_images_keep_every_pixel_and_large_ones_are_scaled_down(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    kind, _, body = data_uri(encode_png(image), 256).partition(";base64,")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    if max(size) <= 64:
        assert kind == "data:image/png"
        np.testing.assert_array_equal(shown, image)
    else:
        assert kind == "data:image/jpeg"
        assert max(shown.shape) == min(max(size), 256)


def test_an_image_that_does_not_decode_is_refused() -> None:
    with pytest.raises(CorruptDataError):
        data_uri(b"\x89PNG but not really", 256)
