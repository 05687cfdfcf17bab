"""Suppression against a plain loop; all implementations keep the same boxes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from xinfer.errors import InputError
from xinfer.postproc import batched_nms, nms
from xinfer.postproc.nms import warm_up

HAS_NUMBA = importlib.util.find_spec("numba") is not None
IMPLEMENTATIONS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")),
]


def reference(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, iou: float, score: float, limit: int
) -> list[int]:
    """The definition, one pair at a time, in float32."""
    one = np.float32
    kept: list[int] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
            if not scores[i] >= one(score) or not np.isfinite(boxes[i]).all():
                continue
            for j in kept:
                (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = boxes[j], boxes[i]
                inter = max(min(ax2, bx2) - max(ax1, bx1), one(0)) * max(
                    min(ay2, by2) - max(ay1, by1), one(0)
                )
                area_a = max(ax2 - ax1, one(0)) * max(ay2 - ay1, one(0))
                area_b = max(bx2 - bx1, one(0)) * max(by2 - by1, one(0))
                if labels[i] == labels[j] and inter > one(iou) * (area_a + area_b - inter):
                    break
            else:
                kept.append(i)
                if len(kept) == limit:
                    break
    return kept


def scene(num: int, seed: int, *, num_classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in clusters, as a detector gives them, with equal scores among them."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(50, 590, (max(1, num // 8), 2))[rng.integers(0, max(1, num // 8), num)]
    centres = centres + rng.normal(0, 6, (num, 2))
    sides = rng.uniform(20, 80, (num, 2))
    boxes = np.hstack([centres - sides / 2, centres + sides / 2]).astype(np.float32)
    return boxes, rng.integers(0, 100, num).astype(np.float32) / 100, rng.integers(0, num_classes, num)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("num", [0, 1, 2, 40, 255, 256, 257, 700])
@pytest.mark.parametrize("class_aware", [True, False])
def test_nms_keeps_what_the_plain_loop_keeps(implementation: str, num: int, class_aware: bool) -> None:
    boxes, scores, labels = scene(num, num)
    kept = nms(boxes, scores, labels, iou_threshold=0.5, score_threshold=0.1, class_aware=class_aware,
               implementation=implementation)  # fmt: skip
    expected = reference(boxes, scores, labels if class_aware else labels * 0, iou=0.5, score=0.1, limit=300)
    assert kept.tolist() == expected
    assert kept.dtype == np.int64


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
@settings(max_examples=150, deadline=None)
@given(data=st.data(), num=st.integers(0, 30), iou=st.sampled_from([0.0, 0.25, 0.5, 1 / 3, 0.7, 1.0]))
def test_implementations_agree_exactly_on_any_numbers(data: st.DataObject, num: int, iou: float) -> None:
    # A coarse grid makes ties, touching edges and overlaps of exactly the threshold; the rest is hostile.
    number = st.one_of(
        st.integers(-4, 8).map(float), st.floats(width=32), st.sampled_from([0.0, -0.0, 1e-45, 3e38])
    )
    boxes = data.draw(npst.arrays(np.float32, (num, 4), elements=number))
    scores = data.draw(npst.arrays(np.float32, num, elements=number))
    labels = data.draw(npst.arrays(np.int64, num, elements=st.integers(-1, 1)))
    kept = [
        nms(boxes, scores, labels, iou_threshold=iou, score_threshold=-5, implementation=name).tolist()
        for name in ("numpy", "numba")
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=60, deadline=None)
@given(
    boxes=npst.arrays(np.float32, (20, 4), elements=st.integers(0, 6).map(float)),
    scores=npst.arrays(np.float32, 20, elements=st.sampled_from([-1.0, -0.0, 0.0, 0.25, 0.5, 1.0])),
    limit=st.integers(1, 21),
)
def test_nms_keeps_what_the_plain_loop_keeps_when_scores_tie(
    implementation: str, boxes: np.ndarray, scores: np.ndarray, limit: int
) -> None:
    labels = np.arange(20) % 2
    kept = nms(
        boxes, scores, labels, iou_threshold=1 / 3, max_detections=limit, implementation=implementation
    )
    assert kept.tolist() == reference(boxes, scores, labels, iou=1 / 3, score=0.0, limit=limit)


def test_a_box_at_the_threshold_stays_and_one_above_it_goes() -> None:
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32)
    assert nms(boxes, [0.9, 0.8], iou_threshold=0.34).tolist() == [0, 1]
    assert nms(boxes, [0.9, 0.8], iou_threshold=0.33).tolist() == [0]
    assert nms(boxes, [0.8, 0.9], iou_threshold=0.33).tolist() == [1]
    assert nms(boxes[[0, 0]], [0.9, 0.8], iou_threshold=1.0).tolist() == [0, 1]


def test_equal_boxes_of_two_classes_stay_unless_classes_are_ignored() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 2]], np.float32)
    assert nms(boxes, [0.5, 0.6], [0, 1]).tolist() == [1, 0]
    assert nms(boxes, [0.5, 0.6], [0, 1], class_aware=False).tolist() == [1]
    assert nms(boxes, [0.5, 0.6]).tolist() == [1]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_numbers_that_are_not_finite_never_stay(implementation: str) -> None:
    boxes = np.array([[0, 0, 2, 2], [np.nan, 0, 2, 2], [0, 0, np.inf, 2], [5, 5, 7, 7], [8, 8, 9, 9]])
    scores = np.array([0.5, 0.9, 0.9, np.nan, np.inf])
    assert nms(boxes, scores, implementation=implementation).tolist() == [0]


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_batched_nms_keeps_what_the_plain_loop_keeps(implementation: str, multi_label: bool) -> None:
    rng = np.random.default_rng(3)
    scenes = [scene(60, seed) for seed in range(3)]
    scores_BNC = (rng.integers(0, 20, (3, 60, 4)) / 20).astype(np.float32)
    found = batched_nms(
        np.stack([boxes for boxes, _, _ in scenes]), scores_BNC, iou_threshold=0.4, score_threshold=0.6,
        max_detections=20, multi_label=multi_label, implementation=implementation,
    )  # fmt: skip
    for (boxes, _, _), scores_NC, kept in zip(scenes, scores_BNC, found, strict=True):
        if multi_label:
            rows, labels = np.divmod(np.arange(240), 4)
        else:
            rows, labels = np.arange(60), scores_NC.argmax(axis=1)
        scores = scores_NC[rows, labels]
        expected = reference(boxes[rows], scores, labels, iou=0.4, score=0.6, limit=20)
        assert kept.indices.tolist() == rows[expected].tolist()
        assert kept.labels.tolist() == labels[expected].tolist()
        np.testing.assert_array_equal(kept.scores, scores[expected])


def test_batched_nms_keeps_nothing_when_all_scores_are_low() -> None:
    (kept,) = batched_nms(np.zeros((1, 5, 4)), np.zeros((1, 5, 2)))
    assert kept.indices.shape == kept.labels.shape == kept.scores.shape == (0,)


@pytest.mark.parametrize(
    ("boxes", "scores", "options"),
    [
        (np.zeros((3, 5)), np.zeros(3), {}),
        (np.zeros((3, 4)), np.zeros(2), {}),
        (np.zeros((3, 4)), np.zeros(3), {"labels_N": np.zeros(2, int)}),
        (np.zeros((3, 4)), np.zeros(3), {"labels_N": np.zeros(3)}),
        (np.zeros((3, 4)), np.zeros(3), {"iou_threshold": 1.5}),
        (np.zeros((3, 4)), np.zeros(3), {"iou_threshold": float("nan")}),
        (np.zeros((3, 4)), np.zeros(3), {"max_detections": 0}),
        (np.zeros((3, 4)), np.zeros(3), {"implementation": "fortran"}),
    ],
)
def test_nms_refuses_what_does_not_fit(boxes: np.ndarray, scores: np.ndarray, options: dict) -> None:
    with pytest.raises(InputError):
        nms(boxes, scores, **options)


def test_warm_up_says_whether_there_is_a_compiled_implementation() -> None:
    assert warm_up() == HAS_NUMBA


def test_numpy_steps_in_when_numba_is_missing() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from xinfer.errors import MissingExtraError\n"
        "from xinfer.postproc import nms\n"
        "boxes, scores = [[0, 0, 2, 2], [0, 0, 2, 2]], [0.5, 0.6]\n"
        "print(nms(boxes, scores))\n"
        "try:\n    nms(boxes, scores, implementation='numba')\n"
        "except MissingExtraError as error: print(error.hint)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "[1]\npip install 'ignition-xinfer[fast]'\n"
