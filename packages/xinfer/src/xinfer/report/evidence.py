"""The measured part of the page: baselines, candidates, latency, classes, layers."""

from __future__ import annotations

from collections import Counter

from xinfer.manifest import Candidate, ClassAccuracy, Receipt
from xinfer.report import charts
from xinfer.report.facts import factor, mebibytes, number, speedups
from xinfer.report.markup import EMPTY, Markup, join, tag

MAX_CLASSES = 30
MAX_LAYERS = 15

STATUS = {
    "selected": ("win", "chosen"),
    "ok": ("good", "within budget"),
    "over_budget": ("bad", "over budget"),
    "failed": ("bad", "failed"),
    "dropped": ("", "dropped"),
}
"""Status -> the pill's kind and words."""


def baselines(receipt: Receipt, objective: str) -> Markup:
    """The winner next to the candidates that people would have taken otherwise."""
    best = speedups(receipt, objective=objective)
    if not best:
        return EMPTY
    winner = receipt.selected
    rows: list[tuple[str, Candidate, float | None, float | None]] = [("The winner", winner, None, None)]
    rows += [(each.against, each.candidate, each.latency, each.throughput) for each in best]
    slowest_ms = max((row.latency_ms.p50 for _, row, *_ in rows if row.latency_ms), default=0.0)
    fastest = max((row.throughput_per_s or 0.0 for _, row, *_ in rows), default=0.0)
    items = []
    for who, row, latency, throughput in rows:
        kind = "win" if row is winner else ""
        p50 = row.latency_ms.p50 if row.latency_ms else None
        items.append(
            tag(
                "li",
                tag(
                    "div",
                    tag("b", who if who.startswith("fp32") else who.capitalize()),
                    tag("span", row.id),
                    class_="who",
                ),
                _measure(p50, "ms", latency, slowest_ms, kind, better="less time"),
                _measure(row.throughput_per_s, "per s", throughput, fastest, kind, better="more"),
            )
        )
    return tag(
        "section",
        tag("h2", "Against the baselines"),
        tag("p", "Median latency of single inferences (shorter is better), and throughput under load (longer "
            "is better). All candidates were measured interleaved on the same machine."),
        tag("ul", *items, class_="card versus"),
        peer(receipt),
    )  # fmt: skip


def _measure(
    value: float | None, unit: str, gain: float | None, most: float, kind: str, *, better: str
) -> Markup:
    if value is None:
        return tag("div", tag("p", tag("span", "not measured"), class_="num"))
    right = None
    if gain is not None:
        right = tag("span", f"{factor(gain)} slower" if gain >= 1 else f"{factor(1 / gain)} faster")
    text = tag("p", tag("b", f"{number(value)} {unit}"), right, class_="num")
    title = f"{number(value)} {unit}, {better} is better"
    return tag("div", text, charts.bar(value / most if most else 0, kind=kind, title=title))


def peer(receipt: Receipt) -> Markup:
    """The whole pipeline against what was there before, where it was measured."""
    found = receipt.comparison
    if found is None:
        return EMPTY
    return tag(
        "div",
        tag("h3", f"The whole pipeline against {found.peer}"),
        tag(
            "p",
            tag("b", f"{factor(found.speedup)} the throughput: "),
            f"{number(found.throughput_per_s)} against {number(found.peer_throughput_per_s)} per s, "
            f"{number(found.latency_ms)} against {number(found.peer_latency_ms)} ms, "
            f"{number(found.cpu_ms_per_item)} against {number(found.peer_cpu_ms_per_item)} ms of CPU per "
            f"request. Reading the input included, on {found.num_images} requests.",
            class_="note",
        ),
        class_="card",
    )


def candidates(receipt: Receipt) -> Markup:
    """Every candidate with its numbers, and why it was not chosen."""
    rows = receipt.candidates
    slowest_ms = max((row.latency_ms.p50 for row in rows if row.latency_ms), default=0.0)
    fastest = max((row.throughput_per_s or 0.0 for row in rows), default=0.0)
    header = ("Candidate", "Status", "Executed", "p50 ms", "p99 ms", "Per s", "CPU ms", "Memory", "Accuracy")
    numeric = {3, 4, 5, 6, 7, 8}
    counts = Counter(str(row.status) for row in rows)
    summary = ", ".join(f"{counts[status]} {STATUS[status][1]}" for status in STATUS if counts[status])
    order = {"selected": 0, "ok": 1, "over_budget": 2, "dropped": 3, "failed": 4}
    ranked = sorted(rows, key=lambda row: (order[row.status], -(row.throughput_per_s or 0)))
    return tag(
        "section",
        tag("h2", "Everything that was tried"),
        tag("p", f"{len(rows)} candidates: {summary}. Crashes and lost budgets are rows too."),
        tag(
            "div",
            tag(
                "table",
                tag(
                    "thead",
                    tag("tr", *(tag("th", text, class_="n" if index in numeric else None)
                                for index, text in enumerate(header))),
                ),
                tag("tbody", *(_candidate(row, slowest_ms, fastest) for row in ranked)),
                class_="wide",
            ),
            class_="card table",
        ),
    )  # fmt: skip


def _candidate(row: Candidate, slowest_ms: float, fastest: float) -> Markup:
    kind, words = STATUS[row.status]
    colour = "win" if row.status == "selected" else ""
    name = join(row.id, tag("span", row.reason, class_="reason") if row.reason else None)
    p50 = row.latency_ms.p50 if row.latency_ms else None
    return tag(
        "tr",
        tag("td", name),
        tag("td", tag("span", words, class_=f"pill {kind}".strip()), data_label="Status"),
        _cell("Executed", row.precision_executed or "–", numeric=False),
        _cell("p50 ms", number(p50), chart=None if p50 is None else (p50 / slowest_ms, colour)),
        _cell("p99 ms", number(row.latency_ms.p99 if row.latency_ms else None)),
        _cell(
            "Per s",
            number(row.throughput_per_s),
            chart=(row.throughput_per_s / fastest, colour) if row.throughput_per_s else None,
        ),
        _cell("CPU ms", number(row.cpu_ms_per_item)),
        _cell("Memory", mebibytes(row.peak_memory_bytes)),
        _cell("Accuracy", "–" if row.accuracy is None else f"{row.accuracy:.4f}"),
        class_="selected"
        if row.status == "selected"
        else "out"
        if row.status in ("failed", "dropped")
        else None,
    )


def _cell(label: str, text: str, *, numeric: bool = True, chart: tuple[float, str] | None = None) -> Markup:
    kinds = " ".join(
        name for name, on in (("n", numeric), ("chart", chart is not None), ("none", text == "–")) if on
    )
    drawn = None if chart is None else charts.bar(chart[0], kind=chart[1])
    return tag("td", text, drawn, class_=kinds or None, data_label=label)


def latency(receipt: Receipt) -> Markup:
    """How single inferences of the winner are spread."""
    if receipt.latency_histogram_ms is None:
        return EMPTY
    chart = charts.histogram(receipt.latency_histogram_ms, receipt.selected.latency_ms)
    if not chart:
        return EMPTY
    total = sum(receipt.latency_histogram_ms.counts)
    return tag(
        "section",
        tag("h2", "Latency of the winner"),
        tag("p", f"{total:,} single inferences, one after the other, in milliseconds. The slowest per cent "
            "stands in the last column."),
        tag("div", chart, class_="card"),
    )  # fmt: skip


def classes(receipt: Receipt) -> Markup:
    """Each class's metric, of the source model and of the engine; those that lost most come first."""
    if not receipt.classes:
        return EMPTY
    ranked = sorted(receipt.classes, key=lambda row: (row.engine_value - row.source_value, row.label))
    shown = ranked[:MAX_CLASSES]
    values = [value for row in shown for value in (row.source_value, row.engine_value)]
    low, high = min(values), max(values)
    low = max(0.0, low - 0.1 * (high - low)) if low >= 0 else low
    rest = len(ranked) - len(shown)
    metric = receipt.accuracy.metric if receipt.accuracy else "Accuracy"
    return tag(
        "section",
        tag("h2", "Accuracy per class"),
        tag("p", f"{metric}: a ring is the source model, a dot the engine; from {low:.3f} to {high:.3f}. "
            "Classes that lost most stand first." + (f" {rest} more lost less." if rest else "")),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", tag("th", "Class"), tag("th", ""), tag("th", "Change", class_="n"),
                                 tag("th", "Engine", class_="n"), tag("th", "Samples", class_="n"))),
                tag("tbody", *(_class(row, low, high) for row in shown)),
                class_="classes",
            ),
            class_="card table",
        ),
    )  # fmt: skip


def _class(row: ClassAccuracy, low: float, high: float) -> Markup:
    return tag(
        "tr",
        tag("td", row.label),
        tag("td", charts.dumbbell(row.source_value, row.engine_value, low, high), class_="chart"),
        tag("td", f"{row.engine_value - row.source_value:+.4f}", class_="n"),
        tag("td", f"{row.engine_value:.4f}", class_="n"),
        tag("td", f"{row.num_samples:,}", class_="n"),
    )


def layers(receipt: Receipt) -> Markup:
    """Where the time of one inference goes."""
    if not receipt.layers:
        return EMPTY
    by_precision = Counter[str]()
    by_type = Counter[str]()
    for layer in receipt.layers:
        by_precision[layer.precision] += layer.share  # type: ignore[assignment]
        by_type[layer.type] += layer.share  # type: ignore[assignment]
    ranked = sorted(receipt.layers, key=lambda layer: layer.share, reverse=True)
    shown = ranked[:MAX_LAYERS]
    most = max(layer.share for layer in shown) or 1.0
    colours = {name: f"c{index % 6}" for index, (name, _) in enumerate(by_precision.most_common())}
    items = [
        tag(
            "li",
            tag("span", layer.name, " ", tag("span", f"{layer.type} · {layer.precision}"), class_="name"),
            tag("b", f"{layer.share:.1%} · {number(layer.time_ms)} ms"),
            charts.bar(layer.share / most, kind=colours[layer.precision]),
        )
        for layer in shown
    ]
    rest = sum(layer.share for layer in ranked[MAX_LAYERS:])
    return tag(
        "section",
        tag("h2", "Where the time goes"),
        tag("p", f"{len(receipt.layers)} layers of the compiled engine, profiled one by one, the costliest "
            "first. What executes them is read back from the runtime."),
        tag(
            "div",
            tag("div", tag("h3", "By precision"), _spread(by_precision), class_="card"),
            tag("div", tag("h3", "By kind of layer"), _spread(by_type), class_="card"),
            class_="two",
        ),
        tag(
            "div",
            tag("ul", *items, class_="layers"),
            tag("p", f"The next {len(receipt.layers) - len(shown)} layers take {rest:.1%}.", class_="note")
            if rest
            else None,
            class_="card",
        ),
    )  # fmt: skip


def _spread(shares: Counter[str]) -> Markup:
    """The five largest shares and what is left."""
    total = sum(shares.values()) or 1.0
    parts = [(name, value / total) for name, value in shares.most_common(5)]
    rest = 1 - sum(value for _, value in parts)
    if rest > 0.005:
        parts.append(("other", rest))
    return charts.stack(parts)
