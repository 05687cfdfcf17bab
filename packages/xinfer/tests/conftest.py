"""Small ONNX models, engines made of them, and images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from xinfer import schema
from xinfer.backends import RuntimeSettings, get_backend
from xinfer.manifest import (
    Accuracy,
    Candidate,
    Compatibility,
    Identity,
    Latency,
    Machine,
    Manifest,
    ModelIO,
    Precision,
    Protocol,
    Receipt,
    Recipe,
    Source,
)
from xinfer.package import EnginePackage, Golden, artifact_digest, stage
from xinfer.signing import generate_key, sign_folder
from xinfer.targets import HardwareTarget
from xinfer.tasks import TaskSpec, parse_task

TASK = {
    "task": "anomaly-detection",
    "version": 1,
    "input": {"name": "image", "kind": "image", "color": "RGB", "min_side": 16},
    "outputs": {"score": "score", "map": "anomaly_map"},
    "labels": ["ok", "defective"],
    "threshold": 0.5,
    "map_threshold": 0.6,
    "score_range": [0.0, 1.0],
    "metric": "image_auroc",
}


def make_anomaly_onnx(path: Path, *, channels: int = 16, seed: int = 0) -> Path:
    """uint8 image [N,H,W,3] of any size -> anomaly_map [N,8,8], score [N]: the anomaly models' contract."""
    rng = np.random.default_rng(seed)
    kernels = [
        rng.normal(0, 0.3, (channels, 3, 3, 3)).astype(np.float32),
        rng.normal(0, 0.12, (channels, channels, 3, 3)).astype(np.float32),
    ]
    bias = rng.normal(0, 0.1, channels).astype(np.float32)
    head = np.abs(rng.normal(0, 0.2, (1, channels, 1, 1))).astype(np.float32)
    constants = {
        "scale": np.float32(1 / 255),
        "sizes": np.array([1, 3, 16, 16], np.int64),
        "k0": kernels[0],
        "k1": kernels[1],
        "bias": bias,
        "head": head,
        "channel": np.array([1], np.int64),
        "places": np.array([1, 2], np.int64),
        "first": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "target": np.array([3, 16, 16], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"], "normalise"),
        helper.make_node("Transpose", ["scaled"], ["planes"], "layout", perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["planes"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "first"], ["batch"], "batch"),
        helper.make_node("Concat", ["batch", "target"], ["resized_shape"], "resized_shape", axis=0),
        helper.make_node(
            "Resize", ["planes", "", "", "resized_shape"], ["resized"], "resize", mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("Conv", ["resized", "k0", "bias"], ["c0"], "conv0", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "k1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "head"], ["map4"], "head"),
        helper.make_node("Squeeze", ["map4", "channel"], ["anomaly_map"], "squeeze"),
        helper.make_node("ReduceMax", ["anomaly_map", "places"], ["score"], "score", keepdims=0),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", 8, 8]),
        ],
        [
            numpy_helper.from_array(value, name)
            for name, value in constants.items()
            if name not in ("sizes", "one")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def make_image(seed: int = 0, size: tuple[int, int] = (40, 32)) -> np.ndarray:
    """A smooth [H,W,3] uint8 picture, the same for the same seed; size = (width, height)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def task() -> TaskSpec:
    return parse_task(TASK)


@pytest.fixture(scope="session")
def anomaly_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_anomaly_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "key.pem", folder / "key.pub.pem")
    return folder / "key.pem", folder / "key.pub.pem"


def make_documents(
    artifact: Path, task: TaskSpec | None, backend: str = "onnxruntime"
) -> tuple[Manifest, Receipt]:
    target = HardwareTarget.detect()
    settings = RuntimeSettings(num_threads=target.num_cores, num_streams=target.num_cores)
    model = get_backend(backend).load(artifact, settings)
    manifest = Manifest(
        schema_version=1,
        identity=Identity(name="tiny", version=1, digest=artifact_digest(artifact), producer={}),
        source=Source(onnx_digest="sha256:" + "0" * 64, opset=18),
        io=ModelIO(inputs=model.inputs, outputs=model.outputs),
        task=task,
        backend=backend,
        format="onnx",
        precision=Precision(requested="fp32", executed="fp32"),
        compatibility=Compatibility(target=target.name, isa=(), runtime={backend: ">=1"}),
        recipe=Recipe(
            settings={"runtime": settings.to_json()},
            seed=0,
            tools={},
            calibration_digest=None,
            agent=None,
            duration_s=1.0,
        ),
    )
    model.close()
    receipt = Receipt(
        schema_version=1,
        created_at="2026-01-01T00:00:00+00:00",
        machine=Machine(
            cpu=target.cpu,
            num_cores=target.num_cores,
            memory_bytes=target.memory_bytes,
            isa=target.isa,
            os="linux",
            runtimes={},
        ),
        protocol=Protocol(warmup=1, repeats=1, interleaved=True, batch=1, num_threads=target.num_cores),
        accuracy=Accuracy(
            metric="image_auroc",
            num_samples=4,
            source_value=1.0,
            engine_value=1.0,
            drop=0.0,
            budget=0.01,
            verdict="pass",
        ),
        candidates=(
            Candidate(
                id="only",
                backend=backend,
                precision_requested="fp32",
                precision_executed="fp32",
                settings={},
                status="selected",
                reason=None,
                latency_ms=Latency(p50=1.0, p95=1.0, p99=1.0),
                throughput_per_s=1.0,
                cpu_ms_per_item=1.0,
                load_ms=1.0,
                peak_memory_bytes=1,
                accuracy=1.0,
                drop=0.0,
            ),
        ),
    )
    return manifest, receipt


@pytest.fixture(scope="session")
def package_folder(
    anomaly_onnx: Path, task: TaskSpec, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An unpacked, signed package around the tiny model; read-only by convention, copy it to change it."""
    folder = tmp_path_factory.mktemp("package")
    manifest, receipt = make_documents(anomaly_onnx.parent, task)
    model = get_backend("onnxruntime").load(
        anomaly_onnx.parent, RuntimeSettings.from_json(manifest.recipe.settings["runtime"])
    )
    feeds = {"image": make_image(1)[None]}
    stage(
        folder,
        manifest=manifest,
        receipt=receipt,
        labels=task.labels,
        golden=Golden(inputs=feeds, outputs=model.infer(feeds)),
        artifact={"model.onnx": anomaly_onnx},
    )
    sign_folder(folder, keys[0])
    assert schema.loads((folder / "labels.json").read_bytes(), where="labels") == ["ok", "defective"]
    return folder


@pytest.fixture(scope="session")
def engine_file(package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    EnginePackage.write(path, package_folder)
    return path


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    return [make_image(seed, (40 + 3 * seed, 32)) for seed in range(8)]


@pytest.fixture(scope="session")
def png(images: list[np.ndarray]) -> bytes:
    return encode(images[0])
