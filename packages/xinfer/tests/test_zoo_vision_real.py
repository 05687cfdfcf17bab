"""Catalogue entries with their real weights on real photographs, in ONNX Runtime at fp32.

No search here: what is tested is the wrapping, the task's code and that the model is what the entry says. The
built engines are measured by `benchmarks/catalogue.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from xinfer import InferenceEngine, catalogue
from xinfer.errors import FetchError
from xinfer.zoo import FaceDetector, ImageClassifier, ObjectDetector, OcrReader, TextDetector, TextRecognizer
from xinfer.zoo.detection import interpret
from xinfer.zoo.metrics import Objects, average_precision
from xinfer.zoo.registry import runner_for

from .zoo_engines import make_engine

DATA = Path(
    os.environ.get("IGNITION_TEST_DATA") or Path(__file__).resolve().parents[3].parent / "shared" / "data"
)
Engine = Callable[[str], InferenceEngine]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine around an entry's wrapped source, kept for the module; skips where its files are not here."""
    engines: dict[str, InferenceEngine] = {}

    def build(entry_id: str) -> InferenceEngine:
        if entry_id in engines:
            return engines[entry_id]
        folder = tmp_path_factory.mktemp(entry_id)
        entry = catalogue.get(entry_id)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("XINFER_WEIGHTS", str(DATA / "weights"))
            try:
                given = runner_for(entry.task).build_input(entry, folder)
            except FetchError as error:
                pytest.skip(f"{error.message}: {error.hint}")
        model = folder / "model" / "model.onnx"
        model.parent.mkdir()
        given.onnx.rename(model)
        task = json.loads(json.dumps(given.task.to_json()))
        engines[entry_id] = make_engine(folder / "engine", model, task, given.samples[0])
        return engines[entry_id]

    yield build
    for each in engines.values():
        each.close()


def photograph(name: str) -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="its photographs")
    pixels: np.ndarray = getattr(data, name)()
    return pixels


def coco() -> list[tuple[Path, np.ndarray]]:
    """128 photographs with true boxes: class, then centre and size as fractions."""
    folder = DATA / "coco128_val"
    if not folder.is_dir():
        pytest.skip(f"needs coco128_val in {DATA.name} (IGNITION_TEST_DATA)")
    return [
        (path, np.loadtxt(label, ndmin=2) if label.is_file() else np.zeros((0, 5)))
        for path in sorted((folder / "images").glob("*.jpg"))
        for label in [folder / "labels" / f"{path.stem}.txt"]
    ]


def test_yolox_nano_finds_what_is_in_the_photographs(engine: Engine) -> None:
    found, true = [], []
    detector = ObjectDetector(engine("yolox-nano-coco"))
    for path, rows in coco():
        feeds, geometry = detector.prepare(path)
        result = interpret(detector.task, detector.engine.infer(feeds), geometry, score_threshold=0.01)
        found.append(Objects(boxes=result.boxes, classes=result.classes, scores=result.scores))
        size = np.tile(result.image_size[::-1], 2)
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1) * size
        true.append(Objects(boxes=boxes.astype(np.float32), classes=rows[:, 0].astype(int)))
    ap50 = float(np.mean(list(average_precision(found, true).values())))
    # evidence: .50 with the publisher's own pre- and postprocessing.
    assert 0.47 < ap50 < 0.56, ap50


def test_centerface_finds_the_astronauts_face(engine: Engine) -> None:
    detector = FaceDetector(engine("centerface"))
    faces = detector.predict(photograph("astronaut"))
    assert len(detector.predict(photograph("coffee"))) == 0
    assert len(faces) == 1
    assert faces.scores[0] > 0.85
    left, top, right, bottom = faces.boxes[0]
    assert 150 < left < 200 < right < 300
    assert 40 < top < 100 < bottom < 210
    eyes, nose, mouth = faces.landmarks[0, :2], faces.landmarks[0, 2], faces.landmarks[0, 3:]
    assert eyes[0, 0] < nose[0] < eyes[1, 0]
    assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()


@pytest.mark.slow
def test_efficientnet_lite0_names_what_photographs_show(engine: Engine) -> None:
    wanted = {
        "coffee": ("espresso", "cup", "coffee mug"),
        "chelsea": ("tabby cat", "tiger cat", "Egyptian Mau"),
    }
    classifier = ImageClassifier(engine("efficientnet-lite0-imagenet"))
    assert len(classifier.task.labels) == 1000
    for name, labels in wanted.items():
        best = [label for label, _ in classifier.predict(photograph(name)).top(3)]
        assert set(best) & set(labels), f"{name}: {best}"


def test_ppocr_reads_what_is_written(engine: Engine) -> None:
    image_font = pytest.importorskip("PIL.ImageFont")
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (640, 360), (250, 248, 240))
    draw = ImageDraw.Draw(page)
    font = image_font.load_default(34)
    lines = ["Ignition turns models", "into engines: 3.14 ms", "batch 128 INT8"]
    for row, text in enumerate(lines):
        draw.text((40, 40 + 90 * row), text, fill=(20, 20, 30), font=font)
    parts = catalogue.get("ppocr-v4").parts
    reader = OcrReader(
        detector=TextDetector(engine(parts["detector"])),
        recognizer=TextRecognizer(engine(parts["recognizer"])),
        orientation=ImageClassifier(engine(parts["orientation"])),
    )
    assert len(reader.recognizer.task.labels) == 6625
    upright = reader.predict(np.asarray(page))
    turned = reader.predict(np.asarray(page.rotate(180)))
    # The model sees few of the narrow spaces of this font.
    wanted = [text.replace(" ", "") for text in lines]
    assert [line.text.replace(" ", "") for line in upright.lines] == wanted
    assert sorted(line.text.replace(" ", "") for line in turned.lines) == sorted(wanted)
    assert min(line.score for line in upright.lines) > 0.85


def test_ppocr_reads_a_photographed_page(engine: Engine) -> None:
    grey = photograph("page")
    reader = OcrReader(
        detector=TextDetector(engine("ppocr-v4-det")), recognizer=TextRecognizer(engine("ppocr-v4-rec"))
    )
    text = str(reader.predict(np.repeat(grey[:, :, None], 3, axis=2))).lower()
    # scikit-image's own documentation, scanned.
    assert "segmentation" in text
