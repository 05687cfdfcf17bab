"""The search space as data, and what becomes of each candidate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xinfer.backends import RuntimeSettings
from xinfer.manifest import Candidate, Latency

if TYPE_CHECKING:
    import numpy as np

    from xinfer.targets import HardwareTarget
    from xinfer.tasks import TaskSpec

Quantiser = Literal["none", "ort-qdq", "nncf-openvino", "nncf-onnx"]
Scope = Literal["network", "network+tail", "all"]

SCOPES: tuple[Scope, ...] = ("network", "network+tail", "all")
"""From narrow to wide: each is tried only where the one before held the accuracy budget."""

FORMATS = {"openvino": "openvino-ir", "onnxruntime": "onnx"}
QUANTISERS: tuple[tuple[Quantiser, tuple[str, ...]], ...] = (
    ("ort-qdq", ("openvino", "onnxruntime")),
    ("nncf-onnx", ("openvino",)),
    ("nncf-openvino", ("openvino",)),
)
"""Recipes and the runtimes that may run them. ONNX Runtime does not fuse NNCF's placement."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One candidate: what to make and who runs it.

    `scope` says what is quantised: the layers up to the last convolution; also the tail behind it; or also
    the matrix products of the preprocessing (its other arithmetic always stays in float).
    """

    backend: str
    precision: Literal["fp32", "bf16", "int8"]
    quantiser: Quantiser = "none"
    scope: Scope | None = None
    float_precision: Literal["fp32", "bf16"] = "fp32"
    """What executes the layers that are not quantised."""

    @property
    def id(self) -> str:
        """Stable name within a build."""
        mixed = self.precision == "int8" and self.float_precision == "bf16"
        parts = [self.backend, "int8+bf16" if mixed else self.precision]
        if self.quantiser != "none":
            parts += [self.quantiser, str(self.scope)]
        return "/".join(parts)

    @property
    def artifact_key(self) -> str:
        """Recipes with one key share an artifact."""
        return f"{FORMATS[self.backend]}-{self.quantiser}-{self.scope}"

    @property
    def narrower(self) -> Recipe | None:
        """The same recipe with the next narrower scope."""
        if self.scope is None or self.scope == SCOPES[0]:
            return None
        return replace(self, scope=SCOPES[SCOPES.index(self.scope) - 1])


def search_space(
    target: HardwareTarget, precisions: frozenset[str], backends: frozenset[str]
) -> list[Recipe]:
    """All candidates for a machine, the ones most likely to survive first.

    Args:
        target: bf16 is tried where the CPU executes it.
        precisions: Of fp32, bf16, int8.
        backends: Of openvino, onnxruntime.

    Returns:
        Recipes without duplicates; fp32 is always among them, as the reference of the speed table.
    """
    fp32 = [Recipe(backend=name, precision="fp32") for name in ("onnxruntime", "openvino")]
    has_bf16 = "bf16" in precisions and target.bf16_flag is not None
    bf16 = [Recipe(backend="openvino", precision="bf16", float_precision="bf16")] if has_bf16 else []
    int8 = [
        Recipe(backend=backend, precision="int8", quantiser=quantiser, scope=scope)
        for scope in (SCOPES if "int8" in precisions else ())
        for backend in ("openvino", "onnxruntime")
        for quantiser, runtimes in QUANTISERS
        if backend in runtimes
    ]
    # With bf16 around the network only: a wider scope leaves hardly anything to execute in it.
    mixed = [
        replace(recipe, float_precision="bf16")
        for recipe in int8
        if has_bf16 and recipe.backend == "openvino" and recipe.scope == SCOPES[0]
    ]
    # A mixed candidate shares its sibling's artifact, so it costs one run.
    recipes = [*fp32, *bf16]
    for recipe in int8:
        sibling = replace(recipe, float_precision="bf16")
        recipes += [recipe, sibling] if sibling in mixed else [recipe]
    return [recipe for recipe in recipes if recipe.backend in backends]


@dataclass(kw_only=True)
class Trial:
    """A candidate on its way through the search."""

    recipe: Recipe
    status: Literal["selected", "ok", "over_budget", "failed", "dropped"] = "ok"
    reason: str | None = None
    artifact_dir: Path | None = None
    executed: str | None = None
    load_ms: float | None = None
    peak_memory_bytes: int | None = None
    accuracy: float | None = None
    drop: float | None = None
    verdict_agreement: float | None = None
    latency_ms: Latency | None = None
    throughput_per_s: float | None = None
    cpu_ms_per_item: float | None = None
    outputs: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)
    """For the held-out samples."""
    validation: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)
    """For the samples that the task's thresholds were chosen on."""
    task: TaskSpec | None = field(default=None, repr=False)
    """With the thresholds on this candidate's own scale."""

    def end(self, status: Literal["over_budget", "failed", "dropped"], reason: str) -> None:
        """Takes the candidate out of the race."""
        self.status, self.reason = status, reason

    def settings(self, num_cores: int, mode: Literal["latency", "throughput"]) -> RuntimeSettings:
        """How the machine is used: all threads on one inference, or one thread on each of many."""
        return RuntimeSettings(
            num_threads=num_cores,
            num_streams=num_cores if mode == "throughput" else 1,
            float_precision=self.recipe.float_precision,
        )

    def row(self, num_cores: int) -> Candidate:
        """The receipt's row."""
        settings: dict[str, Any] = {
            "quantiser": self.recipe.quantiser,
            "scope": self.recipe.scope,
            "latency_mode": self.settings(num_cores, "latency").to_json(),
            "throughput_mode": self.settings(num_cores, "throughput").to_json(),
        }
        return Candidate(
            id=self.recipe.id,
            backend=self.recipe.backend,
            precision_requested=self.recipe.precision,
            precision_executed=self.executed,
            settings=settings,
            status=self.status,
            reason=self.reason,
            latency_ms=self.latency_ms,
            throughput_per_s=self.throughput_per_s,
            cpu_ms_per_item=self.cpu_ms_per_item,
            load_ms=self.load_ms,
            peak_memory_bytes=self.peak_memory_bytes,
            accuracy=self.accuracy,
            drop=self.drop,
            verdict_agreement=self.verdict_agreement,
        )
