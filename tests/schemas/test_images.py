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
from schemas.images import MAX_IMAGE_PIXELS, decode_image, decode_mask, decode_rgba, encode_jpeg, encode_png
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


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in (*chunks, (b"IEND", b"")))


def header(width: int, height: int, depth: int, color: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "TGA"])
def test_formats_that_are_not_read_are_named(kind):
    with pytest.raises(CorruptDataError, match=r"PNG, JPEG, WEBP, GIF, BMP, AVIF are$") as refused:
        decode_image(encoded(Image.fromarray(image(0)), kind))
    assert kind == "TGA" or f"{kind} is not read" in str(refused.value)


def test_postscript_is_refused_by_its_name_and_not_run():
    with pytest.raises(CorruptDataError, match="EPS is not read"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "AVIF", "PNG"])
def test_what_strangers_datasets_hold_is_read_and_of_an_animation_the_first_frame(kind):
    first, second = (Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 0, 250)))
    moving = {} if kind == "BMP" else {"save_all": True, "append_images": [second]}
    decoded = decode_image(encoded(first, kind, **moving))
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded.astype(int) - (250, 0, 0)).max() < 12


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "PA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_images_of_every_mode_become_rgb(mode, kind):
    try:
        data = encoded(Image.new(mode, (5, 4)), kind)
    except (OSError, ValueError):  # not every format has every mode
        return
    decoded = decode_image(data)
    assert decoded.shape == (4, 5, 3)
    assert decoded.dtype == np.uint8


def test_grey_of_16_bits_is_scaled_and_not_cut_off():
    deep = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    assert decode_image(encoded(Image.fromarray(deep), "PNG"))[0, :, 1].tolist() == list(range(256))


def test_what_is_transparent_is_white_and_what_is_half_so_half_white():
    picture = np.zeros((1, 3, 4), np.uint8)
    picture[0] = [(200, 0, 0, 0), (200, 0, 0, 128), (200, 0, 0, 255)]
    for data in (encoded(Image.fromarray(picture), "PNG"), encoded(Image.fromarray(picture), "WEBP", lossless=True)):
        assert decode_image(data).tolist() == [[[255, 255, 255], [227, 127, 127], [200, 0, 0]]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(kind):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([9, 9, 9, 200, 10, 30])
    picture.putpixel((0, 0), 0)
    decoded = decode_image(encoded(picture, kind, transparency=1))
    assert decoded[0, 0].tolist() == [9, 9, 9]
    assert decoded[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("depth", "color", "key", "row"),
    [
        (16, 0, struct.pack(">H", 1000), struct.pack(">HH", 1000, 2570)),
        (8, 0, struct.pack(">H", 3), bytes([3, 10])),
        (8, 2, struct.pack(">HHH", 3, 3, 3), bytes([3, 3, 3, 10, 10, 10])),
    ],
    ids=["deep grey", "grey", "colour"],
)
def test_a_pixel_value_that_stands_for_transparent_is_white(depth, color, key, row):
    body = zlib.compress(b"\0" + row)
    data = png_of_chunks(header(2, 1, depth, color), (b"tRNS", key), (b"IDAT", body))
    assert decode_image(data).tolist() == [[[255] * 3, [10] * 3]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_exif_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.zeros((24, 40, 3), np.uint8)
    corner[:8, :16] = 255  # upper left as it lies in the file
    decoded = decode_image(encoded(Image.fromarray(corner), kind, exif=exif))
    height, width = (24, 40) if orientation < 5 else (40, 24)
    assert decoded.shape == (height, width, 3)
    corners = [decoded[y, x].mean() > 200 for y, x in ((2, 2), (2, -3), (-3, -3), (-3, 2))]
    assert corners.index(True) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]
    assert sum(corners) == 1


def test_exif_that_does_not_read_turns_nothing():
    data = encoded(Image.fromarray(image(0)), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x12\x01")
    assert np.array_equal(decode_image(data), image(0))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
@pytest.mark.parametrize("before", [True, False])
def test_notes_of_a_png_that_unfold_to_gigabytes_are_not_read_and_its_pixels_are(kind, before):
    zeros = zlib.compress(bytes(8 << 20))
    note = {
        b"zTXt": b"Comment\0\0" + zeros,
        b"iTXt": b"Comment\0\1\0\0\0" + zeros,
        b"iCCP": b"profile\0\0" + zeros,
        b"tEXt": b"Comment\0" + bytes(66 << 20),
    }[kind]
    pixels = (b"IDAT", zlib.compress(b"\0" + bytes([1, 2, 3])))
    middle = [(kind, note), pixels] if before else [pixels, (kind, note)]
    assert decode_image(png_of_chunks(header(1, 1, 8, 2), *middle)).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it has no bytes"),
        (png_header(0, 5), "the header of a PNG that is cut short or says no pixels"),
        (encode_jpeg(image(0))[:15], "Truncated File Read"),
        (png_header(100_000, 100_000), "more pixels than the 64,000,000"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "its format is not read"),
        (encode_png(image(0))[:-30], "does not decode as an image"),
    ],
    ids=["empty", "no width", "cut", "bomb", "svg", "truncated"],
)
def test_what_is_wrong_is_said(data, says):
    with pytest.raises(CorruptDataError, match=f"^good_image: .*{says}"):
        decode_image(data, "good_image")


def test_a_reference_picture_keeps_its_transparency():
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0, 0] = (1, 2, 3, 4)
    assert np.array_equal(decode_rgba(encoded(Image.fromarray(picture), "PNG")), picture)
