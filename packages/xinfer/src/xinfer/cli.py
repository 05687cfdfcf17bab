"""The ``xinfer`` command.

Exit codes: 0 fine; 1 the answer is no (verification failed, a part is missing); 2 wrong use; 3 an error
with a code and a hint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xinfer import schema, signing
from xinfer.engine import InferenceEngine
from xinfer.errors import SignatureError, VerificationError, XInferError
from xinfer.package import EnginePackage
from xinfer.targets import HardwareTarget, installed_version
from xinfer.verify import check_golden
from xinfer.zoo import AnomalyDetector

EXTRAS = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime",),
    "image": ("pillow", "simplejpeg", "opencv-python-headless"),
    "sign": ("model-signing", "pyOpenSSL", "cryptography"),
    "build": ("onnx", "nncf", "psutil"),
}
"""Extra -> the distributions that it installs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Args: what follows ``xinfer``; default: the process's own. Returns: exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except XInferError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1 if isinstance(error, SignatureError | VerificationError) else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xinfer", description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="show an engine's manifest and receipt")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--json", action="store_true", help="both documents as JSON")
    inspect.set_defaults(command=_inspect)

    verify = commands.add_parser("verify", help="check the signature, and measure the engine here")
    verify.add_argument("file", type=Path)
    verify.add_argument("--public-key", type=Path, required=True, help="PEM file")
    verify.set_defaults(command=_verify)

    unpack = commands.add_parser("unpack", help="unpack an engine, for model_signing and curious people")
    unpack.add_argument("file", type=Path)
    unpack.add_argument("folder", type=Path)
    unpack.set_defaults(command=_unpack)

    run = commands.add_parser("run", help="run an engine on images; one JSON line each")
    run.add_argument("file", type=Path)
    run.add_argument("images", type=Path, nargs="+")
    run.add_argument("--public-key", type=Path, help="PEM file; without it the signature is not checked")
    run.set_defaults(command=_run)

    doctor = commands.add_parser("doctor", help="what this machine and this installation can do")
    doctor.set_defaults(command=_doctor)

    keygen = commands.add_parser("keygen", help="make a signing key")
    keygen.add_argument("private_key", type=Path)
    keygen.add_argument("public_key", type=Path)
    keygen.set_defaults(command=_keygen)
    return parser


def _inspect(arguments: argparse.Namespace) -> int:
    package = EnginePackage.open(arguments.file)
    if arguments.json:
        documents = {
            name: json.loads(schema.dumps(document))
            for name, document in (("manifest", package.manifest), ("receipt", package.receipt))
        }
        print(json.dumps({"digest": package.digest, "signed": package.signed, **documents}, indent=1))
        return 0
    manifest, receipt = package.manifest, package.receipt
    _pairs(
        {
            "engine": f"{manifest.identity.name} version {manifest.identity.version}",
            "digest": package.digest,
            "signed": "yes (not checked here: xinfer verify)" if package.signed else "no",
            "task": manifest.task.task if manifest.task else "none",
            "backend": f"{manifest.backend} ({manifest.format})",
            "precision": f"{manifest.precision.requested}, executed {manifest.precision.executed}",
            "target": manifest.compatibility.target,
            "needs": ", ".join(
                [
                    *manifest.compatibility.isa,
                    *(f"{name} {version}" for name, version in manifest.compatibility.runtime.items()),
                ]
            ),
            "built": f"{receipt.created_at} in {manifest.recipe.duration_s:.0f} s",
            "machine": f"{receipt.machine.cpu}, {receipt.machine.num_cores} cores, {receipt.machine.os}",
        }
    )
    if receipt.accuracy:
        accuracy = receipt.accuracy
        print(
            f"\n{accuracy.metric} on {accuracy.num_samples} samples: source {accuracy.source_value:.4f}, "
            f"engine {accuracy.engine_value:.4f}, drop {accuracy.drop:.4f} of {accuracy.budget:.4f} allowed"
        )
    print()
    _table(
        [
            "candidate",
            "status",
            "executed",
            "p50 ms",
            "p99 ms",
            "per s",
            "CPU ms",
            "load ms",
            "MiB",
            "accuracy",
        ],
        [
            [
                row.id,
                row.status,
                row.precision_executed,
                row.latency_ms and row.latency_ms.p50,
                row.latency_ms and row.latency_ms.p99,
                row.throughput_per_s,
                row.cpu_ms_per_item,
                row.load_ms,
                row.peak_memory_bytes and row.peak_memory_bytes / 2**20,
                None if row.accuracy is None else f"{row.accuracy:.4f}",
            ]
            for row in receipt.candidates
        ],
    )
    for row in receipt.candidates:
        if row.reason:
            print(f"  {row.id}: {row.reason}")
    if receipt.comparison:
        peer = receipt.comparison
        print(
            f"\npipeline {peer.throughput_per_s:.1f}/s ({peer.cpu_ms_per_item:.1f} ms CPU) against "
            f"{peer.peer_throughput_per_s:.1f}/s ({peer.peer_cpu_ms_per_item:.1f} ms CPU) of {peer.peer}: "
            f"{peer.speedup:.1f}x"
        )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    with InferenceEngine.load(arguments.file, public_key=arguments.public_key) as engine:
        print("signature   verified")
        cosine = check_golden(engine)
        print(f"golden pair reproduced, cosine {cosine:.6f}")
        executed, recorded = engine.executed_precision(), engine.manifest.precision.executed
        print(f"precision   {executed} (recorded {recorded})")
        measured, row = engine.benchmark(), engine.receipt.selected
        assert row.latency_ms is not None
        _table(
            ["", "here", "receipt"],
            [
                ["p50 ms", measured.latency_ms.p50, row.latency_ms.p50],
                ["p99 ms", measured.latency_ms.p99, row.latency_ms.p99],
                ["per s", measured.throughput_per_s, row.throughput_per_s],
                ["CPU ms", measured.cpu_ms_per_item, row.cpu_ms_per_item],
            ],
        )
        if executed != recorded:
            raise VerificationError(
                f"this machine executes {executed}, recorded is {recorded}", value=executed
            )
    return 0


def _unpack(arguments: argparse.Namespace) -> int:
    package = EnginePackage.open(arguments.file)
    if arguments.folder.exists():
        print(f"error: {arguments.folder} exists already", file=sys.stderr)
        return 2
    package.extract(arguments.folder)
    folder = arguments.folder
    print(f"model_signing verify key {folder} --signature {folder}/model.sig --public_key PUBLIC_KEY")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    key = arguments.public_key
    with AnomalyDetector(arguments.file, public_key=key, require_signature=key is not None) as detector:
        code = 0
        for image in arguments.images:
            try:
                answer: dict[str, Any] = {"image": str(image), **detector.predict(image).to_json()}
            except XInferError as error:
                answer, code = {"image": str(image), "code": error.code, "error": error.message}, 3
            print(json.dumps(answer))
    return code


def _doctor(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    target = HardwareTarget.detect()
    _pairs(
        {
            "target": target.name,
            "cpu": f"{target.cpu}, {target.num_cores} cores usable",
            "memory": f"{target.memory_bytes / 2**30:.1f} GiB",
            "isa": ", ".join(target.isa) or "none that matters",
            "bf16": target.bf16_flag or "not executed by this CPU",
            "int8": target.int8_flag or "no dot product instructions: slower, reduced range",
        }
    )
    print()
    missing = False
    for extra, distributions in EXTRAS.items():
        versions = {name: installed_version(name) for name in distributions}
        absent = [name for name, version in versions.items() if version is None]
        missing |= bool(absent)
        state = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        print(f"{extra:12} {state}" if not absent else f"{extra:12} pip install 'ignition-xinfer[{extra}]'")
    return int(missing)


def _keygen(arguments: argparse.Namespace) -> int:
    signing.generate_key(arguments.private_key, arguments.public_key)
    print(f"private key {arguments.private_key} (keep it secret), public key {arguments.public_key}")
    return 0


def _pairs(values: dict[str, str]) -> None:
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:{width}}  {value}")


def _table(header: list[str], rows: list[list[Any]]) -> None:
    def show(cell: Any) -> str:
        if cell is None:
            return "-"
        return f"{cell:.1f}" if isinstance(cell, float) else str(cell)

    lines = [header, *([show(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        first, *rest = (
            cell.ljust(width) if column < 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())


if __name__ == "__main__":
    sys.exit(main())
