"""A folder of good images alone gives a model, a promised threshold, and inputs to build an engine by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xtorch.export import OnnxModel
from xtorch.tasks.anomaly import build_inputs, run
from xtorch.tasks.anomaly.synthetic import DAMAGES, damaged, perlin_noise

SMALL = {"input_size": 128, "memory_size": 200}


@dataclass
class Trained:
    data: Path
    folder: Path
    result: dict[str, Any]
    report: dict[str, Any]


def trained_on(data: Path, folder: Path, **settings: Any) -> Trained:
    result = run(data, folder, name="plates", settings=SMALL | settings)
    return Trained(data, folder, result, json.loads((folder / "report.json").read_text()))


@pytest.fixture(scope="module")
def good_only(tmp_path_factory: pytest.TempPathFactory, weights: Path, plates_in: Any) -> Trained:
    base = tmp_path_factory.mktemp("good")
    return trained_on(plates_in(base / "data", {"ok": 60}), base / "out")


def test_only_what_can_be_measured_is_reported(good_only: Trained) -> None:
    report = good_only.report
    assert set(report["metrics"]) == {"false_alarm_rate"}
    assert report["metric"] == good_only.result["metric"] == "false_alarm_rate"
    assert report["lower_is_better"] is True
    assert [chart["id"] for chart in report["charts"]] == ["scores"]
    assert [series["name"] for series in report["charts"][0]["series"]] == ["ok"]
    assert report["confusion"]["matrix"][1] == [0, 0]
    assert {row["kind"] for row in report["leaderboard"]} == {"model", "baseline"}
    for row in report["leaderboard"]:
        assert set(row["test"]) == {"false_alarm_rate"}
        assert set(row["validation"]) == {"synthetic_auroc"}
    assert "test_miss_rate" not in report["operating_point"]


def test_threshold_promises_what_its_images_allow(good_only: Trained) -> None:
    point = good_only.report["operating_point"]
    promised = point["promised"]
    num = good_only.report["counts"]["validation"]["ok"]
    assert promised["rate"] == "false_alarm_rate"
    assert promised["num"] == num
    compared = 3 * sum(row["kind"] == "model" for row in good_only.report["leaderboard"])
    assert promised["at_most"] == pytest.approx(1 - (0.05 / compared) ** (1 / num))
    false_alarms = good_only.report["metrics"]["false_alarm_rate"]
    assert point["test_false_rejects_per_thousand"]["value"] == pytest.approx(1000 * false_alarms["value"])
    assert false_alarms["value"] <= 0.35


def test_engine_is_judged_by_drawn_damage_and_sees_every_test_image(good_only: Trained) -> None:
    given = build_inputs(good_only.folder, good_only.data)
    num = len(good_only.report["held_out"])
    assert given.metric == "synthetic_auroc"
    assert len(given.test) == 2 * num
    model = OnnxModel(good_only.folder / "model.onnx")
    outputs = [
        dict(zip(("score", "anomaly_map"), model(feeds["image"]), strict=True)) for feeds in given.test
    ]
    value = given.evaluate(outputs)
    assert 0.6 < value <= 1
    backwards = [{"score": -output["score"]} for output in outputs]
    assert given.evaluate(backwards) == pytest.approx(1 - value)
    again = build_inputs(good_only.folder, good_only.data)
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(given.test, again.test, strict=True))


def test_drawn_damage_stands_out_from_real_good_images(good_only: Trained) -> None:
    kept = next(row for row in good_only.report["leaderboard"] if row["kept"])
    assert kept["validation"]["synthetic_auroc"] > 0.6
    assert "drawn" in kept["note"]


def test_masks_give_pixel_metrics_and_a_limit_on_false_alarms_is_kept(
    tmp_path: Path, weights: Path, plates: Any
) -> None:
    data = plates({"train/good": 40, "test/good": 8})
    rng = np.random.default_rng(7)
    for index in range(8):
        picture = plates.picture(rng)
        y, x = (int(v) for v in rng.integers(4, 48, 2))
        picture[y : y + 20, x : x + 20] = 240
        mask = np.zeros(picture.shape[:2], dtype=np.uint8)
        mask[y : y + 20, x : x + 20] = 255
        plates.save(data / f"test/hole/{index}.png", picture)
        plates.save(data / f"ground_truth/hole/{index}_mask.png", mask)
    trained = trained_on(data, tmp_path / "out", max_false_alarm_rate=0.5)
    metrics = trained.report["metrics"]
    assert metrics["pixel_auroc"]["value"] > 0.85
    assert 0.5 < metrics["aupro"]["value"] <= 1
    assert metrics["aupro"]["low"] <= metrics["aupro"]["value"] <= metrics["aupro"]["high"]
    point = trained.report["operating_point"]
    assert point["promised"]["at_most"] == 0.5
    assert "0.5" in point["rule"]
    assert {len(picture["images"]) for picture in trained.report["gallery"] if picture["truth"] != "ok"} == {
        3
    }
    with Image.open(tmp_path / "out/report" / trained.report["gallery"][0]["images"][0]) as picture:
        assert picture.format == "JPEG"


# ------------------------------------------------------------------------------------ drawn damage


@pytest.mark.parametrize("kind", list(DAMAGES))
@pytest.mark.parametrize("size", [(64, 96), (256, 256), (1, 1), (5, 300)])
def test_damage_changes_a_part_of_the_image_and_repeats_with_its_seed(
    kind: str, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (*size, 3), dtype=np.uint8)
    source = rng.integers(60, 200, (40, 30, 3), dtype=np.uint8)
    shares = []
    for seed in range(6):
        found = damaged(image, source, kind=kind, seed=seed)
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert np.array_equal(found, damaged(image, source, kind=kind, seed=seed))
        shares.append((found != image).any(axis=2).mean())
    if min(size) >= 64:
        assert all(0 < share < 0.5 for share in shares)
        assert len(set(shares)) > 1


def test_perlin_noise_is_smooth_and_zero_at_its_corners() -> None:
    noise = perlin_noise(64, 128, 4, np.random.default_rng(0))
    assert noise.shape == (64, 128)
    assert np.abs(noise[::16, ::32]).max() == pytest.approx(0, abs=1e-12)
    assert 0.2 < np.abs(noise).max() <= 1
    assert np.abs(np.diff(noise, axis=1)).max() < 0.1
