"""``xinfer inspect``, ``unpack`` and ``report``: what stands in an engine file."""

from __future__ import annotations

import argparse
from pathlib import Path

from xinfer import schema
from xinfer.cli import output
from xinfer.cli.command import Command, UsageError, add_json
from xinfer.cli.loading import add_trust_options, built_here, engine_file
from xinfer.errors import SignatureError
from xinfer.manifest import Candidate
from xinfer.package import EnginePackage


def configure_inspect(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="FILE.engine", help="or a catalogue id that was built")
    add_json(parser, "both documents as JSON")


def run_inspect(arguments: argparse.Namespace) -> int:
    """Shows manifest and receipt."""
    package = EnginePackage.open(engine_file(arguments.file))
    if arguments.json:
        documents = {
            name: schema.loads(schema.dumps(document), where=name)
            for name, document in (("manifest", package.manifest), ("receipt", package.receipt))
        }
        output.print_json({"digest": package.digest, "signed": package.signed, **documents})
        return 0
    manifest, receipt = package.manifest, package.receipt
    needs = [
        *manifest.compatibility.isa,
        *(f"{name} {version}" for name, version in manifest.compatibility.runtime.items()),
    ]
    output.print_pairs(
        {
            "engine": f"{manifest.identity.name} version {manifest.identity.version}",
            "digest": package.digest,
            "signed": "yes (not checked here: xinfer verify)" if package.signed else "no",
            "task": manifest.task.task if manifest.task else "none",
            "inputs": ", ".join(
                f"{each.name} {each.datatype} {list(each.shape)}" for each in manifest.io.inputs
            ),
            "outputs": ", ".join(
                f"{each.name} {each.datatype} {list(each.shape)}" for each in manifest.io.outputs
            ),
            "backend": f"{manifest.backend} ({manifest.format})",
            "precision": f"{manifest.precision.requested}, executed {manifest.precision.executed}",
            "target": manifest.compatibility.target,
            "needs": ", ".join(needs),
            "licences": ", ".join(manifest.source.licences) or None,
            "source": manifest.source.onnx_digest,
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
    output.print_table(
        [
            "candidate", "status", "executed", "p50 ms", "p99 ms", "per s", "CPU ms", "load ms", "MiB",
            "accuracy",
        ],
        [_row(row) for row in receipt.candidates],
        left=3,
    )  # fmt: skip
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


def _row(row: Candidate) -> list[object]:
    return [
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


def configure_unpack(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE.engine")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="must not exist")


def run_unpack(arguments: argparse.Namespace) -> int:
    """Unpacks, and prints the command that checks the signature."""
    package = EnginePackage.open(arguments.file)
    if arguments.folder.exists():
        raise UsageError(f"{arguments.folder} exists already", value=str(arguments.folder))
    package.extract(arguments.folder)
    folder = arguments.folder
    print(f"model_signing verify key {folder} --signature {folder}/model.sig --public_key PUBLIC_KEY")
    return 0


def configure_report(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="FILE.engine", help="or a catalogue id that was built")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="default: next to the engine")
    add_trust_options(parser)


def run_report(arguments: argparse.Namespace) -> int:
    """Writes the receipt as a page."""
    from xinfer.report import write_report

    file = engine_file(arguments.file)
    package = EnginePackage.open(file)
    destination = arguments.output or file.with_suffix(".html")
    write_report(package, destination, signature=_signature(package, arguments))
    print(destination)
    return 0


def _signature(package: EnginePackage, arguments: argparse.Namespace) -> str:
    """What the page says about the signature; a bad one raises SignatureError."""
    import tempfile

    from xinfer import signing, trust

    if not package.signed:
        return "built here" if built_here(package) else "unsigned"
    if arguments.no_signature:
        return "signed"
    with tempfile.TemporaryDirectory(prefix="xinfer-report-") as work:
        folder = package.extract(Path(work) / "engine")
        if arguments.public_key is not None:
            signing.verify_folder(folder, arguments.public_key)
            return "verified"
        if arguments.trust is None and not trust.default_path().exists():
            return "signed"
        try:
            publisher = trust.TrustPolicy.load(arguments.trust).check(folder, package.manifest)
        except SignatureError as error:
            # The user's own policy may not know this publisher; a bad signature is bad whoever made it.
            if arguments.trust is not None or error.code != "signature.untrusted_publisher":
                raise
            return "signed"
        return "signed" if publisher is None else f"verified: {publisher.name}"


COMMANDS = (
    Command(
        name="inspect",
        help="show an engine's manifest and receipt",
        configure=configure_inspect,
        run=run_inspect,
    ),
    Command(
        name="report",
        help="write an engine's receipt as a page for people",
        configure=configure_report,
        run=run_report,
    ),
    Command(
        name="unpack",
        help="unpack an engine, for model_signing and curious people",
        configure=configure_unpack,
        run=run_unpack,
    ),
)
