"""ImageProcessor against the plain formulas, and the way back to the original image."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xinfer.errors import DocumentError, ImageDecodeError, InputError
from xinfer.preproc import ImageProcessor, read_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The definition, without anti-aliasing: centres at half pixels, edges repeated."""
    h, w = pixels.shape[:2]
    y = ((np.arange(height) + 0.5) * h / height - 0.5).clip(0, h - 1)
    x = ((np.arange(width) + 0.5) * w / width - 0.5).clip(0, w - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, h - 1), np.minimum(x0 + 1, w - 1)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    p = pixels.astype(np.float64)
    top = p[y0][:, x0] * (1 - fx) + p[y0][:, x1] * fx
    bottom = p[y1][:, x0] * (1 - fx) + p[y1][:, x1] * fx
    return top * (1 - fy) + bottom * fy


def naive(pixels: np.ndarray, p: ImageProcessor) -> np.ndarray:
    """What people write by hand, step by step."""
    (h, w), (H, W) = pixels.shape[:2], p.size
    kernel = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC}[p.interpolation]
    if p.mode == "stretch":
        x = cv2.resize(pixels, (W, H), interpolation=kernel)
    elif p.mode == "crop":
        scale = max(H / h, W / w) / p.crop_share
        x = cv2.resize(pixels, (max(W, round(w * scale)), max(H, round(h * scale))), interpolation=kernel)
        top, left = (x.shape[0] - H) // 2, (x.shape[1] - W) // 2
        x = x[top : top + H, left : left + W]
    else:
        scale = min(H / h, W / w)
        inner = cv2.resize(pixels, (round(w * scale), round(h * scale)), interpolation=kernel)
        x = np.full((H, W, 3), p.pad_value, np.uint8)
        top, left = ((H - inner.shape[0]) // 2, (W - inner.shape[1]) // 2) if p.anchor == "center" else (0, 0)
        x[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    if p.color == "BGR":
        x = x[:, :, ::-1]
    if p.dtype == "float32":
        x = (x.astype(np.float64) * p.scale - (p.mean or 0)) / (p.std or 1)
    return x.astype(p.dtype).transpose(2, 0, 1)[None] if p.layout == "NCHW" else x.astype(p.dtype)[None]


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (48, 64), (10, 9), (200, 31)])
@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_processor_equals_the_plain_chain(
    shape: tuple[int, int], mode: str, layout: str, color: str, dtype: str
) -> None:
    processor = ImageProcessor(
        (48, 64), mode=mode, layout=layout, color=color, dtype=dtype, mean=MEAN, std=STD, crop_share=0.875
    )
    pixels = picture(*shape)
    found, _ = processor(pixels)
    np.testing.assert_array_equal(found, naive(pixels, processor))
    assert found.shape == processor.shape
    assert found.flags.c_contiguous


@pytest.mark.parametrize("interpolation", ["linear", "area", "cubic"])
@pytest.mark.parametrize("anchor", ["center", "top-left"])
def test_processor_equals_the_plain_chain_with_every_kernel(interpolation: str, anchor: str) -> None:
    processor = ImageProcessor(
        (40, 40), interpolation=interpolation, anchor=anchor, scale=1.0, mean=(127, 127, 127), pad_value=3
    )
    pixels = picture(90, 61)
    np.testing.assert_array_equal(processor(pixels)[0], naive(pixels, processor))


def test_linear_is_the_published_kernel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    for size in ((20, 31), (80, 64)):
        processor = ImageProcessor(size, mode="stretch", dtype="uint8", layout="NHWC")
        found = processor(pixels)[0][0].astype(float)
        assert np.abs(found - bilinear(pixels, *size)).max() <= 1


def test_stretch_does_not_touch_an_image_of_the_right_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for mode in ("letterbox", "stretch", "crop"):
        found, _ = ImageProcessor((16, 24), mode=mode, dtype="uint8", layout="NHWC")(pixels)
        np.testing.assert_array_equal(found[0], pixels)


def test_bytes_paths_and_pixels_give_the_same(tmp_path: Path) -> None:
    pixels = picture(50, 70)
    path = tmp_path / "image.png"
    path.write_bytes(encoded(pixels))
    processor = ImageProcessor((32, 32))
    expected, geometry = processor(pixels)
    for image in (path, str(path), path.read_bytes()):
        found, found_geometry = processor(image)
        np.testing.assert_array_equal(found, expected)
        assert found_geometry == geometry


def test_out_is_written_and_returned() -> None:
    processor = ImageProcessor((32, 48), mean=MEAN, std=STD)
    out = np.full(processor.shape, np.nan, np.float32)
    found, _ = processor(picture(31, 17), out=out)
    assert found is out
    assert np.isfinite(out).all()
    for wrong in (np.empty((1, 3, 48, 32), np.float32), np.empty(processor.shape, np.float64)):
        with pytest.raises(InputError):
            processor(picture(31, 17), out=wrong)


def test_batch_equals_one_by_one() -> None:
    images = [picture(30 + i, 40 - i, i) for i in range(4)]
    for layout in ("NCHW", "NHWC"):
        processor = ImageProcessor((24, 32), layout=layout, mean=MEAN)
        found, geometries = processor.batch(images)
        for index, image in enumerate(images):
            expected, geometry = processor(image)
            np.testing.assert_array_equal(found[index : index + 1], expected)
            assert geometries[index] == geometry


def test_scaled_jpegs_keep_the_original_geometry_and_nearly_the_pixels() -> None:
    pixels = picture(480, 640)
    data = encoded(pixels, "JPEG", quality=95)
    for mode in ("letterbox", "stretch", "crop"):
        scaled, geometry = ImageProcessor((96, 96), mode=mode, interpolation="area")(data)
        full, full_geometry = ImageProcessor((96, 96), mode=mode, interpolation="area", jpeg_scaling=False)(
            data
        )
        assert geometry == full_geometry
        assert (geometry.original_height, geometry.original_width) == (480, 640)
        assert np.abs(scaled - full).mean() < 0.01


def test_scaled_jpegs_are_never_enlarged() -> None:
    data = encoded(picture(480, 640), "JPEG")
    seen = []
    processor = ImageProcessor((100, 400), mode="stretch")
    read_image(data, min_side_for=lambda size: seen.append(processor._min_side(size)) or seen[-1])
    # 400 of 640 columns are needed: half of them would be too few, whatever the rows allow.
    assert seen == [300]
    pixels, _ = read_image(data, min_side_for=processor._min_side)
    assert pixels.shape == (480, 640, 3)


def test_orientation_turns_the_original_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(30, 40), "JPEG", exif=exif)
    _, geometry = ImageProcessor((16, 16))(data)
    assert (geometry.original_height, geometry.original_width) == (40, 30)


def test_threads_share_a_processor() -> None:
    processor = ImageProcessor((64, 64), mean=MEAN, std=STD)
    images = [picture(50 + i, 60, i) for i in range(16)]
    expected = [naive(image, processor) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda image: processor(image)[0], images), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    size=st.tuples(st.integers(1, 640), st.integers(1, 640)),
    mode=st.sampled_from(["letterbox", "stretch", "crop"]),
    anchor=st.sampled_from(["center", "top-left"]),
    crop_share=st.sampled_from([1.0, 0.875]),
)
@settings(max_examples=60, deadline=None)
def test_boxes_survive_the_way_there_and_back(
    height: int, width: int, size: tuple[int, int], mode: str, anchor: str, crop_share: float
) -> None:
    processor = ImageProcessor(size, mode=mode, anchor=anchor, crop_share=crop_share, dtype="uint8")
    _, geometry = processor(np.zeros((min(height, 300), min(width, 300), 3), np.uint8))
    h, w = geometry.original_height, geometry.original_width
    boxes = np.array([[0, 0, w, h], [w / 3, h / 4, w / 2, h / 2]], np.float32)
    back = geometry.to_original(geometry.to_input(boxes))
    np.testing.assert_allclose(back, boxes, atol=1e-2, rtol=1e-4)
    inside = geometry.to_input(boxes[:1])[0]
    if mode == "letterbox":
        assert (inside >= -1e-3).all()
        assert inside[2] <= size[1] + 1e-3
        assert inside[3] <= size[0] + 1e-3
    if mode == "crop":
        assert (inside[:2] <= 1e-3).all()
        assert inside[2] >= size[1] - 1e-3
        assert inside[3] >= size[0] - 1e-3


def test_a_marked_spot_is_found_where_it_was() -> None:
    pixels = np.zeros((300, 200, 3), np.uint8)
    pixels[120:160, 40:100] = 255
    for mode in ("letterbox", "stretch", "crop"):
        array, geometry = ImageProcessor((128, 128), mode=mode, pad_value=0)(pixels)
        rows, columns = np.nonzero(array[0, 0] > 0.5)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(geometry.to_original(np.array(box)), [40, 120, 100, 160], atol=2.5)


def test_boxes_outside_are_clipped_unless_told_otherwise() -> None:
    _, geometry = ImageProcessor((100, 100))(np.zeros((50, 100, 3), np.uint8))
    box = np.array([[-10, 0, 120, 200]])
    assert geometry.to_original(box).tolist() == [[0, 0, 100, 50]]
    assert geometry.to_original(box, clip=False).tolist() == [[-10, -25, 120, 175]]
    assert geometry.points_to_original(np.array([50, 25])).tolist() == [50, 0]


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("divisor", [1, 4])
def test_masks_return_to_the_original(mode: str, divisor: int) -> None:
    yy, xx = np.mgrid[:90, :140]
    truth = ((yy - 45) ** 2 + (xx - 70) ** 2 < 30**2).astype(np.uint8)
    array, geometry = ImageProcessor((128, 128), mode=mode, pad_value=0)(np.dstack([truth * 255] * 3))
    masks = array[:, 0, divisor // 2 :: divisor, divisor // 2 :: divisor]
    found = geometry.masks_to_original(masks)
    assert found.shape == (1, 90, 140)
    assert found.dtype == np.float32
    both, either = ((found[0] > 0.5) & (truth > 0)).sum(), ((found[0] > 0.5) | (truth > 0)).sum()
    assert both / either > 0.93
    classes = geometry.masks_to_original((masks[0] > 0.5).astype(np.int64), interpolation="nearest")
    assert classes.dtype == np.int64
    assert ((classes > 0) != (truth > 0)).mean() < 0.03


def test_masks_outside_of_what_was_seen_take_the_given_value() -> None:
    _, geometry = ImageProcessor((10, 10), mode="crop")(np.zeros((10, 30, 3), np.uint8))
    mask = geometry.masks_to_original(np.ones((10, 10)), outside=-1)
    assert (mask[:, :10] == -1).all()
    assert (mask[:, 10:20] == 1).all()
    assert (mask[:, 20:] == -1).all()


def test_json_gives_an_equal_processor() -> None:
    processor = ImageProcessor(
        (320, 256), mode="crop", mean=MEAN, std=STD, color="BGR", layout="NHWC", interpolation="area",
        crop_share=0.9, jpeg_scaling=False, pad_value=0,
    )  # fmt: skip
    document = processor.to_json()
    assert ImageProcessor.from_json(document) == processor
    assert ImageProcessor.from_json(json.dumps(document)) == processor
    assert ImageProcessor.from_json({"size": [8, 8]}) == ImageProcessor((8, 8))


@pytest.mark.parametrize(
    "change",
    [{"mode": "tile"}, {"size": [0, 4]}, {"size": [4]}, {"mean": [1, 2]}, {"std": [1, 0, 1]}, {"new": 1},
     {"pad_value": 300}, {"scale": "1"}, {"crop_share": 0.0}],
)  # fmt: skip
def test_documents_that_do_not_fit_are_refused(change: dict) -> None:
    with pytest.raises(DocumentError):
        ImageProcessor.from_json({"size": [4, 4], **change})


@pytest.mark.parametrize(
    "options",
    [{"size": (4, -1)}, {"interpolation": "lanczos"}, {"std": (0, 1, 1)}, {"mean": (np.nan, 0, 0)},
     {"pad_value": -1}, {"crop_share": 1.5}, {"scale": np.inf}, {"dtype": "float16"}],
)  # fmt: skip
def test_fields_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InputError):
        ImageProcessor(**{"size": (4, 4), **options})


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    processor = ImageProcessor((8, 8))
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError):
            processor(image)
    with pytest.raises(InputError):
        processor(tmp_path / "absent.png")
    with pytest.raises(ImageDecodeError):
        processor(b"nothing")
