"""The segmentation recipe end to end on small pictures; weights are random, so little is learned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from xinfer import parse_task
from xinfer.tasks import SemanticSegmentation
from xinfer.zoo.images import image_feeds
from xinfer.zoo.segmentation import Segmenter as Runner
from xtorch.data.check_segmentation import inspect_segmentation
from xtorch.data.splits_segmentation import split_segmentation
from xtorch.errors import DataError, LayoutError, SettingsError, TooFewImagesError, WeightsError
from xtorch.export import OnnxModel
from xtorch.models.segmenter import SegmenterConfig
from xtorch.segmentation_metrics import mean_iou
from xtorch.tasks import segmentation
from xtorch.tasks.segmentation import build_inputs, load_model, run
from xtorch.tasks.segmentation.baselines import ByColour, most_frequent
from xtorch.tasks.segmentation.decisions import choose_threshold
from xtorch.tasks.segmentation.files import NaivePredict, load_legend, segmentation_task
from xtorch.tasks.segmentation.judge import JUDGED_PX, HeldOutImages
from xtorch.tasks.segmentation.report import Evaluation
from xtorch.tasks.segmentation.samples import Masks, TrainingImages, split_items

from .segmentation_data import as_binary, as_colours, save, scene, write

SETTINGS = {"input_size": 64, "epochs": 3, "backbone": "unet", "batch_size": 4}
OUTPUTS = {
    *("model.onnx", "model.safetensors", "model.json", "task.json", "labels.json", "splits.json"),
    *("report.json", "report"),
}
NUM = 36


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in colours; some images of another size, one without a mask."""
    root = write(tmp_path_factory.mktemp("data"), NUM, paint=as_colours)
    (root / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\ndisc,220,20,60\nsquare,0,130,200\n")
    for index in range(4):
        made = scene(100 + index, width=120, height=90)
        save(root / f"images/w{index}.jpg", made.pixels, quality=95)
        save(root / f"masks/w{index}.png", as_colours(made.labels))
    (root / "masks/p007.png").unlink()
    return root


@pytest.fixture(scope="module")
def trained(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[Any]]:
    """Output folder, result and what was told; trained without an interruption."""
    folder = tmp_path_factory.mktemp("trained")
    told: list[Any] = []
    result = run(
        dataset,
        folder,
        name="things",
        seed=3,
        settings=SETTINGS,
        progress=lambda stage, **details: told.append((stage, details)),
    )
    return folder, result, told


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_run_leaves_all_outputs_and_says_what_it_did(trained: Any) -> None:
    folder, result, _ = trained
    assert {path.name for path in folder.iterdir()} == OUTPUTS
    report = read(folder, "report.json")
    assert (report["schema_version"], report["template"]) == (2, segmentation.TEMPLATE)
    assert result["metric"] == report["metric"] == "mean_iou"
    assert result["value"] == report["metrics"]["mean_iou"]["value"]
    assert result["num_test"] == report["counts"]["test"]["images"] == len(report["held_out"])
    assert [row["name"] for row in report["leaderboard"]] == ["majority", "by_colour", "unet"]
    assert [row["kind"] for row in report["leaderboard"]] == ["baseline", "baseline", "model"]
    model = report["leaderboard"][-1]
    assert model["kept"]
    assert model["settings"]["rounds"] == 3
    assert model["test"]["mean_iou"] == pytest.approx(result["value"])
    for interval in report["metrics"].values():
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
    assert report["operating_point"] is None
    assert {chart["id"] for chart in report["charts"]} == {"training", "overlaps"}
    assert {table["id"] for table in report["tables"]} == {"classes", "confused"}
    for table in report["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    matrix = np.array(report["confusion"]["matrix"])
    assert report["confusion"]["labels"] == ["background", "disc", "square"]
    assert mean_iou(matrix) == pytest.approx(result["value"])
    assert report["check"]["num_items"] == NUM + 3
    assert report["parity"]["max_abs_diff"] < 1e-3
    assert report["parity"]["metric_onnx"] == pytest.approx(report["parity"]["metric_source"], abs=1e-3)


def test_gallery_shows_image_truth_and_answer(trained: Any) -> None:
    folder, _, _ = trained
    report = read(folder, "report.json")
    assert 6 <= len(report["gallery"]) <= 12
    for shown in report["gallery"]:
        plain, truth, answer = (np.asarray(Image.open(folder / "report" / name)) for name in shown["images"])
        assert plain.shape == truth.shape == answer.shape
        # Colours lie over the truth, where there is grey in the picture.
        assert (np.ptp(truth.astype(int), axis=2) > 60).any()
        assert "disc" in shown["truth"]
    overlaps = [float(shown["note"].split()[2].rstrip(";")) for shown in report["gallery"][:9]]
    assert min(overlaps) == min(round(item["mean_iou"], 2) for item in report["held_out"])


def test_result_check_and_report_are_what_the_hub_reads(trained: Any) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    folder, result, _ = trained
    wire.TrainResult.model_validate(result)
    wire.CheckReport.model_validate(read(folder, "report.json")["check"])


def test_progress_rises_to_one_and_carries_the_rounds(trained: Any) -> None:
    _, _, told = trained
    shares = [details["progress"] for _, details in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    rounds = [details["metrics"] for _, details in told if details.get("metrics")]
    assert [point["epoch"] for point in rounds] == [1, 2, 3]
    assert all(0 <= point["mean_iou"] <= 1 and point["loss"] > 0 for point in rounds)


def test_graph_takes_pixels_of_any_size(trained: Any) -> None:
    folder, _, _ = trained
    graph = onnx.load(folder / "model.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["N", "H", "W", 3]
    assert [output.name for output in graph.output] == ["logits"]
    model, exported = load_model(folder), OnnxModel(folder / "model.onnx")
    rng = np.random.default_rng(0)
    for shape in ((1, 50, 70), (2, 200, 90), (1, 1, 1)):
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        with torch.inference_mode():
            logits = model(torch.from_numpy(image)).numpy()
        (found,) = exported(image)
        np.testing.assert_allclose(found, logits, atol=1e-3)


def test_task_is_one_that_xinfer_reads(trained: Any) -> None:
    folder, _, _ = trained
    task = parse_task(folder / "task.json")
    assert isinstance(task, SemanticSegmentation)
    assert task.labels == ("background", "disc", "square") == tuple(read(folder, "labels.json"))
    assert (task.background, task.metric, task.values) == ("background", "mean_iou", "logits")
    splits = read(folder, "splits.json")
    items = [item for part in ("train", "validation", "test") for item in splits[part]]
    assert len(items) == len({item["path"] for item in items}) == NUM + 3


def test_build_inputs_judge_as_the_report_did(trained: Any, dataset: Path) -> None:
    folder, result, _ = trained
    given = build_inputs(folder, dataset)
    exported = OnnxModel(folder / "model.onnx")
    outputs = [{"logits": exported(feeds["image"])[0]} for feeds in given.test]
    assert (given.metric, len(given.test)) == ("mean_iou", result["num_test"])
    assert given.evaluate(outputs) == pytest.approx(result["value"], abs=1e-3)
    legend = load_legend(folder)
    perfect, swapped = [], []
    for item in read(folder, "splits.json")["test"]:
        labels = legend.read(dataset / item["mask"])
        logits = 20.0 * np.eye(3, dtype=np.float32)[labels].transpose(2, 0, 1)[None]
        perfect.append({"logits": logits})
        swapped.append({"logits": logits[:, [1, 0, 2]]})
    assert given.evaluate(perfect) == pytest.approx(1.0)
    assert given.evaluate(swapped) < 0.5
    assert given.calibration[0].keys() == {"image"}
    assert given.float_nodes
    assert given.payloads


def test_peer_and_engines_runner_agree(trained: Any, dataset: Path) -> None:
    folder, _, _ = trained
    model, task = load_model(folder), parse_task(folder / "task.json")
    assert isinstance(task, SemanticSegmentation)
    data = (dataset / "images/w0.jpg").read_bytes()
    feeds, geometry = image_feeds(task.input, data)
    with torch.inference_mode():
        logits = model(torch.from_numpy(feeds["image"])).numpy()
    runner = Runner.__new__(Runner)
    runner.task = task
    answer = runner.interpret({"logits": logits}, geometry)
    peer = NaivePredict(model, task)(data)
    assert peer.shape == answer.mask.shape == (90, 120)
    assert (peer == answer.mask).mean() > 0.99


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A run of two classes: data, outputs, result."""
    base = tmp_path_factory.mktemp("binary")
    write(base / "data", 30, paint=as_binary)
    result = run(base / "data", base / "out", name="b", settings=SETTINGS | {"miss_cost": 4.0})
    return base / "data", base / "out", result


def test_two_classes_have_a_threshold_by_cost(binary: Any) -> None:
    data, folder, result = binary
    task, report = parse_task(folder / "task.json"), read(folder, "report.json")
    assert isinstance(task, SemanticSegmentation)
    assert task.labels == ("background", "foreground")
    point = report["operating_point"]
    assert point["threshold"] == task.threshold
    assert "4 times" in point["rule"]
    matrix = np.array(report["confusion"]["matrix"])
    assert point["test_recall"] == pytest.approx(matrix[1, 1] / matrix[1].sum())
    assert "threshold" in {chart["id"] for chart in report["charts"]}
    assert "confused" not in {table["id"] for table in report["tables"]}
    (output,) = onnx.load(folder / "model.onnx").graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim][1] == 1
    given = build_inputs(folder, data)
    exported = OnnxModel(folder / "model.onnx")
    outputs = [{"logits": exported(feeds["image"])[0]} for feeds in given.test]
    assert given.evaluate(outputs) == pytest.approx(result["value"], abs=2e-3)
    assert NaivePredict(load_model(folder), task)((data / "images/p000.png").read_bytes()).max() <= 1


def held_out(root: Path, num: int = 14) -> tuple[HeldOutImages, Any]:
    data = inspect_segmentation(write(root, num, paint=as_binary))
    model = segmentation_config()
    task = segmentation_task(model, data.labels, background=data.background)
    masks = Masks(root, data.legend, data.background)
    return HeldOutImages(root, task, masks, split_items(data.usable)), data


def segmentation_config() -> SegmenterConfig:
    return SegmenterConfig(num_classes=2, height=64, width=64, backbone="unet")


def test_threshold_follows_costs(tmp_path: Path) -> None:
    images, _ = held_out(tmp_path)
    rng = np.random.default_rng(0)
    outputs = [
        {"logits": (3.0 * (truth[None, None] - 0.5) + rng.normal(0, 2, truth.shape)).astype(np.float32)}
        for truth in images.truth
    ]
    careful = choose_threshold(images, outputs, miss_cost=10.0)
    balanced = choose_threshold(images, outputs, miss_cost=None)
    strict = choose_threshold(images, outputs, miss_cost=0.1)
    assert careful.value < balanced.value < strict.value
    for chosen in (careful, strict):
        place = int(np.flatnonzero(chosen.levels == chosen.value)[0])
        assert np.nanargmax(chosen.iou) != place
    # The curve is what thresholds do.
    place = int(np.flatnonzero(np.isclose(balanced.levels, 0.5))[0])
    matrix = images.counts(images.answers(outputs, threshold=0.5)).sum(axis=0)
    assert balanced.recall[place] == pytest.approx(matrix[1, 1] / matrix[1].sum())
    assert balanced.precision[place] == pytest.approx(matrix[1, 1] / matrix[:, 1].sum())


def test_large_images_are_judged_smaller(tmp_path: Path) -> None:
    data = inspect_segmentation(write(tmp_path, 13, paint=as_binary))
    made = scene(50, width=80, height=64)
    large = Image.fromarray(made.pixels).resize((1600, 1280), Image.Resampling.NEAREST)
    save(tmp_path / "images/z.png", large)
    save(tmp_path / "masks/z.png", as_binary(made.labels).resize((1600, 1280), Image.Resampling.NEAREST))
    data = inspect_segmentation(tmp_path)
    task = segmentation_task(segmentation_config(), data.labels, background=0)
    items = [item for item in split_items(data.usable) if item["path"].endswith("z.png")]
    images = HeldOutImages(tmp_path, task, Masks(tmp_path, data.legend, 0), items)
    assert images.truth[0].shape == (512, JUDGED_PX)
    logits = np.where(made.labels > 0, 9.0, -9.0).astype(np.float32)[None, None]
    assert images.mean_iou([{"logits": logits}]) > 0.97


def test_baselines_are_what_they_say(dataset: Path) -> None:
    data = inspect_segmentation(dataset)
    masks = Masks(dataset, data.legend, data.background)
    images = TrainingImages(dataset, masks, data.usable, (64, 64))
    task = segmentation_task(segmentation_config(), data.labels, background=0)
    judged = HeldOutImages(dataset, task, masks, split_items(data.usable)[:6])
    everywhere = mean_iou(judged.counts(most_frequent(judged, 0)).sum(axis=0))
    assert everywhere < 0.4
    by_colour = mean_iou(judged.counts(ByColour(images, 3).answers(judged)).sum(axis=0))
    assert by_colour > everywhere + 0.1, "discs are light, squares dark"


def test_specks_do_not_come_before_what_was_missed(tmp_path: Path) -> None:
    images, data = held_out(tmp_path)
    answers = [truth.copy() for truth in images.truth]
    answers[3][:] = 0
    images.truth[5][:] = 0
    answers[5][:] = 0
    answers[5][0, :3] = 1
    evaluation = Evaluation(data.labels, data.background, images, answers, seed=0)
    assert int(evaluation.goodness.argmin()) == 3
    assert evaluation.overlaps[5] < 0.51
    assert evaluation.goodness[5] > 0.8
    shown = evaluation.gallery(tmp_path, tmp_path / "out")
    assert shown[0].caption == images.items[3]["path"]
    assert not shown[0].right
    assert shown[-1].right
    assert shown[0].answer == "nothing but background"
    assert [row["label"] for row in evaluation.held_out()][5] == "background"


# --- interruptions and refusals


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_model(
    trained: Any, dataset: Path, tmp_path: Path
) -> None:
    folder, result, _ = trained
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from xtorch.tasks.segmentation import run
        data, out, cache, settings = sys.argv[1:]
        def die(stage, /, *, message="", **details):
            # In the second round, after the first one's checkpoint.
            if stage == "Training" and message.startswith("round 2"):
                os.kill(os.getpid(), signal.SIGKILL)
        run(data, out, name="things", seed=3, settings=json.loads(settings), cache_dir=cache, progress=die)
        """
    )
    output, cache = tmp_path / "out", tmp_path / "cache"
    arguments = [sys.executable, "-c", script, str(dataset), str(output), str(cache), json.dumps(SETTINGS)]
    killed = subprocess.run(arguments, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (output / "report.json").exists()
    assert list(cache.glob("segmentation/*/steps/*/state.json"))
    messages: list[str] = []

    def listen(stage: str, /, *, message: str = "", **_: Any) -> None:
        if stage == "Training":
            messages.append(message)

    again = run(dataset, output, name="things", seed=3, settings=SETTINGS, cache_dir=cache, progress=listen)
    assert messages
    assert all(message.startswith(("round 2", "round 3")) for message in messages)
    assert again["value"] == result["value"]
    assert (output / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not list(cache.glob("segmentation/*"))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda root: root.mkdir(), LayoutError),
        (lambda root: save(root / "a.png", scene(0).pixels), DataError),
        (lambda root: write(root, 6), TooFewImagesError),
        (lambda root: write(root, 14, paint=lambda x: Image.fromarray(x * 0)), TooFewImagesError),
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


def test_a_part_of_one_class_is_refused(tmp_path: Path) -> None:
    for part, num in (("train", 16), ("test", 4)):
        for index in range(num):
            made = scene(index + num)
            save(tmp_path / f"data/{part}/images/{index}.png", made.pixels)
            save(
                tmp_path / f"data/{part}/masks/{index}.png",
                made.labels if part == "train" else made.labels * 0,
            )
    with pytest.raises(TooFewImagesError, match="test part"):
        run(tmp_path / "data", tmp_path / "out", name="x", settings=SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": 100},
        {"backbone": "huge"},
        {"epochs": 0},
        {"miss_cost": 0},
        {"miss_cost": float("nan")},
        {"any_direction": "yes"},
        {"batch_size": 1},
        {"learning_rate": 0},
        {"colour": 1},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        run(tmp_path, tmp_path / "out", name="x", settings=settings)


def test_damaged_outputs_are_refused(trained: Any, dataset: Path, tmp_path: Path) -> None:
    folder, _, _ = trained
    with pytest.raises(WeightsError):
        load_model(tmp_path)
    document = read(folder, "model.json")
    del document["masks"]
    for name in ("splits.json", "task.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="masks"):
        build_inputs(tmp_path, dataset)


def test_a_file_that_is_gone_is_named(trained: Any, tmp_path: Path) -> None:
    folder, _, _ = trained
    with pytest.raises(DataError, match="cannot be decoded"):
        build_inputs(folder, tmp_path)


def test_a_short_budget_is_kept_by_fewer_batches(tmp_path: Path) -> None:
    """The plan is made from what steps take here: only that there is an end is tested, not how fast it is."""
    data = write(tmp_path / "data", 40)
    settings = {"input_size": 64, "backbone": "unet", "batch_size": 4}
    result = run(data, tmp_path / "out", name="x", budget_s=1.0, settings=settings)
    row = read(tmp_path / "out", "report.json")["leaderboard"][-1]
    assert row["settings"]["batches"] >= 1
    assert "time limit" in row["note"]
    assert result["num_test"] > 0


def test_training_learns_the_pretrained_network_the_shapes(weights: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", 40)
    settings = {"input_size": 96, "epochs": 6, "any_direction": True}
    result = run(data, tmp_path / "out", name="shapes", settings=settings)
    report = read(tmp_path / "out", "report.json")
    rows = {row["name"]: row for row in report["leaderboard"]}
    assert result["candidate"] == "unet_efficientnet_lite0"
    assert result["value"] > rows["by_colour"]["test"]["mean_iou"]
    assert result["value"] > 0.6
    losses = [series for chart in report["charts"] for series in chart["series"] if series["name"] == "loss"]
    assert losses[0]["y"][-1] < 0.7 * losses[0]["y"][0]
    parts = inspect_segmentation(data)
    assert split_segmentation(parts.usable, num_classes=3, seed=0).test
