"""What a receipt says, worked out: who was beaten by how much, and what the numbers look like."""

from __future__ import annotations

from dataclasses import dataclass

from xinfer.manifest import Candidate, Manifest, Receipt


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How much faster the winner is than another candidate; None where it was not measured."""

    against: str
    """What the other one is: ``fp32 on the same backend``."""
    candidate: Candidate
    latency: float | None
    throughput: float | None

    def by(self, objective: str) -> float | None:
        """The one of the two that counts for an objective."""
        return self.latency if objective == "latency" else self.throughput

    def __str__(self) -> str:
        parts = [
            f"{value:.2f}x {what}"
            for value, what in ((self.throughput, "under load"), (self.latency, "one by one"))
            if value is not None
        ]
        return f"{' and '.join(parts)} the speed of {self.candidate.id} ({self.against})"


def speedups(receipt: Receipt, *, objective: str = "throughput") -> tuple[Speedup, ...]:
    """The winner against fp32 on its own backend, and against the fastest and slowest other candidate.

    Args:
        receipt: Has the candidates.
        objective: What "fast" means: ``throughput`` or ``latency``.

    Returns:
        One entry per other candidate, at most three; empty where nothing else was measured.
    """
    winner = receipt.selected
    others = [row for row in receipt.candidates if row is not winner and _speed(row, objective) is not None]
    others.sort(key=lambda row: _speed(row, objective) or 0, reverse=True)
    found: dict[str, Speedup] = {}

    def add(row: Candidate, against: str) -> None:
        if row.id not in found:
            found[row.id] = Speedup(
                against=against,
                candidate=row,
                latency=_ratio(median_ms(row), median_ms(winner)),
                throughput=_ratio(winner.throughput_per_s, row.throughput_per_s),
            )

    for row in others:
        if row.backend == winner.backend and row.precision_requested == "fp32":
            add(row, "fp32 on the same backend")
    if others:
        add(others[0], "fastest other candidate")
        add(others[-1], "slowest candidate")
    return tuple(found.values())


def objective_of(manifest: Manifest) -> str:
    """``throughput`` or ``latency``: what the build was for."""
    return "latency" if manifest.recipe.settings.get("objective") == "latency" else "throughput"


def median_ms(row: Candidate) -> float | None:
    """The median latency, None where it was not measured."""
    return row.latency_ms.p50 if row.latency_ms else None


def _speed(row: Candidate, objective: str) -> float | None:
    if objective == "latency":
        return 1 / row.latency_ms.p50 if row.latency_ms and row.latency_ms.p50 > 0 else None
    return row.throughput_per_s or None


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: ``0.0312``, ``4.27``, ``1,234``."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{digits}g}"


def mebibytes(num_bytes: int | None) -> str:
    """``123 MiB``."""
    return "–" if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"


def factor(value: float) -> str:
    """``2.9×``."""
    return f"{value:,.0f}×" if value >= 100 else f"{value:.1f}×" if value >= 2 else f"{value:.2f}×"
