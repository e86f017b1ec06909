import io
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.errors import CorruptDataError
from schemas.images import MAX_IMAGE_PIXELS, decode_image, decode_mask, encode_jpeg, encode_png, open_image
from tests.support.rows import image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def test_png_keeps_every_pixel():
    assert np.array_equal(decode_image(encode_png(image(0))), image(0))


def test_a_mask_comes_back_as_it_was():
    mask = image(1)[:, :, 0] > 128
    assert np.array_equal(decode_mask(encode_png(mask)), mask)


def test_jpeg_keeps_colour_at_edges():
    edge = np.zeros((16, 16, 3), np.uint8)
    edge[:, 7:] = (255, 0, 0)
    decoded = decode_image(encode_jpeg(edge, 95)).astype(int)
    assert np.abs(decoded - edge).max() < 40  # with subsampled chroma the edge bleeds by 100 and more


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (MAX_IMAGE_PIXELS // 1000 + 1, 1000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_of_an_absurd_size_is_refused_without_taking_memory(width, height):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptDataError, match="unit 3"):
        decode_image(png_header(width, height), "unit 3")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_truncated_image_is_refused_wherever_it_was_cut():
    for data in (encode_png(image(0)), encode_jpeg(image(0))):
        for cut in range(0, len(data) - 16, 7):
            with pytest.raises(CorruptDataError, match="candidate 2"):
                decode_image(data[:cut], "candidate 2")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 150))
def test_broken_bytes_raise_nothing_but_corrupt_data(noise, at):
    data = bytearray(encode_png(image(0)))
    data[at : at + len(noise)] = noise
    for broken in (bytes(data), noise):
        try:
            decoded = decode_image(broken)
        except CorruptDataError:
            continue
        assert decoded.ndim == 3


@pytest.mark.parametrize("broken", [b"", b"no image", encode_png(image(0))[:40]])
def test_what_is_said_of_broken_bytes_is_the_same_each_time(broken):
    """It is kept in blocks, whose bytes must not depend on where something lay in memory."""
    said = set()
    for _ in range(2):
        with pytest.raises(CorruptDataError) as refused:
            decode_image(broken)
        said.add(str(refused.value))
    assert len(said) == 1
    assert " at 0x" not in said.pop()


def test_formats_other_than_those_of_shards_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(image(0)).save(buffer, format="BMP")
    with pytest.raises(CorruptDataError):
        decode_image(buffer.getvalue())
    with pytest.raises(CorruptDataError):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_images_of_every_mode_become_rgb(mode):
    buffer = io.BytesIO()
    Image.new(mode, (5, 4)).save(buffer, format="PNG")
    decoded = decode_image(buffer.getvalue())
    assert decoded.shape == (4, 5, 3)
    assert decoded.dtype == np.uint8
