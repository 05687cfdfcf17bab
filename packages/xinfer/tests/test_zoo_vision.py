"""The vision tasks: what they make of a model's outputs. Models here answer the same whatever they see."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from xinfer import EngineClosedError, InferenceEngine, InputError, TaskSpecError, parse_task
from xinfer.errors import CatalogueError
from xinfer.preproc import Geometry
from xinfer.tasks import ImageInput
from xinfer.zoo import (
    AnomalyDetector,
    Classification,
    DepthEstimator,
    FaceDetector,
    ImageClassifier,
    ObjectDetector,
    OcrReader,
    PoseEstimator,
    Segmenter,
    TextDetector,
    TextRecognizer,
    open_model,
    runner_for,
)
from xinfer.zoo.images import image_feeds, sample_images
from xinfer.zoo.ocr import cut, reading_order, squeeze, upright
from xinfer.zoo.pose import peaks

from .conftest import encode, make_image
from .zoo_engines import make_engine, save_onnx

HEIGHT, WIDTH = 32, 48
"""Of the network's input."""
IMAGE_SIZE = (64, 80)
"""Of the user's image: letterboxed by half to 32x40, 8 columns of padding on the right."""

Make = Callable[[dict[str, Any], dict[str, np.ndarray]], InferenceEngine]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An engine for a task document, answering what it is told."""

    def build(task: dict[str, Any], outputs: dict[str, np.ndarray]) -> InferenceEngine:
        folder = tmp_path / f"engine{len(list(tmp_path.iterdir()))}"
        document = {
            "input": {"name": "image", "kind": "image", "color": "RGB", "min_side": 32,
                      "size": [HEIGHT, WIDTH], "mode": "letterbox", "pad_value": 114},
            "outputs": {name: name for name in outputs},
            **task,
        }  # fmt: skip
        size = [HEIGHT, WIDTH] if task["task"] != "text-recognition" else [HEIGHT, "W"]
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["float"], ["peak"], "peak", keepdims=0),
            helper.make_node("Mul", ["peak", "nothing"], ["zero"], "zero"),
            *(helper.make_node("Add", [f"c_{name}", "zero"], [name], name) for name in outputs),
        ]
        model = save_onnx(
            folder / "model" / "model.onnx",
            nodes,
            {"image": (TensorProto.UINT8, [1, *size, 3])},
            {name: value.shape for name, value in outputs.items()},
            {f"c_{name}": value.astype(np.float32) for name, value in outputs.items()}
            | {"nothing": np.float32(0)},
        )
        golden = np.zeros((1, *(side if isinstance(side, int) else 8 for side in size), 3), np.uint8)
        return make_engine(folder, model, document, {"image": golden})

    return build


@pytest.fixture
def image() -> np.ndarray:
    return make_image(5, (IMAGE_SIZE[1], IMAGE_SIZE[0]))


def check_drawing(drawn: np.ndarray, image: np.ndarray) -> None:
    assert drawn.dtype == np.uint8
    assert drawn.shape == image.shape
    assert (drawn != image).any()


# --- images in


@pytest.mark.parametrize("kind", ["pixels", "bytes", "path"])
def test_an_image_may_be_pixels_bytes_or_a_path(kind: str, image: np.ndarray, tmp_path: Path) -> None:
    spec = ImageInput(name="image", color="RGB", min_side=8, size=(HEIGHT, WIDTH), mode="letterbox")
    (tmp_path / "image.png").write_bytes(encode(image))
    given = {"pixels": image, "bytes": encode(image), "path": tmp_path / "image.png"}[kind]
    feeds, geometry = image_feeds(spec, given)
    assert feeds["image"].shape == (1, HEIGHT, WIDTH, 3)
    assert not feeds["image"][0, :, 40:].any(), "the padding"
    assert geometry.scale_x == geometry.scale_y == 0.5
    assert (geometry.offset_x, geometry.offset_y) == (0, 0)


def test_an_image_of_any_size_is_fed_as_it_is(image: np.ndarray) -> None:
    feeds, geometry = image_feeds(ImageInput(name="x", color="RGB", min_side=8), image)
    np.testing.assert_array_equal(feeds["x"][0], image)
    assert (geometry.height, geometry.width) == IMAGE_SIZE


def test_geometry_refers_to_the_file_when_the_decoder_scaled_down() -> None:
    large = encode(make_image(0, (640, 512)), "JPEG")
    feeds, geometry = image_feeds(ImageInput(name="x", color="RGB", min_side=64), large)
    assert feeds["x"].shape[1] < 512
    assert (geometry.original_height, geometry.original_width) == (512, 640)
    corner = np.array([[geometry.width, geometry.height]], np.float32)
    np.testing.assert_allclose(geometry.points_to_original(corner), [[640, 512]])


@pytest.mark.parametrize(
    "change",
    [{"mode": "letterbox"}, {"size": [4, 4]}, {"size": [0, 4], "mode": "stretch"}, {"pad_value": 256}],
)
def test_an_image_input_is_refused_when_size_and_mode_do_not_fit(change: dict[str, Any]) -> None:
    document = {
        "task": "depth-estimation",
        "version": 1,
        "input": {"name": "x", "kind": "image", "color": "RGB", "min_side": 4},
        "outputs": {"depth": "d"},
    }
    parse_task(document)
    with pytest.raises(TaskSpecError):
        parse_task({**document, "input": {**document["input"], **change}})  # type: ignore[dict-item]


def test_sample_images_are_the_same_every_time() -> None:
    first, second = sample_images(2, size=(60, 80)), sample_images(2, size=(60, 80))
    np.testing.assert_array_equal(first, second)
    assert first[0].shape == (60, 80, 3)
    assert first[0].std() > 20
    assert (first[0] != first[1]).any()


# --- classification

CLASSES = {"task": "image-classification", "labels": ["cat", "dog", "fish"]}


def test_classifier_names_the_best_label(make: Make, image: np.ndarray) -> None:
    with ImageClassifier(make(CLASSES, {"scores": np.array([[1.0, 3.0, 2.0]])})) as classifier:
        result = classifier.predict(image)
    wanted = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
    np.testing.assert_allclose(result.probabilities, wanted, rtol=1e-6)
    assert result.label == "dog"
    assert result.fitting == ("dog",)
    assert [label for label, _ in result.top(2)] == ["dog", "fish"]
    assert json.loads(json.dumps(result.to_json()))["top"][0]["label"] == "dog"
    check_drawing(result.draw(image), image)


def test_classifier_gives_every_label_from_the_threshold_on_when_several_may_fit(
    make: Make, image: np.ndarray
) -> None:
    task = {**CLASSES, "activation": "sigmoid", "threshold": 0.5}
    result = ImageClassifier(make(task, {"scores": np.array([[0.0, -1.0, 2.0]])})).predict(image)
    assert result.fitting == ("cat", "fish")
    assert result.label == "fish"


def test_predict_batch_keeps_the_order_and_the_images_sizes(make: Make) -> None:
    boxes = np.array([[[0.0, 0, 16, 16]]])
    task = {"task": "object-detection", "labels": ["thing"]}
    detector = ObjectDetector(make(task, {"boxes": boxes, "scores": np.array([[[0.9]]])}))
    images = [make_image(seed, (40 + seed, 50)) for seed in range(12)]
    results = detector.predict_batch(iter(images))
    assert [found.image_size for found in results] == [(50, 40 + seed) for seed in range(12)]
    assert results[0].boxes.tolist() == detector.predict(images[0]).boxes.tolist()


# --- detection


def test_detector_suppresses_and_returns_to_the_images_pixels(make: Make, image: np.ndarray) -> None:
    boxes = np.array([[[4, 4, 20, 20], [5, 4, 21, 20], [5, 4, 21, 20], [30, 8, 60, 24], [0, 0, 9, 9]]])
    scores = np.array([[[0.9, 0.1], [0.8, 0.0], [0.2, 0.7], [0.6, 0.0], [0.1, 0.2]]])
    task = {"task": "object-detection", "labels": ["cup", "book"], "score_threshold": 0.3}
    with ObjectDetector(make(task, {"boxes": boxes, "scores": scores})) as detector:
        result = detector.predict(image)
    # The second is suppressed by the first, the third is of another label, the fifth is too weak.
    assert [(found.label, round(found.score, 2)) for found in result] == [
        ("cup", 0.9),
        ("book", 0.7),
        ("cup", 0.6),
    ]
    assert result.boxes.tolist() == [[8, 8, 40, 40], [10, 8, 42, 40], [60, 16, 80, 48]]
    assert len(result) == 3
    document = json.loads(json.dumps(result.to_json()))
    assert document["image"] == {"width": 80, "height": 64}
    assert document["detections"][0]["box"] == [8, 8, 40, 40]
    check_drawing(result.draw(image), image)
    check_drawing(result.draw(encode(image)), image)


def test_detector_uses_each_classs_own_threshold(make: Make, image: np.ndarray) -> None:
    boxes = np.array([[[4, 4, 20, 20], [30, 8, 60, 24], [0, 0, 9, 9]]])
    scores = np.array([[[0.6, 0.1], [0.1, 0.3], [0.45, 0.0]]])
    task = {"task": "object-detection", "labels": ["cup", "book"], "class_thresholds": [0.5, 0.2]}
    result = ObjectDetector(make(task, {"boxes": boxes, "scores": scores})).predict(image)
    assert [(found.label, round(found.score, 2)) for found in result] == [("cup", 0.6), ("book", 0.3)]


def test_detectors_task_is_refused_when_a_class_has_no_threshold() -> None:
    image_input = {"name": "image", "kind": "image", "color": "RGB", "min_side": 32}
    task = {
        "task": "object-detection", "version": 1, "input": image_input, "labels": ["cup", "book"],
        "outputs": {"boxes": "boxes", "scores": "scores"}, "class_thresholds": [0.5],
    }  # fmt: skip
    with pytest.raises(TaskSpecError, match="class_thresholds"):
        parse_task(task)


def test_detector_finds_nothing_when_all_is_weak(make: Make, image: np.ndarray) -> None:
    task = {"task": "object-detection", "labels": ["cup"]}
    outputs = {"boxes": np.zeros((1, 4, 4)), "scores": np.full((1, 4, 1), 0.01)}
    result = ObjectDetector(make(task, outputs)).predict(image)
    assert len(result) == 0
    np.testing.assert_array_equal(result.draw(image), image)


# --- segmentation


def test_segmenter_labels_each_pixel_of_the_image(make: Make, image: np.ndarray) -> None:
    logits = np.zeros((1, 3, 8, 12))
    logits[0, 1, :, :5] = 5  # The left half of the image, which fills ten of twelve columns.
    logits[0, 2, :4, 5:10] = 9
    task = {
        "task": "semantic-segmentation",
        "labels": ["background", "sky", "road"],
        "background": "background",
    }
    result = Segmenter(make(task, {"logits": logits})).predict(image)
    assert result.mask.shape == IMAGE_SIZE
    assert result.mask[20, 10] == 1
    assert result.mask[10, 70] == 2
    assert result.mask[60, 70] == 0
    assert list(result.shares()) == ["sky", "road", "background"]
    assert abs(result.shares()["sky"] - 0.5) < 0.05
    document = json.loads(json.dumps(result.to_json()))
    png = np.asarray(Image.open(io.BytesIO(base64.b64decode(document["mask"]["data_base64"]))))
    np.testing.assert_array_equal(png, result.mask)
    drawn = result.draw(image)
    np.testing.assert_array_equal(drawn[60, 70], image[60, 70])
    check_drawing(drawn, image)


def test_segmenter_splits_at_the_threshold_when_there_is_one_channel(make: Make, image: np.ndarray) -> None:
    logits = np.full((1, 1, 4, 6), -1.0)
    logits[0, 0, :, :3] = 1.0
    document = {"task": "semantic-segmentation", "labels": ["ok", "crack"]}
    half = Segmenter(make({**document, "threshold": 0.5}, {"logits": logits})).predict(image)
    assert half.mask[0, 0] == 1
    assert half.mask[0, -1] == 0
    strict = Segmenter(make({**document, "threshold": 0.9}, {"logits": logits})).predict(image)
    assert not strict.mask.any()
    lenient = Segmenter(make({**document, "threshold": 0.0}, {"logits": logits})).predict(image)
    assert lenient.mask.all()
    sure = {"logits": (logits + 1) / 2}  # 0 and 1
    ready = Segmenter(make({**document, "values": "probabilities", "threshold": 0.7}, sure)).predict(image)
    np.testing.assert_array_equal(ready.mask[:, :20], 1)
    assert ready.mask[0, -1] == 0


# --- pose


def test_peaks_lean_a_quarter_towards_the_greater_neighbour() -> None:
    maps = np.zeros((2, 6, 8), np.float32)
    maps[0, 2, 3], maps[0, 2, 4], maps[0, 1, 3] = 1.0, 0.5, 0.2
    maps[1, 0, 7] = 0.4
    points, scores = peaks(maps)
    np.testing.assert_allclose(points, [[3.75, 2.25], [7.5, 0.5]])
    np.testing.assert_allclose(scores, [1.0, 0.4])


def test_pose_estimator_returns_to_the_images_pixels(make: Make, image: np.ndarray) -> None:
    maps = np.zeros((1, 3, 8, 12))
    maps[0, 0, 2, 3], maps[0, 1, 5, 6], maps[0, 2, 1, 1] = 0.9, 0.8, 0.1
    task = {"task": "pose-estimation", "labels": ["hip", "knee", "ankle"], "skeleton": [[0, 1], [1, 2]]}
    result = PoseEstimator(make(task, {"heatmaps": maps})).predict(image)
    # A map's pixel is 4 of the network's, which are 8 of the image's.
    np.testing.assert_allclose(result.keypoints[:2], [[28, 20], [52, 44]])
    assert result.seen.tolist() == [True, True, False]
    document = json.loads(json.dumps(result.to_json()))
    assert document["keypoints"]["knee"]["x"] == 52
    assert document["keypoints"]["ankle"]["seen"] is False
    check_drawing(result.draw(image), image)


# --- faces


def test_face_detector_decodes_boxes_and_landmarks(make: Make, image: np.ndarray) -> None:
    heat, scale = np.zeros((1, 1, 8, 12)), np.zeros((1, 2, 8, 12))
    offset, landmarks = np.zeros((1, 2, 8, 12)), np.zeros((1, 10, 8, 12))
    heat[0, 0, 3, 4], heat[0, 0, 3, 5] = 0.9, 0.6
    scale[0, :, 3, 4:6] = np.log([[4.0], [2.0]])
    landmarks[0, :, 3, 4] = np.repeat([0.5, 0.25], 5).reshape(2, 5).T.ravel()
    outputs = {"heatmap": heat, "scale": scale, "offset": offset, "landmarks": landmarks}
    result = FaceDetector(make({"task": "face-detection"}, outputs)).predict(image)
    # The centre is at row 14, column 18 of the network's input; 16 high and 8 wide; all times two.
    assert result.boxes[0].tolist() == [28, 12, 44, 44]
    np.testing.assert_allclose(result.landmarks[0], [[28 + 0.25 * 16, 12 + 0.5 * 32]] * 5)
    document = json.loads(json.dumps(result.to_json()))
    assert set(document["faces"][0]["landmarks"]) == set(result.task.labels)
    check_drawing(result.draw(image), image)
    blurred = result.draw(image, blur=True)
    check_drawing(blurred, image)
    changed = np.argwhere((blurred != image).any(axis=2))
    assert changed[:, 0].min() >= 12
    assert changed[:, 0].max() < 44
    assert len(np.unique(blurred[12:44, 28:44].reshape(-1, 3), axis=0)) <= 64 * len(result)


# --- depth


@pytest.mark.parametrize("scale", ["inverse-relative", "metres"])
def test_depth_is_of_the_images_size_and_nearness_knows_its_scale(
    make: Make, image: np.ndarray, scale: str
) -> None:
    depth = np.broadcast_to(np.arange(12.0), (1, 1, 8, 12))
    result = DepthEstimator(make({"task": "depth-estimation", "scale": scale}, {"depth": depth})).predict(
        image
    )
    assert result.values.shape == IMAGE_SIZE
    assert (np.diff(result.values[0]) >= 0).all()
    near = result.nearness()
    assert near[0, -1] == (1.0 if scale == "inverse-relative" else 0.0)
    assert json.loads(json.dumps(result.to_json()))["min"] == 0
    check_drawing(result.draw(image), image)


# --- text


def test_text_detector_grows_spots_back_into_lines(make: Make, image: np.ndarray) -> None:
    spots = np.full((1, 1, HEIGHT, WIDTH), 0.05)
    spots[0, 0, 8:13, 6:27] = 0.9
    spots[0, 0, 22:27, 4:15] = 0.4  # Text by its pixels, too weak as a box.
    spots[0, 0, 2, 40] = 1.0  # Noise.
    result = TextDetector(make({"task": "text-detection", "unclip_ratio": 1.5}, {"map": spots})).predict(
        image
    )
    assert len(result) == 1
    # A spot of 21x5 grows by area x ratio / perimeter on each side; times two for the image.
    grown = 21 * 5 * 1.5 / 52
    wanted = np.array([[6 - grown, 8 - grown], [27 + grown, 13 + grown]]) * 2
    np.testing.assert_allclose(result.outlines[0][[0, 2]], wanted, atol=0.01)
    check_drawing(result.draw(image), image)
    assert len(json.loads(json.dumps(result.to_json()))["lines"][0]["outline"]) == 4


def _steps(*symbols: int, num_symbols: int) -> np.ndarray:
    return np.eye(num_symbols)[list(symbols)][None] * 0.8 + 0.05


def test_text_recognizer_merges_repeats_and_drops_blanks(make: Make, image: np.ndarray) -> None:
    task = {"task": "text-recognition", "labels": ["", "a", "b", " "]}
    outputs = {"probabilities": _steps(0, 1, 1, 0, 1, 3, 2, num_symbols=4)}
    line = TextRecognizer(make(task, outputs)).predict(make_image(0, (90, 60)))
    assert line.text == "aa b"
    assert line.score == pytest.approx(0.85)
    assert line.to_json() == {"text": "aa b", "score": pytest.approx(0.85)}


def test_reader_turns_lines_that_stand_upside_down(
    make: Make, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    spots = np.zeros((1, 1, HEIGHT, WIDTH))
    spots[0, 0, 8:13, 6:27] = 0.9
    detector = TextDetector(make({"task": "text-detection"}, {"map": spots}))
    task = {"task": "text-recognition", "labels": ["", "a", "b", " "]}
    recognizer = TextRecognizer(make(task, {"probabilities": _steps(2, 1, num_symbols=4)}))
    crops: list[np.ndarray] = []
    predict_batch = TextRecognizer.predict_batch

    def watched(self: TextRecognizer, xs: Any) -> Any:
        crops.extend(xs)
        return predict_batch(self, xs)

    monkeypatch.setattr(TextRecognizer, "predict_batch", watched)
    for scores in ([[0.95, 0.05]], [[0.05, 0.95]]):
        orientation = ImageClassifier(
            make(
                {"task": "image-classification", "labels": ["0", "180"], "activation": "none"},
                {"scores": np.array(scores)},
            )
        )
        reader = OcrReader(detector=detector, recognizer=recognizer, orientation=orientation)
        result = reader.predict(encode(image))
        assert str(result) == "ba"
    np.testing.assert_array_equal(crops[0], crops[1][::-1, ::-1])
    assert json.loads(json.dumps(result.to_json()))["lines"][0]["text"] == "ba"
    check_drawing(result.draw(image), image)
    reader.min_score = 0.99
    assert reader.predict(image).lines == ()


def test_a_reader_is_opened_by_its_id_and_closes_its_parts_when_one_fails(
    make: Make, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {"task": "text-recognition", "labels": ["", "a", "b", " "]}
    turns = {"task": "image-classification", "labels": ["0", "180"], "activation": "none"}
    engines = {
        "ppocr-v4-det": make({"task": "text-detection"}, {"map": np.full((1, 1, HEIGHT, WIDTH), 0.01)}),
        "ppocr-v4-rec": make(lines, {"probabilities": _steps(1, num_symbols=4)}),
        "ppocr-v2-cls": make(turns, {"scores": np.array([[1.0, 0.0]])}),
    }
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(entry_id: str, runner: Any, **options: Any) -> InferenceEngine:
        asked.append((entry_id, options))
        return engines[entry_id]

    monkeypatch.setattr("xinfer.zoo.resolve.load", load)
    with open_model("ppocr-v4", num_threads=1) as reader:
        assert isinstance(reader, OcrReader)
        assert str(reader.predict(image)) == ""
        np.testing.assert_array_equal(reader.predict(image).draw(image), image)
    assert asked == [(entry_id, {"num_threads": 1}) for entry_id in engines]
    for engine in engines.values():
        with pytest.raises(EngineClosedError):
            engine.executed_precision()
    # The recognizer's engine is for another task: the detector's is closed with it.
    engines["ppocr-v4-det"] = make({"task": "text-detection"}, {"map": np.zeros((1, 1, HEIGHT, WIDTH))})
    engines["ppocr-v4-rec"] = make(turns, {"scores": np.array([[1.0, 0.0]])})
    with pytest.raises(TaskSpecError):
        OcrReader("ppocr-v4")
    for entry_id in ("ppocr-v4-det", "ppocr-v4-rec"):
        with pytest.raises(EngineClosedError):
            engines[entry_id].executed_precision()


def test_reader_needs_its_parts() -> None:
    with pytest.raises(CatalogueError, match="detector and a recognizer"):
        OcrReader()


def test_reading_order_is_rows_then_columns() -> None:
    def at(x: float, y: float) -> list[list[float]]:
        return [[x, y], [x + 30, y], [x + 30, y + 10], [x, y + 10]]

    outlines = np.array([at(50, 41), at(60, 1), at(5, 40), at(0, 0), at(0, 20)], np.float32)
    assert reading_order(outlines).tolist() == [3, 1, 4, 2, 0]
    assert reading_order(np.zeros((0, 4, 2), np.float32)).tolist() == []


def test_cut_straightens_and_lays_down() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[5:10, 5:30] = 200
    wide = np.array([[5, 5], [30, 5], [30, 10], [5, 10]], np.float32)
    crop = cut(image, wide)
    assert crop.shape == (5, 25, 3)
    assert crop.mean() > 150
    tall = np.array([[5, 5], [10, 5], [10, 30], [5, 30]], np.float32)
    assert cut(image, tall).shape == (5, 25, 3)


def test_squeeze_shortens_only_what_is_too_long() -> None:
    line = make_image(0, (60, 10))
    assert squeeze(line, (48, 192)).shape == (10, 40, 3)
    np.testing.assert_array_equal(squeeze(line, (10, 80)), line)
    np.testing.assert_array_equal(squeeze(line, None), line)


def test_upright_orders_corners_however_they_come() -> None:
    corners = np.array([[0, 0], [10, 1], [10, 5], [0, 4]], np.float32)
    for turn in range(4):
        np.testing.assert_array_equal(upright(np.roll(corners, turn, axis=0)), corners)


# --- what all share


def test_a_runner_refuses_an_engine_of_another_task_and_leaves_it_open(make: Make, image: np.ndarray) -> None:
    engine = make(CLASSES, {"scores": np.array([[1.0, 3.0, 2.0]])})
    with pytest.raises(TaskSpecError, match="needs an engine for object-detection"):
        ObjectDetector(engine)
    assert isinstance(ImageClassifier(engine).predict(image), Classification)


def test_open_model_chooses_the_class_by_the_engines_task(
    make: Make, image: np.ndarray, engine_file: Path
) -> None:
    with open_model(engine_file, require_signature=False) as detector:
        assert isinstance(detector, AnomalyDetector)
        assert detector.predict(image).verdict in ("ok", "defective")
    with pytest.raises(CatalogueError):
        open_model("no-such-model")
    with pytest.raises(TaskSpecError, match="no class runs"):
        runner_for("no-such-task")


def test_predict_refuses_what_is_no_image(make: Make) -> None:
    classifier = ImageClassifier(make(CLASSES, {"scores": np.array([[1.0, 3.0, 2.0]])}))
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), "/no/such/file.png"):
        with pytest.raises(InputError):
            classifier.predict(wrong)


@pytest.mark.parametrize(
    "document",
    [
        {"task": "image-classification", "outputs": {"scores": "s"}},
        {"task": "object-detection", "outputs": {"boxes": "b", "scores": "s"}, "labels": ["x"],
         "iou_threshold": 2.0},
        {"task": "object-detection", "outputs": {"boxes": "b"}, "labels": ["x"]},
        {"task": "semantic-segmentation", "outputs": {"logits": "l"}, "labels": ["one"]},
        {"task": "semantic-segmentation", "outputs": {"logits": "l"}, "labels": ["a", "b"],
         "background": "c"},
        {"task": "pose-estimation", "outputs": {"heatmaps": "h"}, "labels": ["a"], "skeleton": [[0, 1]]},
        {"task": "text-recognition", "outputs": {"probabilities": "p"}, "labels": ["", "a"]},
        {"task": "face-detection", "labels": ["nose"],
         "outputs": {"heatmap": "h", "scale": "s", "offset": "o", "landmarks": "l"}},
    ],
)  # fmt: skip
def test_a_task_spec_is_refused_when_it_contradicts_itself(document: dict[str, Any]) -> None:
    common = {"version": 1, "input": {"name": "x", "kind": "image", "color": "RGB", "min_side": 4}}
    with pytest.raises(TaskSpecError):
        parse_task({**common, **document})


def test_geometry_is_the_processors() -> None:
    """The runners hand out `xinfer.preproc.Geometry`, so results of other code fit them."""
    spec = ImageInput(name="x", color="RGB", min_side=4, size=(8, 8), mode="crop")
    assert isinstance(image_feeds(spec, make_image(0))[1], Geometry)
