"""The anomaly recipe from a folder of small images to everything that a build needs."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from xinfer.preproc import decode_image
from xtorch.errors import LayoutError, ParityError, SettingsError, TooFewImagesError, WeightsError
from xtorch.export import OnnxModel, score_parity
from xtorch.models.anomaly import AnomalyConfig, AnomalyModel
from xtorch.tasks.anomaly import AnomalySettings, load_model, naive_predict, run
from xtorch.tasks.anomaly.candidates import greedy_coreset, pooled
from xtorch.tasks.recipe import parse_settings
from xtorch.tasks.report import Report

SMALL = {"input_size": 128, "memory_size": 200}
FILES = {
    "model.onnx",
    "model.safetensors",
    "model.json",
    "task.json",
    "labels.json",
    "splits.json",
    "report.json",
    "report",
}


@dataclass
class Trained:
    data: Path
    folder: Path
    cache: Path
    result: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, weights: Path, plates_in: Any) -> Trained:
    base = tmp_path_factory.mktemp("anomaly")
    data = plates_in(base / "data", {"ok": 40, "defective/hole": 24})
    (data / "ok/broken.png").write_bytes(b"no image")
    events: list[tuple[str, dict[str, Any]]] = []
    result = run(
        data,
        base / "out",
        name="plates",
        settings=SMALL,
        progress=lambda stage, **details: events.append((stage, details)),
        cache_dir=base / "cache",
    )
    return Trained(data, base / "out", base / "cache", result, events)


def test_run_writes_every_file_and_nothing_else(trained: Trained) -> None:
    assert {path.name for path in trained.folder.iterdir()} == FILES


def test_result_and_check_are_wire_models(trained: Trained) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    result = wire.TrainResult.model_validate(trained.result)
    report = trained.read("report.json")
    assert wire.CheckReport.model_validate(report["check"]).num_items == 64
    assert result.value == report["metrics"]["image_auroc"]["value"]
    assert result.num_test == len(report["held_out"]) == sum(report["counts"]["test"].values())


def test_run_finds_the_defects(trained: Trained) -> None:
    assert trained.result["value"] > 0.95


def test_report_has_every_part_and_its_numbers_agree(trained: Trained) -> None:
    report = trained.read("report.json")
    assert report["schema_version"] == 2
    assert set(report) == {field.name for field in fields(Report)} | {"schema_version"}
    kept = [entry for entry in report["leaderboard"] if entry["kept"]]
    assert [entry["name"] for entry in kept] == [trained.result["candidate"]]
    kinds = {entry["name"]: entry["kind"] for entry in report["leaderboard"]}
    assert kinds == {"memory": "model", "gaussian": "model", "head": "model", "mean_colour": "baseline"}
    models = [entry for entry in report["leaderboard"] if entry["kind"] == "model"]
    best = max(entry["validation"]["image_auroc"] for entry in models)
    assert kept[0]["validation"]["image_auroc"] == best
    assert kept[0]["test"]["image_auroc"] == trained.result["value"]
    for metric in report["metrics"].values():
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    threshold = report["operating_point"]["threshold"]
    (tn, fp), (fn, tp) = report["confusion"]["matrix"]
    held_out = report["held_out"]
    assert tp == sum(item["label"] == 1 and item["score"] >= threshold for item in held_out)
    assert fp == sum(item["label"] == 0 and item["score"] >= threshold for item in held_out)
    assert tn + fp + fn + tp == len(held_out)
    charts = {chart["id"]: chart for chart in report["charts"]}
    bars = {series["name"]: sum(series["y"]) for series in charts["scores"]["series"]}
    assert bars == {"ok": tn + fp, "defective": fn + tp}
    assert charts["scores"]["marks"][0]["x"] == threshold
    assert len(charts["scores"]["x"]) == len(charts["scores"]["series"][0]["y"]) + 1
    found = charts["roc"]["series"][0]["y"]
    assert np.trapezoid(found, charts["roc"]["x"]) == pytest.approx(trained.result["value"])
    assert charts["roc"]["marks"][0]["x"] == fp / (fp + tn)
    (kind,) = report["tables"][0]["rows"]
    assert kind[:3] == ["hole", fn + tp, tp]
    assert len(report["gallery"]) == 12
    for item in report["gallery"]:
        assert item["right"] == (item["truth"].split(" ")[0] == item["answer"])
        for name in item["images"]:
            with Image.open(trained.folder / "report" / name) as picture:
                assert picture.format == "JPEG"
    assert "ok/broken.png" in str(report["check"]["findings"])


def test_splits_are_disjoint_and_leave_out_what_is_broken(trained: Trained) -> None:
    splits = trained.read("splits.json")
    paths = [item["path"] for part in ("train", "validation", "test") for item in splits[part]]
    assert len(paths) == len(set(paths)) == 64
    assert "ok/broken.png" not in paths
    assert [item["path"] for item in splits["test"]] == [
        item["path"] for item in trained.read("report.json")["held_out"]
    ]


def test_task_spec_fits_the_scores(trained: Trained) -> None:
    task = trained.read("task.json")
    assert task["input"] == {"name": "image", "kind": "image", "color": "RGB", "min_side": 128}
    assert task["outputs"] == {"score": "score", "map": "anomaly_map"}
    assert trained.read("labels.json") == task["labels"] == ["ok", "defective"]
    assert task["threshold"] == trained.read("report.json")["operating_point"]["threshold"]
    low, high = task["score_range"]
    assert low <= task["threshold"] < high
    assert math.isfinite(task["map_threshold"])


def test_progress_rises_to_one_and_carries_the_loss(trained: Trained) -> None:
    shares = [details["progress"] for _, details in trained.events]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    losses = [details["metrics"] for stage, details in trained.events if stage == "Training the head"]
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert [point["epoch"] for point in losses] == [float(i + 1) for i in range(len(losses))]


def test_loaded_model_and_onnx_give_the_reported_scores(trained: Trained) -> None:
    model, exported = load_model(trained.folder), OnnxModel(trained.folder / "model.onnx")
    for item in trained.read("report.json")["held_out"][::4]:
        pixels = decode_image((trained.data / item["path"]).read_bytes(), min_side=128)[None]
        with torch.inference_mode():
            score_N, map_NSS = model(torch.from_numpy(pixels))
        onnx_score_N, onnx_map_NSS = exported(pixels)
        # Reported scores come from features that were cached in half precision.
        assert float(score_N) == pytest.approx(item["score"], abs=0.02)
        np.testing.assert_allclose(onnx_score_N, score_N.numpy(), atol=1e-4)
        np.testing.assert_allclose(onnx_map_NSS, map_NSS.numpy(), atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 33, 47), (3, 128, 128), (2, 301, 200), (5, 64, 640)])
def test_onnx_takes_any_batch_and_size(trained: Trained, shape: tuple[int, int, int]) -> None:
    image_NHWC = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with torch.inference_mode():
        score_N, map_NSS = load_model(trained.folder)(torch.from_numpy(image_NHWC))
    onnx_score_N, onnx_map_NSS = OnnxModel(trained.folder / "model.onnx")(image_NHWC)
    assert onnx_score_N.shape == shape[:1]
    assert onnx_map_NSS.shape == (shape[0], 64, 64)
    np.testing.assert_allclose(onnx_score_N, score_N.numpy(), atol=1e-3)
    np.testing.assert_allclose(onnx_map_NSS, map_NSS.numpy(), atol=5e-3)


def test_onnx_nodes_are_named_after_their_modules(trained: Trained) -> None:
    graph = onnx.load(trained.folder / "model.onnx").graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    groups = {name.split("/")[0] for name in names}
    assert (
        {"preprocess", "backbone", "patches", "scorer", "tail"}
        <= groups
        <= {*("preprocess", "backbone", "patches", "scorer", "tail", "graph")}
    )
    by_type = {node.op_type: node.name.split("/")[0] for node in graph.node if node.op_type == "Conv"}
    assert by_type["Conv"] in ("backbone", "scorer")
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["N", "H", "W", 3]
    assert "Resize" not in {node.op_type for node in graph.node}


def test_naive_pipeline_gives_the_same_scores(trained: Trained) -> None:
    model = load_model(trained.folder)
    for path in sorted((trained.data / "defective/hole").iterdir())[:3]:
        data = path.read_bytes()
        score, map_SS = naive_predict(model, data)
        with torch.inference_mode():
            expected_N, _ = model(torch.from_numpy(decode_image(data, min_side=128)[None]))
        assert score == pytest.approx(float(expected_N), abs=1e-3)
        assert map_SS.shape == (64, 64)


def test_run_gives_the_same_when_seed_and_data_are_the_same(trained: Trained, tmp_path: Path) -> None:
    again = run(trained.data, tmp_path, name="plates", settings=SMALL, cache_dir=trained.cache)
    assert again["value"] == trained.result["value"]
    first, second = trained.read("report.json"), json.loads((tmp_path / "report.json").read_text())
    for part in ("counts", "metrics", "operating_point", "held_out", "confusion"):
        assert first[part] == second[part]
    assert (tmp_path / "splits.json").read_text() == (trained.folder / "splits.json").read_text()


def test_given_test_part_is_used_as_it_is_and_threshold_comes_from_good_images(
    tmp_path: Path, weights: Path, plates: Any
) -> None:
    data = plates({"train/good": 30, "test/good": 6, "test/hole": 6})
    result = run(data, tmp_path / "out", name="plates", settings=SMALL)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert result["candidate"] in {"memory", "gaussian"}
    assert {item["path"].split("/")[0] for item in report["held_out"]} == {"test"}
    assert report["counts"]["test"] == {"ok": 6, "defective": 6}
    assert report["counts"]["validation"]["defective"] == 0
    assert report["operating_point"]["promised"]["rate"] == "false_alarm_rate"
    assert result["metric"] == report["metric"] == "image_auroc"
    for entry in report["leaderboard"]:
        assert set(entry["validation"]) == {"synthetic_auroc"}  # no defective image decided anything
        assert 0 <= entry["test"]["image_auroc"] <= 1


def test_run_leaves_nothing_behind_when_it_is_refused(tmp_path: Path, plates: Any) -> None:
    with pytest.raises(TooFewImagesError) as caught:
        run(plates({"ok": 5, "defective": 5}), tmp_path / "out", name="x")
    assert caught.value.code == "data.too_few"
    assert caught.value.value == 5
    with pytest.raises(LayoutError):
        run(plates({"cats": 5}, root=tmp_path / "cats"), tmp_path / "out", name="x")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1},
        {"input_size": 250},
        {"input_size": "256"},
        {"memory_size": 1},
        {"top_fractions": [0]},
        {"top_fractions": []},
        {"max_false_alarm_rate": 0},
        {"max_miss_rate": 1.5},
        {"max_miss_rate": "low"},
        {"max_false_alarm_rate": 0.1, "max_miss_rate": 0.1},
        {"candidates": ["head"]},
        {"candidates": ["memory", "magic"]},
        {"candidates": 3},
    ],
)
def test_settings_are_refused_when_unknown_or_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(AnomalySettings, settings)
    assert caught.value.code == "settings.invalid"


def test_load_model_refuses_when_files_are_missing_or_do_not_fit(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        load_model(tmp_path)
    described = trained.read("model.json")
    described["config"]["scorer_size"] += 1
    (tmp_path / "model.json").write_text(json.dumps(described))
    (tmp_path / "model.safetensors").write_bytes((trained.folder / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError):
        load_model(tmp_path)


def test_parity_gate_refuses_another_model(trained: Trained) -> None:
    model = load_model(trained.folder)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["backbone.net._conv_stem.weight"] *= -1
    model.load_state_dict(state)
    path = sorted((trained.data / "ok").glob("plate_*.png"))[0]  # a good image: noise is far from all memory
    images = [decode_image(path.read_bytes(), min_side=128)]
    with pytest.raises(ParityError) as caught:
        score_parity(model, trained.folder / "model.onnx", images, tolerance=1e-3)
    assert caught.value.value > 1e-3


def test_coreset_covers_better_than_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 8, generator=generator) * 10
    # One cluster has nearly everything: a random choice would miss most of the others.
    counts = torch.tensor([1000] + [2] * 19)
    points = centres.repeat_interleave(counts, dim=0)
    points = points + 0.01 * torch.randn(points.shape, generator=generator)
    picks = greedy_coreset(points, 20, generator=generator)
    assert len(set(picks.tolist())) == 20
    assert torch.cdist(points, points[picks]).amin(dim=1).max() < 1


def test_score_is_the_mean_of_the_means_of_the_strangest_patches() -> None:
    values_Nhw = torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(0))
    ordered_NP = values_Nhw.flatten(1).sort(dim=1, descending=True).values
    expected_N = (ordered_NP[:, :2].mean(1) + ordered_NP[:, :50].mean(1)) / 2
    torch.testing.assert_close(pooled(values_Nhw, (0.02, 0.5)), expected_N)
    torch.testing.assert_close(pooled(values_Nhw, (0.001,)), ordered_NP[:, 0])  # at least one patch
    torch.testing.assert_close(pooled(values_Nhw, (1.0,)), values_Nhw.mean(dim=(1, 2)))


def test_model_of_an_older_version_is_loaded(trained: Trained, tmp_path: Path) -> None:
    described = trained.read("model.json")
    shares = described["config"].pop("top_fractions")
    described["config"]["top_fraction"] = shares[0]
    (tmp_path / "model.json").write_text(json.dumps(described))
    (tmp_path / "model.safetensors").write_bytes((trained.folder / "model.safetensors").read_bytes())
    assert load_model(tmp_path).config.top_fractions == (shares[0],)


@pytest.mark.parametrize("scorer", ["memory", "gaussian", "head"])
def test_every_scorer_gives_one_score_and_map_per_image(scorer: str) -> None:
    model = AnomalyModel(AnomalyConfig(input_size=128, scorer=scorer, scorer_size=16)).eval()
    with torch.inference_mode():
        score_N, map_NSS = model(torch.zeros(2, 40, 50, 3, dtype=torch.uint8))
    assert score_N.shape == (2,)
    assert map_NSS.shape == (2, 64, 64)


def test_jpeg_bytes_go_through_the_naive_pipeline(trained: Trained) -> None:
    buffer = io.BytesIO()
    Image.new("L", (90, 60), 128).save(buffer, "JPEG")
    score, _ = naive_predict(load_model(trained.folder), buffer.getvalue())
    assert math.isfinite(score)
