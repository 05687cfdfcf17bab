"""The classification recipe from a folder of small pictures to everything that a build needs."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from xinfer.preproc import decode_image
from xinfer.tasks import parse_task
from xtorch.class_metrics import softmax
from xtorch.data.check import UsableImage
from xtorch.data.check_classification import inspect_classes
from xtorch.data.classes import scan_classes
from xtorch.errors import (
    DataError,
    LayoutError,
    ParityError,
    SettingsError,
    TooFewImagesError,
    WeightsError,
)
from xtorch.export import OnnxModel, score_parity
from xtorch.models.classifier import Classifier, ClassifierConfig, Tail, head_map
from xtorch.models.efficientnet import efficientnet_lite0
from xtorch.tasks import classification
from xtorch.tasks.classification import build_inputs, finetune, load_model, naive_predict, run
from xtorch.tasks.classification import head as heads
from xtorch.tasks.classification.features import FeatureExtractor, Features
from xtorch.tasks.classification.figures import reliability_chart
from xtorch.tasks.classification.settings import ClassificationSettings
from xtorch.tasks.recipe import parse_settings

_spec = util.spec_from_file_location("shapes", Path(__file__).with_name("shapes.py"))
assert _spec is not None
assert _spec.loader is not None
shapes = util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)

SMALL = {"input_size": 128, "max_trials": 3}
FILES = {
    *("model.onnx", "model.safetensors", "model.json", "task.json", "labels.json", "splits.json"),
    *("report.json", "report"),
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
def trained(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Trained:
    base = tmp_path_factory.mktemp("classification")
    data = shapes.write(base / "data", dict.fromkeys(shapes.NAMES, 46))
    (data / "disc/broken.png").write_bytes(b"no image")
    # One label is wrong: the recipe should doubt it.
    (data / "disc/000.png").rename(data / "square/mislabelled.png")
    events: list[tuple[str, dict[str, Any]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "MAX_TRIALS", 1)
        patch.setattr(finetune, "EPOCHS", 2)
        result = run(
            data,
            base / "out",
            name="shapes",
            settings=SMALL,
            budget_s=3600,
            progress=lambda stage, **details: events.append((stage, details)),
            cache_dir=base / "cache",
        )
    return Trained(data, base / "out", base / "cache", result, events)


def test_run_writes_every_file_and_nothing_else(trained: Trained) -> None:
    assert {path.name for path in trained.folder.iterdir()} == FILES


def test_run_tells_the_shapes_apart(trained: Trained) -> None:
    assert trained.result["value"] > 0.9


def test_result_check_and_report_are_what_the_hub_reads(trained: Trained) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    result = wire.TrainResult.model_validate(trained.result)
    report = trained.read("report.json")
    assert report["schema_version"] == 2
    assert wire.CheckReport.model_validate(report["check"]).num_items == 138
    assert result.value == report["metrics"]["top1"]["value"]
    assert result.num_test == len(report["held_out"])
    assert report["template"] == classification.TEMPLATE


def test_leaderboard_has_the_baseline_and_both_candidates(trained: Trained) -> None:
    rows = {row["name"]: row for row in trained.read("report.json")["leaderboard"]}
    assert set(rows) == {"frozen_head", "fine_tuned", "majority"}
    assert rows["majority"]["kind"] == "baseline"
    assert rows["majority"]["test"]["top1"] < 0.5
    (kept,) = [row for row in rows.values() if row["kept"]]
    assert kept["name"] == trained.result["candidate"]
    assert kept["test"]["top1"] == trained.result["value"]
    assert rows["fine_tuned"]["settings"]["epochs"] == 2
    better = (
        rows["fine_tuned"]["validation"]["log_loss"] < rows["frozen_head"]["validation"]["log_loss"] - 0.02
    )
    assert (kept["name"] == "fine_tuned") is better


def test_report_figures_agree_with_each_other(trained: Trained) -> None:
    report = trained.read("report.json")
    matrix = np.array(report["confusion"]["matrix"])
    assert matrix.sum() == trained.result["num_test"]
    assert matrix.trace() / matrix.sum() == pytest.approx(trained.result["value"])
    right = np.mean([item["label"] == item["answer"] for item in report["held_out"]])
    assert right == pytest.approx(trained.result["value"])
    for metric in report["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    point = report["operating_point"]
    reviewed = [item["confidence"] < point["threshold"] for item in report["held_out"]]
    assert point["review_share"]["value"] == pytest.approx(np.mean(reviewed))
    assert point["threshold_low"] <= point["threshold"] <= point["threshold_high"]
    assert {chart["id"] for chart in report["charts"]} == {"reliability", "review", "search"}
    assert {"classes", "trials"} <= {table["id"] for table in report["tables"]}
    for table in report["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert report["tuning"]["num_trials"] == 3
    assert report["counts"]["test"] == {
        name: int(num) for name, num in zip(shapes.NAMES, matrix.sum(1), strict=True)
    }


def test_gallery_shows_pictures_and_the_doubtful_label(trained: Trained) -> None:
    report = trained.read("report.json")
    for entry in report["gallery"]:
        for name in entry["images"]:
            with Image.open(trained.folder / "report" / name) as picture:
                assert picture.format == "JPEG"
                assert max(picture.size) <= 256
    splits = trained.read("splits.json")
    learned = {item["path"] for part in ("train", "validation") for item in splits[part]}
    if "square/mislabelled.png" in learned:
        (table,) = [table for table in report["tables"] if table["id"] == "doubtful_labels"]
        assert ["square/mislabelled.png", "square"] in [row[:2] for row in table["rows"]]
    else:
        assert report["gallery"][0]["caption"] == "square/mislabelled.png"
        assert not report["gallery"][0]["right"]


def test_splits_leave_out_what_is_broken(trained: Trained) -> None:
    splits, labels = trained.read("splits.json"), trained.read("labels.json")
    items = [item for part in ("train", "validation", "test") for item in splits[part]]
    assert len(items) == len({item["path"] for item in items}) == 138
    assert "disc/broken.png" not in {item["path"] for item in items}
    assert all(item["path"].split("/")[0] == labels[item["label"]] for item in items)


def test_task_spec_is_one_that_xinfer_reads(trained: Trained) -> None:
    task = parse_task(trained.folder / "task.json")
    assert task.task == "image-classification"
    assert task.labels == tuple(trained.read("labels.json")) == shapes.NAMES
    assert task.outputs == {"scores": "logits"}


def test_progress_rises_to_one_and_carries_the_trials(trained: Trained) -> None:
    shares = [details["progress"] for _, details in trained.events]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    trials = [details["metrics"] for _, details in trained.events if details.get("metrics")]
    assert [point["trial"] for point in trials] == [1.0, 2.0, 3.0, 1.0]
    assert all(point["log_loss"] > 0 for point in trials)


def test_loaded_model_onnx_and_report_agree(trained: Trained) -> None:
    model, exported = load_model(trained.folder), OnnxModel(trained.folder / "model.onnx")
    labels = trained.read("labels.json")
    for item in trained.read("report.json")["held_out"][::5]:
        pixels = decode_image((trained.data / item["path"]).read_bytes(), min_side=128)[None]
        with torch.inference_mode():
            logits = model(torch.from_numpy(pixels)).numpy()
        (onnx_logits,) = exported(pixels)
        np.testing.assert_allclose(onnx_logits, logits, atol=1e-2)
        probabilities = softmax(onnx_logits)[0]
        assert labels[int(probabilities.argmax())] == item["answer"]
        assert probabilities.max() == pytest.approx(item["confidence"], abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 33, 47), (3, 128, 128), (2, 301, 200), (1, 1, 1), (5, 64, 640)])
def test_onnx_takes_any_batch_and_size(trained: Trained, shape: tuple[int, int, int]) -> None:
    image_NHWC = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = load_model(trained.folder)(torch.from_numpy(image_NHWC)).numpy()
    (onnx_logits,) = OnnxModel(trained.folder / "model.onnx")(image_NHWC)
    assert onnx_logits.shape == (shape[0], 3)
    np.testing.assert_allclose(onnx_logits, logits, atol=1e-2)


def test_onnx_has_raw_images_for_its_input(trained: Trained) -> None:
    graph = onnx.load(trained.folder / "model.onnx").graph
    (image,) = graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["N", "H", "W", 3]
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in graph.output] == ["logits"]


def test_naive_pipeline_gives_the_same_answers(trained: Trained) -> None:
    model = load_model(trained.folder)
    for path in sorted((trained.data / "disc").iterdir())[:3]:
        data = path.read_bytes()
        with torch.inference_mode():
            logits = model(torch.from_numpy(decode_image(data, min_side=128)[None])).numpy()
        np.testing.assert_allclose(naive_predict(model, data), softmax(logits)[0], atol=5e-3)
    buffer = io.BytesIO()
    Image.new("L", (90, 60), 128).save(buffer, "JPEG")
    assert naive_predict(model, buffer.getvalue()).sum() == pytest.approx(1, abs=1e-5)


def test_build_inputs_judge_by_the_test_part(trained: Trained) -> None:
    given = build_inputs(trained.folder, trained.data)
    exported = OnnxModel(trained.folder / "model.onnx")
    assert given.metric == "top1"
    assert len(given.test) == trained.result["num_test"]
    outputs = [{"logits": exported(feeds["image"])[0]} for feeds in given.test]
    assert given.evaluate(outputs) == pytest.approx(trained.result["value"])
    wrong = [{"logits": -output["logits"]} for output in outputs]
    assert given.evaluate(wrong) < 0.5
    assert given.calibration
    assert all(feeds["image"].dtype == np.uint8 for feeds in given.calibration)
    assert given.peer is not None
    assert given.peer(given.payloads[0]).shape == (3,)


def test_run_gives_the_same_when_seed_and_data_are_the_same(trained: Trained, tmp_path: Path) -> None:
    settings = SMALL | {"fine_tune": False}
    run(trained.data, tmp_path, name="x", settings=settings, budget_s=3600, cache_dir=trained.cache)
    first, second = trained.read("report.json"), json.loads((tmp_path / "report.json").read_text())
    assert first["counts"] == second["counts"]
    rows = [{row["name"]: row for row in report["leaderboard"]} for report in (first, second)]
    assert set(rows[1]) == {"frozen_head", "majority"}
    for name in rows[1]:
        for field in ("validation", "test", "settings"):
            assert rows[0][name][field] == rows[1][name][field]
    if trained.result["candidate"] == "frozen_head":
        for part in ("metrics", "operating_point", "held_out", "confusion"):
            assert first[part] == second[part]
    assert (tmp_path / "splits.json").read_bytes() == (trained.folder / "splits.json").read_bytes()


def test_features_come_from_the_cache_and_a_broken_file_is_computed_again(trained: Trained) -> None:
    config = ClassifierConfig(num_classes=3, input_size=128)
    extractor = FeatureExtractor(config, cache_dir=trained.cache)
    splits = trained.read("splits.json")
    learned = {item["path"] for part in ("train", "validation") for item in splits[part]}
    images = [each for each in inspect_classes(scan_classes(trained.data)).usable if each.path in learned][:2]
    known = extractor.features(trained.data, images, lambda *_: None)
    # Other runs kept the shorter description, without maps, of the same images.
    files = [
        max(trained.cache.rglob(f"{image.digest[7:]}.npy"), key=lambda path: path.stat().st_size)
        for image in images
    ]
    files[0].write_bytes(b"\x93NUMPY broken")
    again = extractor.features(trained.data, images, lambda *_: None)
    np.testing.assert_allclose(again.pooled, known.pooled, atol=1e-2)
    assert files[0].stat().st_size == files[1].stat().st_size
    model = Classifier(config).eval()
    pixels = decode_image((trained.data / images[0].path).read_bytes(), min_side=128)
    with torch.inference_mode():
        net = efficientnet_lite0()
        (last,) = net.features(model.preprocess(torch.from_numpy(pixels)[None]), [32])
        pooled = head_map(net, last).mean(dim=(2, 3))[0].numpy()
    np.testing.assert_allclose(known.pooled[0, 0], pooled, atol=2e-2)


def test_image_that_breaks_after_the_check_is_named(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"gone bad")
    image = UsableImage(path="x.png", label=0, kind=None, part=None, digest="sha256:00", group=0)
    extractor = FeatureExtractor(ClassifierConfig(num_classes=2, input_size=128), cache_dir=None)
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        extractor.features(tmp_path, [image], lambda *_: None)
    assert caught.value.value == "x.png"


def test_run_leaves_nothing_behind_when_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError):
        run(tmp_path / "empty", tmp_path / "out", name="x")
    with pytest.raises(TooFewImagesError) as caught:
        run(shapes.write(tmp_path / "one", {"disc": 9}), tmp_path / "out", name="x")
    assert (caught.value.code, caught.value.value) == ("data.too_few", 1)
    with pytest.raises(DataError):
        run(tmp_path / "nowhere", tmp_path / "out", name="x")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1},
        {"input_size": 250},
        {"input_size": "224"},
        {"input_size": 1024},
        {"fine_tune": "yes"},
        {"max_trials": 0},
        {"max_trials": 2.5},
        {"review_cost": 0},
        {"review_cost": 1},
        {"review_cost": float("nan")},
        {"review_cost": "cheap"},
    ],
)
def test_settings_are_refused_when_unknown_or_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        parse_settings(ClassificationSettings, settings)


def test_load_model_refuses_when_files_are_missing_or_do_not_fit(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        load_model(tmp_path)
    described = trained.read("model.json")
    described["config"]["num_classes"] += 1
    (tmp_path / "model.json").write_text(json.dumps(described))
    (tmp_path / "model.safetensors").write_bytes((trained.folder / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError):
        load_model(tmp_path)


def test_parity_gate_refuses_another_model(trained: Trained) -> None:
    model = load_model(trained.folder)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["backbone._conv_stem.weight"] *= -1
    model.load_state_dict(state)
    images = [np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)]
    with pytest.raises(ParityError) as caught:
        score_parity(model, trained.folder / "model.onnx", images, tolerance=5e-3)
    assert caught.value.value > 0


# ------------------------------------------------------------------------------------- parts, without weights


def test_confidences_are_drawn_without_gaps_where_there_are_none() -> None:
    confidence = np.array([0.95, 0.97, 0.62, 0.66, 0.31])
    probabilities = np.stack([confidence, (1 - confidence) * 0.55, (1 - confidence) * 0.45], axis=1)
    probabilities[4] = [0.31, 0.32, 0.37]
    chart = reliability_chart(np.array([0, 0, 1, 0, 2]), probabilities)
    assert chart.x == pytest.approx([0, 0.37, 0.64, 0.96, 1])
    test, perfect = chart.series
    assert test.y == [None, 1.0, 0.5, 1.0, None]
    assert perfect.y == chart.x
    assert test.low is not None
    assert test.low[2] < 0.5


def separable(num: int, num_classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    features = rng.normal(0, 1, (num, 2, 12)) + 3 * np.eye(num_classes, 12)[labels][:, None]
    return features.astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("params", heads.PORTFOLIO)
def test_head_is_one_linear_map_of_raw_features(num_classes: int, params: Any) -> None:
    features, labels = separable(60, num_classes)
    head = heads.fit_head(features, labels, num_classes, params)
    logits = head.logits(features[:, 0])
    assert logits.shape == (60, num_classes)
    assert (logits.argmax(axis=1) == labels).mean() > 0.9
    np.testing.assert_allclose(head.tempered(2.0).logits(features[:, 0]), logits / 2, rtol=1e-5)


def test_head_never_answers_a_class_without_images() -> None:
    features, labels = separable(40, 2)
    logits = heads.fit_head(features, labels * 2, 4, heads.PORTFOLIO[0]).logits(features[:, 0])
    assert set(logits.argmax(axis=1)) <= {0, 2}


def test_head_of_one_class_always_answers_it() -> None:
    features, _ = separable(10, 2)
    logits = heads.fit_head(features, np.ones(10, int), 3, heads.PORTFOLIO[0]).logits(features[:, 0])
    assert set(logits.argmax(axis=1)) == {1}
    assert np.isfinite(logits).all()


def test_out_of_fold_answers_come_from_heads_that_did_not_see_the_image() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (60, 2, 40)).astype(np.float32)
    labels = rng.integers(0, 2, 60)  # nothing to learn: who has seen an image knows it by heart
    params = {"inverse_penalty": 10.0, "scale": "none", "views": "as it is", "class_weight": "none"}
    unseen = heads.out_of_fold(features, labels, np.arange(60) % 5, 2, params)
    seen = heads.fit_head(features, labels, 2, params).logits(features[:, 0])
    assert (seen.argmax(axis=1) == labels).mean() > 0.9
    assert (unseen.argmax(axis=1) == labels).mean() < 0.75


def test_interrupted_head_search_goes_on(tmp_path: Path) -> None:
    features, labels = separable(60, 3)
    arguments: dict[str, Any] = {"budget_s": 3600, "max_trials": 5, "seed": 0}
    whole = heads.tune_head(features, labels, np.arange(60) % 5, 3, **arguments)
    path = tmp_path / "search.jsonl"
    heads.tune_head(features, labels, np.arange(60) % 5, 3, storage=path, **(arguments | {"max_trials": 2}))
    again = heads.tune_head(features, labels, np.arange(60) % 5, 3, storage=path, **arguments)
    assert again.params == whole.params
    np.testing.assert_allclose(again.logits, whole.logits)


def test_tail_continues_the_network_and_keeps_batch_norm(weights: Path) -> None:
    net = efficientnet_lite0()
    tail = Tail(net, dropout=0.3)
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (maps,) = net.features(x, [16])
        torch.testing.assert_close(tail.eval()(maps), net(x))
    before = net._bn1.running_mean.clone()
    tail.train()(maps.clone())
    torch.testing.assert_close(net._bn1.running_mean, before)


def test_fine_tuning_learns_what_the_head_cannot(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "MAX_TRIALS", 1)
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    maps = rng.normal(0, 1, (48, 2, 112, 4, 4)).astype(np.float16)
    maps[labels == 1, :, :8] += 2
    features = Features(pooled=np.zeros((48, 2, 1280), np.float32), maps=torch.from_numpy(maps))
    nothing = heads.LinearHead(weight=np.zeros((1280, 2), np.float32), bias=np.zeros(2, np.float32))
    found = finetune.fine_tune(features, labels, features, labels, nothing, budget_s=3600, seed=0)
    assert found.validation_log_loss < 0.3
    assert (found.validation_logits.argmax(axis=1) == labels).mean() > 0.9
    assert found.search.trials[0].facts["epochs"] >= 1
