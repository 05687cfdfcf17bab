"""Charts as inline SVG. Lengths across are per cent, so that they fit any width and text keeps its size."""

from __future__ import annotations

from collections.abc import Sequence

from xinfer.manifest import Histogram, Latency
from xinfer.report.facts import number
from xinfer.report.markup import EMPTY, Markup, join, tag

HEIGHT = 200
AXIS = 26
LABELS = 54


def bar(share: float, *, kind: str = "", title: str | None = None) -> Markup:
    """A bar of a share of its track, 0..1."""
    width = min(1.0, max(0.0, share)) * 100
    return tag(
        "svg",
        tag("title", title) if title else EMPTY,
        tag("rect", class_="track", width="100%", height="100%", rx=3),
        tag("rect", class_=f"fill {kind}".strip(), width=f"{max(width, 0.6):.2f}%", height="100%", rx=3),
        class_="bar",
        role="img" if title else None,
        aria_hidden=None if title else "true",
    )


def budget(drop: float, allowed: float) -> Markup:
    """How much of the accuracy budget is used."""
    used = min(1.0, max(0.0, drop / allowed)) if allowed > 0 else float(drop > 0)
    return bar(used, kind="good" if drop <= allowed else "bad", title=f"{used:.0%} of the budget is used")


def stack(parts: Sequence[tuple[str, float]]) -> Markup:
    """Shares of a whole next to each other, with a legend."""
    offset, pieces, legend = 0.0, [], []
    for index, (name, share) in enumerate(parts):
        colour = f"c{index % 6}"
        pieces.append(
            tag("rect", class_=colour, x=f"{offset * 100:.2f}%", width=f"{share * 100:.2f}%", height="100%")
        )
        legend.append(tag("li", tag("i", class_=f"dot {colour}"), name, " ", tag("b", f"{share:.0%}")))
        offset += share
    title = ", ".join(f"{name} {share:.0%}" for name, share in parts)
    return join(
        tag("svg", tag("title", title), *pieces, class_="stack", role="img"),
        tag("ul", *legend, class_="legend"),
    )


def dumbbell(source: float, engine: float, low: float, high: float) -> Markup:
    """Two values on one scale: a ring for the source model, a dot for the engine."""
    span = (high - low) or 1.0

    def place(value: float) -> str:
        # Room for the circles at both ends.
        return f"{2 + 96 * min(1.0, max(0.0, (value - low) / span)):.2f}%"

    kind = "worse" if engine < source else "better"
    return tag(
        "svg",
        tag("title", f"source model {source:.4f}, engine {engine:.4f}"),
        tag("line", class_="track", x1="0", x2="100%", y1=9, y2=9),
        tag("line", class_=f"link {kind}", x1=place(source), x2=place(engine), y1=9, y2=9),
        tag("circle", class_="ring", cx=place(source), cy=9, r=5),
        tag("circle", class_=f"spot {kind}", cx=place(engine), cy=9, r=4),
        class_="dumbbell",
        role="img",
    )


def histogram(values: Histogram, latency: Latency | None) -> Markup:
    """How often which latency occurred, with the percentiles marked."""
    edges, counts = values.edges, values.counts
    if len(edges) != len(counts) + 1 or not counts or edges[-1] <= edges[0] or max(counts) <= 0:
        return EMPTY
    low, span, top = edges[0], edges[-1] - edges[0], max(counts)

    def across(value: float) -> float:
        return 100 * (value - low) / span

    plot = HEIGHT - AXIS - LABELS
    columns = []
    for index, count in enumerate(counts):
        left, right = across(edges[index]), across(edges[index + 1])
        height = plot * count / top
        columns.append(
            tag(
                "rect",
                class_="column",
                x=f"{left + 0.1:.3f}%",
                width=f"{max(right - left - 0.2, 0.1):.3f}%",
                y=f"{LABELS + plot - height:.1f}",
                height=f"{height:.1f}",
            )
        )
    marks = _percentile_marks(latency, low, low + span, across) if latency else []
    base = LABELS + plot
    ticks = []
    for step in range(5):
        anchor = ("start", "middle", "middle", "middle", "end")[step]
        place = f"{25 * step}%"
        text = number(low + span * step / 4, 4)
        ticks.append(tag("text", text, x=place, y=base + 19, text_anchor=anchor, class_="tick"))
    axis = tag("line", class_="axis", x1="0", x2="100%", y1=base, y2=base)
    label = "Latency of single inferences in milliseconds: " + (
        f"median {number(latency.p50)}, p95 {number(latency.p95)}, p99 {number(latency.p99)}"
        if latency
        else f"{number(low)} to {number(low + span)}"
    )
    return tag(
        "svg", tag("title", label), *columns, axis, *marks, *ticks, class_="histogram", role="img",
        height=HEIGHT,
    )  # fmt: skip


def _percentile_marks(latency: Latency, low: float, high: float, across: object) -> list[Markup]:
    """Lines at the percentiles. Labels stand at three heights, so that close ones do not overlap."""
    assert callable(across)
    marks = []
    for row, (name, value) in enumerate((("p50", latency.p50), ("p95", latency.p95), ("p99", latency.p99))):
        shown = min(max(value, low), high)
        place = across(shown)
        anchor, shift = ("end", -5) if place > 60 else ("start", 5)
        y = 12 + 14 * row
        marks.append(
            tag(
                "line",
                class_=f"mark {name}",
                x1=f"{place:.2f}%",
                x2=f"{place:.2f}%",
                y1=y + 3,
                y2=HEIGHT - AXIS,
            )
        )
        marks.append(
            tag(
                "text", f"{name} {number(value)} ms", x=f"{place:.2f}%", dx=shift, y=y,
                text_anchor=anchor, class_="label",
            )
        )  # fmt: skip
    return marks
