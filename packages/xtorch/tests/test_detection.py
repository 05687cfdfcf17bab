"""The detection recipe end to end on small pictures; weights are random, so little is learned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from xinfer import parse_task
from xinfer.tasks import ImageInput, ObjectDetection
from xinfer.zoo.detection import interpret
from xinfer.zoo.images import image_feeds
from xtorch.data.check_detection import inspect_detection
from xtorch.detection_metrics import coco_metrics, overlap_matrix
from xtorch.errors import DataError, LayoutError, SettingsError, TooFewImagesError, WeightsError
from xtorch.export import OnnxModel
from xtorch.models.detector import DetectorConfig
from xtorch.models.yolox import NANO, Yolox
from xtorch.tasks.detection import build_inputs, load_model, run
from xtorch.tasks.detection.baselines import UsualPlaces, untrained
from xtorch.tasks.detection.files import NaivePredict
from xtorch.tasks.detection.items import input_size
from xtorch.tasks.detection.report import Evaluation
from xtorch.tasks.detection.weights import Published, published, start_from

from .conftest import TEST_DATA
from .detection_data import picture, pictures, save, write_coco, write_csv, write_voc
from .test_detection_metrics import scene

SETTINGS = {"input_size": 64, "epochs": 2, "weights": "none", "batch_size": 4}
OUTPUTS = {
    "model.onnx",
    "model.safetensors",
    "model.json",
    "task.json",
    "labels.json",
    "splits.json",
    "report.json",
    "report",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"), pictures(32))


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Output folder and result; trained without an interruption."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run(dataset, folder, name="things", seed=3, settings=SETTINGS)


def test_run_leaves_all_outputs_and_says_what_it_did(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    assert {path.name for path in folder.iterdir()} == OUTPUTS
    report = json.loads((folder / "report.json").read_text())
    assert report["schema_version"] == 2
    assert result["metric"] == report["metric"] == "map50"
    assert result["value"] == report["metrics"]["map50"]["value"]
    assert result["num_test"] == report["counts"]["test"]["images"]
    assert [row["kind"] for row in report["leaderboard"]] == ["baseline", "model"]
    assert [row["kept"] for row in report["leaderboard"]] == [False, True]
    model = report["leaderboard"][-1]
    assert model["settings"]["epochs"] == 2
    assert model["test"]["map50"] == pytest.approx(result["value"])
    assert "random weights" in model["note"]
    assert report["confusion"]["labels"] == ["disc", "square", "background"]
    truth_rows = np.array(report["confusion"]["matrix"])[:2].sum()
    assert truth_rows == sum(report["counts"]["test"][label] for label in ("disc", "square"))
    assert {chart["id"] for chart in report["charts"]} == {"precision_recall", "errors", "training"}
    assert {table["id"] for table in report["tables"]} == {"classes", "sizes"}
    for shown in report["gallery"]:
        assert all((folder / "report" / name).is_file() for name in shown["images"])
    for interval in report["metrics"].values():
        assert 0 <= interval["low"] <= interval["high"] <= 1
    assert report["parity"]["max_abs_diff"] < 1e-3
    assert set(report["timings_s"]) == {
        "Checking images", "Preparing", "Training", "Evaluating", "Exporting", "Writing the report",
    }  # fmt: skip


def test_graph_takes_pixels_of_any_size_and_speaks_of_the_same_pixels(
    trained: tuple[Path, dict[str, Any]], dataset: Path
) -> None:
    folder, _ = trained
    graph = onnx.load(folder / "model.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [
        "N",
        "H",
        "W",
        3,
    ]
    assert [output.name for output in graph.output] == ["boxes", "scores"]
    model, exported = load_model(folder), OnnxModel(folder / "model.onnx")
    rng = np.random.default_rng(0)
    for shape in ((1, 50, 70), (2, 200, 90)):
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        with torch.inference_mode():
            boxes, scores = model(torch.from_numpy(image))
        found = exported(image)
        np.testing.assert_allclose(found[0], boxes.numpy(), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(found[1], scores.numpy(), atol=1e-4)


def test_task_is_one_that_xinfer_reads_and_thresholds_are_each_classs(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = trained
    task = parse_task(folder / "task.json")
    assert isinstance(task, ObjectDetection)
    assert task.labels == ("disc", "square") == tuple(json.loads((folder / "labels.json").read_text()))
    report = json.loads((folder / "report.json").read_text())
    assert (
        dict(zip(task.labels, task.class_thresholds, strict=True)) == report["operating_point"]["threshold"]
    )
    assert task.metric == "map50"


def test_build_inputs_judge_as_the_report_did(trained: tuple[Path, dict[str, Any]], dataset: Path) -> None:
    folder, result = trained
    given = build_inputs(folder, dataset)
    exported = OnnxModel(folder / "model.onnx")
    outputs = [dict(zip(("boxes", "scores"), exported(feeds["image"]), strict=True)) for feeds in given.test]
    assert given.metric == "map50"
    assert len(given.test) == result["num_test"]
    assert given.evaluate(outputs) == pytest.approx(result["value"], abs=0.01)
    perfect = []
    splits = json.loads((folder / "splits.json").read_text())
    for item in splits["test"]:
        boxes = np.array([each["box"] for each in item["objects"]], np.float32)[None]
        scores = np.eye(2, dtype=np.float32)[[each["label"] for each in item["objects"]]][None]
        perfect.append({"boxes": boxes, "scores": scores})
    assert given.evaluate(perfect) == pytest.approx(1.0)
    assert given.evaluate([each | {"scores": each["scores"][..., ::-1]} for each in perfect]) < 0.5
    assert given.calibration
    assert given.float_nodes


def test_peer_and_engines_runner_agree(trained: tuple[Path, dict[str, Any]], dataset: Path) -> None:
    folder, _ = trained
    model = load_model(folder)
    data = (dataset / "JPEGImages/p001.png").read_bytes()
    document = json.loads((folder / "task.json").read_text())
    task = parse_task(document)
    assert isinstance(task, ObjectDetection)
    feeds, geometry = image_feeds(task.input, data)
    with torch.inference_mode():
        boxes, scores = model(torch.from_numpy(feeds["image"]))
    # Thresholds such that about 30 candidates are shown, whatever was learned.
    best = np.sort(scores[0].max(dim=1).values.numpy())
    document["class_thresholds"] = [float(best[-30]), float(best[-25])]
    task = parse_task(document)
    assert isinstance(task, ObjectDetection)
    found = interpret(task, {"boxes": boxes.numpy(), "scores": scores.numpy()}, geometry)
    peer = NaivePredict(model, document)(data)
    assert len(peer) == len(found) >= 1
    assert [label for label, _, _ in peer] == found.classes.tolist()
    np.testing.assert_allclose([score for _, score, _ in peer], found.scores, atol=1e-6)


def test_report_shows_what_was_found(tmp_path: Path) -> None:
    found, truth = scene(5, images=16)
    labels = ("a", "b", "c")
    coco = coco_metrics(found, truth, 3)
    evaluation = Evaluation(labels, found, truth, coco, [0.3, 0.5, 0.7], seed=0)
    metrics = evaluation.metrics()
    assert metrics["map50"]["value"] == pytest.approx(coco.map50)
    right, false, missed = evaluation.counts()
    assert metrics["recall"]["value"] == pytest.approx(right / (right + missed))
    assert metrics["precision"]["value"] == pytest.approx(right / (right + false))
    assert np.array(evaluation.mistakes).sum(axis=0).tolist() == [right, false, missed]
    counted = sum(int((~each.crowd).sum()) for each in truth)
    assert right + missed == counted == np.array(evaluation.confusion()["matrix"])[:3].sum()
    rows = evaluation.class_table().rows
    assert [row[0] for row in rows] == list(labels)
    assert [row[2] for row in rows] == [coco.by_class[index]["ap50"] for index in range(3)]
    chart = evaluation.precision_recall_chart()
    for series in chart.series:
        values = [value for value in series.y if value is not None]
        assert values == sorted(values, reverse=True)
        index = labels.index(series.name)
        # The mean over all recall levels, where nothing was found 0, is the average precision.
        assert sum(values) / 101 == pytest.approx(coco.by_class[index]["ap50"], abs=1e-6)
    assert sum(evaluation.error_chart().series[0].y) > 0  # type: ignore[arg-type]
    items = []
    for index in range(16):
        save(tmp_path / f"{index}.png", np.full((600, 800, 3), 90, np.uint8))
        items.append({"path": f"{index}.png", "width": 800, "height": 600})
    gallery = evaluation.gallery(tmp_path, tmp_path, items)
    assert len(gallery) == 12
    worst = max(false + missed for _, false, missed in evaluation.mistakes)
    first = evaluation.mistakes[int(gallery[0].caption.removesuffix(".png"))]
    assert first[1] + first[2] == worst
    for shown in gallery:
        pictures_HW3 = [np.asarray(Image.open(tmp_path / "report" / name)) for name in shown.images]
        assert all(each.shape == (480, 640, 3) for each in pictures_HW3)
        assert any((np.ptp(each.astype(int), axis=2) > 60).any() for each in pictures_HW3)


@pytest.mark.faults
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_model(
    trained: tuple[Path, dict[str, Any]], dataset: Path, tmp_path: Path
) -> None:
    folder, result = trained
    output, cache = tmp_path / "out", tmp_path / "cache"
    # Killed in the second epoch, after the first one's checkpoint.
    program = f"""
import os, signal
from xtorch.tasks.detection import run

def die(stage, /, *, progress=None, eta_s=None, message="", metrics=None):
    if stage == "Training" and message.startswith("epoch 2"):
        os.kill(os.getpid(), signal.SIGKILL)

run({str(dataset)!r}, {str(output)!r}, name="things", seed=3, settings={SETTINGS!r}, cache_dir={str(cache)!r},
    progress=die)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not (output / "report.json").exists()
    assert list(cache.glob("detection/*/steps/*/state.json"))
    messages = []

    def listen(
        stage: str, /, *, progress: Any = None, eta_s: Any = None, message: str = "", metrics: Any = None
    ) -> None:
        if stage == "Training":
            messages.append(message)

    again = run(dataset, output, name="things", seed=3, settings=SETTINGS, cache_dir=cache, progress=listen)
    assert messages
    assert all(message.startswith("epoch 2") for message in messages)
    assert again["value"] == result["value"]
    assert (output / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert {path.name for path in output.iterdir()} == OUTPUTS
    assert not list(cache.glob("detection/*"))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda root: save(root / "a.png", picture(0).pixels), LayoutError),
        (lambda root: root.mkdir(exist_ok=True), LayoutError),
        (lambda root: write_csv(root, pictures(6)), TooFewImagesError),
        (lambda root: write_csv(root, pictures(24), extra="../x.png,disc,1,2,3,4\n"), DataError),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_and_nothing_is_left(
    make: Any, error: type[Exception], tmp_path: Path
) -> None:
    make(tmp_path / "data")
    with pytest.raises(error) as caught:
        run(tmp_path / "data", tmp_path / "out", name="x", settings=SETTINGS)
    assert caught.value.hint  # type: ignore[attr-defined]
    assert not list((tmp_path / "out").iterdir())


def test_a_part_without_objects_is_refused(tmp_path: Path) -> None:
    data = pictures(30)
    write_voc(tmp_path / "data", data, {"train": data[:22], "val": data[22:26], "test": data[26:]})
    for each in data[26:]:
        (tmp_path / f"data/Annotations/{each.name}.xml").write_text(
            f"<annotation><filename>{each.name}.png</filename></annotation>"
        )
    with pytest.raises(TooFewImagesError, match="test part"):
        run(tmp_path / "data", tmp_path / "out", name="x", settings=SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": 100},
        {"architecture": "huge"},
        {"epochs": 0},
        {"mosaic": 2},
        {"min_precision": 1.0},
        {"colour": 1},
        {"learning_rate": 0},
        {"batch_size": 0},
        {"epochs": 2.5},
        {"input_size": 416.0},
        {"any_direction": "no"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        run(tmp_path, tmp_path / "out", name="x", settings=settings)


def test_weights_that_do_not_fit_are_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.onnx").write_bytes(b"no model")
    settings = SETTINGS | {"weights": str(tmp_path / "weights.onnx")}
    with pytest.raises(WeightsError):
        run(dataset, tmp_path / "out", name="x", settings=settings)


def test_damaged_outputs_are_refused(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = trained
    with pytest.raises(WeightsError):
        load_model(tmp_path)
    for name in ("model.json", "model.safetensors"):
        copy = tmp_path / name.replace(".", "_")
        copy.mkdir()
        for file in ("model.json", "model.safetensors"):
            (copy / file).write_bytes((folder / file).read_bytes())
        (copy / name).write_bytes((folder / name).read_bytes()[:-40])
        with pytest.raises(WeightsError):
            load_model(copy)


def test_input_has_the_images_shape_where_they_have_one(tmp_path: Path) -> None:
    wide = inspect_detection(write_coco(tmp_path / "wide", pictures(21))).usable
    assert input_size(wide, 416) == (320, 416)
    tall = [picture(index, width=72, height=128) for index in range(21)]
    assert input_size(inspect_detection(write_coco(tmp_path / "tall", tall)).usable, 416) == (416, 256)
    both = inspect_detection(write_coco(tmp_path / "both", [*pictures(12), *tall[:9]])).usable
    assert input_size(both, 416) == (416, 416)


def test_usual_places_are_where_objects_are_most_often(tmp_path: Path) -> None:
    data = inspect_detection(write_voc(tmp_path, pictures(24))).usable
    places = UsualPlaces(data, 2, seed=0)
    found = places(data[:2])
    assert found[0].boxes.tolist() == found[1].boxes.tolist()
    assert set(found[0].labels.tolist()) == {0, 1}
    assert found[0].scores is not None
    assert 0 < found[0].scores.max() <= 1


def test_classes_that_coco_knows_begin_with_its_weights() -> None:
    torch.manual_seed(0)
    given = Published(
        network=Yolox(NANO).eval(), labels=tuple(f"c{index}" for index in range(80)), source="test"
    )
    config = DetectorConfig(architecture="nano", height=64, width=64, num_classes=2)
    started = start_from(config, ("new", "C7"), given, seed=0)
    own, theirs = (network.state_dict() for network in (started.network, given.network))
    assert torch.equal(own["head.cls_preds.1.weight"][1], theirs["head.cls_preds.1.weight"][7])
    assert not torch.equal(own["head.cls_preds.1.weight"][0], theirs["head.cls_preds.1.weight"][0])
    assert torch.equal(
        own["backbone.backbone.stem.conv.conv.weight"], theirs["backbone.backbone.stem.conv.conv.weight"]
    )
    assert untrained(config, ("new", "newer"), given) is None
    plain = untrained(config, ("new", "c7"), given)
    assert plain is not None
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        x, _ = plain.preprocess(images)
        scores = plain(images)[1]
        wanted = given.network(x)
    torch.testing.assert_close(scores[..., 1], wanted[..., 4] * wanted[..., 5 + 7])
    assert float(scores[..., 0].max()) < 1e-6


def test_published_weights_find_people_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, data = TEST_DATA / "weights", TEST_DATA / "coco128_val"
    if not (weights / "yolox_nano_416_coco.onnx").is_file() or not data.is_dir():
        pytest.skip(f"no weights or images in {TEST_DATA}: set IGNITION_TEST_DATA")
    monkeypatch.setenv("XINFER_WEIGHTS", str(weights))
    given = published("nano", "auto", None)
    assert given is not None
    config = DetectorConfig(architecture="nano", height=416, width=416, num_classes=1)
    detector = untrained(config, ("person",), given)
    assert detector is not None
    inspected = inspect_detection(data)
    person = inspected.labels.index("person")
    best = []
    for image in [image for image in inspected.usable if (image.labels == person).any()][:8]:
        task = {"kind": "image", "color": "RGB", "name": "image", "min_side": 416}
        feeds, geometry = image_feeds(ImageInput(**task), (data / image.path).read_bytes())  # type: ignore[arg-type]
        with torch.inference_mode():
            boxes, scores = detector(torch.from_numpy(feeds["image"]))
        strongest = int(scores[0, :, 0].argmax())
        box = geometry.to_original(boxes[0, strongest].numpy()[None])
        truth = image.boxes[image.labels == person] * np.array([image.width, image.height] * 2)
        best.append(overlap_matrix(box.astype(float), truth).max())
    assert np.median(best) > 0.6
