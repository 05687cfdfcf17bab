"""What `backends.py` makes of its measurements: who counts, ratios, shares of the peak, the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from backend_models import Workload, operations
from backend_peers import ENGINE, REFERENCE

MODES = ("latency", "throughput")
MIN_COSINE, MAX_DROP = 0.99, 0.01
TARGET = 0.97
"""Share of the best peer's speed that every engine must reach."""


@dataclass
class Row:
    """What was measured of one peer."""

    name: str
    errors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)
    cosine: dict[str, float] = field(default_factory=dict)
    centred_cosine: dict[str, float] = field(default_factory=dict)
    metric: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def value(self, mode: str, key: str) -> float | None:
        """Median over rounds."""
        found = [each[key] for each in self.rounds.get(mode, []) if key in each]
        return median(found) if found else None


def eligible(row: Row, mode: str, reference: Row, workload: Workload) -> str | None:
    """None where a peer's answers are good enough; else the reason why it does not count."""
    if mode not in row.rounds or mode not in row.cosine:
        return row.errors.get(mode, "not measured")
    if workload.evaluate is not None:
        drop = reference.metric[mode] - row.metric[mode]
        return None if drop <= MAX_DROP + 1e-9 else f"{workload.metric} falls by {drop:.4f}"
    if row.cosine[mode] >= MIN_COSINE:
        return None
    return f"cosine {row.cosine[mode]:.4f} is below {MIN_COSINE}"


def best_throughput(row: Row) -> float | None:
    """Inferences per second, of many streams or of one on all cores, whichever is more."""
    found = []
    many = row.value("throughput", "throughput_per_s")
    one = row.value("latency", "latency_ms")
    if many is not None:
        found.append(many)
    if one is not None and row.name != ENGINE:  # our engine is held to what it was built for
        found.append(1e3 / one)
    return max(found, default=None)


def ratio(engine: Row, peer: Row, mode: str) -> float | None:
    """How many times faster the engine is than a peer."""
    if mode == "throughput":
        ours, theirs = best_throughput(engine), best_throughput(peer)
        many = peer.value("throughput", "throughput_per_s")
        if ours is None or theirs is None:
            return None
        if many is None or theirs > many:
            return ours / theirs
    key = "latency_ms" if mode == "latency" else "throughput_per_s"
    pairs = zip(engine.rounds.get(mode, []), peer.rounds.get(mode, []), strict=False)
    ratios = [(b[key] / a[key]) if mode == "latency" else (a[key] / b[key]) for a, b in pairs]
    return median(ratios) if ratios else None


def fallback(candidates: list[dict[str, Any]], selected: str) -> str | None:
    """Why the engine is not INT8 throughout; None if INT8 was never in the way of the budget."""
    refused = [
        row for row in candidates if "int8" in row["precision"] and row["status"] in ("over_budget", "failed")
    ]
    if not refused:
        return None
    why = "; ".join(f"{row['id']}: {row['reason'] or row['status']}" for row in refused)
    return f"{selected} was chosen, because {why}"


def summary(
    workload: Workload, folder: Path, rows: dict[str, Row], engines: dict[str, Any], peak: Any
) -> Any:
    """One model's part of the result."""
    work = operations(folder / "model.onnx")
    reference, engine = rows[REFERENCE], rows[ENGINE]
    result: dict[str, Any] = {
        "weights": workload.weights,
        "data": workload.data,
        "num_samples": len(workload.samples),
        "num_calibration": len(workload.calibration),
        "metric": workload.metric,
        "gigaoperations": round(work / 1e9, 4),
        "builds": engines,
        "peers": {},
        "ratios": {},
    }
    for name, row in rows.items():
        latency, throughput = row.value("latency", "latency_ms"), best_throughput(row)
        share = {}
        for mode, per_s in (("latency", latency and 1e3 / latency), ("throughput", throughput)):
            main_precision = row.precision.get(mode, "fp32").split("+")[0]
            if per_s and main_precision in peak:
                share[mode] = round(100 * work * per_s / 1e9 / peak[main_precision]["gflops"], 1)
        result["peers"][name] = {
            "errors": row.errors,
            "precision": row.precision,
            "latency_ms": latency and round(latency, 4),
            "latency_p99_ms": row.value("latency", "p99_ms"),
            "throughput_per_s": throughput and round(throughput, 2),
            "throughput_many_streams_per_s": row.value("throughput", "throughput_per_s"),
            "cpu_ms": {mode: row.value(mode, "cpu_ms") for mode in MODES},
            "cosine": row.cosine,
            "centred_cosine": row.centred_cosine,
            "metric": row.metric,
            "does_not_count": {mode: eligible(row, mode, reference, workload) for mode in MODES},
            "percent_of_peak": share,
            "notes": row.notes,
            "rounds": row.rounds,
        }
    for mode in MODES:
        ratios = {
            name: ratio(engine, row, mode)
            for name, row in rows.items()
            if name != ENGINE and eligible(row, mode, reference, workload) is None
        }
        known = {name: value for name, value in ratios.items() if value is not None}
        best = min(known, key=lambda name: known[name]) if known else None
        ours = eligible(engine, mode, reference, workload)
        result["ratios"][mode] = {
            "best_peer": best,
            "to_best_peer": best and round(known[best], 4),
            "to_torch_eager": known.get(REFERENCE) and round(known[REFERENCE], 3),
            "to_each": {name: round(value, 4) for name, value in known.items()},
            "engine_at_equal_accuracy": ours is None,
            "engine_reason": ours,
            "holds": best is not None and ours is None and known[best] >= TARGET,
        }
    return result


def table(name: str, result: dict[str, Any]) -> str:
    """One model's rows for people."""
    lines = [f"\n{name}: {result['weights']}; {result['data']}; {result['gigaoperations']:.2f} G operations"]
    lines.append(
        f"  {'':26s} {'precision':>16s} {'ms':>9s} {'per s':>9s} {'cpu ms':>8s} {'cosine':>7s} "
        f"{'metric':>7s} {'% peak':>11s}"
    )
    for peer, row in result["peers"].items():
        if row["latency_ms"] is None and row["throughput_per_s"] is None:
            lines.append(f"  {peer:26s} failed: {next(iter(row['errors'].values()), '')[:90]}")
            continue
        share = "/".join(f"{row['percent_of_peak'].get(mode, 0):.0f}" for mode in MODES)
        metric = row["metric"].get("latency")
        reason = next((why for why in row["does_not_count"].values() if why), "")
        lines.append(
            f"  {peer:26s} {row['precision'].get('latency', ''):>16s} {row['latency_ms'] or 0:9.3f} "
            f"{row['throughput_per_s'] or 0:9.1f} {row['cpu_ms']['throughput'] or 0:8.2f} "
            f"{row['cosine'].get('latency', 0):7.4f} {'' if metric is None else f'{metric:7.4f}':>7s} "
            f"{share:>11s}  {reason[:60]}"
        )
    for mode, ratios in result["ratios"].items():
        lines.append(
            f"  {mode}: {ratios['to_best_peer']} of {ratios['best_peer']}, "
            f"{ratios['to_torch_eager']} x torch eager{'' if ratios['holds'] else f'  << below {TARGET}'}"
        )
        if result["builds"].get(mode, {}).get("fallback"):
            lines.append(f"  {mode} fallback: {result['builds'][mode]['fallback'][:200]}")
    return "\n".join(lines)
