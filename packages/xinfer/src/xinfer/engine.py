"""Loading and running engines."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xinfer import signing
from xinfer.backends import RuntimeSettings, get_backend
from xinfer.errors import (
    EngineClosedError,
    IncompatibleTargetError,
    InputError,
    PackageError,
    SignatureError,
    VerificationError,
)
from xinfer.manifest import Latency, Manifest, Receipt
from xinfer.package import EnginePackage, Golden, artifact_digest, read_labels
from xinfer.targets import HardwareTarget
from xinfer.trust import TrustPolicy, default_path
from xinfer.verify import check_golden

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xinfer.backends import CompiledModel
    from xinfer.backends.base import LayerProfile
    from xinfer.tasks import TaskSpec


logger = logging.getLogger(__name__)

ASSETS = "assets"
"""Folder inside the artifact for files that a task needs beside the model."""

LOAD_ATTEMPTS = 5
"""OpenVINO 2026.4.1 compiles some INT8 graphs wrongly by chance when there are several streams (measured: up
to one load in five, with all scores wrong; never with one stream). The golden pair tells."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What `InferenceEngine.benchmark` measured."""

    latency_ms: Latency
    throughput_per_s: float
    cpu_ms_per_item: float
    num_streams: int
    num_threads: int


class InferenceEngine:
    """A verified engine, ready to run. Thread-safe; a context manager.

    Attributes:
        manifest, receipt, task, labels, golden: What the package says.
        settings: How it uses this machine.
    """

    def __init__(
        self,
        package: EnginePackage,
        manifest: Manifest,
        folder: Path,
        model: CompiledModel,
        settings: RuntimeSettings,
        *,
        temporary: Path | None,
    ) -> None:
        """For `load` only."""
        self.manifest = manifest
        self.receipt = Receipt.from_json((folder / "receipt.json").read_bytes())
        self.labels = read_labels((folder / "labels.json").read_bytes())
        self.task: TaskSpec | None = self.manifest.task
        self.golden = Golden.from_bytes((folder / "golden.npz").read_bytes())
        self._package = package
        assets = folder / "artifact" / ASSETS
        self._assets = {path.name: path.read_bytes() for path in assets.iterdir()} if assets.is_dir() else {}
        self.settings = settings
        self._model: CompiledModel | None = model
        self._inputs = {spec.name: spec for spec in model.inputs}
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._temporary = temporary

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | EnginePackage,
        *,
        public_key: str | os.PathLike[str] | bytes | None = None,
        trust: TrustPolicy | None = None,
        require_signature: bool = True,
        num_streams: int | None = None,
        num_threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        temp_dir: str | os.PathLike[str] | None = None,
    ) -> InferenceEngine:
        """Checks an engine file (form, machine, signature) and compiles it for this machine.

        Args:
            path: The ``*.engine`` file.
            public_key: PEM file, or its content, that must have signed the engine. Whenever it is
                given, the signature is checked.
            trust: Whose engines may be loaded; default where no key is given: the user's policy file, if
                there is one (`trust.default_path`).
            require_signature: Refuse to load without a key or a policy to check against.
            num_streams: Inferences at once; default: as the engine was measured, within this machine.
            num_threads: Threads in all; default: this machine's cores.
            cache_dir: Keeps the unpacked engine and compiled blobs between loads; private to the user.
                Default: a temporary folder that `close` removes.
            temp_dir: Where that temporary folder goes; default: the system's place for such.

        Returns:
            The engine.

        Raises:
            PackageError: Not an engine file.
            IncompatibleTargetError: This machine or its runtimes do not fit.
            SignatureError: Unsigned, changed, or signed by another key.
            BackendError: The runtime cannot load it.
            VerificationError: It does not answer its golden pair as recorded when it was built.
        """
        package = path if isinstance(path, EnginePackage) else EnginePackage.open(path)
        target = HardwareTarget.detect()
        reasons = target.compatible(package.manifest)
        if reasons:
            raise IncompatibleTargetError(
                f"{package.path.name} cannot run here: {'; '.join(reasons)}",
                value=target.name,
                hint="build the engine for this target",
            )
        if public_key is None and trust is None and require_signature:
            if not default_path().exists():
                raise SignatureError(
                    "no public key was given to check the signature with",
                    code="signature.no_key",
                    hint="pass public_key=..., make a trust policy (xinfer trust add), or pass "
                    "require_signature=False for an engine you built yourself",
                )
            trust = TrustPolicy.load()
        settings = _settings(package, target, num_streams, num_threads)
        temporary = (
            Path(tempfile.mkdtemp(prefix="xinfer-engine-", dir=temp_dir)) if cache_dir is None else None
        )
        folder = Path(cache_dir or temporary or "") / package.key
        try:
            package.extract(folder)
            if public_key is not None:
                signing.verify_folder(folder, public_key)
            if trust is not None:
                trust.check(folder, package.manifest)
            # The unpacked folder is what the signature vouches for, so the documents come from there.
            manifest = Manifest.from_json((folder / "manifest.json").read_bytes())
            if manifest != package.manifest:
                raise PackageError(
                    f"{package.path.name} changed while it was loaded", value=str(package.path)
                )
            digest = artifact_digest(folder / "artifact")
            if digest != manifest.identity.digest:
                raise PackageError(
                    f"{package.path.name} holds another artifact than its manifest says", value=digest
                )
            blobs = None if cache_dir is None else Path(cache_dir) / "compiled"
            for attempt in range(1, LOAD_ATTEMPTS + 1):
                model = get_backend(manifest.backend).load(folder / "artifact", settings, cache_dir=blobs)
                engine = cls(package, manifest, folder, model, settings, temporary=temporary)
                try:
                    check_golden(engine)
                except VerificationError as error:
                    engine._release()
                    if attempt == LOAD_ATTEMPTS:
                        raise
                    logger.warning("%s: %s; compiling it again", package.path.name, error.message)
                    blobs = None
                except BaseException:
                    engine._release()
                    raise
                else:
                    return engine
            raise AssertionError("the last attempt returns or raises")
        except BaseException:
            _remove(temporary)
            raise

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one inference; calls beyond `settings.num_streams` at once wait their turn.

        Args:
            feeds: One array per input of `manifest.io`, of its datatype, shape and name.

        Returns:
            One array per output.

        Raises:
            InputError: The arrays do not fit the model.
            BackendError: The runtime failed.
            EngineClosedError: The engine was closed.
        """
        model = self._model
        if model is None:
            raise EngineClosedError
        return model.infer(self._checked(feeds))

    def infer_async(self, feeds: Mapping[str, np.ndarray]) -> Future[dict[str, np.ndarray]]:
        """Like `infer`, but returns a future at once. Raises EngineClosedError."""
        with self._lock:
            if self._model is None:
                raise EngineClosedError
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.settings.num_streams, "xinfer")
            return self._executor.submit(self.infer, feeds)

    def infer_many(
        self, feeds: Iterable[Mapping[str, np.ndarray]], *, in_flight: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Runs many inferences, as many at once as the engine has streams, and yields results in order.

        Args:
            feeds: As for `infer`; taken as needed, so it may be a generator without an end.
            in_flight: Inferences that are begun before the first result is taken; default: twice the streams.

        Yields:
            One array per output, for each of the feeds.

        Raises:
            InputError, BackendError, EngineClosedError: As `infer`, in the place of that result.
        """
        waiting: deque[Future[dict[str, np.ndarray]]] = deque()
        limit = in_flight or 2 * self.settings.num_streams
        try:
            for each in feeds:
                waiting.append(self.infer_async(each))
                if len(waiting) >= limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def profile(
        self, feeds: Mapping[str, np.ndarray] | None = None, *, repeats: int = 20
    ) -> tuple[LayerProfile, ...]:
        """Where the time of an inference goes.

        Args:
            feeds: Inputs to run; default: the golden pair's.
            repeats: Timed inferences.

        Returns:
            The executed layers with type, executed precision and share of the time, the costliest first.

        Raises:
            BackendError: The runtime failed, or does not tell.
            EngineClosedError: The engine was closed.
        """
        if self._model is None:
            raise EngineClosedError
        return self._model.profile(
            self._checked(self.golden.inputs if feeds is None else feeds), repeats=repeats
        )

    def asset(self, name: str) -> bytes:
        """A file that travels with the engine, such as a tokeniser.

        Raises:
            PackageError: The engine has none of that name.
        """
        if name not in self._assets:
            raise PackageError(
                f"the engine carries no {name!r}", value=name, hint=f"it carries {sorted(self._assets)}"
            )
        return self._assets[name]

    @property
    def digest(self) -> str:
        """Content address of the engine file."""
        return self._package.digest

    def executed_precision(self) -> str:
        """What the runtime executes here, read back from it. Raises EngineClosedError."""
        if self._model is None:
            raise EngineClosedError
        return self._model.executed_precision()

    def benchmark(
        self, feeds: Mapping[str, np.ndarray] | None = None, *, warmup: int = 5, repeats: int = 50
    ) -> Benchmark:
        """Measures this engine here: single inferences, then `num_streams` at once.

        Args:
            feeds: Inputs to run; default: the golden pair's.
            warmup: Inferences before the clock starts.
            repeats: Timed inferences of each kind.

        Returns:
            Latency percentiles, throughput and CPU time.
        """
        feeds = self.golden.inputs if feeds is None else feeds
        for _ in range(warmup):
            self.infer(feeds)
        latencies_ms = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.infer(feeds)
            latencies_ms.append((time.perf_counter() - start) * 1e3)
        start, cpu_start = time.perf_counter(), time.process_time()
        for future in [self.infer_async(feeds) for _ in range(repeats)]:
            future.result()
        elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        return Benchmark(
            latency_ms=percentiles(latencies_ms),
            throughput_per_s=repeats / elapsed_s,
            cpu_ms_per_item=cpu_s / repeats * 1e3,
            num_streams=self.settings.num_streams,
            num_threads=self.settings.num_threads,
        )

    def close(self) -> None:
        """Frees the model and removes temporary files; waits for inferences that are under way."""
        self._release()
        _remove(self._temporary)

    def _release(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
            model, self._model = self._model, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        if model is not None:
            model.close()

    def __enter__(self) -> InferenceEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _checked(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if feeds.keys() != self._inputs.keys():
            raise InputError(
                f"the model takes {sorted(self._inputs)}, given were {sorted(feeds)}", value=sorted(feeds)
            )
        checked = {}
        for name, spec in self._inputs.items():
            array = np.asarray(feeds[name])
            if array.dtype != spec.dtype:
                raise InputError(
                    f"input {name!r} is {spec.dtype}, given was {array.dtype}", value=str(array.dtype)
                )
            fits = array.ndim == len(spec.shape) and all(
                (want in (-1, have)) and have > 0 for want, have in zip(spec.shape, array.shape, strict=True)
            )
            if not fits:
                raise InputError(
                    f"input {name!r} has shape {list(spec.shape)} (-1 is free), given {list(array.shape)}",
                    value=list(array.shape),
                )
            # Not ascontiguousarray alone: it gives a single number an axis.
            checked[name] = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        return checked


def percentiles(latencies_ms: list[float]) -> Latency:
    """The 50th, 95th and 99th percentile of some latencies in milliseconds."""
    p50, p95, p99 = (float(value) for value in np.percentile(latencies_ms, (50, 95, 99)))
    return Latency(p50=p50, p95=p95, p99=p99)


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _settings(
    package: EnginePackage, target: HardwareTarget, num_streams: int | None, num_threads: int | None
) -> RuntimeSettings:
    """As it was measured, in proportion to the cores of this machine."""
    built = RuntimeSettings.from_json(package.manifest.recipe.settings.get("runtime", {}))
    share = target.num_cores / package.receipt.machine.num_cores
    threads = num_threads or max(1, round(built.num_threads * share))
    if num_streams is None:
        num_streams = max(1, round(built.num_streams * threads / built.num_threads))
        if built.num_streams == 1:
            num_streams = 1
    return replace(built, num_threads=max(threads, num_streams), num_streams=num_streams)
