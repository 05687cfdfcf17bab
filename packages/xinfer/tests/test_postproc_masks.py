"""Masks against loops over pixels, and COCO's format."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from xinfer.errors import InputError
from xinfer.postproc import masks
from xinfer.preproc import Geometry, ImageProcessor

MASKS = npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9))


def plain_runs(mask: np.ndarray) -> list[int]:
    counts, last = [0], False
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if bool(mask[row, column]) != last:
                counts.append(0)
                last = not last
            counts[-1] += 1
    return counts


@given(MASKS)
def test_run_lengths_are_those_of_a_plain_loop_and_reversible(mask: np.ndarray) -> None:
    rle = masks.encode_rle(mask)
    assert rle == {"size": list(mask.shape), "counts": plain_runs(mask)}
    np.testing.assert_array_equal(masks.decode_rle(rle), mask)
    text = masks.encode_rle(mask, compressed=True)
    np.testing.assert_array_equal(masks.decode_rle(text), mask)
    np.testing.assert_array_equal(masks.decode_rle({**text, "counts": text["counts"].encode()}), mask)


@given(st.integers(0, 2**31), st.integers(1, 60))
def test_long_runs_survive_as_text(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.random((1, side)) > 0.5, 700, axis=0)
    np.testing.assert_array_equal(masks.decode_rle(masks.encode_rle(mask, compressed=True)), mask)


def test_compressed_text_is_cocos() -> None:
    # What pycocotools 2.0.11's mask.encode gives for these.
    mask = np.zeros((40, 50), bool)
    mask[5:20, 10:30] = True
    mask[30:, 45:] = True
    mask[0, 0] = True
    assert masks.encode_rle(mask, compressed=True)["counts"] == (
        "01d<>UD0000000000000000000000000000000000000ac0Kd\\O0000000"
    )


@pytest.mark.parametrize(
    "rle",
    [{"size": [2, 2], "counts": [3]}, {"size": [2, 2], "counts": [5, -1]}, {"size": [2, 2], "counts": "o"},
     {"size": [2, 2], "counts": "\x7f"}, {"size": [2, 2], "counts": "oooooooooooooooooo0"}, {"counts": [4]},
     {"size": [2, 2], "counts": [10**15]}, {"size": [2], "counts": [2]}, {"size": [2, 2.0], "counts": [4]},
     {"size": [2**30, 2**30], "counts": [2**60]}, {"size": [-2, -2], "counts": [4]}],
)  # fmt: skip
def test_damaged_run_lengths_are_refused(rle: dict) -> None:
    with pytest.raises(InputError):
        masks.decode_rle(rle)


def test_polygons_draw_the_mask_they_came_from() -> None:
    mask = np.zeros((60, 80), np.uint8)
    cv2.circle(mask, (30, 30), 20, 1, -1)
    cv2.circle(mask, (30, 30), 8, 0, -1)
    cv2.rectangle(mask, (60, 5), (75, 50), 1, -1)
    polygons = masks.mask_to_polygons(mask)
    assert len(polygons) == 3
    np.testing.assert_array_equal(masks.polygons_to_mask(polygons, (60, 80)), mask.astype(bool))
    simpler = masks.mask_to_polygons(mask, tolerance=1.5)
    assert sum(map(len, simpler)) < sum(map(len, polygons))
    assert (masks.polygons_to_mask(simpler, (60, 80)) != mask.astype(bool)).mean() < 0.03
    assert masks.mask_to_polygons(np.zeros((5, 5))) == []
    assert not masks.polygons_to_mask([], (5, 5)).any()


def test_class_map_is_the_best_class_of_each_pixel_at_the_images_size() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (4, 16, 24)).astype(np.float32)
    same = Geometry(original_height=16, original_width=24, height=16, width=24, scale_x=1, scale_y=1,
                    offset_x=0, offset_y=0)  # fmt: skip
    np.testing.assert_array_equal(masks.class_map(logits, same), logits.argmax(axis=0))
    np.testing.assert_array_equal(
        masks.class_map(logits[:1], same, threshold=0.3), (logits[0] >= 0.3).astype(int)
    )
    stretched = Geometry(original_height=40, original_width=30, height=32, width=48, scale_x=48 / 30,
                         scale_y=32 / 40, offset_x=0, offset_y=0)  # fmt: skip
    resized = np.stack([cv2.resize(layer, (30, 40), interpolation=cv2.INTER_LINEAR) for layer in logits])
    found = masks.class_map(logits, stretched)
    assert found.dtype == np.int64
    assert (found != resized.argmax(axis=0)).mean() < 0.002


def test_class_map_takes_the_outside_class_where_nothing_was_seen() -> None:
    _, geometry = ImageProcessor((8, 8), mode="crop")(np.zeros((8, 16, 3), np.uint8))
    found = masks.class_map(np.stack([np.zeros((8, 8)), np.ones((8, 8))]), geometry, outside=7)
    assert found.tolist() == [[7] * 4 + [1] * 8 + [7] * 4] * 8


@given(npst.arrays(np.float32, (3, 4), elements=st.integers(-3, 12).map(float)))
def test_crop_clears_what_lies_outside_of_the_box(corners: np.ndarray) -> None:
    ones = np.ones((3, 7, 9), np.float32)
    found = masks.crop_masks(ones, corners)
    for index, (x1, y1, x2, y2) in enumerate(corners):
        for y, x in np.ndindex(7, 9):
            assert found[index, y, x] == (x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2)


def test_pasted_masks_fill_their_boxes() -> None:
    full = np.ones((3, 28, 28), np.float32)
    corners = np.array([[2, 3, 10, 9], [-5, -5, 4, 4], [3, 3, 3, 9]])
    found = masks.paste_masks(full, corners, (12, 14))
    expected = np.zeros((3, 12, 14), bool)
    expected[0, 3:9, 2:10] = True
    expected[1, :4, :4] = True
    np.testing.assert_array_equal(found, expected)
    half = np.tile((np.arange(28) < 14).astype(np.float32), (1, 28, 1))
    assert (
        masks.paste_masks(half, corners[:1], (12, 14))[0, 5].tolist()
        == [False] * 2 + [True] * 4 + [False] * 8
    )


def test_masks_of_the_wrong_shape_are_refused() -> None:
    for call in (
        lambda: masks.crop_masks(np.zeros((2, 3, 3)), np.zeros((1, 4))),
        lambda: masks.paste_masks(np.zeros((2, 3, 3)), np.zeros((1, 4)), (5, 5)),
        lambda: masks.encode_rle(np.zeros(4)),
        lambda: masks.mask_to_polygons(np.zeros((2, 2, 2))),
    ):
        with pytest.raises(InputError):
            call()
