"""decode_image against Pillow, and what it refuses."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from xinfer import ImageDecodeError
from xinfer.preproc import decode_image


def make_image(size: tuple[int, int] = (64, 48), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def code_of(data: bytes) -> str:
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(data, min_side=16)
    return caught.value.code


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_files_give_their_pixels(kind: str) -> None:
    pixels = make_image()
    np.testing.assert_array_equal(decode_image(encode(pixels, kind), min_side=16), pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpeg_at_full_size_is_close_to_pillow(options: dict[str, object]) -> None:
    data = encode(make_image(), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    found = decode_image(data, min_side=48).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 2


def test_webp_and_gif_are_accepted() -> None:
    pixels = make_image()
    webp = decode_image(encode(pixels, "WEBP", lossless=True), min_side=16)
    np.testing.assert_array_equal(webp, pixels)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    gif = decode_image(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), min_side=4)
    np.testing.assert_array_equal(gif[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [((640, 480), 256, (480, 640)), ((640, 480), 240, (240, 320)), ((640, 480), 100, (120, 160)),
     ((480, 640), 240, (320, 240)), ((1024, 512), 256, (256, 512)), ((100, 80), 256, (80, 100))],
)  # fmt: skip
def test_jpeg_is_scaled_by_its_size_alone(
    size: tuple[int, int], min_side: int, expected: tuple[int, int]
) -> None:
    for seed in (0, 1):
        assert decode_image(encode(make_image(size, seed), "JPEG"), min_side=min_side).shape[:2] == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(make_image((64, 32)), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)
    found = decode_image(data, min_side=32)
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).max() <= 4


def test_grey_is_repeated() -> None:
    grey = make_image()[:, :, 0]
    for kind in ("PNG", "JPEG"):
        found = decode_image(encode(Image.fromarray(grey), kind), min_side=48)
        assert found.shape == (48, 64, 3)
        np.testing.assert_array_equal(found[:, :, 0], found[:, :, 2])
    np.testing.assert_array_equal(
        decode_image(encode(Image.fromarray(grey), "PNG"), min_side=48)[:, :, 1], grey
    )


def test_sixteen_bits_keep_the_upper_eight() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode_image(encode(Image.fromarray(values), kind), min_side=1)
        np.testing.assert_array_equal(found[0, :, 0], [0, 0, 1, 128, 255])


def test_alpha_is_composited_on_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, :, 0], rgba[:, :, 3] = 200, [0, 128, 255]
    found = decode_image(encode(rgba, "PNG"), min_side=1)
    np.testing.assert_array_equal(found[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(found[0, 2], [200, 0, 0])
    assert abs(int(found[0, 1, 1]) - 127) <= 1
    palette = Image.fromarray(rgba).quantize(4)
    assert decode_image(encode(palette, "PNG", transparency=0), min_side=1).shape == (2, 3, 3)


def test_cmyk_is_converted() -> None:
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red = decode_image(data, min_side=16)[8, 8].astype(int)
    assert red[0] > 240
    assert red[1] < 15


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(decode_image(encode(image, "PNG"), min_side=1)[0, :, 0], [255, 0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = encode(make_image((200, 160)), kind)
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(data[: int(len(data) * share)], min_side=16)
    assert caught.value.code in ("image.truncated", "image.unreadable")


def test_a_jpeg_without_its_last_bytes_is_called_truncated() -> None:
    data = encode(make_image((200, 160)), "JPEG")
    for length in (20, 300, len(data) // 2, len(data) - 2):
        assert code_of(data[:length]) == "image.truncated"


def test_a_jpeg_with_damaged_content_is_refused() -> None:
    data = bytearray(encode(make_image((200, 160)), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff\xc4" * 200
    assert code_of(bytes(data)) in ("image.unreadable", "image.truncated")


def test_files_that_are_no_images_are_refused() -> None:
    assert code_of(b"") == "image.unreadable"
    assert code_of(b"hello") == "image.unreadable"
    assert code_of(b"%PDF-1.7 ...") == "image.unsupported"
    assert code_of(b"\0\0\0\x1cftypheic....") == "image.unsupported"
    assert code_of(b"\xff\xd8") == "image.truncated"


def test_floating_point_pixels_are_refused() -> None:
    assert code_of(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")) == "image.unsupported"


@pytest.mark.parametrize(
    ("width", "height"), [(10_000, 5_001), (20_000, 20_000), (50_000_000, 1), (1, 16_385)]
)
def test_images_beyond_the_limits_are_refused_before_decoding(width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    assert code_of(png) == "image.too_large"


def test_decoding_is_deterministic() -> None:
    data = encode(make_image((640, 480)), "JPEG")
    first = decode_image(data, min_side=240)
    assert all(np.array_equal(first, decode_image(data, min_side=240)) for _ in range(3))
