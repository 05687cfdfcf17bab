"""Runs one job folder: job.json in, result.json out, whatever happens in between."""

from __future__ import annotations

import errno
import json
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from ignition_client.digests import atomic_file
from ignition_client.jobs.events import EventWriter
from ignition_client.jobs.guard import JobCancelled
from ignition_client.wire import JobError, JobKind


class JobFile(BaseModel):
    """``job.json``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: JobKind
    job_id: str
    epoch: int
    spec: dict[str, Any]
    cache_dir: Path
    signing_key: Path


class JobContext(BaseModel):
    """What a job's function gets."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    job: JobFile
    inputs: Path
    outputs: Path
    progress: EventWriter


class JobFunction(Protocol):
    def __call__(self, context: JobContext) -> dict[str, Any]: ...


def job_function(kind: JobKind) -> JobFunction:
    """The function ``run`` of the kind's module, imported now: `check` must not wait for torch."""
    return import_module(f"ignition_client.jobs.{kind.value}").run


def run_folder(folder: Path, find: Callable[[JobKind], JobFunction] = job_function) -> int:
    """Runs the job in `folder` and writes ``result.json``.

    Returns:
        Exit status: 0 if the job succeeded, 1 if not.
    """
    progress = EventWriter(folder / "events.jsonl")
    try:
        job = JobFile.model_validate_json((folder / "job.json").read_bytes())
        (folder / "outputs").mkdir(exist_ok=True)
        context = JobContext(job=job, inputs=folder / "inputs", outputs=folder / "outputs", progress=progress)
        result = find(job.kind)(context)
        answer: dict[str, Any] = {"status": "succeeded", "result": result}
        content = json.dumps(answer, allow_nan=False)
    except JobCancelled:
        print("Cancelled.", flush=True)
        content = json.dumps({"status": "cancelled"})
    except Exception as error:
        content = json.dumps(_failure(error))
    finally:
        progress.close()
    with atomic_file(folder / "result.json") as file:
        file.write(content.encode())
    return 0 if content.startswith('{"status": "succeeded"') else 1


def _failure(error: Exception) -> dict[str, Any]:
    """A failed result. Errors of our packages say what people need; others are a crash."""
    traceback.print_exc()
    retryable = False
    code, hint = getattr(error, "code", None), getattr(error, "hint", None)
    if isinstance(code, str) and "." in code:
        problem = JobError(code=code, message=getattr(error, "message", None) or str(error), hint=hint)
    elif isinstance(error, MemoryError):
        problem = JobError(code="job.out_of_memory", message="The job ran out of memory.")
        retryable = True
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        problem = JobError(code="job.disk_full", message="The agent's disk is full.", hint="Free some space.")
        retryable = True
    elif isinstance(error, ModuleNotFoundError):
        problem = JobError(
            code="job.missing_package",
            message=f"This agent's installation lacks '{error.name}'.",
            hint="Install it for the agent: pip install -U 'ignition-client[agent]'.",
        )
    else:
        last_line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        problem = JobError(code="job.crashed", message=last_line, hint="The job's log has the details.")
    return {"status": "failed", "error": problem.model_dump(), "retryable": retryable}
