"""Thousands of damaged ONNX models and engine files: the caller must survive all of them.

    nice -n 10 .venv/bin/python benchmarks/fuzz.py --count 10000 --seed 0 --out benchmarks/results/fuzz.json

Even cases are models for `xinfer.sources.OnnxReader`, odd ones engine files that are opened, unpacked
and loaded. Each of two processes plays the caller and does its cases one after the other; the parent
only watches. A case fails when the caller dies, is silent for `HANG_S`, raises anything but an
`XInferError`, writes or leaves anything outside the case's own folder, or keeps memory. Case i depends
on the seed and i alone: ``--only I`` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_mutations import mutate_onnx, mutate_package, onnx_seeds, read_entries

HANG_S = 40.0
"""Silence of a caller that counts as a hang; a model may take `CASE_S`, then reading it ends in an error."""
CASE_S = 10.0
MAX_GROWTH_BYTES = 1 << 30
CANARY = "canary"


# ------------------------------------------------------------------------------------------------ the caller


class Caller:
    """Goes through cases in a folder of its own.

    Args:
        root: Holds the canary; the working folder is made in it.
        package: A sound engine file.
        seed: Of all cases.
    """

    def __init__(self, root: Path, package: bytes, seed: int) -> None:
        from xinfer.sources import OnnxReader

        self.root, self.work, self.seed, self.package = root, root / "work", seed, package
        self.entries, self.models = read_entries(package), onnx_seeds()
        self.reader = OnnxReader(timeout_s=CASE_S)
        self.written: list[str] = []
        # Python's own reports of what is opened for writing; what C++ writes, the canary's snapshot shows.
        sys.addaudithook(self._watch)
        self.before = snapshot(root)

    def run(self, index: int) -> dict[str, Any]:
        """Does one case.

        Returns:
            ``{"kind", "mutation", "outcome", "fault"}``; `fault` is None where all is well.
        """
        from xinfer.errors import XInferError

        rng = np.random.default_rng((self.seed, index))
        kind = "engine" if index % 2 else "onnx"
        if kind == "onnx":
            mutation, data = mutate_onnx(self.models, rng)
        else:
            mutation, data = mutate_package(self.package, self.entries, rng)
        make_work_folder(self.work)
        self.written.clear()
        fault = None
        try:
            if kind == "onnx":
                self._read(data, as_bytes=index % 8 == 0)
            else:
                self._load(data)
            outcome = "accepted"
        except XInferError as error:
            outcome = error.code
            if not error.message or not isinstance(error.message, str) or len(error.message) > 5000:
                fault = f"{index}: a message of {len(str(error.message))} characters"
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            outcome = f"untyped {type(error).__name__}"
            fault = f"{index}: " + "".join(traceback.format_exception(error))[-1500:]
        if self.written:
            fault = f"{index}: wrote {self.written[:3]}"
        shutil.rmtree(self.work)
        after = snapshot(self.root)
        if after != self.before:
            fault = f"{index}: changed {sorted(set(after.items()) ^ set(self.before.items()))[:3]}"
        return {"kind": kind, "mutation": mutation, "outcome": outcome, "fault": fault}

    def _read(self, data: bytes, *, as_bytes: bool) -> None:
        source = self.reader.read
        out = self.work / "out"
        if as_bytes:
            source(data, folder=out)
        else:
            path = self.work / "given" / "model.onnx"
            path.write_bytes(data)
            source(path, folder=out)
        left = {path.name for path in out.iterdir()}
        if not left <= {"model.onnx", "model.onnx.data"}:
            raise AssertionError(f"left behind: {left}")

    def _load(self, data: bytes) -> None:
        from xinfer.engine import InferenceEngine
        from xinfer.package import EnginePackage

        path = self.work / "x.engine"
        path.write_bytes(data)
        package = EnginePackage.open(path)
        package.golden()
        folder = package.extract(self.work / "unpacked")
        for item in folder.rglob("*"):
            if item.is_symlink() or not item.resolve().is_relative_to(folder.resolve()):
                raise AssertionError(f"unpacked {item}")
        with InferenceEngine.load(path, require_signature=False, temp_dir=self.work) as engine:
            engine.infer(engine.golden.inputs)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        paths: list[Any] = []
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wxa+")) or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            paths = [path] if writes else []
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
            paths = [arguments[0]]
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = list(arguments[:2])
        for path in paths:
            # Numbers are descriptors. A relative name with a descriptor is rmtree's, inside a checked folder.
            if isinstance(path, (str, bytes)) and len(path) > 0:
                text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links must not be followed
                inside = text == str(self.work) or text.startswith(f"{self.work}/")
                relative = not Path(os.fsdecode(path)).is_absolute() and event != "open"
                if not inside and not relative and not text.startswith(("/dev/", "/proc/")):
                    self.written.append(f"{event} {text}")


def make_work_folder(work: Path) -> None:
    """An empty working folder with the places that bad models point to."""
    given = work / "given"
    (given / "folder").mkdir(parents=True)
    (given / "weights.bin").write_bytes(bytes(4096))
    (given / "folder" / "inside.bin").write_bytes(bytes(4096))
    (given / "link").symlink_to(work.parent / CANARY / "secret.txt")
    (given / "linked").symlink_to(given / "folder")
    os.mkfifo(given / "pipe")


def snapshot(root: Path) -> dict[str, str]:
    """Digests of everything below a folder but the working folder and Python's own caches."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] != "work":
            status = path.lstat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[name] = f"{status.st_mode:o} {status.st_mtime_ns} {digest}"
    return found


def work_through(root: Path, seed: int, indices: range) -> None:
    """The caller's process: a line before each case and one after it."""
    # Above what a case needs and below what would disturb the machine.
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, resource.RLIM_INFINITY))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    caller = Caller(root, (root / "sound.engine").read_bytes(), seed)
    start_bytes = None
    for number, index in enumerate(indices):
        answers.write(json.dumps({"start": index}) + "\n")
        result = caller.run(index)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if number == 20:
            start_bytes = peak
        if start_bytes is not None and peak - start_bytes > MAX_GROWTH_BYTES:
            result["fault"] = result["fault"] or f"{index}: the caller grew to {peak} bytes"
            start_bytes = peak
        answers.write(json.dumps(result) + "\n")
    caller.reader.close()


# ----------------------------------------------------------------------------------------------- the parent


class Watched:
    """One caller and its share of the cases; a new one goes on after a case that ended it."""

    def __init__(self, root: Path, seed: int, indices: range) -> None:
        self.root, self.seed, self.rest = root, seed, indices
        self.current: int | None = None
        self.buffer = b""
        make_root(root)
        self.start()

    def start(self) -> None:
        """Starts a caller for the cases that are left."""
        home = self.root / "home"
        environment = {
            **os.environ, "HOME": str(home), "TMPDIR": str(self.root / "tmp"), "XINFER_HOME": str(home),
            "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        rest = self.rest
        share = f"{rest.start}:{rest.stop}:{rest.step}"
        script = str(Path(__file__).resolve())
        command = [
            sys.executable,
            script,
            "--caller",
            str(self.root),
            "--seed",
            str(self.seed),
            "--share",
            share,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=self.root / "home",
        )
        self.heard = time.monotonic()

    def lines(self) -> list[dict[str, Any]]:
        """What the caller wrote since the last call."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        if data:
            self.heard = time.monotonic()
        found = [json.loads(line) for line in lines]
        for line in found:
            if "start" in line:
                self.current = line["start"]
            else:
                assert self.current is not None
                self.rest = range(self.current + self.rest.step, self.rest.stop, self.rest.step)
                line["index"], self.current = self.current, None
        return [line for line in found if "start" not in line]

    def end(self) -> None:
        """Ends the caller."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def failed(self) -> dict[str, Any] | None:
        """How the current case ended the caller, None while it has not."""
        silent = time.monotonic() - self.heard > HANG_S
        code = self.process.poll()
        if not silent and (code is None or (self.current is None and not self.rest)):
            return None
        self.end()
        index = self.current if self.current is not None else self.rest.start
        what = f"{index}: " + ("hang" if silent else f"the caller ended with {code}")
        kind = "engine" if index % 2 else "onnx"
        self.rest, self.current = range(index + self.rest.step, self.rest.stop, self.rest.step), None
        return {"kind": kind, "mutation": "?", "outcome": "caller died", "fault": what, "index": index}


def make_root(root: Path) -> None:
    """A folder with a sound engine file, a canary, and empty places for HOME and temporary files."""
    for name in (CANARY, "home", "tmp"):
        (root / name).mkdir(parents=True)
    (root / CANARY / "secret.txt").write_text("nobody reads or changes this\n")
    write_sound_package(root / "sound.engine", root / "make")
    shutil.rmtree(root / "make")


def fuzz(count: int, seed: int, *, limit_s: float, callers: int = 2, say: bool = False) -> dict[str, Any]:
    """Runs all cases.

    Args:
        count: How many.
        seed: Of all of them.
        limit_s: Seconds after which no further case is started.
        callers: Processes at once.
        say: Print progress.

    Returns:
        ``{"cases", "seconds", "outcomes", "mutations", "failures"}``.
    """
    started = time.monotonic()
    outcomes: dict[str, Counter[str]] = {"onnx": Counter(), "engine": Counter()}
    mutations: dict[str, Counter[str]] = {"onnx": Counter(), "engine": Counter()}
    failures: list[str] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix="xinfer-fuzz-") as folder:
        # Blocks of cases, so that both kinds come to every caller.
        share = -(-count // callers)
        shares = [range(start, min(start + share, count)) for start in range(0, count, share)]
        watched = [
            Watched(Path(folder).resolve() / str(i), seed, indices) for i, indices in enumerate(shares)
        ]
        try:
            while watched and time.monotonic() - started < limit_s:
                pipes = {w.process.stdout: w for w in watched}
                ready, _, _ = select.select(list(pipes), [], [], 1.0)
                results = [line for pipe in ready for line in pipes[pipe].lines()]
                for one in list(watched):
                    failure = one.failed()
                    if failure is not None:
                        results.append(failure)
                        if one.rest:
                            one.start()
                    if not one.rest and one.process.poll() is not None:
                        one.end()
                        watched.remove(one)
                for line in results:
                    done += 1
                    outcomes[line["kind"]][line["outcome"]] += 1
                    mutations[line["kind"]][line["mutation"]] += 1
                    if line["fault"]:
                        failures.append(line["fault"])
                        if say:
                            print(line["fault"], flush=True)
                    if say and line["outcome"].endswith((".timeout", ".crashed")):
                        print(line["index"], line["mutation"], line["outcome"], flush=True)
                    if say and done % 500 == 0:
                        print(f"{done} of {count}, {time.monotonic() - started:.0f} s", flush=True)
        finally:
            for one in watched:
                one.end()
    return {
        "cases": done,
        "seconds": round(time.monotonic() - started, 1),
        "outcomes": {kind: dict(counter.most_common()) for kind, counter in outcomes.items()},
        "mutations": {kind: dict(counter.most_common()) for kind, counter in mutations.items()},
        "failures": failures,
    }


def write_sound_package(path: Path, folder: Path) -> None:
    """A small valid, unsigned engine file."""
    import onnx

    from xinfer.backends import RuntimeSettings, get_backend
    from xinfer.manifest import Manifest, Receipt
    from xinfer.package import EnginePackage, Golden, artifact_digest, stage
    from xinfer.targets import HardwareTarget

    artifact, out = folder / "artifact", folder / "out"
    artifact.mkdir(parents=True)
    out.mkdir()
    onnx.save(onnx_seeds()[0], str(artifact / "model.onnx"))
    target = HardwareTarget.detect()
    settings = RuntimeSettings(num_threads=1, num_streams=1)
    model = get_backend("onnxruntime").load(artifact, settings)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    tensors = {
        kind: [
            {"name": s.name, "datatype": s.datatype, "shape": list(s.shape), "layout": s.layout}
            for s in getattr(model, kind)
        ]
        for kind in ("inputs", "outputs")
    }
    manifest = {
        "schema_version": 1,
        "identity": {"name": "x", "version": 1, "digest": artifact_digest(artifact), "producer": {"a": "b"}},
        "source": {"onnx_digest": "sha256:" + "0" * 64, "opset": 18, "licences": ["MIT"]},
        "io": tensors,
        "task": None,
        "backend": "onnxruntime",
        "format": "onnx",
        "precision": {"requested": "fp32", "executed": "fp32"},
        "compatibility": {"target": target.name, "isa": [], "runtime": {"onnxruntime": ">=1"}},
        "recipe": {
            "settings": {"runtime": settings.to_json()}, "seed": 0, "tools": {}, "calibration_digest": None,
            "agent": None, "duration_s": 1.0,
        },
    }  # fmt: skip
    numbers = dict.fromkeys(("throughput_per_s", "cpu_ms_per_item", "load_ms", "accuracy", "drop"), 1.0)
    receipt = {
        "schema_version": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "machine": {"cpu": "x", "num_cores": 1, "memory_bytes": 1, "isa": [], "os": "linux", "runtimes": {}},
        "protocol": {"warmup": 1, "repeats": 1, "interleaved": True, "batch": 1, "num_threads": 1},
        "accuracy": None,
        "candidates": [
            {
                "id": "only", "backend": "onnxruntime", "settings": {},
                "precision_requested": "fp32", "precision_executed": "fp32",
                "status": "selected", "reason": None,
                "latency_ms": {"p50": 1.0, "p95": 1.0, "p99": 1.0},
                "peak_memory_bytes": 1, **numbers,
            }
        ],
    }  # fmt: skip
    stage(
        out,
        manifest=Manifest.from_json(json.dumps(manifest).encode()),
        receipt=Receipt.from_json(json.dumps(receipt).encode()),
        labels=("a", "b"),
        golden=Golden(inputs=feeds, outputs=model.infer(feeds)),
        artifact={"model.onnx": artifact / "model.onnx"},
    )
    model.close()
    EnginePackage.write(path, out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which it ends")
    parser.add_argument("--only", type=int, help="do this case in this process")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--caller", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.caller is not None:
        work_through(arguments.caller, arguments.seed, range(*map(int, arguments.share.split(":"))))
        return
    if arguments.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder).resolve() / "0"
            make_root(root)
            caller = Caller(root, (root / "sound.engine").read_bytes(), arguments.seed)
            with contextlib.closing(caller.reader):
                print(json.dumps(caller.run(arguments.only), indent=1).replace("\\n", "\n"))
        return
    result = fuzz(arguments.count, arguments.seed, limit_s=arguments.limit, say=True)
    versions = {name: metadata.version(name) for name in ("onnx", "onnxruntime", "numpy", "protobuf")}
    document = {"seed": arguments.seed, **result, "machine": _machine(), "versions": versions}
    text = json.dumps(document, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    print(text)
    sys.exit(bool(result["failures"]) or result["cases"] < arguments.count)


def _machine() -> dict[str, Any]:
    from xinfer.targets import HardwareTarget

    target = HardwareTarget.detect()
    return {"cpu": target.cpu, "num_cores": target.num_cores, "python": platform.python_version()}


if __name__ == "__main__":
    main()
