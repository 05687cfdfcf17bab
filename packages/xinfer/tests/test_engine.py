"""InferenceEngine: loading, checks, inference from several threads."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xinfer
from xinfer import (
    AnomalyDetector,
    EngineClosedError,
    EnginePackage,
    HardwareTarget,
    InferenceEngine,
    InputError,
    PackageError,
    SignatureError,
    VerificationError,
)
from xinfer.backends import RuntimeSettings, get_backend
from xinfer.engine import LOAD_ATTEMPTS, _settings
from xinfer.signing import generate_key
from xinfer.verify import check_golden


def test_load_reproduces_the_golden_pair_when_the_key_fits(
    engine_file: Path, keys: tuple[Path, Path]
) -> None:
    with InferenceEngine.load(engine_file, public_key=keys[1]) as engine:
        outputs = engine.infer(engine.golden.inputs)
        for name, expected in engine.golden.outputs.items():
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-5)
        assert engine.labels == ("ok", "defective")
        assert engine.digest == EnginePackage.open(engine_file).digest


def test_load_accepts_the_key_as_bytes(engine_file: Path, keys: tuple[Path, Path]) -> None:
    InferenceEngine.load(engine_file, public_key=keys[1].read_bytes()).close()


def test_load_is_refused_when_no_key_is_given(engine_file: Path) -> None:
    with pytest.raises(SignatureError) as caught:
        InferenceEngine.load(engine_file)
    assert caught.value.code == "signature.no_key"


def test_load_is_refused_when_another_key_signed(engine_file: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    with pytest.raises(SignatureError) as caught:
        InferenceEngine.load(engine_file, public_key=tmp_path / "other.pub.pem", require_signature=False)
    assert caught.value.code == "signature.invalid"


def test_load_is_refused_when_the_receipt_was_edited(
    package_folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(package_folder, tmp_path / "edited"))
    receipt = folder / "receipt.json"
    receipt.write_bytes(receipt.read_bytes().replace(b'"throughput_per_s": 1.0', b'"throughput_per_s": 9.0'))
    EnginePackage.write(tmp_path / "edited.engine", folder)
    with pytest.raises(SignatureError):
        InferenceEngine.load(tmp_path / "edited.engine", public_key=keys[1])


@pytest.mark.parametrize("signed", [True, False])
def test_cached_load_is_refused_when_the_cache_was_edited(
    engine_file: Path, keys: tuple[Path, Path], tmp_path: Path, signed: bool
) -> None:
    def load() -> None:
        InferenceEngine.load(
            engine_file, public_key=keys[1] if signed else None, require_signature=signed, cache_dir=tmp_path
        ).close()

    load()
    cached = tmp_path / EnginePackage.open(engine_file).key / "artifact" / "model.onnx"
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes(content)
    with pytest.raises(SignatureError if signed else PackageError):
        load()
    cached.write_bytes(content + b"\0")
    load()  # of another size: unpacked anew


def test_load_compiles_again_when_the_golden_pair_is_not_reproduced(
    engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = get_backend("onnxruntime")
    load, closed = type(backend).load, []

    class Wrong:
        """What a runtime that compiled wrongly gives."""

        def __init__(self, model):
            self.model, self.inputs, self.outputs = model, model.inputs, model.outputs

        def infer(self, feeds):
            return {name: array * np.float32(0.5) for name, array in self.model.infer(feeds).items()}

        def close(self):
            closed.append(self)

    num_wrong = 2

    def sometimes(self, *arguments, **options):
        nonlocal num_wrong
        num_wrong -= 1
        model = load(self, *arguments, **options)
        return Wrong(model) if num_wrong >= 0 else model

    monkeypatch.setattr(type(backend), "load", sometimes)
    with InferenceEngine.load(engine_file, require_signature=False) as engine:
        assert check_golden(engine) > 0.999
    assert len(closed) == 2
    num_wrong = 10**9
    with pytest.raises(VerificationError):
        InferenceEngine.load(engine_file, require_signature=False)
    assert len(closed) == 2 + LOAD_ATTEMPTS


def test_unsigned_load_is_refused_when_the_artifact_is_not_the_manifests(
    package_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(package_folder, tmp_path / "folder"))
    artifact = folder / "artifact" / "model.onnx"
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    EnginePackage.write(tmp_path / "x.engine", folder)
    with pytest.raises(PackageError, match="another artifact"):
        InferenceEngine.load(tmp_path / "x.engine", require_signature=False)


def test_temporary_files_are_removed_when_closed(
    engine_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = InferenceEngine.load(engine_file, require_signature=False)
    assert list(tmp_path.iterdir())
    engine.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"image": np.zeros((1, 8, 8, 3), np.float32)},
        {"image": np.zeros((1, 8, 8, 4), np.uint8)},
        {"image": np.zeros((8, 8, 3), np.uint8)},
        {"image": np.zeros((1, 0, 8, 3), np.uint8)},
        {"image": np.zeros((1, 8, 8, 3), np.uint8), "more": np.zeros(1)},
    ],
)
def test_infer_refuses_arrays_that_do_not_fit(engine_file: Path, feeds: dict[str, np.ndarray]) -> None:
    with InferenceEngine.load(engine_file, require_signature=False) as engine, pytest.raises(InputError):
        engine.infer(feeds)


def test_infer_answers_each_caller_with_its_own_result(engine_file: Path, images: list[np.ndarray]) -> None:
    with InferenceEngine.load(engine_file, require_signature=False) as engine:
        alone = [float(engine.infer({"image": image[None]})["score"][0]) for image in images]
        with ThreadPoolExecutor(8) as pool:
            together = list(
                pool.map(lambda x: float(engine.infer({"image": x[None]})["score"][0]), images * 5)
            )
        futures = [engine.infer_async({"image": image[None]}) for image in images]
        assert together == pytest.approx(alone * 5)
        assert [float(future.result()["score"][0]) for future in futures] == pytest.approx(alone)
        assert len(set(alone)) == len(images)


def test_infer_fails_when_closed(engine_file: Path) -> None:
    engine = InferenceEngine.load(engine_file, require_signature=False)
    engine.close()
    engine.close()
    feeds = engine.golden.inputs
    for call in (engine.infer, engine.infer_async, lambda _: engine.executed_precision()):
        with pytest.raises(EngineClosedError):
            call(feeds)


def test_benchmark_measures_positive_numbers(engine_file: Path) -> None:
    with InferenceEngine.load(engine_file, require_signature=False, num_threads=1) as engine:
        result = engine.benchmark(warmup=1, repeats=4)
        assert 0 < result.latency_ms.p50 <= result.latency_ms.p99
        assert result.throughput_per_s > 0
        assert result.num_threads == 1


def test_overrides_set_streams_and_threads(engine_file: Path) -> None:
    with InferenceEngine.load(engine_file, require_signature=False, num_streams=3, num_threads=3) as engine:
        assert (engine.settings.num_streams, engine.settings.num_threads) == (3, 3)
    with InferenceEngine.load(engine_file, require_signature=False, num_streams=1, num_threads=1) as engine:
        assert (engine.settings.num_streams, engine.settings.num_threads) == (1, 1)


def test_detector_agrees_with_the_engine(engine_file: Path, images: list[np.ndarray], png: bytes) -> None:
    with AnomalyDetector(engine_file, require_signature=False) as detector:
        result = detector.predict(png)
        again = detector.predict(images[0])
        expected = detector.engine.infer({"image": images[0][None]})
        assert result == again
        assert result.score == pytest.approx(float(expected["score"][0]))
        assert result.verdict == ("defective" if result.score >= 0.5 else "ok")
        assert result.anomaly_map.shape == (8, 8)
        assert result.to_json().keys() == {"verdict", "score", "threshold", "confidence"}


def test_public_api_is_what_is_listed() -> None:
    assert sorted(xinfer.__all__) == xinfer.__all__
    for name in xinfer.__all__:
        assert getattr(xinfer, name).__doc__


def test_engine_uses_this_machine_in_proportion_to_the_one_that_measured(engine_file: Path) -> None:
    package = EnginePackage.open(engine_file)
    half = RuntimeSettings(num_threads=4, num_streams=1).to_json()
    recipe = replace(package.manifest.recipe, settings={"runtime": half})
    package.manifest = replace(package.manifest, recipe=recipe)
    package.receipt = replace(package.receipt, machine=replace(package.receipt.machine, num_cores=8))
    target = replace(HardwareTarget.detect(), num_cores=16)
    settings = _settings(package, target, None, None)
    assert (settings.num_threads, settings.num_streams) == (8, 1)
    settings = _settings(package, target, None, 2)
    assert (settings.num_threads, settings.num_streams) == (2, 1)
