"""Where the engine comes from and how to check it: machine, protocol, commands, signature, licences."""

from __future__ import annotations

import shlex

from xinfer.builders.metrics import AGREEMENT
from xinfer.manifest import Manifest, Receipt
from xinfer.report.markup import Markup, tag

SIGNATURES = {
    "signed": "signed; the signature was not checked when this page was written",
    "unsigned": "not signed",
    "built here": "not signed; this very file was built on the machine that wrote this page",
}


def machine(manifest: Manifest, receipt: Receipt) -> Markup:
    """The machine and the protocol."""
    here, protocol, needs = receipt.machine, receipt.protocol, manifest.compatibility
    settings = manifest.recipe.settings.get("runtime")
    chosen = settings if isinstance(settings, dict) else {}
    return tag(
        "section",
        tag("h2", "Measured on"),
        tag(
            "div",
            _facts(
                "Machine",
                {
                    "Processor": here.cpu,
                    "Cores": here.num_cores,
                    "Memory": f"{here.memory_bytes / 2**30:.1f} GiB",
                    "Instruction sets": ", ".join(here.isa) or "none that matters",
                    "System": here.os,
                    "Runtimes": _versions(here.runtimes),
                    "The engine needs": ", ".join(
                        [
                            needs.target,
                            *needs.isa,
                            *(f"{name} {want}" for name, want in needs.runtime.items()),
                        ]
                    ),
                },
            ),
            _facts(
                "Protocol",
                {
                    "Warm-up": f"{protocol.warmup} runs",
                    "Timed": f"{protocol.repeats} single inferences per candidate",
                    "Order": "interleaved, so that all saw the same noise"
                    if protocol.interleaved
                    else "one candidate after the other",
                    "Batch": protocol.batch,
                    "Threads": protocol.num_threads,
                    "The winner runs with": ", ".join(
                        f"{str(name).replace('_', ' ')} {value}" for name, value in chosen.items()
                    ),
                    "Search took": f"{manifest.recipe.duration_s:.0f} s",
                },
            ),
            class_="two",
        ),
    )


def reproduce(manifest: Manifest, receipt: Receipt, *, digest: str, file_name: str, signature: str) -> Markup:
    """How to check all this, and what it was made from."""
    file = shlex.quote(file_name)
    source, identity = manifest.source, manifest.identity
    return tag(
        "section",
        tag("h2", "Check it yourself"),
        tag(
            "div",
            tag("h3", "The engine, on your machine"),
            tag(
                "pre",
                f"xinfer verify {file} --public-key PUBLIC_KEY.pem\n"
                f"xinfer benchmark {file}\n"
                f"xinfer profile {file}",
            ),
            class_="card",
        ),
        tag("div", tag("h3", "The build"), *_build(manifest, receipt, file), class_="card"),
        tag(
            "div",
            _facts(
                "Origin",
                {
                    "Model": f"{identity.name}, version {identity.version}",
                    "Licences": ", ".join(source.licences) or "none stated",
                    "Training run": source.run_id,
                    "Data set": source.dataset_digest or "none on record",
                    "Calibration data": manifest.recipe.calibration_digest,
                    "Tools": _versions(identity.producer | manifest.recipe.tools),
                    "Built by": manifest.recipe.agent,
                },
            ),
            _facts(
                "Identity",
                {
                    "Signature": SIGNATURES.get(signature, f"checked: {signature}"),
                    "Engine file": digest,
                    "Artifact": identity.digest,
                    "Source model": f"{source.onnx_digest} (ONNX opset {source.opset})",
                    "Seed": manifest.recipe.seed,
                },
            ),
            class_="two",
        ),
    )


def _build(manifest: Manifest, receipt: Receipt, file: str) -> list[Markup]:
    accuracy, settings = receipt.accuracy, manifest.recipe.settings
    if accuracy is not None and accuracy.metric not in AGREEMENT:
        return [
            tag(
                "p",
                f"{accuracy.metric} was computed by the program that built it, from labels that do "
                "not travel with the engine. The search is the same as that of xinfer build.",
                class_="note",
            )
        ]
    tried = sorted({row.precision_requested for row in receipt.candidates})
    backends = sorted({row.backend for row in receipt.candidates})
    parts = [
        "xinfer build --onnx MODEL.onnx --data HELD_OUT",
        f"--precision {','.join(tried)}",
        "--calib TRAINING" if "int8" in tried else "",
        f"--backend {','.join(backends)}",
        f"--metric {accuracy.metric} --max-drop {accuracy.budget:g}" if accuracy else "",
        f"--objective {settings.get('objective', 'throughput')} --batch {receipt.protocol.batch}",
        f"--seed {manifest.recipe.seed} -o {file}",
    ]
    return [tag("pre", " \\\n    ".join(part for part in parts if part))]


def _facts(title: str, values: dict[str, object]) -> Markup:
    rows = [
        item
        for name, value in values.items()
        if value not in (None, "")
        for item in (tag("dt", name), tag("dd", value))
    ]
    return tag("div", tag("h3", title), tag("dl", *rows), class_="card")


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
