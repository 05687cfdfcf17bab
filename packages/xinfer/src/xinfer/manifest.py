"""The documents inside an engine package (ARCHITECTURE 10.5): `manifest.json` and `receipt.json`.

Both are read strictly: a missing, unknown or mistyped field is an error. A new field needs a new
`schema_version`.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any, Literal

from xinfer import schema
from xinfer.errors import DocumentError
from xinfer.tasks import TaskSpec

SCHEMA_VERSION = 1

DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
"""Open Inference Protocol datatype -> NumPy dtype."""

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"
]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output. A dimension of -1 is free."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    layout: str | None = None

    @property
    def dtype(self) -> str:
        """NumPy's name of the datatype."""
        return DATATYPES[self.datatype]


@dataclass(frozen=True, kw_only=True)
class ModelIO:
    """The tensors of the model, in the graph's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which engine this is. `digest` is over the artifact's files (`package.artifact_digest`)."""

    name: str
    version: int
    digest: str
    producer: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the model came from. `licences` are SPDX identifiers."""

    onnx_digest: str
    opset: int
    run_id: str | None = None
    dataset_digest: str | None = None
    licences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Requested, and executed as read back from the runtime (``int8+fp32``: most layers first)."""

    requested: str
    executed: str


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """What a machine must have: the target's architecture, these instruction sets, these runtimes."""

    target: str
    isa: tuple[str, ...]
    runtime: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the engine was made, enough to make it again. `settings` are the runtime's defaults too."""

    settings: dict[str, Any]
    seed: int
    tools: dict[str, str]
    calibration_digest: str | None
    agent: str | None
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the engine is and what it needs."""

    schema_version: Literal[1]
    identity: Identity
    source: Source
    io: ModelIO
    task: TaskSpec | None
    backend: str
    format: str
    precision: Precision
    compatibility: Compatibility
    recipe: Recipe

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Reads `manifest.json`. Raises DocumentError."""
        return schema.read(cls, _versioned(data, "manifest"), where="manifest")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that measured."""

    cpu: str
    num_cores: int
    memory_bytes: int
    isa: tuple[str, ...]
    os: str
    runtimes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How it measured. `repeats` are timed inferences per candidate."""

    warmup: int
    repeats: int
    interleaved: bool
    batch: int
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The engine against its source model on held-out samples. `drop` and `budget` are fractions.

    Candidates are gated on these same samples, so a value above the source model's own is chance.
    """

    metric: str
    num_samples: int
    source_value: float
    engine_value: float
    drop: float
    budget: float
    verdict: Literal["pass"]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the search: what was tried, how it did, and why it was not chosen.

    Numbers are None where the candidate did not get that far. Latency is of single inferences one after
    the other, throughput and CPU time of `num_cores` concurrent ones. Accuracy, load time and memory are of
    one stream in a process of its own.
    """

    id: str
    backend: str
    precision_requested: str
    precision_executed: str | None
    settings: dict[str, Any]
    status: Literal["selected", "ok", "over_budget", "failed", "dropped"]
    reason: str | None
    latency_ms: Latency | None
    throughput_per_s: float | None
    cpu_ms_per_item: float | None
    load_ms: float | None
    peak_memory_bytes: int | None
    accuracy: float | None
    drop: float | None
    verdict_agreement: float | None = None
    """Share of samples on which the verdict at the task's threshold is the source model's."""
    uncertainty: float | None = None
    """Half the 95 % interval of what was raced for (latency or throughput), as a share of it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The engine's pipeline (decode and infer) against a peer, measured interleaved in one process."""

    peer: str
    num_images: int
    latency_ms: float
    peer_latency_ms: float
    throughput_per_s: float
    peer_throughput_per_s: float
    cpu_ms_per_item: float
    peer_cpu_ms_per_item: float
    speedup: float


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often what occurred: `counts[i]` values from `edges[i]` up to `edges[i + 1]`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of the compiled engine: what executes it, and its share of an inference's time."""

    name: str
    type: str
    precision: str
    time_ms: float
    share: float


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """One class's value of a metric, of the source model and of the engine."""

    label: str
    num_samples: int
    source_value: float
    engine_value: float


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The measured part: every candidate, the winner's accuracy, the machine."""

    schema_version: Literal[1]
    created_at: str
    machine: Machine
    protocol: Protocol
    accuracy: Accuracy | None
    candidates: tuple[Candidate, ...]
    comparison: Comparison | None = None
    latency_histogram_ms: Histogram | None = None
    """Of the winner's single inferences, all rounds."""
    layers: tuple[Layer, ...] = ()
    """The winner's costliest layers, the costliest first; empty where the runtime does not tell."""
    classes: tuple[ClassAccuracy, ...] = ()

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Reads `receipt.json`. Raises DocumentError."""
        receipt = schema.read(cls, _versioned(data, "receipt"), where="receipt")
        statuses = [candidate.status for candidate in receipt.candidates]
        if statuses.count("selected") != 1:
            raise DocumentError("receipt.candidates: exactly one must be selected", value=statuses[:20])
        return receipt

    @property
    def selected(self) -> Candidate:
        """The winner's row."""
        return next(candidate for candidate in self.candidates if candidate.status == "selected")


def _versioned(data: bytes, where: str) -> Any:
    document = schema.loads(data, where=where)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise DocumentError(
            f"{where}: schema version {reprlib.repr(version)} is not supported, "
            f"this release reads {SCHEMA_VERSION}",
            value=version,
            hint="upgrade ignition-xinfer" if isinstance(version, int) and version > SCHEMA_VERSION else None,
        )
    return document
