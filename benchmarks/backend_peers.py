"""One runtime with one model in a process of its own, for `backends.py`.

    python benchmarks/backend_peers.py PEER MODE FOLDER

MODE is "latency" (one inference at a time on all cores) or "throughput" (as many at once as there are cores).
FOLDER holds what `backends.py` prepared: ``model.onnx``, ``job.json``, ``samples.npz``, ``calibration.npz``.
Requests come as JSON lines on standard input, answers go as JSON lines to standard output. Every inference
takes NumPy arrays and leaves its results in arrays that the caller owns.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]
Infer = Callable[[Feeds], np.ndarray]
CORES = os.cpu_count() or 1
NUM_TIMED = 8
"""How many of the samples are run in turn while the clock runs."""


class Job:
    """What was prepared for a model, as seen by one peer."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder, self.mode = folder, mode
        self.model = folder / "model.onnx"
        facts = json.loads((folder / "job.json").read_text())
        self.reference: str = facts["reference"]
        self.inputs: list[str] = facts["inputs"]
        self.transformer: bool = facts["transformer"]
        self.streams = 1 if mode == "latency" else CORES
        self.threads_per_stream = max(1, CORES // self.streams)

    def feeds(self, name: str) -> list[Feeds]:
        """``samples`` or ``calibration``."""
        with np.load(self.folder / f"{name}.npz") as file:
            stacks = {key: file[key] for key in file.files}
        number = len(stacks[self.inputs[0]])
        return [{key: stack[i] for key, stack in stacks.items()} for i in range(number)]


class Peer:
    """A runtime that is ready. `infer` may be called from `streams` threads at once."""

    def __init__(self, infer: Infer, *, precision: str, streams: int, note: str = "") -> None:
        self.infer, self.precision, self.streams, self.note = infer, precision, streams, note

    def flood(self, feeds: list[Feeds], seconds: float) -> int:
        """Runs `streams` inferences at once for a while; returns how many ended."""
        streams = self.streams
        end = time.perf_counter() + seconds
        counts = [0] * streams

        def work(stream: int) -> None:
            index = stream
            while time.perf_counter() < end:
                self.infer(feeds[index % len(feeds)])
                counts[stream] += 1
                index += 1

        threads = [threading.Thread(target=work, args=(stream,)) for stream in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)


# ------------------------------------------------------------------------------------------- torch


def _torch_model(job: Job) -> tuple[Any, Any]:
    import torch

    from xtorch import sources

    torch.set_num_threads(job.threads_per_stream)
    return torch, sources.load(job.reference).model


def _torch_peer(job: Job, torch: Any, model: Any, *, note: str) -> Peer:
    ready = threading.local()

    def infer(feeds: Feeds) -> np.ndarray:
        if not hasattr(ready, "yes"):  # The number of threads is per calling thread.
            torch.set_num_threads(job.threads_per_stream)
            ready.yes = True
        with torch.no_grad():
            found = model(*(torch.from_numpy(feeds[name]) for name in job.inputs))
        return np.asarray((found[0] if isinstance(found, list | tuple) else found).numpy())

    return Peer(infer, precision="fp32", streams=job.streams, note=note)


def torch_eager(job: Job) -> Peer:
    torch, model = _torch_model(job)
    return _torch_peer(job, torch, model, note=f"torch {torch.__version__}")


def torch_compile(job: Job) -> Peer:
    torch, model = _torch_model(job)
    from torch._inductor import config

    config.freezing = True
    compiled = torch.compile(model)
    return _torch_peer(job, torch, compiled, note="inductor with freezing")


def torch_aot(job: Job) -> Peer:
    torch, model = _torch_model(job)
    example = tuple(torch.from_numpy(job.feeds("samples")[0][name]) for name in job.inputs)
    from torch._inductor.package import load_package

    path = job.folder / f"aot_{job.mode}.pt2"
    with torch.no_grad():
        program = torch.export.export(model, example)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"freezing": True}
        )
    runner = load_package(str(path), num_runners=job.streams)
    return _torch_peer(job, torch, runner, note="AOTInductor with freezing")


# ------------------------------------------------------------------------------------ ONNX Runtime


def _onnxruntime_peer(job: Job, path: Path, *, precision: str, note: str) -> Peer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads_per_stream
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Peer(
        lambda feeds: session.run(None, feeds)[0], precision=precision, streams=job.streams, note=note
    )


def onnxruntime_fp32(job: Job) -> Peer:
    return _onnxruntime_peer(job, job.model, precision="fp32", note="")


class _Reader:
    """Calibration samples as onnxruntime.quantization reads them."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


def onnxruntime_int8(job: Job) -> Peer:
    """Static quantisation as ONNX Runtime documents it: QDQ, u8 activations, per-channel s8 weights.

    Of transformers only the products: the sum of attention scores and mask has a range that 8 bits cannot
    hold (cosine 0.33 for MiniLM).
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = job.folder / "onnxruntime_int8.onnx"
    if not path.exists():
        prepared = job.folder / "onnxruntime_prepared.onnx"
        quant_pre_process(str(job.model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(path), _Reader(job.feeds("calibration")), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"] if job.transformer else None,
        )  # fmt: skip
    return _onnxruntime_peer(job, path, precision="int8", note="static, QDQ u8, per-channel")


def onnxruntime_dynamic(job: Job) -> Peer:
    """Dynamic quantisation, which ONNX Runtime recommends for transformers."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = job.folder / "onnxruntime_dynamic.onnx"
    if not path.exists():
        quantize_dynamic(str(job.model), str(path), weight_type=QuantType.QInt8, per_channel=True)
    return _onnxruntime_peer(job, path, precision="int8", note="dynamic, per-channel")


# ---------------------------------------------------------------------------------------- OpenVINO


class _OpenVINOPeer(Peer):
    """Latency: a synchronous call. Throughput: an AsyncInferQueue of the size that OpenVINO chooses."""

    def __init__(self, job: Job, model: Any, *, note: str) -> None:
        import openvino as ov

        hint = "LATENCY" if job.mode == "latency" else "THROUGHPUT"
        self._compiled = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": hint})
        self._ov = ov
        requests = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        super().__init__(
            lambda feeds: self._compiled(feeds)[0],
            precision=_openvino_precision(self._compiled),
            streams=requests,
            note=f"{note}; hint {hint}, {requests} requests",
        )

    def flood(self, feeds: list[Feeds], seconds: float) -> int:
        ended = 0

        def done(request: Any, _: Any) -> None:
            nonlocal ended
            request.get_output_tensor(0).data.copy()
            ended += 1

        jobs = self._ov.AsyncInferQueue(self._compiled)
        jobs.set_callback(done)
        end = time.perf_counter() + seconds
        index = 0
        while time.perf_counter() < end:
            jobs.start_async(feeds[index % len(feeds)], share_inputs=True)
            index += 1
        jobs.wait_all()
        return ended


def _openvino_precision(compiled: Any) -> str:
    """Of the convolutions and products, read back: most frequent first."""
    from collections import Counter

    names = {"u8": "int8", "i8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16"}
    counts: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if str(info["layerType"].astype(str)) in {
            "Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul",
        }:  # fmt: skip
            precision = str(info["runtimePrecision"].astype(str))
            counts[names.get(precision, precision)] += 1
    return "+".join(name for name, _ in counts.most_common())


def openvino_default(job: Job) -> Peer:
    import openvino as ov

    return _OpenVINOPeer(job, ov.Core().read_model(str(job.model)), note="its own defaults")


def openvino_nncf(job: Job) -> Peer:
    import openvino as ov

    path = job.folder / "nncf.xml"
    if not path.exists():
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        calibration = job.feeds("calibration")
        quantised = nncf.quantize(
            ov.Core().read_model(str(job.model)),
            nncf.Dataset(calibration),
            model_type=nncf.ModelType.TRANSFORMER if job.transformer else None,
            subset_size=min(300, len(calibration)),
        )
        ov.save_model(quantised, path, compress_to_fp16=False)
    return _OpenVINOPeer(job, ov.Core().read_model(str(path)), note="nncf.quantize, its own defaults")


# ------------------------------------------------------------------------------------------ xInfer


def xinfer_engine(job: Job) -> Peer:
    from xinfer import InferenceEngine

    engine = InferenceEngine.load(job.folder / f"{job.mode}.engine", require_signature=False)
    output = engine.manifest.io.outputs[0].name
    return Peer(
        lambda feeds: engine.infer(feeds)[output],
        precision=engine.executed_precision(),
        streams=engine.settings.num_streams,
        note=f"{engine.manifest.backend}, {engine.settings.num_streams} streams, "
        f"{engine.settings.num_threads} threads",
    )


ENGINE = "xinfer engine"
REFERENCE = "torch eager fp32"
PEERS: dict[str, Callable[[Job], Peer]] = {
    REFERENCE: torch_eager,
    "torch.compile fp32": torch_compile,
    "torch AOTInductor fp32": torch_aot,
    "onnxruntime fp32": onnxruntime_fp32,
    "onnxruntime int8": onnxruntime_int8,
    "onnxruntime int8 dynamic": onnxruntime_dynamic,
    "openvino default": openvino_default,
    "openvino nncf int8": openvino_nncf,
    ENGINE: xinfer_engine,
}


# ------------------------------------------------------------------------------------------- server


def _latency(peer: Peer, feeds: list[Feeds], seconds: float) -> dict[str, float]:
    times: list[float] = []
    cpu = time.process_time()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        peer.infer(feeds[len(times) % len(feeds)])
        times.append((time.perf_counter() - start) * 1e3)
    p50, p99 = np.percentile(times, (50, 99))
    return {
        "latency_ms": float(p50),
        "p99_ms": float(p99),
        "cpu_ms": (time.process_time() - cpu) / len(times) * 1e3,
        "count": len(times),
    }


def _throughput(peer: Peer, feeds: list[Feeds], seconds: float) -> dict[str, float]:
    cpu, start = time.process_time(), time.perf_counter()
    count = peer.flood(feeds, seconds)
    elapsed = time.perf_counter() - start
    return {
        "throughput_per_s": count / elapsed,
        "cpu_ms": (time.process_time() - cpu) / max(count, 1) * 1e3,
        "count": count,
    }


def main() -> None:
    name, mode, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    # Answers have this pipe for themselves; whatever libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    job = Job(folder, mode)
    samples = job.feeds("samples")
    timed = samples[:NUM_TIMED]
    start = time.perf_counter()
    try:
        peer = PEERS[name](job)
        for feeds in timed[:3]:
            peer.infer(feeds)
        if mode == "throughput":
            peer.flood(timed, 0.2)
        answer: dict[str, Any] = {
            "precision": peer.precision,
            "note": peer.note,
            "load_s": round(time.perf_counter() - start, 2),
        }
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:600]}), file=answers)
        return
    print(json.dumps(answer), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "outputs":
                np.save(request["path"], np.stack([peer.infer(feeds) for feeds in samples]))
                answer = {}
            elif request["do"] == "latency":
                answer = _latency(peer, timed, request["seconds"])
            else:
                answer = _throughput(peer, timed, request["seconds"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:600]}
        print(json.dumps(answer), file=answers)
    os._exit(0)  # Some runtimes hang while they unload.


if __name__ == "__main__":
    main()
