"""The receipt as a page: verdict first, then the evidence, then how to check it."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from importlib import resources
from pathlib import Path

from xinfer.manifest import Manifest, Receipt
from xinfer.package import EnginePackage
from xinfer.report import evidence, origin
from xinfer.report.charts import budget
from xinfer.report.facts import Speedup, factor, mebibytes, number, objective_of, speedups
from xinfer.report.markup import Markup, join, tag

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Even if something slipped through the escaping, a browser would neither run nor fetch it."""


EQUAL = 0.03
"""Speeds that differ less are called the same."""


def write_report(
    package: EnginePackage, path: str | os.PathLike[str], *, signature: str | None = None
) -> None:
    """Writes an engine's receipt as an HTML file; it appears whole or not at all.

    Args:
        package: The engine.
        path: The HTML file; replaced if it exists.
        signature: What is known about the signature (`render`); default: whether there is one.
    """
    text = render(
        package.manifest,
        package.receipt,
        digest=package.digest,
        file_name=package.path.name,
        size_bytes=package.path.stat().st_size,
        signature=signature or ("signed" if package.signed else "unsigned"),
    )
    destination = Path(path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(destination)
    finally:
        Path(temporary).unlink(missing_ok=True)


def render(
    manifest: Manifest,
    receipt: Receipt,
    *,
    digest: str,
    file_name: str,
    size_bytes: int,
    signature: str,
) -> str:
    """The page.

    Args:
        manifest, receipt: The engine's documents; whatever stands in them is escaped.
        digest: Content address of the engine file.
        file_name, size_bytes: Of the engine file.
        signature: ``verified``, ``verified: <publisher>``, ``signed`` (not checked), ``unsigned`` or
            ``built here``.

    Returns:
        HTML that needs nothing else.
    """
    sections = (
        evidence.baselines(receipt, objective_of(manifest)),
        evidence.candidates(receipt),
        evidence.latency(receipt),
        evidence.classes(receipt),
        evidence.layers(receipt),
        origin.machine(manifest, receipt),
        origin.reproduce(manifest, receipt, digest=digest, file_name=file_name, signature=signature),
    )
    style = (resources.files(__package__ or "xinfer.report") / "style.css").read_text(encoding="utf-8")
    title = f"{manifest.identity.name} {manifest.identity.version}: engine receipt"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag(
            "main",
            _header(manifest, receipt, size_bytes, signature),
            *sections,
            tag("footer", f"Made by xInfer from the receipt inside {file_name} ({digest})."),
        ),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _header(manifest: Manifest, receipt: Receipt, size_bytes: int, signature: str) -> Markup:
    mark = tag(
        "svg", tag("path", d="M3 1h4.2L12 8l4.8-7H21l-6.9 10L21 21h-4.2L12 14l-4.8 7H3l6.9-10z"),
        class_="mark-x", viewBox="0 0 24 22", aria_hidden="true",
    )  # fmt: skip
    best = speedups(receipt, objective=objective_of(manifest))
    return tag(
        "header",
        tag(
            "p",
            mark,
            tag("b", f"{manifest.identity.name} · version {manifest.identity.version}"),
            tag("span", manifest.compatibility.target),
            tag("span", _date(receipt.created_at)),
            _signature_pill(signature),
            class_="eyebrow",
        ),
        tag("h1", headline(manifest, receipt)),
        tag("p", *_lede(manifest, receipt, best), class_="lede"),
        _tiles(manifest, receipt, size_bytes),
    )


def headline(manifest: Manifest, receipt: Receipt) -> str:
    """The verdict in one line."""
    objective = objective_of(manifest)
    winner = receipt.selected
    best = speedups(receipt, objective=objective)
    gain = next((each for each in best if each.against.startswith("fp32")), None)
    value = None if gain is None else gain.by(objective)
    right = ""
    if receipt.accuracy and receipt.accuracy.drop <= receipt.accuracy.budget:
        # Without a data set nobody knows what is right, only what the source model says.
        measured = manifest.source.dataset_digest is not None
        right = ", and still right" if measured else ", and true to its source"
    if value is not None and value >= 1.05:
        return f"{factor(value)} faster than fp32 on the same runtime{right}"
    if winner.precision_requested == "fp32":
        return f"fp32 on {winner.backend}: the fastest engine within the accuracy budget"
    return f"{winner.precision_executed or winner.precision_requested} on {winner.backend}{right}"


def _lede(manifest: Manifest, receipt: Receipt, best: tuple[Speedup, ...]) -> list[object]:
    accuracy, parts = receipt.accuracy, list[object]()
    objective = objective_of(manifest)
    tried = len(receipt.candidates)
    parts += ["The winner of ", tag("b", f"{tried} candidate{'s' * (tried != 1)}"), " is "]
    parts += [tag("b", receipt.selected.id), ", chosen for ", objective, ". "]
    beaten = [each for each in best if not each.against.startswith("fp32")]
    told = []
    for each in beaten:
        value = each.by(objective)
        if value is not None:
            about = f"{factor(value)} the speed" if abs(value - 1) >= EQUAL else "about the speed"
            told.append(join(f"{about} of the {each.against} (", each.candidate.id, ")"))
    if told:
        parts += ["It has ", told[0], *(join(" and ", each) for each in told[1:]), ". "]
    if accuracy:
        lost = max(0.0, accuracy.drop)
        parts += [
            f"Of {accuracy.metric} it lost ",
            tag("b", f"{lost:.4f} of the {accuracy.budget:.4f}"),
            f" that was allowed, on {accuracy.num_samples} held-out samples.",
        ]
        if manifest.source.dataset_digest is None:
            parts.append(
                " No data set is on record for these samples: read it as agreement with the source model."
            )
    return parts


def _tiles(manifest: Manifest, receipt: Receipt, size_bytes: int) -> Markup:
    row, accuracy = receipt.selected, receipt.accuracy
    latency = row.latency_ms
    tiles = [
        _tile(
            "Latency, median",
            number(latency.p50 if latency else None),
            "ms",
            f"p95 {number(latency.p95)} ms · p99 {number(latency.p99)} ms" if latency else "not measured",
        ),
        _tile(
            "Throughput",
            number(row.throughput_per_s),
            "per s",
            f"{number(row.cpu_ms_per_item)} ms of CPU per sample"
            + (f", batch {receipt.protocol.batch}" if receipt.protocol.batch > 1 else ""),
        ),
    ]
    if accuracy:
        tiles.append(
            _tile(
                f"Accuracy, {accuracy.metric}",
                f"{accuracy.engine_value:.4f}",
                "",
                f"source {accuracy.source_value:.4f} · lost {max(0.0, accuracy.drop):.4f} "
                f"of {accuracy.budget:.4f}",
                budget(accuracy.drop, accuracy.budget),
            )
        )
    tiles.append(
        _tile(
            "Executes",
            manifest.precision.executed,
            "",
            f"{mebibytes(row.peak_memory_bytes)} of memory · loads in {number(row.load_ms)} ms · "
            f"{mebibytes(size_bytes)} file",
        )
    )
    return tag("div", *tiles, class_="tiles")


def _tile(title: str, value: str, unit: str, detail: str, chart: Markup | None = None) -> Markup:
    return tag(
        "div",
        tag("h3", title),
        tag("p", value, " " if unit else None, tag("small", unit) if unit else None, class_="value"),
        chart,
        tag("p", detail),
        class_="tile",
    )


def _signature_pill(signature: str) -> Markup:
    kind, text = {
        "signed": ("", "signed, not checked here"),
        "unsigned": ("warn", "not signed"),
        "built here": ("", "not signed, built on this machine"),
    }.get(signature, ("good", f"signature {signature}"))
    return tag("span", text, class_=f"pill {kind}".strip())


def _date(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%-d %B %Y, %H:%M %Z}".strip()
    except ValueError:
        return text
