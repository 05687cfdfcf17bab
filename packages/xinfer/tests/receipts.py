"""A receipt with everything in it, for the tests of what is made of receipts."""

from __future__ import annotations

from xinfer.manifest import (
    Accuracy,
    Candidate,
    ClassAccuracy,
    Comparison,
    Compatibility,
    Histogram,
    Identity,
    Latency,
    Layer,
    Machine,
    Manifest,
    ModelIO,
    Precision,
    Protocol,
    Receipt,
    Recipe,
    Source,
    TensorSpec,
)

RUNTIME = {"num_threads": 2, "num_streams": 2, "float_precision": "bf16", "device": "cpu"}


def candidate(
    id_: str,
    status: str,
    p50: float | None = None,
    per_s: float | None = None,
    accuracy: float | None = None,
    reason: str | None = None,
) -> Candidate:
    """One row; ``backend/precision/...`` says the rest."""
    backend, precision, *_ = id_.split("/")
    return Candidate(
        id=id_,
        backend=backend,
        precision_requested=precision.partition("+")[0],
        precision_executed=None if p50 is None else precision,
        settings={},
        status=status,  # type: ignore[arg-type]
        reason=reason,
        latency_ms=None if p50 is None else Latency(p50=p50, p95=p50 * 1.2, p99=p50 * 1.4),
        throughput_per_s=per_s,
        cpu_ms_per_item=None if per_s is None else 2000 / per_s,
        load_ms=None if p50 is None else 310.0,
        peak_memory_bytes=None if p50 is None else 180 << 20,
        accuracy=accuracy,
        drop=None if accuracy is None else 0.7610 - accuracy,
    )


def rich_documents(
    *, name: str = "paving-resnet50", labels: tuple[str, ...] = ()
) -> tuple[Manifest, Receipt]:
    """Manifest and receipt of an engine that beat others, with classes, layers, histogram and a peer."""
    labels = labels or tuple(f"class {number}" for number in range(12))
    best = candidate("openvino/int8+bf16/nncf-openvino/network", "selected", 2.31, 812.0, 0.7584)
    manifest = Manifest(
        schema_version=1,
        identity=Identity(
            name=name, version=3, digest="sha256:" + "a" * 64, producer={"ignition-xinfer": "0.1.0"}
        ),
        source=Source(
            onnx_digest="sha256:" + "b" * 64,
            opset=18,
            dataset_digest="sha256:" + "c" * 64,
            licences=("Apache-2.0",),
        ),
        io=ModelIO(
            inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, 224, 224, 3)),),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, len(labels))),),
        ),
        task=None,
        backend="openvino",
        format="openvino-ir",
        precision=Precision(requested="int8", executed="int8+bf16"),
        compatibility=Compatibility(
            target="cpu-x86_64-avx512_vnni",
            isa=("avx512_bf16", "avx512_vnni"),
            runtime={"openvino": ">=2026.4,<2027"},
        ),
        recipe=Recipe(
            settings={"runtime": RUNTIME, "objective": "throughput", "batch": 1},
            seed=0,
            tools={"openvino": "2026.4.1", "nncf": "3.4.0"},
            calibration_digest="sha256:" + "d" * 64,
            agent=None,
            duration_s=118.4,
        ),
    )
    receipt = Receipt(
        schema_version=1,
        created_at="2026-11-20T09:30:00+00:00",
        machine=Machine(
            cpu="AMD EPYC 9R14",
            num_cores=2,
            memory_bytes=8 << 30,
            isa=("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
            os="Linux 6.18",
            runtimes={"openvino": "2026.4.1", "onnxruntime": "1.31.0"},
        ),
        protocol=Protocol(warmup=3, repeats=640, interleaved=True, batch=1, num_threads=2),
        accuracy=Accuracy(
            metric="cosine",
            num_samples=500,
            source_value=0.7610,
            engine_value=0.7584,
            drop=0.0026,
            budget=0.01,
            verdict="pass",
        ),
        candidates=(
            candidate("onnxruntime/fp32", "ok", 13.4, 131.0, 0.7610),
            candidate("openvino/fp32", "ok", 9.8, 187.0, 0.7610),
            candidate("openvino/bf16", "ok", 4.6, 402.0, 0.7606),
            best,
            candidate("openvino/int8/ort-qdq/network", "ok", 2.9, 690.0, 0.7571),
            candidate(
                "openvino/int8/nncf-onnx/all",
                "over_budget",
                2.2,
                None,
                0.7388,
                "cosine 0.7388 is 0.0222 below the source model, 0.0100 is allowed",
            ),
            candidate("onnxruntime/int8/ort-qdq/network", "dropped", 12.1, None, 0.7580, "5.2 times slower"),
            candidate(
                "inductor/fp32", "failed", reason="CppCompileError: no C++ compiler was found on this machine"
            ),
        ),
        comparison=Comparison(
            peer="PIL + torch eager, fp32",
            num_images=64,
            latency_ms=5.4,
            peer_latency_ms=41.0,
            throughput_per_s=310.0,
            peer_throughput_per_s=31.0,
            cpu_ms_per_item=6.3,
            peer_cpu_ms_per_item=62.0,
            speedup=10.0,
        ),
        latency_histogram_ms=Histogram(
            edges=tuple(2.0 + 0.06 * index for index in range(25)),
            counts=(2, 9, 41, 96, 128, 97, 71, 52, 39, 28, 20, 14, 11, 8, 6, 4, 3, 3, 2, 1, 1, 1, 1, 6),
        ),
        layers=tuple(
            Layer(
                name=f"/layer{1 + index // 6}/layer{1 + index // 6}.{index % 6}/conv{1 + index % 3}/Conv",
                type=("Convolution", "Convolution", "FullyConnected", "Eltwise", "Pooling")[index % 5],
                precision=("int8", "int8", "bf16", "int8", "fp32")[index % 5],
                time_ms=0.4 / (1 + 0.35 * index),
                share=0.21 / (1 + 0.35 * index),
            )
            for index in range(24)
        ),
        classes=tuple(
            ClassAccuracy(
                label=label,
                num_samples=40 + index,
                source_value=0.70 + 0.02 * (index % 9),
                engine_value=0.70 + 0.02 * (index % 9) + 0.006 * ((index * 7) % 5 - 3),
            )
            for index, label in enumerate(labels)
        ),
    )
    return manifest, receipt
