"""``xinfer verify``: is an engine what its receipt says, here?"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xinfer.cli import output
from xinfer.cli.command import Command, UsageError, add_json, duration_s
from xinfer.cli.loading import add_trust_options, engine_file, recorded_settings, trusted
from xinfer.cli.measure import batched, repeats_for
from xinfer.cli.samples import Tensor, image_files, read_samples
from xinfer.engine import InferenceEngine
from xinfer.errors import IncompatibleTargetError, VerificationError
from xinfer.package import EnginePackage, file_digest
from xinfer.targets import masking
from xinfer.tasks import AnomalyDetection
from xinfer.verify import anomaly_evaluator, check_golden

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

SLOW = 1.5
"""Times slower than the receipt says: worth a warning."""
OK, DEFECTIVE = "ok", "defective"


@dataclass(frozen=True, kw_only=True)
class AccuracyHere:
    """A metric measured again. `source_value` is of the source model, on the same samples."""

    metric: str
    num_samples: int
    engine_value: float
    source_value: float
    budget: float

    @property
    def drop(self) -> float:
        """What the engine loses against the source model."""
        return self.source_value - self.engine_value

    @property
    def holds(self) -> bool:
        """Whether that is within the budget."""
        return self.drop <= self.budget + 1e-9


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="FILE.engine", help="or a catalogue id that was built")
    add_trust_options(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="measure accuracy again: images in ok/ and defective/ for an anomaly detector; else samples, "
        "with --onnx",
    )
    parser.add_argument(
        "--onnx", type=Path, metavar="FILE", help="the source model, to compare with on --data"
    )
    parser.add_argument("--isa", metavar="LEVEL", help="as a CPU with no more than this would: avx2, ...")
    parser.add_argument(
        "--seconds", type=duration_s, default=2.0, help="about how long to measure; default: 2"
    )
    parser.add_argument("--strict-speed", action="store_true", help=f"fail where it is {SLOW}x slower")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verifies."""
    if arguments.isa is not None:
        return _again_with_isa(arguments)
    package = EnginePackage.open(engine_file(str(arguments.file)))
    reason = trusted(package, arguments)
    document: dict[str, object] = {"engine": package.manifest.identity.name, "digest": package.digest}
    try:
        engine = InferenceEngine.load(package, **reason.options, **recorded_settings(package))
    except IncompatibleTargetError as error:
        # Here this is an answer, not an accident.
        if arguments.json:
            output.print_json(document | {"verdict": "incompatible", "reason": error.message})
        raise VerificationError(error.message, code=error.code, value=error.value, hint=error.hint) from error
    with engine:
        cosine = check_golden(engine)
        executed, recorded = engine.executed_precision(), engine.manifest.precision.executed
        accuracy = None if arguments.data is None else _accuracy(engine, arguments)
        repeats = repeats_for(engine, engine.golden.inputs, arguments.seconds, 5)
        measured = loaded = engine.benchmark(repeats=repeats)
        batch = package.receipt.protocol.batch
        if batch > 1:
            # The receipt's throughput is that of batches; its latency is of single samples.
            feeds = batched(engine, batch)
            loaded = engine.benchmark(feeds, repeats=max(3, repeats // batch))
    row = package.receipt.selected
    latency = row.latency_ms
    speed = [
        ("p50 ms", measured.latency_ms.p50, latency.p50 if latency else None),
        ("p99 ms", measured.latency_ms.p99, latency.p99 if latency else None),
        ("per s", loaded.throughput_per_s * batch, row.throughput_per_s),
        ("CPU ms", loaded.cpu_ms_per_item / batch, row.cpu_ms_per_item),
    ]
    slower = _slower(speed)
    problems = []
    if executed != recorded:
        problems.append(f"this machine executes {executed}, recorded is {recorded}")
    if accuracy is not None and not accuracy.holds:
        problems.append(
            f"{accuracy.metric} here is {accuracy.engine_value:.4f}, {accuracy.drop:.4f} below the source "
            f"model's; {accuracy.budget:.4f} is allowed"
        )
    if slower > SLOW and arguments.strict_speed:
        problems.append(f"it is {slower:.2f} times slower here than its receipt says")
    document |= {
        "verdict": "failed" if problems else "verified",
        "problems": problems,
        "signature": reason.state,
        "golden_cosine": cosine,
        "precision": {"here": executed, "receipt": recorded},
        "accuracy": accuracy
        and {
            "metric": accuracy.metric,
            "num_samples": accuracy.num_samples,
            "here": accuracy.engine_value,
            "source": accuracy.source_value,
            "drop": accuracy.drop,
            "budget": accuracy.budget,
            "receipt": package.receipt.accuracy and package.receipt.accuracy.engine_value,
        },
        "speed": [{"what": what, "here": here, "receipt": then} for what, here, then in speed],
        "slower": slower,
    }
    if arguments.json:
        output.print_json(document)
    else:
        _show(package, reason.state, cosine, executed, recorded, accuracy, speed)
    if slower > SLOW and not arguments.strict_speed:
        output.warn(
            f"it is {slower:.2f} times slower here than its receipt says ({package.receipt.machine.cpu})"
        )
    if problems:
        raise VerificationError("; ".join(problems), value=executed)
    return 0


def _show(
    package: EnginePackage,
    signature: str,
    cosine: float,
    executed: str,
    recorded: str,
    accuracy: AccuracyHere | None,
    speed: Sequence[tuple[str, float, float | None]],
) -> None:
    recorded_accuracy = package.receipt.accuracy
    output.print_pairs(
        {
            "signature": {
                "verified": "verified",
                "built here": "none needed: this very file was built here",
                "not checked": "NOT CHECKED, as you asked",
                "unsigned": "none; the trust policy allows that",
            }[signature],
            "golden pair": f"reproduced, cosine {cosine:.6f}",
            "precision": f"{executed} (recorded {recorded})",
            "accuracy": accuracy
            and f"{accuracy.metric} {accuracy.engine_value:.4f} on {accuracy.num_samples} samples here, "
            f"source {accuracy.source_value:.4f}, drop {accuracy.drop:.4f} of {accuracy.budget:.4f} allowed"
            + (f" (receipt: {recorded_accuracy.engine_value:.4f})" if recorded_accuracy else ""),
        }
    )
    print()
    output.print_table(
        ["", "here", "receipt", "ratio"],
        [
            [what, here, then, None if not then else f"{_ratio(what, here, then):.2f}x"]
            for what, here, then in speed
        ],
    )


def _ratio(what: str, here: float, then: float) -> float:
    """How many times slower it is here."""
    return then / here if what == "per s" else here / then


def _slower(speed: Sequence[tuple[str, float, float | None]]) -> float:
    """How many times slower the median or the throughput is here, whichever is worse."""
    ratios = [_ratio(what, here, then) for what, here, then in speed if what in ("p50 ms", "per s") and then]
    return max(ratios, default=1.0)


def _again_with_isa(arguments: argparse.Namespace) -> int:
    """In a process of its own: runtimes look at the CPU once, when they are imported."""
    command = [sys.executable, "-m", "xinfer.cli", "verify", str(arguments.file)]
    for flag in ("public_key", "trust", "data", "onnx"):
        value = getattr(arguments, flag)
        if value is not None:
            command += [f"--{flag.replace('_', '-')}", str(value)]
    for flag in ("no_signature", "strict_speed", "json"):
        if getattr(arguments, flag):
            command.append(f"--{flag.replace('_', '-')}")
    command += ["--seconds", str(arguments.seconds)]
    if not arguments.json:
        print(f"as a CPU with no more than {arguments.isa}:", flush=True)
    sys.stdout.flush()
    return subprocess.run(
        command, env={**os.environ, masking.VARIABLE: arguments.isa}, check=False
    ).returncode


def _accuracy(engine: InferenceEngine, arguments: argparse.Namespace) -> AccuracyHere:
    recorded = engine.receipt.accuracy
    if recorded is None:
        raise UsageError("the engine's receipt has no accuracy to compare with")
    tensors = [
        Tensor(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in engine.manifest.io.inputs
    ]
    if isinstance(engine.task, AnomalyDetection) and recorded.metric == engine.task.metric:
        classes = [image_files(arguments.data / name) for name in (OK, DEFECTIVE)]
        files = [file for part in classes for file in part]
        samples = [read_samples(file, tensors, engine.task)[0] for file in files]
        truth = [index for index, part in enumerate(classes) for _ in part]
        value = anomaly_evaluator(engine.task, truth)([engine.infer(sample) for sample in samples])
        # The receipt's own value stands for the source model's, which is not here.
        return AccuracyHere(
            metric=recorded.metric,
            num_samples=len(samples),
            engine_value=value,
            source_value=recorded.source_value,
            budget=recorded.budget,
        )
    from xinfer.builders.metrics import AGREEMENT

    metric = recorded.metric if recorded.metric in AGREEMENT else "cosine"
    if arguments.onnx is None:
        raise UsageError(f"{metric} compares with the source model", hint="give it with --onnx FILE")
    held_out = read_samples(arguments.data, tensors, engine.task)
    outputs = [engine.infer(sample) for sample in held_out]
    value = AGREEMENT[metric](outputs, _source_outputs(engine, arguments.onnx, held_out))
    return AccuracyHere(
        metric=metric,
        num_samples=len(held_out),
        engine_value=value,
        source_value=1.0,
        budget=recorded.budget,
    )


def _source_outputs(
    engine: InferenceEngine, onnx: Path, samples: Sequence[dict[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """What the source model answers, in fp32 on ONNX Runtime, as when the engine was built."""
    from xinfer._extras import require

    if not onnx.is_file():
        raise UsageError(f"there is no file {onnx}", value=str(onnx))
    if file_digest(onnx) != engine.manifest.source.onnx_digest:
        raise UsageError(
            f"{onnx.name} is not the model that this engine was built from",
            value=file_digest(onnx),
            hint=f"its digest is {engine.manifest.source.onnx_digest}",
        )
    runtime = require("onnxruntime", "onnxruntime")
    session = runtime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, sample), strict=True)) for sample in samples]


COMMANDS = (
    Command(
        name="verify",
        help="check an engine's signature, answers, accuracy and speed here against its receipt",
        configure=configure,
        run=run,
    ),
)
