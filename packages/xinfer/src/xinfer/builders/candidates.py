"""The search space as data, and what becomes of each candidate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xinfer.backends import BACKENDS, RuntimeSettings
from xinfer.backends.base import Device, FloatPrecision
from xinfer.manifest import Candidate, Latency

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from xinfer.targets import HardwareTarget
    from xinfer.tasks import TaskSpec

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Quantiser = Literal[
    "none", "portable", "ort-qdq", "ort-qdq-inputs", "nncf-openvino", "nncf-onnx", "nncf-onnx-symmetric",
    "smooth-portable", "smooth-ort-qdq", "smooth-dynamic",
]  # fmt: skip
Scope = Literal["network", "network+tail", "all"]
Mode = Literal["latency", "throughput"]

SCOPES: tuple[Scope, ...] = ("network", "network+tail", "all")
"""From narrow to wide: each is tried only where the one before held the accuracy budget."""

QUANTISERS: tuple[tuple[Quantiser, tuple[str, ...], tuple[bool, ...]], ...] = (
    ("ort-qdq-inputs", ("openvino",), (False,)),
    ("nncf-onnx-symmetric", ("openvino",), (False,)),
    ("ort-qdq", ("openvino", "onnxruntime"), (False,)),
    ("nncf-onnx", ("openvino",), (False, True)),
    ("nncf-openvino", ("openvino",), (False, True)),
    ("smooth-portable", ("openvino",), (True,)),
    ("smooth-ort-qdq", ("openvino", "onnxruntime"), (True,)),
    ("smooth-dynamic", ("onnxruntime",), (True,)),
)
"""Recipes, the runtimes that may run them, and whether for transformers; the likeliest winners first.

No recipe wins everywhere. ONNX Runtime does not fuse NNCF's placement, and runs graphs that quantise only the
inputs of layers slowly; without smoothing, transformers lose far more than a point.
"""

BF16_AROUND: frozenset[Quantiser] = frozenset(
    {"ort-qdq", "ort-qdq-inputs", "smooth-ort-qdq", "smooth-portable"}
)
"""OpenVINO refuses bf16 around NNCF's graphs."""

BEHIND_FACTOR = 1.5
"""A wider scope is not tried where the narrower one was so many times slower than the best INT8 candidate."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One candidate: what to make and who runs it.

    `scope` says what is quantised: the layers up to the last convolution; also the tail behind it; or also
    the matrix products of the preprocessing (its other arithmetic always stays in float).
    """

    backend: str
    precision: Precision
    quantiser: Quantiser = "none"
    scope: Scope | None = None
    float_precision: FloatPrecision = "fp32"
    """What executes the layers that are not quantised."""
    device: Device = "cpu"
    mixed: bool = False
    """The layers that lost most accuracy were returned to float (`builders.sensitivity`)."""

    @property
    def id(self) -> str:
        """Stable name within a build."""
        precision: str = self.precision
        if self.precision == "int8" and self.float_precision != "fp32":
            precision += f"+{self.float_precision}"
        on = "" if self.device == "cpu" else f"@{self.device}"
        parts = [self.backend + on, precision]
        if self.quantiser != "none":
            parts += [self.quantiser, str(self.scope)]
        if self.mixed:
            parts.append("mixed")
        return "/".join(parts)

    @property
    def artifact_key(self) -> str:
        """Recipes with one key share an artifact."""
        # Compiled code is for one precision and device; graphs serve several.
        info = BACKENDS[self.backend]
        made_in = f"-{self.precision}-{self.device}" if info.needs_target else ""
        return f"{info.format}-{self.quantiser}-{self.scope}{made_in}{'-mixed' * self.mixed}"


def search_space(
    target: HardwareTarget,
    precisions: frozenset[str],
    backends: frozenset[str],
    *,
    scopes: Sequence[Scope] = SCOPES,
    transformer: bool = False,
    device: Device = "cpu",
) -> list[Recipe]:
    """All candidates for a machine, the ones most likely to survive first.

    Args:
        target: bf16 is tried where the CPU executes it.
        precisions: Of fp32, bf16, fp16, int8.
        backends: Of openvino, onnxruntime, inductor.
        scopes: What there is to quantise in this model, from narrow to wide.
        transformer: The model has attention: its activations may need smoothing.
        device: What executes.

    Returns:
        Recipes without duplicates; fp32 is always among them, as the reference of the speed table.
    """
    if device != "cpu":
        return _accelerated(precisions, backends, device)
    recipes = [Recipe(backend=name, precision="fp32") for name in ("onnxruntime", "openvino", "inductor")]
    bf16: list[Recipe] = []
    if "bf16" in precisions and target.bf16_flag is not None:
        bf16 = [
            Recipe(backend=name, precision="bf16", float_precision="bf16")
            for name in ("openvino", "inductor")
        ]
    recipes += bf16
    if "fp16" in precisions and "avx512_fp16" in target.isa:
        recipes.append(Recipe(backend="openvino", precision="fp16", float_precision="fp16"))
    for scope in scopes if "int8" in precisions else ():
        for backend in ("openvino", "onnxruntime"):
            for quantiser, runtimes, networks in QUANTISERS:
                if backend not in runtimes or transformer not in networks:
                    continue
                recipe = Recipe(backend=backend, precision="int8", quantiser=quantiser, scope=scope)
                recipes.append(recipe)
                # bf16 around the narrowest scope only: a wider one leaves hardly anything to execute in it.
                # It shares its sibling's artifact, so it costs one run.
                if bf16 and backend == "openvino" and scope == scopes[0] and quantiser in BF16_AROUND:
                    recipes.append(replace(recipe, float_precision="bf16"))
    return [recipe for recipe in recipes if recipe.backend in backends]


def _accelerated(precisions: frozenset[str], backends: frozenset[str], device: Device) -> list[Recipe]:
    """Candidates for an accelerator: every float precision of every backend, and explicit QDQ."""
    floats: tuple[FloatPrecision, ...] = ("fp32", "bf16", "fp16")
    recipes = [
        Recipe(backend=name, precision=precision, float_precision=precision, device=device)
        for precision in floats
        for name, info in BACKENDS.items()
        if info.refusal(device, precision) is None and (precision == "fp32" or precision in precisions)
    ]
    int8: dict[str, Quantiser] = {"tensorrt": "portable", "openvino": "nncf-openvino"}
    recipes += [
        Recipe(backend=name, precision="int8", quantiser=quantiser, scope=SCOPES[0], device=device)
        for name, quantiser in int8.items()
        if "int8" in precisions and BACKENDS[name].refusal(device, "int8") is None
    ]
    return [recipe for recipe in recipes if recipe.backend in backends and BACKENDS[recipe.backend].installed]


def narrower(recipe: Recipe, scopes: Sequence[Scope]) -> Recipe | None:
    """The same recipe with the next narrower scope."""
    if recipe.scope is None or recipe.scope == scopes[0]:
        return None
    return replace(recipe, scope=scopes[scopes.index(recipe.scope) - 1])


def default_settings(recipe: Recipe, num_cores: int, mode: Mode) -> RuntimeSettings:
    """How the machine is used: all threads on one inference, or one thread on each of many."""
    return RuntimeSettings(
        num_threads=num_cores,
        num_streams=num_cores if mode == "throughput" else 1,
        float_precision=recipe.float_precision,
        device=recipe.device,
    )


def other_settings(recipe: Recipe, num_cores: int, mode: Mode) -> list[RuntimeSettings]:
    """Further settings worth trying for a candidate that is in the lead, without the default."""
    default = default_settings(recipe, num_cores, mode)
    shapes = [(1, 1), (num_cores, 1)]  # (threads, streams)
    if mode == "latency":
        shapes.append((max(1, num_cores // 2), 1))
    else:
        shapes.append((num_cores, max(1, num_cores // 2)))
    variants = [replace(default, num_threads=threads, num_streams=streams) for threads, streams in shapes]
    return [each for index, each in enumerate(variants) if each != default and each not in variants[:index]]


@dataclass(kw_only=True)
class Trial:
    """A candidate on its way through the search."""

    recipe: Recipe
    status: Literal["selected", "ok", "over_budget", "failed", "dropped"] = "ok"
    reason: str | None = None
    artifact_dir: Path | None = None
    settings: dict[Mode, RuntimeSettings] = field(default_factory=dict)
    """Set when it is measured; the best of those tried."""
    executed: str | None = None
    load_ms: float | None = None
    first_look_ms: float | None = None
    """Median time of an inference when the accuracy was measured, not interleaved with anything."""
    peak_memory_bytes: int | None = None
    accuracy: float | None = None
    drop: float | None = None
    verdict_agreement: float | None = None
    latency_ms: Latency | None = None
    latencies_ms: list[float] = field(default_factory=list, repr=False)
    throughput_per_s: float | None = None
    cpu_ms_per_item: float | None = None
    uncertainty: float | None = None
    """Half the 95 % interval of the objective, as a share of it."""
    float_layers: tuple[str, ...] = ()
    """What mixed precision returned to float."""
    outputs_file: Path | None = None
    """The outputs of held-out and validation samples, as `samples.read_outputs` reads them."""
    outputs: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)
    """For the held-out samples."""
    validation: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)
    """For the samples that the task's thresholds were chosen on."""
    task: TaskSpec | None = field(default=None, repr=False)
    """With the thresholds on this candidate's own scale."""

    def end(self, status: Literal["over_budget", "failed", "dropped"], reason: str) -> None:
        """Takes the candidate out of the race."""
        self.status, self.reason = status, reason

    def setting(self, num_cores: int, mode: Mode) -> RuntimeSettings:
        """What it is measured with, or would be."""
        return self.settings.get(mode) or default_settings(self.recipe, num_cores, mode)

    def row(self, num_cores: int) -> Candidate:
        """The receipt's row."""
        settings: dict[str, Any] = {
            "quantiser": self.recipe.quantiser,
            "scope": self.recipe.scope,
            "latency_mode": self.setting(num_cores, "latency").to_json(),
            "throughput_mode": self.setting(num_cores, "throughput").to_json(),
        }
        if self.recipe.mixed:
            settings["float_layers"] = list(self.float_layers)
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
            uncertainty=self.uncertainty,
        )
