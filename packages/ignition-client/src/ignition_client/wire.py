"""Wire protocol v1: every message between the Hub, its clients and its agents.

The Hub answers with these models and the client reads them: one definition, no copies. Rules:

- Times are timezone-aware UTC (``*_at``), durations are seconds (``*_s``) unless the name says
  otherwise, sizes are bytes, digests are ``sha256:<64 hex digits>``.
- Readers ignore unknown fields in answers (a newer Hub may say more); the Hub rejects unknown fields
  in requests (a typo must not pass silently).
- A value that a user may see once is a field of its own model (`NewKey`), never of a listing.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PROTOCOL_VERSION = 1

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""Content address of a blob."""

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""Names that appear in URLs: lower case, digits and hyphens, at most 63 characters."""

RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""A POSIX path below a folder; `ignition_client.paths.safe_relative_path` decides what is allowed."""


class Answer(BaseModel):
    """Base of everything the Hub sends."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Request(BaseModel):
    """Base of everything sent to the Hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Answer):
    """RFC 9457 problem details, as every error is answered (``application/problem+json``)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str | None = None
    value: Any = None
    request_id: str | None = None


# ------------------------------------------------------------------------------------------ accounts


class Health(Answer):
    status: Literal["ok"]
    version: str
    protocol: int = PROTOCOL_VERSION


class Login(Request):
    email: str
    password: str
    key_name: str = "cli"


class NewKey(Answer):
    """A secret, shown this once; the Hub keeps its SHA-256 only."""

    name: str
    key: str
    prefix: str


class Me(Answer):
    email: str
    organisation: str
    role: Literal["owner", "admin", "developer", "viewer"]


# ------------------------------------------------------------------------------------------ datasets


class FileEntry(Answer):
    path: RelativePath
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class BlobQuery(Request):
    """Which of these blobs does the Hub not have yet? Asked before an upload, and to resume one."""

    digests: list[Digest]


class MissingBlobs(Answer):
    missing: list[Digest]


class DatasetCommit(Request):
    """Makes the uploaded files a new version; the same files again answer with the version there is."""

    name: Slug
    files: list[FileEntry]


class Dataset(Answer):
    name: str
    version: int
    digest: Digest
    num_files: int
    size_bytes: int
    created_at: datetime
    check_status: Literal["pending", "running", "done", "failed"]


class ClassCount(Answer):
    name: str
    num_items: int
    examples: list[str] = []
    """Up to 12 of them to show: files, or texts where the items are rows."""


class Finding(Answer):
    """One thing the data check noticed."""

    code: str
    severity: Literal["error", "warning", "info"]
    title: str
    hint: str
    num: int
    paths: list[str] = []
    """Up to 50 of the items concerned: files, or ``file:row`` of a table."""


class CheckReport(Answer):
    """What the data check found. An ``error`` finding blocks training."""

    template: str | None = None
    """Whose check this is; None: the files suit no template."""
    item: Literal["images", "rows", "series"]
    """What is counted."""
    layout: str
    """The format that was detected: ``ok_defective``, ``coco``, ``long_csv``."""
    num_files: int
    num_items: int
    """Those that can be read."""
    size_bytes: int
    classes: list[ClassCount] = []
    facts: dict[str, str] = {}
    """What was inferred, for people: ``{"Text column": "body", "Frequency": "hourly"}``."""
    charts: list[dict[str, Any]] = []
    """As in a training report (ARCHITECTURE.md, 10.6)."""
    findings: list[Finding] = []
    suits: list[str] = []
    """Ids of the templates that this data is laid out for, the best first."""
    duration_s: float

    @property
    def blocking(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


class DatasetDetail(Dataset):
    files: list[FileEntry]
    check: CheckReport | None
    check_error: JobError | None = None


# ---------------------------------------------------------------------------------- jobs and agents


class JobKind(StrEnum):
    CHECK = "check"
    TRAIN = "train"
    BUILD = "build"


class JobStatus(StrEnum):
    QUEUED = "queued"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobError(Answer):
    """Why a job ended without a result: a stable code, a sentence and what to do."""

    code: str
    message: str
    hint: str | None = None


class JobEvent(Answer):
    """One structured progress report of a job; `seq` counts from 0 within one lease (epoch)."""

    seq: int
    at: datetime
    stage: str
    """Short, for people: "Extracting features"."""
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the whole job that is done."""
    eta_s: float | None = None
    message: str = ""
    metrics: dict[str, float] = {}
    """Points for live charts, e.g. ``{"epoch": 3, "loss": 0.21}``."""


class Job(Answer):
    id: str
    kind: JobKind
    status: JobStatus
    run_id: str | None
    target: str | None
    attempt: int
    epoch: int
    agent: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    last_event: JobEvent | None
    error: JobError | None
    cancel_requested: bool = False


class LeaseRequest(Request):
    """`POST /v1/leases`: waits up to `wait_s` for a job this agent can do."""

    agent: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    target: str
    """`HardwareTarget` name; build jobs run on the target that they build for."""
    kinds: list[JobKind]
    wait_s: Annotated[float, Field(ge=0, le=60)] = 20
    public_key_pem: str
    """Verifies the signatures of engines built by this agent."""
    machine: dict[str, Any] = {}


class Lease(Answer):
    """The right to work on one job until `expires_at`; every later call carries `epoch`."""

    job_id: str
    kind: JobKind
    epoch: int
    attempt: int
    token: str
    """Bearer token for this job alone: its inputs, its log, its outputs."""
    lease_s: float
    expires_at: datetime
    spec: dict[str, Any]
    """`CheckSpec`, `TrainSpec` or `BuildSpec`, by `kind`."""
    inputs: list[FileEntry]
    """Files to place below the job's ``inputs/`` folder before it starts."""


class Heartbeat(Request):
    epoch: int


class HeartbeatAnswer(Answer):
    expires_at: datetime
    cancel: bool


class LogChunk(Request):
    """`PATCH /v1/jobs/{id}/log`: UTF-8 text at a byte offset. Repeating a chunk changes nothing."""

    epoch: int
    offset: Annotated[int, Field(ge=0)]
    text: str


class LogTail(Answer):
    """`GET /v1/jobs/{id}/log?offset=`: what follows `offset`; poll again from `next_offset`."""

    text: str
    next_offset: int
    final: bool


class EventBatch(Request):
    """`POST /v1/jobs/{id}/events`; events already known by `seq` are ignored."""

    epoch: int
    events: list[JobEvent]


class JobCompletion(Request):
    """`POST /v1/jobs/{id}/complete`, after every output was `PUT` as a blob."""

    epoch: int
    status: Literal["succeeded", "failed", "cancelled"]
    error: JobError | None = None
    retryable: bool = False
    """The failure says nothing about the job (killed, disk full): another attempt may succeed."""
    outputs: list[FileEntry] = []
    result: dict[str, Any] = {}
    """`CheckReport`, `TrainResult` or `BuildResult`, by kind."""


class JobRelease(Request):
    """`POST /v1/jobs/{id}/release`: the agent is going away; the job is queued again at once."""

    epoch: int


class CheckSpec(Answer):
    """Inputs: the dataset's files under ``dataset/``."""

    dataset: str
    version: int
    template: str | None = None
    """Whose check; None: the one that the files suit best."""


class TrainSpec(Answer):
    """Inputs: the dataset's files under ``dataset/``."""

    template: str
    name: str
    budget_s: float
    seed: int = 0
    settings: dict[str, Any] = {}


class TrainResult(Answer):
    """Outputs: ``model.onnx``, ``model.safetensors``, ``model.json``, ``task.json``, ``labels.json``,
    ``report.json``, ``splits.json`` and ``report/*`` (pictures that the report names)."""

    metric: str
    value: float
    num_test: int
    candidate: str
    duration_s: float


class BuildSpec(Answer):
    """Inputs: the dataset under ``dataset/`` and the train job's outputs under ``model/``."""

    template: str
    name: str
    version: int
    target: str
    max_drop: float = 0.01
    budget_s: float = 120
    settings: dict[str, Any] = {}
    run_id: str | None = None
    """With `dataset_digest`: where the model came from, for the engine's manifest."""
    dataset_digest: Digest | None = None


class BuildResult(Answer):
    """Outputs: ``<name>.engine`` and ``receipt.json``."""

    engine_file: str
    engine_digest: Digest
    target: str
    backend: str
    precision: str
    metric: str
    source_value: float
    engine_value: float
    latency_ms: float
    throughput_per_s: float
    num_candidates: int
    speedup: float | None = None
    """Requests per second against the plain torch pipeline (receipt: ``comparison``)."""
    duration_s: float


# ------------------------------------------------------------------------------------------- foundry


class SettingChoice(Answer):
    """An answer to a `Question`."""

    title: str
    note: str = ""
    settings: dict[str, Any] = {}
    """What it puts into `RunStart.settings`; nothing: the recipe decides."""


class Question(Answer):
    """What a template asks people before a run; every answer becomes settings of the recipe."""

    id: Slug
    title: str
    help: str = ""
    choices: list[SettingChoice] = []
    """The first is the default."""
    setting: str | None = None
    """Without choices: the setting that takes what is typed in; an empty field sets nothing."""
    kind: Literal["number", "text"] = "text"
    """Of what is typed in; numbers are whole."""
    low: int | None = None
    high: int | None = None
    placeholder: str = ""


class Template(Answer):
    id: Slug
    name: str
    summary: str
    data: str
    """What to upload, in a sentence."""
    learns: str
    returns: str
    icon: str
    input: Literal["image", "text", "series"]
    """What its endpoints are asked about."""
    questions: list[Question] = []
    available: bool = True
    budget_s: float = 120
    """Seconds of training where a run asks for nothing else."""


class RunStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self is not RunStatus.RUNNING


class RunStart(Request):
    """One press of *Train & Optimize*."""

    name: Slug
    template: Slug
    dataset: Slug
    dataset_version: int | None = None
    """None: the latest."""
    budget_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """For training; None: `Template.budget_s`."""
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    seed: int = 0
    settings: dict[str, Any] = {}
    """For the recipe, by name; `Template.settings` lists those that people are asked for."""
    idempotency_key: Annotated[str, StringConstraints(max_length=64)] | None = None


class StageStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Stage(Answer):
    id: Literal["check", "train", "build", "register", "deploy", "notify"]
    title: str
    status: StageStatus
    job_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Run(Answer):
    id: str
    name: str
    template: str
    dataset: str
    dataset_version: int
    status: RunStatus
    settings: dict[str, Any] = {}
    stages: list[Stage]
    created_at: datetime
    finished_at: datetime | None
    error: JobError | None
    endpoint: str | None
    """Name of the endpoint once it is deployed."""
    engine_id: str | None
    model: str | None
    """``owner/name`` in the registry."""
    model_version: int | None
    train: TrainResult | None = None
    build: BuildResult | None = None


class RunSnapshot(Answer):
    """One message of the live stream: all that a page or a progress bar shows."""

    run: Run
    jobs: list[Job]


# ---------------------------------------------------------------------------- registry and endpoints


class Model(Answer):
    name: str
    """``owner/name``."""
    template: str
    latest_version: int
    created_at: datetime
    metric: str | None
    value: float | None


class Engine(Answer):
    id: str
    model: str
    model_version: int
    target: str
    backend: str
    precision: str
    digest: Digest
    size_bytes: int
    latency_ms: float
    throughput_per_s: float
    metric: str
    source_value: float
    engine_value: float
    current: bool
    created_at: datetime
    run_id: str | None = None


class EngineDetail(Engine):
    receipt: dict[str, Any]
    public_key_pem: str


class Endpoint(Answer):
    name: str
    url: str
    """Where to POST: ``{gateway}/v1/endpoints/{name}/predict``."""
    open_inference_url: str
    """Base of the Open Inference Protocol; the model's name is the endpoint's."""
    template: str
    model: str
    model_version: int
    engine_id: str
    run_id: str | None
    status: Literal["starting", "ready", "failed"]
    error: JobError | None = None
    key_prefix: str | None
    """Start of the current key; None until one was made."""
    created_at: datetime
    speedup: float | None = None


class InboxMessage(Answer):
    id: str
    kind: Literal["run_succeeded", "run_failed"]
    title: str
    body: str
    link: str
    created_at: datetime
    read: bool


# ------------------------------------------------------------------------------------ Hub -> gateway


class GatewayEndpoint(Answer):
    name: str
    engine_digest: Digest
    key_sha256: list[str]
    """Hex SHA-256 of every accepted key."""
    public_key_pem: str
    """The engine's signature must verify with this key."""


class GatewayConfig(Answer):
    """`GET /v1/gateway/config?etag=`: waits until something differs from `etag`, at most 20 s."""

    etag: str
    endpoints: list[GatewayEndpoint]


class GatewayReport(Request):
    """`POST /v1/gateway/status`: what the gateway serves now."""

    ready: list[str]
    failed: dict[str, JobError]


DatasetDetail.model_rebuild()
