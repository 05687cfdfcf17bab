"""What things look like in a terminal. Pure functions: values in, something printable out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ignition_client.prediction import Prediction
from ignition_client.wire import (
    CheckReport,
    Dataset,
    DatasetDetail,
    Endpoint,
    Engine,
    EngineDetail,
    InboxMessage,
    Job,
    JobEvent,
    Model,
    Question,
    Run,
    RunSnapshot,
    Stage,
    StageStatus,
    Template,
)

STYLES = {
    "succeeded": "green", "ready": "green", "done": "green", "ok": "green", "selected": "bold green",
    "running": "cyan", "leased": "cyan", "starting": "cyan", "pending": "dim", "waiting": "dim",
    "queued": "dim", "skipped": "dim", "failed": "red", "cancelled": "yellow", "over_budget": "yellow",
    "dropped": "dim", "error": "red", "warning": "yellow", "info": "cyan",
}  # fmt: skip
SYMBOLS = {
    StageStatus.WAITING: "○", StageStatus.RUNNING: "●", StageStatus.DONE: "✓",
    StageStatus.FAILED: "✗", StageStatus.SKIPPED: "–",
}  # fmt: skip

_MAX_CONFUSION = 10
"""Labels of a confusion matrix that fits a terminal."""

# --------------------------------------------------------------------------------------------- values


def size(num_bytes: float) -> str:
    """``1.5 MB``."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def duration(duration_s: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if duration_s is None:
        return ""
    if duration_s < 9.95:
        return f"{duration_s:.1f} s"
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def age(moment: datetime) -> str:
    """``3 min ago``."""
    seconds = max(0, round((datetime.now(UTC) - moment).total_seconds()))
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit} {name} ago"
    return f"{seconds // 86_400} d ago"


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def status(value: str) -> Text:
    return Text(value.replace("_", " "), style=STYLES.get(value, ""))


def table(*headers: str, rows: Iterable[Iterable[object]], title: str | None = None) -> Table:
    """A plain table; columns whose header starts with ``>`` are right-aligned; only the last one folds."""
    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for header in headers:
        right, last = header.startswith(">"), header is headers[-1]
        result.add_column(
            header.lstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=not last,
            min_width=10 if last else None,
        )
    for row in rows:
        result.add_row(
            *("" if cell is None else cell if isinstance(cell, Text) else Text(str(cell)) for cell in row)
        )
    return result


def fields(*pairs: tuple[str, object]) -> Table:
    """Names and values, one pair a line; pairs without a value are left out."""
    result = Table(box=None, show_header=False, pad_edge=False)
    result.add_column(style="dim")
    result.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value != "":
            result.add_row(name, value if isinstance(value, Text | Table) else Text(str(value)))
    return result


# ----------------------------------------------------------------------------------------------- lists


def templates(items: list[Template]) -> RenderableType:
    """What there is, and below it the settings that `--set` takes."""
    listed = table(
        "template", "name", "data", "returns",
        rows=[(t.id if t.available else f"{t.id} (planned)", t.name, t.data, t.returns) for t in items],
    )  # fmt: skip
    rows = [
        (t.id, question.title, answer)
        for t in items
        for question in t.questions
        for answer in _answers(question)
    ]
    return Group(listed, table("template", "question", "train --set", rows=rows)) if rows else listed


def _answers(question: Question) -> list[str]:
    if question.setting is not None:
        return [f"{question.setting}=…  {question.help}"]
    return [
        f"{' '.join(f'{name}={json.dumps(value)}' for name, value in choice.settings.items()) or '(default)'}"
        f"  {choice.title}"
        for choice in question.choices
    ]


def datasets(items: list[Dataset]) -> RenderableType:
    rows = [
        (d.name, d.version, d.num_files, size(d.size_bytes), status(d.check_status), age(d.created_at))
        for d in items
    ]
    return table("dataset", ">version", ">files", ">size", "check", "created", rows=rows)


def dataset(item: DatasetDetail) -> RenderableType:
    head = fields(
        ("dataset", f"{item.name} version {item.version}"),
        ("files", f"{item.num_files} ({size(item.size_bytes)})"),
        ("digest", item.digest),
        ("check", status(item.check_status)),
        ("error", item.check_error and item.check_error.message),
        ("hint", item.check_error and item.check_error.hint),
    )
    return head if item.check is None else Group(head, Text(), check(item.check))


def runs(items: list[Run]) -> RenderableType:
    rows = [
        (r.id, r.name, f"{r.dataset}:{r.dataset_version}", status(r.status), r.endpoint, age(r.created_at))
        for r in items
    ]
    return table("run", "name", "dataset", "status", "endpoint", "started", rows=rows)


def jobs(items: list[Job]) -> RenderableType:
    rows = [
        (
            j.id, j.kind, status(j.status), j.attempt, j.agent,
            j.last_event and event_line(j.last_event), duration(_span_s(j.started_at, j.finished_at)),
        )
        for j in items
    ]  # fmt: skip
    return table("job", "kind", "status", ">attempt", "agent", "doing", ">time", rows=rows)


def job(item: Job) -> RenderableType:
    return fields(
        ("job", item.id), ("kind", item.kind), ("status", status(item.status)), ("run", item.run_id),
        ("attempt", item.attempt), ("agent", item.agent), ("target", item.target),
        ("time", duration(_span_s(item.started_at, item.finished_at))),
        ("doing", item.last_event and event_line(item.last_event)),
        ("error", item.error and f"{item.error.message} ({item.error.code})"),
        ("hint", item.error and item.error.hint),
    )  # fmt: skip


def models(items: list[Model]) -> RenderableType:
    rows = [
        (m.name, m.template, m.latest_version, m.metric, number(m.value), age(m.created_at)) for m in items
    ]
    return table("model", "template", ">version", "metric", ">value", "created", rows=rows)


def engines(items: list[Engine]) -> RenderableType:
    rows = [
        (
            e.id,
            f"{e.model}:{e.model_version}",
            "current" if e.current else "",
            number(e.engine_value),
            f"{e.latency_ms:.1f}",
            f"{e.throughput_per_s:.0f}",
            f"{e.backend} {e.precision} on {e.target}",
        )
        for e in items
    ]
    return table("engine", "model", "", ">value", ">ms", ">per s", "runs on", rows=rows)


def engine(item: EngineDetail) -> RenderableType:
    head = fields(
        ("engine", item.id), ("model", f"{item.model} version {item.model_version}"), ("target", item.target),
        ("runs on", f"{item.backend} {item.precision}"), ("size", size(item.size_bytes)),
        (item.metric, f"{number(item.engine_value, 4)} (trained model {number(item.source_value, 4)})"),
        ("latency", f"{item.latency_ms:.2f} ms"), ("throughput", f"{item.throughput_per_s:.0f} per s"),
        ("digest", item.digest), ("run", item.run_id), ("current", "yes" if item.current else "no"),
    )  # fmt: skip
    measured = comparison(item.receipt)
    return Group(head, candidates(item.receipt), *([measured] if measured else []))


def predictions(items: Sequence[tuple[object, Prediction]]) -> RenderableType:
    """Answers of one endpoint, a row each, in the columns of its task."""
    if any(p.results is not None for _, p in items):
        items = [(index, one) for _, p in items for index, one in enumerate(_singles(p), start=1)]
    first = items[0][1]
    rows: list[tuple[object, ...]]
    if first.verdict is not None:
        rows = [
            (what, p.verdict, number(p.score), number(p.threshold), f"{p.confidence or 0:.0%}", _ms(p))
            for what, p in items
        ]
        return table("image", "verdict", ">score", ">threshold", ">confidence", ">ms", rows=rows)
    if first.quantiles is not None:
        return Group(*(_forecast(what, p) for what, p in items))
    if first.detections is not None:
        rows = [
            (
                what,
                found["label"],
                number(found["score"]),
                ", ".join(f"{x:.0f}" for x in found["box"]),
                _ms(p),
            )
            for what, p in items
            for found in p.detections or [{"label": "nothing found", "score": None, "box": []}]
        ]
        return table("image", "found", ">score", "box: left, top, right, bottom", ">ms", rows=rows)
    if first.shares is not None:
        rows = [
            (what, ", ".join(f"{label} {share:.1%}" for label, share in (p.shares or {}).items()), _ms(p))
            for what, p in items
        ]
        return table("image", "shares", ">ms", rows=rows)
    rows = [
        (
            what,
            ", ".join(p.labels or []) or p.label or "not sure",
            f"{p.probability if p.probability is not None else p.confidence or 0:.1%}",
            ", ".join(f"{label} {share:.1%}" for label, share in _runners_up(p)),
            _ms(p),
        )
        for what, p in items
    ]
    return table("input", "label", ">probability", "others", ">ms", rows=rows)


def _singles(several: Prediction) -> list[Prediction]:
    shared = several.to_json()
    return [Prediction(**{**shared, "results": None, **result}) for result in several.results or []]


def _runners_up(prediction: Prediction, num: int = 3) -> list[tuple[str, float]]:
    shares = prediction.probabilities or {
        entry["label"]: entry["probability"] for entry in prediction.top or []
    }
    said = {prediction.label, *(prediction.labels or [])}
    others = [(label, share) for label, share in shares.items() if label not in said]
    return sorted(others, key=lambda one: -one[1])[:num]


def _forecast(what: object, prediction: Prediction) -> RenderableType:
    quantiles = sorted((prediction.quantiles or {}).items(), key=lambda one: float(one[0]))
    rows = [
        (step, *(number(values[step - 1]) for _, values in quantiles))
        for step in range(1, (prediction.horizon or 0) + 1)
    ]
    title = Text(f"{what}, forecast in {_ms(prediction)} ms", style="dim")
    return Group(title, table(">step", *(f">{100 * float(level):g}%" for level, _ in quantiles), rows=rows))


def _ms(prediction: Prediction) -> str:
    return f"{prediction.timing_ms.get('total', 0):.1f}"


def endpoints(items: list[Endpoint]) -> RenderableType:
    rows = [
        (
            e.name,
            status(e.status),
            f"{e.model}:{e.model_version}",
            f"{e.key_prefix}…" if e.key_prefix else "–",
            e.url,
        )
        for e in items
    ]
    return table("endpoint", "status", "model", "key", "url", rows=rows)


def endpoint(item: Endpoint) -> RenderableType:
    return fields(
        ("endpoint", item.name), ("status", status(item.status)), ("url", item.url),
        ("open inference", item.open_inference_url), ("model", f"{item.model} version {item.model_version}"),
        ("engine", item.engine_id), ("run", item.run_id),
        ("key", f"{item.key_prefix}…" if item.key_prefix else "none yet: ignition endpoints rotate-key"),
        ("speedup", item.speedup and f"{item.speedup:.1f}x against the plain torch pipeline"),
        ("error", item.error and item.error.message),
    )  # fmt: skip


def inbox(items: list[InboxMessage]) -> RenderableType:
    rows = [("" if m.read else "●", age(m.created_at), m.title, m.body, m.id) for m in items]
    return table("", "when", "what", "", "id", rows=rows)


# ---------------------------------------------------------------------------------------------- a run


def event_line(event: JobEvent) -> str:
    """``Extracting features 42 % (8 s left) 120 of 300, loss 0.21``."""
    parts = [event.stage]
    if event.progress is not None:
        parts.append(f"{event.progress:.0%}")
    if event.eta_s is not None:
        parts.append(f"({duration(event.eta_s)} left)")
    details = [event.message] if event.message else []
    for name, value in event.metrics.items():
        if (figure := f"{name} {value:.4g}") not in event.message:  # "epoch 3 of 40"
            details.append(figure)
    if details:
        parts.append(", ".join(details))
    return " ".join(parts)


def stage_line(stage: Stage, last_event: JobEvent | None = None) -> Text:
    """One line of the pipeline: symbol, title, time, and what its job says while it runs."""
    text = Text(f"{SYMBOLS[stage.status]} {stage.title}", style=STYLES.get(stage.status.value, ""))
    if stage.started_at is not None:
        text.append(f"  {duration(_span_s(stage.started_at, stage.finished_at))}", style="dim")
    if stage.status is StageStatus.RUNNING and last_event is not None:
        text.append(f"  {event_line(last_event)}", style="default")
    return text


def snapshot(item: RunSnapshot) -> RenderableType:
    """All stages of a run as they stand."""
    events = {job.id: job.last_event for job in item.jobs}
    return Group(*(stage_line(stage, events.get(stage.job_id or "")) for stage in item.run.stages))


def run(item: Run) -> RenderableType:
    head = fields(
        ("run", item.id), ("name", item.name), ("template", item.template),
        ("dataset", f"{item.dataset} version {item.dataset_version}"), ("status", status(item.status)),
        ("time", duration(_span_s(item.created_at, item.finished_at))),
        ("endpoint", item.endpoint), ("model", item.model and f"{item.model} version {item.model_version}"),
        ("engine", item.engine_id),
        ("error", item.error and f"{item.error.message} ({item.error.code})"),
        ("hint", item.error and item.error.hint),
    )  # fmt: skip
    return Group(head, Text(), *(stage_line(stage) for stage in item.stages))


def check(report: CheckReport) -> RenderableType:
    """What the data check found."""
    parts: list[RenderableType] = [
        Text("Data check", style="bold"),
        fields(
            (
                report.item,
                f"{report.num_items:,} ({size(report.size_bytes)}), checked in {duration(report.duration_s)}",
            ),
            ("layout", "" if "Layout" in report.facts else report.layout.replace("_", " ")),
            ("classes", ", ".join(f"{c.name} {c.num_items:,}" for c in report.classes)),
            *((name.lower(), value) for name, value in report.facts.items()),
            ("suits", ", ".join(report.suits)),
        ),
    ]
    if report.findings:
        rows = [(status(f.severity), f.num, f.title, f.hint) for f in report.findings]
        parts.append(table("finding", ">count", "", "what to do", rows=rows))
    else:
        parts.append(Text("No findings.", style="green"))
    return Group(*parts)


def training(report: dict[str, Any]) -> RenderableType:
    """What ``report.json`` (ARCHITECTURE 10.6) says in numbers, of any task."""
    metrics = [
        (name.replace("_", " "), number(m["value"]), f"{number(m.get('low'))} – {number(m.get('high'))}")
        for name, m in report.get("metrics", {}).items()
    ]
    leaderboard = [
        (
            "→" if row["kept"] else "", row["title"],
            "baseline" if row.get("kind") == "baseline" else "",
            _metric(row.get("validation"), report), _metric(row.get("test"), report),
            duration(row["fit_s"]), row.get("note"),
        )
        for row in report.get("leaderboard", [])
    ]  # fmt: skip
    parts: list[RenderableType] = [
        table("On the held-out test part", ">value", ">95 % interval", rows=metrics),
        Text(report.get("protocol", ""), style="dim"),
        Text(),
    ]
    confusion = report.get("confusion")
    if confusion and len(confusion["labels"]) <= _MAX_CONFUSION:
        labels, matrix = confusion["labels"], confusion["matrix"]
        rows = [(label, *row) for label, row in zip(labels, matrix, strict=True)]
        parts.append(table("truth", *(f">said {label}" for label in labels), rows=rows))
    parts.append(table("", "model tried", "", ">validation", ">test", ">time", "", rows=leaderboard))
    if rule := (report.get("operating_point") or {}).get("rule"):
        parts.append(Text(f"Operating point: {rule}", style="dim"))
    return Group(*parts)


def candidates(receipt: dict[str, Any]) -> RenderableType:
    """The engine search (``receipt.json``, ARCHITECTURE 10.5); candidates never tried get one line."""
    rows, untried = [], Counter[str]()
    for c in receipt["candidates"]:
        latency, reason = c.get("latency_ms") or {}, c.get("reason")
        if not latency and c["status"] == "dropped":
            untried[reason or "no reason given"] += 1
            continue
        rows.append(
            (
                c["id"].replace("/", " ", 1),
                number(latency.get("p50"), 1), number(c.get("throughput_per_s"), 0),
                number(c.get("accuracy")),
                Text.assemble(status(c["status"]), f": {reason}" if reason else ""),
            )
        )  # fmt: skip
    tried = table("engine search", ">ms", ">per s", ">accuracy", "verdict", rows=rows)
    rest = [Text(f"{num} more not tried: {reason}", style="dim") for reason, num in untried.items()]
    return Group(tried, *rest, Text()) if rest else tried


def comparison(receipt: dict[str, Any]) -> RenderableType | None:
    """The measured ratio against the plain pipeline; None where it was not measured."""
    measured = receipt.get("comparison")
    if not measured:
        return None
    text = Text(f"{measured['speedup']:.1f}x", style="bold green")
    text.append(f" the throughput of {measured['peer']}", style="default")
    text.append(
        f" ({measured['throughput_per_s']:.0f} against {measured['peer_throughput_per_s']:.0f} per s,"
        f" {measured['latency_ms']:.1f} against {measured['peer_latency_ms']:.1f} ms,"
        f" measured interleaved on {measured['num_images']} requests)",
        style="dim",
    )
    return text


_JSON_BODIES = {"text": '{"text": "Where is my parcel?"}', "series": '{"history": [112, 118, 132, 129, 121]}'}


def curl_snippet(url: str, key: str, image: str, kind: str = "image") -> str:
    """A command that works as it is printed; `kind` is what the endpoint is asked about."""
    start = f"curl -sS -X POST {url} \\\n  -H 'Authorization: Bearer {key}' \\\n  "
    if kind in _JSON_BODIES:
        return f"{start}-H 'Content-Type: application/json' -d '{_JSON_BODIES[kind]}'"
    quoted = "'" + image.replace("'", "'\\''") + "'"
    return f"{start}--data-binary @{quoted}"


def python_snippet(url: str, key: str, image: str, kind: str = "image") -> str:
    """A script that needs the standard library alone."""
    if kind in _JSON_BODIES:
        body = f"data = json.dumps({_JSON_BODIES[kind]}).encode()\n"
        headers = f"headers = {{'Authorization': 'Bearer {key}', 'Content-Type': 'application/json'}}\n"
    else:
        body = f"data = open({image!r}, 'rb').read()\n"
        headers = f"headers = {{'Authorization': 'Bearer {key}'}}\n"
    return (
        "import json, urllib.request\n"
        f"{body}{headers}"
        f"request = urllib.request.Request({url!r}, data=data, headers=headers)\n"
        "print(json.load(urllib.request.urlopen(request)))"
    )


def _metric(values: dict[str, float | None] | None, report: dict[str, Any]) -> str:
    """The metric that decides, or the first that there is."""
    if not values:
        return "–"
    return number(values.get(report.get("metric", ""), next(iter(values.values()))))


def _span_s(start: datetime | None, end: datetime | None) -> float | None:
    if start is None:
        return None
    return max(0.0, ((end or datetime.now(UTC)) - start).total_seconds())
