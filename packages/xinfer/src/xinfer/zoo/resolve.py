"""From a catalogue id to a loaded engine: the Hub's, else the local cache's, else one built here.

```
$XINFER_HOME (default ~/.cache/xinfer)
  engines/<id>/<target>.engine    what was built or pulled
  sources/<id>/                   downloaded and wrapped source models
  loaded/                         unpacked engines and compiled blobs, for fast loads
```
"""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xinfer.engine import InferenceEngine
from xinfer.errors import CatalogueError, HubError, IncompatibleTargetError, PackageError
from xinfer.package import EnginePackage
from xinfer.targets import HardwareTarget

if TYPE_CHECKING:
    from xinfer.zoo.base import BuildInput, TaskRunner

logger = logging.getLogger(__name__)

DEFAULT_BUDGET_S = 120.0
_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """An engine file for an id and where it came from; `load_options` say how it is trusted."""

    path: Path
    origin: Literal["hub", "cache", "built"]
    load_options: dict[str, Any]


def home() -> Path:
    """The cache folder: ``$XINFER_HOME``, else ``~/.cache/xinfer``."""
    return Path(os.environ.get("XINFER_HOME") or Path.home() / ".cache" / "xinfer")


def engine_path(entry_id: str, target: HardwareTarget) -> Path:
    """Where the cache keeps the engine of an id for a target."""
    return home() / "engines" / entry_id / f"{target.name}.engine"


def is_id(text: str) -> bool:
    """Whether a text reads as a catalogue id and not as a path of an engine file."""
    return _ID.fullmatch(text) is not None and not text.endswith(".engine") and not Path(text).is_file()


def find(entry_id: str, target: HardwareTarget | None = None) -> Resolved | None:
    """A compatible engine that exists already: the Hub's, else the cache's; None where there is none."""
    target = target or HardwareTarget.detect()
    pulled = _from_hub(entry_id, target)
    if pulled is not None:
        return pulled
    path = engine_path(entry_id, target)
    if path.is_file():
        try:
            if not target.compatible(EnginePackage.open(path).manifest):
                return Resolved(path=path, origin="cache", load_options={"require_signature": False})
        except PackageError:
            # A damaged cache entry is as good as none: it is built again.
            pass
    return None


def build(
    entry_id: str, runner: type[TaskRunner[Any, Any]] | None = None, *, budget_s: float | None = None
) -> Resolved:
    """Builds the engine of an id for this machine, from the catalogue's source, into the cache.

    Args:
        entry_id: A catalogue id.
        runner: The task's class; default: the one that the entry's task has.
        budget_s: About how long the search may take; default: `DEFAULT_BUDGET_S`.

    Returns:
        The engine file.

    Raises:
        CatalogueError: There is no such id, or it is no task of its own.
        FetchError: The source cannot be had.
        BuildError: The build failed.
    """
    from xinfer import catalogue
    from xinfer.zoo.registry import runner_for

    budget_s = DEFAULT_BUDGET_S if budget_s is None else budget_s
    entry = catalogue.get(entry_id)
    runner = runner or runner_for(entry.task)
    target = HardwareTarget.detect()
    path = engine_path(entry_id, target)
    folder = home() / "sources" / entry_id
    for needed in (path.parent, folder):
        needed.mkdir(parents=True, exist_ok=True)
    _say(f"{entry_id}: no engine for {target.name} yet, building one (about {budget_s:.0f} s)")
    given = runner.build_input(entry, folder)
    builder_for(given, name=entry_id, licence=entry.licence, budget_s=budget_s).build_and_save(path)
    _say(f"{entry_id}: {path}")
    return Resolved(path=path, origin="built", load_options={"require_signature": False})


def builder_for(given: BuildInput, *, name: str, licence: str, budget_s: float) -> Any:
    """The `EngineBuilder` for a build input."""
    from xinfer.builders import EngineBuilder

    builder = (
        EngineBuilder.from_onnx(given.onnx)
        .named(name, licences=(licence,))
        .with_task(given.task)
        .with_accuracy_budget(metric=given.metric, samples=given.samples, max_drop=given.max_drop)
        .with_budget(budget_s)
        .on_progress(lambda stage, share, message: _say(f"{name}: {share:4.0%} {stage} {message}".rstrip()))
    )
    if given.assets:
        builder = builder.with_assets(given.assets)
    if given.calibration:
        builder = builder.with_int8(given.calibration).with_float_nodes(*given.float_nodes)
    return builder


def load(entry_id: str, runner: type[TaskRunner[Any, Any]] | None = None, **options: Any) -> InferenceEngine:
    """Finds or builds the engine of an id, and loads it.

    Args:
        entry_id: A catalogue id.
        runner: The task's class.
        options: Passed to `InferenceEngine.load`; they win over how the origin would be trusted.

    Raises:
        CatalogueError: There is no such id.
        XInferError: Whatever fetching, building or loading raises.
    """
    from xinfer import catalogue

    entry = catalogue.get(entry_id)
    if entry.parts:
        raise CatalogueError(
            f"{entry_id} consists of {', '.join(sorted(entry.parts.values()))}; load these", value=entry_id
        )
    found = find(entry_id) or build(entry_id, runner)
    settings = {"cache_dir": home() / "loaded", **found.load_options, **options}
    if settings.get("public_key") is not None:
        settings["require_signature"] = True
    try:
        return InferenceEngine.load(found.path, **settings)
    except IncompatibleTargetError:
        if found.origin != "cache":
            raise
        # The runtimes were upgraded since it was built.
        return InferenceEngine.load(build(entry_id, runner).path, **settings)


def _from_hub(entry_id: str, target: HardwareTarget) -> Resolved | None:
    """The Hub's engine, where a Hub is configured and has one; its signature is checked as any other."""
    from xinfer.hub import find_engine

    try:
        path = find_engine(entry_id, target)
    except HubError as error:
        # The cache and the sources are still there.
        logger.warning("%s: the Hub cannot be used: %s", entry_id, error.message)
        return None
    return None if path is None else Resolved(path=path, origin="hub", load_options={})


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
