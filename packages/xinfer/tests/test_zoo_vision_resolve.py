"""From a catalogue id to an engine: the Hub's, the cache's, or one that is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from xinfer import EnginePackage, HardwareTarget, InferenceEngine, SignatureError
from xinfer.catalogue import Entry, loader
from xinfer.errors import CatalogueError, FetchError, HubError
from xinfer.zoo import AnomalyDetector, ImageClassifier, resolve

from .conftest import make_image
from .zoo_engines import save_onnx

ENTRY = {
    "id": "tiny-colours",
    "task": "image-classification",
    "title": "The greatest of the three channels",
    "licence": "MIT",
    "input": "an image",
    "output": "a colour",
    "source": {"kind": "url", "url": "https://example.org/tiny.onnx", "note": "made by the test"},
    "spec": {
        "input": {"name": "image", "kind": "image", "color": "RGB", "min_side": 16, "size": [16, 16],
                  "mode": "stretch"},
        "outputs": {"scores": "scores"},
        "labels": ["blue", "green", "red"],
    },
    "preprocessing": {"size": [16, 16], "std": [255.0, 255.0, 255.0], "color": "BGR"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XINFER_HOME", str(tmp_path / "home"))
    for name in ("IGNITION_URL", "XINFER_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The catalogue has one more entry."""
    (extra,) = loader.read(json.dumps([ENTRY]).encode(), where="test")
    known = {**loader.load(), extra.id: extra}
    monkeypatch.setattr("xinfer.catalogue.loader.load", lambda: known)
    return extra


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network that averages each channel."""
    path = save_onnx(
        tmp_path / "weights" / "tiny.onnx",
        [
            helper.make_node("Conv", ["x", "kernel"], ["y"], "conv"),
            helper.make_node("GlobalAveragePool", ["y"], ["pooled"], "pool"),
            helper.make_node("Flatten", ["pooled"], ["scores"], "flatten"),
        ],
        {"x": (TensorProto.FLOAT, [1, 3, 16, 16])},
        {"scores": [1, 3]},
        {"kernel": np.eye(3, dtype=np.float32)[:, :, None, None] * 8},
    )
    monkeypatch.setenv("XINFER_WEIGHTS", str(path.parent))
    return path


def in_cache(home: Path, engine_file: Path, entry_id: str = "tiny-colours") -> Path:
    path = resolve.engine_path(entry_id, HardwareTarget.detect())
    assert path.is_relative_to(home)
    path.parent.mkdir(parents=True)
    shutil.copyfile(engine_file, path)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [("yolox-nano-coco", True), ("gravel.engine", False), ("./gravel", False), ("/a/b", False), ("Ä", False)],
)
def test_is_id_tells_ids_from_paths(text: str, expected: bool) -> None:
    assert resolve.is_id(text) is expected


def test_is_id_prefers_a_file_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve.is_id("gravel")
    (tmp_path / "gravel").write_bytes(b"")
    assert not resolve.is_id("gravel")


def test_find_prefers_the_hub_and_trusts_it_no_more_than_a_file(
    home: Path, entry: Entry, engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = in_cache(home, engine_file)
    monkeypatch.setattr("xinfer.hub.find_engine", lambda *_: engine_file)
    found = resolve.find(entry.id)
    assert found is not None
    assert (found.origin, found.path, found.load_options) == ("hub", engine_file, {})
    with pytest.raises(SignatureError):
        AnomalyDetector("tiny-colours")
    monkeypatch.setattr("xinfer.hub.find_engine", lambda *_: None)
    found = resolve.find(entry.id)
    assert found is not None
    assert (found.origin, found.path) == ("cache", cached)
    # The engine's task is another one than the entry's: that is what the runner checks.
    with AnomalyDetector("tiny-colours") as detector:
        assert detector.predict(make_image(0)).verdict in ("ok", "defective")


def test_find_goes_on_to_the_cache_when_the_hub_fails(
    home: Path, entry: Entry, engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache(home, engine_file)

    def fails(*_: object) -> None:
        raise HubError("the Hub is away")

    monkeypatch.setattr("xinfer.hub.find_engine", fails)
    found = resolve.find(entry.id)
    assert found is not None
    assert found.origin == "cache"


def test_find_ignores_a_damaged_engine_in_the_cache(home: Path, entry: Entry, engine_file: Path) -> None:
    path = in_cache(home, engine_file)
    path.write_bytes(path.read_bytes()[:1000])
    assert resolve.find(entry.id) is None


def test_a_key_that_is_given_is_checked_even_for_the_cache(
    home: Path, entry: Entry, engine_file: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    in_cache(home, engine_file)
    AnomalyDetector("tiny-colours", public_key=keys[1]).close()
    from xinfer.signing import generate_key

    generate_key(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    with pytest.raises(SignatureError):
        AnomalyDetector("tiny-colours", public_key=tmp_path / "other.pub.pem")


def test_an_id_is_built_once_and_then_found(
    home: Path,
    entry: Entry,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole way, with a small search: fetch, wrap, build, cache, load, predict."""
    from xinfer.builders import EngineBuilder

    build = EngineBuilder.build_and_save

    def small(self: EngineBuilder, path: Path) -> EnginePackage:
        return build(self.with_backends("onnxruntime").with_precision("fp32"), path)

    monkeypatch.setattr(EngineBuilder, "build_and_save", small)
    monkeypatch.setattr(resolve, "DEFAULT_BUDGET_S", 1.0)
    red = np.zeros((20, 30, 3), np.uint8)
    red[:, :, 0] = 250
    with ImageClassifier("tiny-colours") as classifier:
        assert classifier.predict(red).label == "red"
        assert classifier.engine.manifest.source.licences == ("MIT",)
    assert "building one" in capsys.readouterr().err
    package = EnginePackage.open(resolve.engine_path(entry.id, HardwareTarget.detect()))
    assert not package.signed

    def refuses(*_: object, **__: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(resolve, "build", refuses)
    with ImageClassifier("tiny-colours") as classifier:
        assert classifier.predict(red[:, :, ::-1]).label == "blue"


def test_a_build_says_what_is_missing_when_the_weights_are(entry: Entry) -> None:
    with pytest.raises(FetchError, match="pins no digest") as caught:
        ImageClassifier("tiny-colours")
    assert "tiny.onnx" in str(caught.value.hint)


def test_an_entry_of_parts_is_no_engine() -> None:
    with pytest.raises(CatalogueError, match="ppocr-v4-det"):
        resolve.load("ppocr-v4")


def test_an_unknown_id_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xinfer.hub.find_engine", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(CatalogueError, match="has no 'no-such-model'"):
        ImageClassifier("no-such-model")


def test_a_path_of_an_engine_is_loaded_as_one(engine_file: Path) -> None:
    with pytest.raises(SignatureError):
        AnomalyDetector(engine_file)
    with AnomalyDetector(str(engine_file), require_signature=False) as detector:
        assert isinstance(detector.engine, InferenceEngine)
