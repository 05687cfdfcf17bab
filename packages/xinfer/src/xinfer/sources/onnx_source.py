"""ONNX files from anywhere, checked in a process of their own and made one clean file.

caller                        worker process                  fork per model
------                        --------------                  --------------
read(path) -> job.json  --->  fork, wait, time limit   --->   memory and processor limits,
                                                              parse, check, gather weights,
OnnxSource <- result.json <-  how it ended             <---   checker, ONNX Runtime, facts
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer import schema
from xinfer.errors import MissingExtraError, SourceModelError, XInferError
from xinfer.sources import limits as bounds
from xinfer.sources.facts import OnnxFacts, SourceGraph
from xinfer.sources.limits import Limits
from xinfer.sources.walk import PREFIX, fault
from xinfer.sources.weights import EXTERNAL_FILE, MODEL_FILE

if TYPE_CHECKING:
    from types import TracebackType

WORKER = ("-m", "xinfer.sources.worker")
_START_S = 60.0
"""What the worker may take beyond the job itself: it imports the tools first."""
_MAX_RESULT_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class OnnxSource:
    """A source model that is safe to give to tools.

    Attributes:
        path: The normalised ONNX file: nodes in order and uniquely named, weights inside it or, where they
            are too large for that, in ``model.onnx.data`` beside it.
        source_digest: Content address of the file that was given, without weights beside it.
        digest: Content address of what was made of it, weights included.
        facts: What stands in it.
        exported_program: The `torch.export` archive of the same model, where it came from torch.
    """

    path: Path
    source_digest: str
    digest: str
    facts: OnnxFacts
    exported_program: Path | None = None

    @property
    def graph(self) -> SourceGraph:
        """The part of the facts that the search works with."""
        return self.facts.graph


def read_onnx(
    path_or_bytes: str | os.PathLike[str] | bytes,
    *,
    folder: str | os.PathLike[str],
    limits: Limits | None = None,
    timeout_s: float = 60.0,
) -> OnnxSource:
    """Checks a source model in a process of its own, which cannot take this one down.

    Args:
        path_or_bytes: The ONNX file, from anywhere; its external weights must stand in its own folder.
        folder: Where the normalised model goes; nothing is written anywhere else.
        limits: Bounds on the model.
        timeout_s: For the whole reading; models of several GiB need more than the default.

    Returns:
        The model and facts about it.

    Raises:
        SourceModelError: It cannot be used. Codes ``build.source_model.*``: ``malformed``, ``truncated``,
            ``too_large``, ``cyclic``, ``dangling_input``, ``duplicate_name``, ``shape``, ``external_data``,
            ``unsupported_op``, ``unsupported_version``, ``unreadable``, ``timeout``, ``crashed``. The
            message names the node or weight.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    with OnnxReader(limits=limits, timeout_s=timeout_s) as reader:
        return reader.read(path_or_bytes, folder=folder)


class OnnxReader:
    """Like `read_onnx`, for many models: the worker stays. Thread-safe, one model at a time.

    Args:
        limits: Bounds on each model.
        timeout_s: For each model.
    """

    def __init__(self, *, limits: Limits | None = None, timeout_s: float = 60.0) -> None:
        self.limits = limits or Limits()
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(
        self, path_or_bytes: str | os.PathLike[str] | bytes, *, folder: str | os.PathLike[str]
    ) -> OnnxSource:
        """Reads one model; see `read_onnx`."""
        for module in ("onnx", "onnxruntime"):
            if find_spec(module) is None:
                raise MissingExtraError(module, "build")
        destination = Path(folder)
        destination.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=destination, prefix=".read-")).resolve()
        try:
            if isinstance(path_or_bytes, bytes):
                if len(path_or_bytes) > self.limits.max_file_bytes:
                    raise _too_large(len(path_or_bytes), self.limits)
                source, given_as_bytes = scratch / "given.onnx", True
                source.write_bytes(path_or_bytes)
            else:
                source, given_as_bytes = Path(path_or_bytes), False
            size_bytes = _check_file(source, self.limits)
            job = {
                "source": str(source.absolute()),
                "given_as_bytes": given_as_bytes,
                "limits": dataclasses.asdict(self.limits),
                "timeout_s": self.timeout_s,
                "size_bytes": size_bytes,
            }
            (scratch / "job.json").write_text(json.dumps(job))
            with self._lock:
                end = self._do(scratch)
            facts, digest = _result(scratch, end, source.name, self.timeout_s)
            with source.open("rb") as file:
                source_digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            with contextlib.suppress(FileNotFoundError):
                (destination / EXTERNAL_FILE).unlink()
            if facts.external:
                (scratch / EXTERNAL_FILE).replace(destination / EXTERNAL_FILE)
            (scratch / MODEL_FILE).replace(destination / MODEL_FILE)
        except OSError as error:
            raise fault("unreadable", f"the model cannot be read: {error.strerror or error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return OnnxSource(
            path=destination / MODEL_FILE, source_digest=source_digest, digest=digest, facts=facts
        )

    def close(self) -> None:
        """Ends the worker."""
        with self._lock:
            self._end()

    def __enter__(self) -> OnnxReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, scratch: Path) -> str:
        """Has one job done. Returns how it ended, in the worker's words or as ``lost``."""
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            # The worker keeps the time; this one is for a worker that does not.
            timer = threading.Timer(self.timeout_s + _START_S, process.kill)
            timer.daemon = True
            timer.start()
            try:
                process.stdin.write(os.fsencode(scratch) + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline().decode(errors="replace").strip()
            except BrokenPipeError:
                answer = ""
            finally:
                timer.cancel()
            if not answer or process.poll() is not None or not bounds.HAS_FORK:
                self._end()
            return answer or "lost"
        except BaseException:
            # An answer that comes later must not become the next job's.
            self._end()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        # One thread each: worker threads would not survive the forks.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-P", *WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # ONNX Runtime's telemetry starts a thread too, and writes into the user's home.
            env={**os.environ, **threads, "ORT_DISABLE_TELEMETRY": "1"},
        )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            # It ends with its stdin, and with it the fork at work.
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _too_large(size: int, limits: Limits) -> SourceModelError:
    return fault(
        "too_large",
        f"the model has {size} bytes, more than {limits.max_file_bytes}",
        value=size,
        hint="keep the weights in a file beside it (external_data=True)",
    )


def _check_file(path: Path, limits: Limits) -> int:
    """Size of a regular file within the limits. Opening a device or a pipe could block for good."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise fault(
            "unreadable", f"cannot read {path.name[:100]!r}: {reason}", value=str(path)[:500]
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise fault("unreadable", f"{path.name[:100]!r} is no regular file", value=str(path)[:500])
    if status.st_size > limits.max_file_bytes:
        raise _too_large(status.st_size, limits)
    if status.st_size == 0:
        raise fault("truncated", f"{path.name[:100]!r} is empty", value=0)
    return status.st_size


def _result(scratch: Path, end: str, name: str, timeout_s: float) -> tuple[OnnxFacts, str]:
    """What the worker found. Raises what it says, or what its end means."""
    if end == "timeout":
        raise fault(
            "timeout", f"reading {name[:100]!r} took longer than {timeout_s:g} s", value=timeout_s,
            hint="give timeout_s, or simplify the model",
        )  # fmt: skip
    try:
        if (scratch / "result.json").stat().st_size > _MAX_RESULT_BYTES:
            raise fault("too_large", f"the description of {name[:100]!r} is too large")
        result: Any = json.loads((scratch / "result.json").read_bytes())
    except (FileNotFoundError, ValueError):
        raise _crash(end, name, scratch) from None
    error = result.get("error")
    if error is not None:
        if error["missing"] is not None:
            raise MissingExtraError(str(error["missing"]), "build")
        if not str(error["code"]).startswith(PREFIX):
            raise XInferError(error["message"], code=error["code"], hint=error["hint"])
        raise SourceModelError(error["message"], code=error["code"], value=error["value"], hint=error["hint"])
    return schema.read(OnnxFacts, result["facts"], where="facts"), str(result["digest"])


def _crash(end: str, name: str, scratch: Path) -> SourceModelError:
    """The error for a worker that ended without a result."""
    how = f"exit code {end}"
    kind = "crashed"
    if end.startswith("-"):
        number = int(end)
        with contextlib.suppress(ValueError):
            how = signal.Signals(-number).name
        if -number == getattr(signal, "SIGXCPU", 0):
            kind = "timeout"
        if -number == getattr(signal, "SIGXFSZ", 0):
            kind = "too_large"
    elif end == "lost":
        how = "its process was killed"
    text = ""
    with contextlib.suppress(OSError), (scratch / "log").open("rb") as file:
        text = file.read(65536).decode(errors="replace")
    if "bad_alloc" in text or "MemoryError" in text:
        kind, how = "too_large", "not enough memory"
    return fault(
        kind,
        f"reading {name[:100]!r} ended the reading process ({how}); this process is unharmed",
        value=how,
        hint="the file makes the ONNX tools crash: export it again",
    )
