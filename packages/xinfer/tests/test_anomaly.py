"""The anomaly detector's results, and the task spec."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xinfer import AnomalyDetector, ImageDecodeError, InputError, TaskSpecError, parse_task
from xinfer.tasks import TaskSpec
from xinfer.zoo.anomaly import confidence, interpret

SPEC = {
    "task": "anomaly-detection",
    "version": 1,
    "input": {"name": "image", "kind": "image", "color": "RGB", "min_side": 256},
    "outputs": {"score": "score", "map": "anomaly_map"},
    "labels": ["ok", "defective"],
    "threshold": 0.53,
    "map_threshold": 0.6,
    "score_range": [0.0, 1.4],
    "metric": "image_auroc",
}


def result_of(task: TaskSpec, score: float):
    anomaly_map = np.linspace(0, 1.4, 64, dtype=np.float32).reshape(1, 8, 8)
    return interpret(task, {"score": np.array([score], np.float32), "anomaly_map": anomaly_map})


def test_the_threshold_is_met_at_equality(task: TaskSpec) -> None:
    assert result_of(task, 0.5).verdict == "defective"
    assert result_of(task, 0.4999).verdict == "ok"
    assert result_of(task, 0.5).defective


@given(st.floats(-2, 4), st.floats(-2, 4))
def test_confidence_grows_with_the_distance_from_the_threshold(a: float, b: float) -> None:
    spec = parse_task(SPEC)
    ca, cb = confidence(a, spec), confidence(b, spec)
    assert 0.5 <= ca <= 1
    if (a >= 0.53) == (b >= 0.53) and abs(a - 0.53) <= abs(b - 0.53):
        assert ca <= cb


def test_confidence_is_finite_when_the_threshold_is_outside_the_range() -> None:
    spec = parse_task(SPEC | {"threshold": 2.0})
    assert confidence(2.5, spec) == pytest.approx(0.5 + 0.5 * 0.5 / 1.4)


def test_heatmap_is_an_rgba_png_that_is_clear_where_nothing_is_wrong(task: TaskSpec) -> None:
    image = Image.open(io.BytesIO(result_of(task, 1).heatmap_png()))
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (8, 8))
    alpha = np.asarray(image)[:, :, 3]
    assert alpha[0, 0] == 0
    assert alpha[-1, -1] == round(0.85 * 255)
    assert (np.diff(alpha.ravel().astype(int)) >= 0).all()


def test_heat_is_half_at_the_map_threshold_when_an_outlier_stretches_the_range(task: TaskSpec) -> None:
    spec = replace(task, map_threshold=0.2, score_range=(0.0, 100.0))
    heat = replace(result_of(task, 1), task=spec, anomaly_map=np.float32([[-1, 0.1, 0.2, 100, 200]])).heat()
    np.testing.assert_allclose(heat, [[0, 0.25, 0.5, 1, 1]], rtol=1e-6)


def test_draw_marks_the_hot_part_only(task: TaskSpec) -> None:
    pixels = np.full((80, 60, 3), 100, np.uint8)
    before = pixels.copy()
    drawn = result_of(task, 1).draw(pixels)
    assert drawn.shape == pixels.shape
    np.testing.assert_array_equal(pixels, before)
    assert np.abs(drawn[0, 0].astype(int) - 100).max() <= 2
    assert np.abs(drawn[-1, -1].astype(int) - 100).max() > 30


def test_predict_refuses_what_is_no_picture(engine_file: Path, tmp_path: Path) -> None:
    with AnomalyDetector(engine_file, require_signature=False) as detector:
        with pytest.raises(ImageDecodeError):
            detector.predict(b"no image")
        with pytest.raises(InputError):
            detector.predict(np.zeros((4, 4), np.uint8))
        with pytest.raises(InputError, match="No such file"):
            detector.predict(tmp_path / "none.png")


def test_task_spec_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps(SPEC))
    spec = parse_task(path)
    assert parse_task(json.dumps(spec.to_json())) == spec
    assert spec.score_range == (0.0, 1.4)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "juggling"},
        {"version": 2},
        {"threshold": "0.5"},
        {"threshold": None},
        {"labels": ["ok"]},
        {"outputs": {"score": "score"}},
        {"input": {"name": "image", "kind": "image", "color": "BGR", "min_side": 256}},
        {"input": {"name": "image", "kind": "image", "color": "RGB", "min_side": 0}},
        {"extra": 1},
    ],
)
def test_task_spec_is_refused_when_it_differs_from_the_schema(change: dict[str, object]) -> None:
    with pytest.raises(TaskSpecError):
        parse_task(SPEC | change)


def test_task_spec_is_refused_when_the_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TaskSpecError):
        parse_task(tmp_path / "none.json")
