"""Boxes against formulas written out one at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from xinfer.errors import InputError
from xinfer.postproc import boxes

CORNERS = npst.arrays(np.float32, (4, 4), elements=st.integers(-20, 20).map(float))


@given(CORNERS)
def test_formats_are_inverse_to_each_other(xyxy: np.ndarray) -> None:
    np.testing.assert_allclose(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(xyxy)), xyxy, atol=1e-5)
    for (x1, y1, x2, y2), centred, cornered in zip(
        xyxy, boxes.xyxy_to_cxcywh(xyxy), boxes.xyxy_to_xywh(xyxy), strict=True
    ):
        assert centred.tolist() == [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        assert cornered.tolist() == [x1, y1, x2 - x1, y2 - y1]


@given(CORNERS, CORNERS)
def test_iou_is_shared_cells_over_covered_cells(a: np.ndarray, b: np.ndarray) -> None:
    def cells(box: np.ndarray) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = box.astype(int)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    found = boxes.iou_matrix(a, b)
    for i, j in np.ndindex(4, 4):
        both, either = cells(a[i]) & cells(b[j]), cells(a[i]) | cells(b[j])
        assert found[i, j] == pytest.approx(len(both) / len(either) if either else 0.0, rel=1e-6)


def test_clip_keeps_what_lies_inside() -> None:
    found = boxes.clip_boxes([[-5, 2, 30, 8], [1, 1, 2, 2]], (6, 20))
    assert found.tolist() == [[0, 2, 20, 6], [1, 1, 2, 2]]


def test_yolox_equals_the_formula_place_by_place() -> None:
    rng = np.random.default_rng(0)
    size, strides = (64, 96), (8, 16, 32)
    places = [(row, column, stride) for stride in strides
              for row in range(size[0] // stride) for column in range(size[1] // stride)]  # fmt: skip
    raw = rng.normal(0, 1, (2, len(places), 8)).astype(np.float32)
    found_boxes, found_scores = boxes.decode_yolox(raw, size, strides=strides)
    assert found_boxes.shape == (2, len(places), 4)
    for image in range(2):
        for index in (0, 1, 12, 95, 96, 100, len(places) - 1):
            row, column, stride = places[index]
            x, y, w, h, objectness, *classes = raw[image, index].tolist()
            cx, cy = (x + column) * stride, (y + row) * stride
            width, height = math.exp(w) * stride, math.exp(h) * stride
            expected = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
            np.testing.assert_allclose(found_boxes[image, index], expected, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(
                found_scores[image, index], [objectness * value for value in classes], rtol=1e-5
            )
    for wrong in (raw[:, 1:], raw[0], raw[..., :5]):
        with pytest.raises(InputError):
            boxes.decode_yolox(wrong, size)


def test_ssd_undoes_its_encoding() -> None:
    rng = np.random.default_rng(1)
    priors = np.hstack([rng.uniform(0, 1, (30, 2)), rng.uniform(0.1, 0.5, (30, 2))]).astype(np.float32)
    truth = np.hstack([rng.uniform(0, 1, (30, 2)), rng.uniform(0.1, 0.5, (30, 2))]).astype(np.float32)
    # Liu 2016, equation 2, divided by the variances.
    centre = (truth[:, :2] - priors[:, :2]) / priors[:, 2:] / 0.1
    size = np.log(truth[:, 2:] / priors[:, 2:]) / 0.2
    offsets = np.hstack([centre, size])
    expected = boxes.cxcywh_to_xyxy(truth)
    np.testing.assert_allclose(boxes.decode_ssd(offsets, priors), expected, atol=1e-5)
    found = boxes.decode_ssd(offsets[None][..., [1, 0, 3, 2]], priors, order="yx")
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    with pytest.raises(InputError):
        boxes.decode_ssd(offsets[1:], priors)
    with pytest.raises(InputError):
        boxes.decode_ssd(offsets, priors, order="zz")


def test_centernet_finds_the_peaks_that_were_drawn() -> None:
    heat, size, offset = np.zeros((2, 12, 16)), np.zeros((2, 12, 16)), np.zeros((2, 12, 16))
    truth = [
        (0, 3, 4, 0.9, (4, 2), (0.25, 0.5)),
        (1, 8, 15, 0.8, (2, 6), (0, 0)),
        (0, 0, 0, 0.4, (1, 1), (0, 0)),
    ]
    for label, row, column, score, wh, xy in truth:
        heat[label, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = score / 2
        heat[label, row, column] = score
        size[:, row, column], offset[:, row, column] = wh, xy
    found = boxes.decode_centernet(heat, size, offset, stride=4, score_threshold=0.39)
    assert found.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[0], [(4.25 - 2) * 4, (3.5 - 1) * 4, (4.25 + 2) * 4, (3.5 + 1) * 4])
    limited = boxes.decode_centernet(heat, size, offset, score_threshold=0.39, max_detections=1)
    assert limited.scores.shape == (1,)
    assert len(boxes.decode_centernet(heat, size, offset, score_threshold=0.95).scores) == 0
    with pytest.raises(InputError):
        boxes.decode_centernet(heat, size[:1], offset)


def test_centerface_finds_the_face_that_was_drawn() -> None:
    heat, size, offset, marks = (
        np.zeros((12, 16)),
        np.zeros((2, 12, 16)),
        np.zeros((2, 12, 16)),
        np.zeros((10, 12, 16)),
    )
    heat[5, 7], heat[5, 8] = 0.9, 0.7
    size[:, 5, 7:9] = np.log([[6], [4]])
    offset[:, 5, 7] = 0.1, -0.2
    marks[:, 5, 7] = np.linspace(0, 0.9, 10)
    found = boxes.decode_centerface(heat, size, offset, marks, stride=4)
    centre_y, centre_x = (5 + 0.1 + 0.5) * 4, (7 - 0.2 + 0.5) * 4
    np.testing.assert_allclose(
        found.boxes, [[centre_x - 8, centre_y - 12, centre_x + 8, centre_y + 12]], rtol=1e-5
    )
    assert found.landmarks is not None
    np.testing.assert_allclose(
        found.landmarks[0, 1], [centre_x - 8 + 0.3 * 16, centre_y - 12 + 0.2 * 24], rtol=1e-5
    )
    assert boxes.decode_centerface(heat, size, offset, iou_threshold=1.0).scores.tolist() == pytest.approx(
        [0.9, 0.7]
    )


def test_shapes_that_are_no_boxes_are_refused() -> None:
    for function in (boxes.cxcywh_to_xyxy, boxes.xyxy_to_cxcywh, boxes.xyxy_to_xywh):
        with pytest.raises(InputError):
            function(np.zeros((3, 5)))
