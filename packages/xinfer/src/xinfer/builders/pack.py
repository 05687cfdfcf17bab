"""Packing the winner, and proving the file before it counts as built."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from xinfer import signing
from xinfer.backends import BACKENDS, get_backend, required_target
from xinfer.builders.measure import WARMUP, measure_pipeline
from xinfer.builders.samples import samples_digest
from xinfer.engine import ASSETS, InferenceEngine
from xinfer.errors import VerificationError
from xinfer.manifest import (
    Accuracy,
    ClassAccuracy,
    Comparison,
    Compatibility,
    Histogram,
    Identity,
    Layer,
    Machine,
    Manifest,
    ModelIO,
    Precision,
    Protocol,
    Receipt,
    Recipe,
    Source,
)
from xinfer.package import EnginePackage, Golden, artifact_digest, stage
from xinfer.targets import installed_version
from xinfer.targets.target import DRIVERS

if TYPE_CHECKING:
    from xinfer.builders.candidates import Trial
    from xinfer.builders.search import Search
    from xinfer.targets import HardwareTarget

TOOLS = ("openvino", "onnxruntime", "nncf", "onnx", "numpy", "torch")
RUNTIMES = ("openvino", "onnxruntime", "torch", "tensorrt")
MAX_LAYERS = 30
NUM_BINS = 40


class BuiltEngine:
    """The winner of a search, not packed yet. Close it, or use it as a context manager.

    Attributes:
        manifest: What the engine will say it is.
        receipt: What was measured.
    """

    def __init__(self, search: Search, winner: Trial) -> None:
        self._search, self._winner = search, winner
        self._mode: Literal["latency", "throughput"] = search.plan.objective
        assert winner.artifact_dir is not None
        self._artifact_dir = search.folder / "winner"
        shutil.copytree(winner.artifact_dir, self._artifact_dir)
        for name, path in search.plan.assets:
            (self._artifact_dir / ASSETS).mkdir(exist_ok=True)
            shutil.copyfile(path, self._artifact_dir / ASSETS / name)
        settings = winner.setting(search.plan.target.num_cores, self._mode)
        model = get_backend(winner.recipe.backend).load(self._artifact_dir, settings)
        try:
            # The smallest sample: it travels with every copy of the engine. Its outputs are the gated ones.
            sizes = [sum(array.nbytes for array in sample.values()) for sample in search.plan.samples]
            index = sizes.index(min(sizes))
            self._golden = Golden(inputs=dict(search.plan.samples[index]), outputs=winner.outputs[index])
            self._io = ModelIO(inputs=model.inputs, outputs=model.outputs)
            layers = sorted(model.profile(self._golden.inputs), key=lambda layer: -layer.share)
            self._layers = tuple(Layer(**asdict(layer)) for layer in layers[:MAX_LAYERS])
        finally:
            model.close()
        self.receipt = self._make_receipt(None)
        self.manifest = self._make_manifest()

    def save(
        self, path: str | os.PathLike[str], *, signing_key: str | os.PathLike[str] | None = None
    ) -> EnginePackage:
        """Packs, signs and proves the engine; `path` appears only if it holds.

        Args:
            path: The engine file.
            signing_key: PEM private key; None leaves the engine unsigned.

        Returns:
            The package.

        Raises:
            VerificationError: The file does not reproduce what was measured.
            SignatureError: The key cannot be used.
        """
        plan, destination = self._search.plan, Path(path)
        public_key = None if signing_key is None else signing.public_key_pem(signing_key)
        work = Path(tempfile.mkdtemp(dir=self._search.folder))
        if plan.comparison is not None:
            self._search.progress("Comparing", 0.86, plan.comparison[0])
            num_cores = plan.target.num_cores
            unsigned = self._write(work / "unsigned.engine", None)
            with InferenceEngine.load(
                unsigned, require_signature=False, num_streams=num_cores, num_threads=num_cores
            ) as engine:
                name, peer, payloads = plan.comparison
                self.receipt = self._make_receipt(measure_pipeline(engine, payloads, peer, peer_name=name))
        self.manifest = self._make_manifest()
        self._search.progress("Packing", 0.94, "signing" if signing_key else "unsigned")
        # Proved under another name first: a file under its own name is one that was proved.
        handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
        os.close(handle)
        try:
            self._write(Path(temporary), signing_key)
            self._search.progress("Verifying", 0.96, "loading the packed engine and measuring it again")
            self._prove(Path(temporary), public_key)
            Path(temporary).replace(destination)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._search.progress("Built", 1.0, destination.name)
        return EnginePackage.open(destination)

    def keep(self, folder: Path, key: str) -> None:
        """Puts the engine, unsigned, into a cache of builds (`builders.cache`)."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder / f"{key}.engine", None)

    def close(self) -> None:
        """Removes the build's files."""
        shutil.rmtree(self._search.folder, ignore_errors=True)

    def __enter__(self) -> BuiltEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, path: Path, signing_key: str | os.PathLike[str] | None) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._search.folder))
        artifact = _files(self._artifact_dir)
        stage(
            folder,
            manifest=self.manifest,
            receipt=self.receipt,
            labels=self._search.plan.labels,
            golden=self._golden,
            artifact=artifact,
        )
        if signing_key is not None:
            signing.sign_folder(folder, signing_key)
        EnginePackage.write(path, folder)
        shutil.rmtree(folder)
        return path

    def _prove(self, path: Path, public_key: bytes | None) -> None:
        plan, accuracy = self._search.plan, self.receipt.accuracy
        assert accuracy is not None
        with InferenceEngine.load(
            path, public_key=public_key, require_signature=public_key is not None
        ) as engine:
            outputs = [engine.infer(sample) for sample in plan.samples]
            value, _, shortfall = self._search.judge(outputs, engine.task)
            executed = engine.executed_precision()
        if shortfall:
            raise VerificationError(
                f"of the packed engine {shortfall}; before packing {plan.metric} was "
                f"{accuracy.engine_value:.4f}, now it is {value:.4f}",
                value=str(value),
            )
        if executed != self.manifest.precision.executed:
            raise VerificationError(
                f"the packed engine executes {executed}, measured was {self.manifest.precision.executed}",
                value=executed,
            )

    def _make_receipt(self, comparison: Comparison | None) -> Receipt:
        search, plan, winner = self._search, self._search.plan, self._winner
        assert winner.accuracy is not None
        assert winner.drop is not None
        target = plan.target
        return Receipt(
            schema_version=1,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=Machine(
                cpu=target.cpu,
                num_cores=target.num_cores,
                memory_bytes=target.memory_bytes,
                isa=target.isa,
                os=f"{platform.system()} {platform.release()}",
                runtimes=_versions(RUNTIMES),
            ),
            protocol=Protocol(
                warmup=WARMUP,
                repeats=search.repeats,
                interleaved=True,
                batch=search.batch,
                num_threads=target.num_cores,
            ),
            accuracy=Accuracy(
                metric=plan.metric,
                num_samples=len(plan.samples),
                source_value=search.source_value,
                engine_value=winner.accuracy,
                drop=winner.drop,
                budget=plan.max_drop,
                verdict="pass",
            ),
            candidates=tuple(trial.row(target.num_cores) for trial in search.trials),
            comparison=comparison,
            latency_histogram_ms=_histogram(winner.latencies_ms),
            layers=self._layers,
            classes=self._classes(),
        )

    def _classes(self) -> tuple[ClassAccuracy, ...]:
        evaluate = self._search.plan.evaluate_classes
        if evaluate is None:
            return ()
        source, engine = evaluate(self._search.reference.outputs), evaluate(self._winner.outputs)
        return tuple(
            ClassAccuracy(
                label=label, num_samples=num, source_value=float(source[label][1]), engine_value=float(value)
            )
            for label, (num, value) in engine.items()
        )

    def _make_manifest(self) -> Manifest:
        search, plan, winner = self._search, self._search.plan, self._winner
        recipe, target = winner.recipe, plan.target
        executed = winner.executed or recipe.precision
        needed = required_target(recipe.backend, self._artifact_dir)
        flags: set[str | None] = {flag for flag in needed if flag in target.isa}
        if recipe.device == "cpu":
            flags |= {
                target.int8_flag if "int8" in executed else None,
                target.bf16_flag if "bf16" in executed else None,
            }
        distribution = get_backend(recipe.backend).distribution
        version = installed_version(distribution) or "0"
        major, minor = (int(part) for part in version.split(".")[:2])
        settings = {
            "runtime": winner.setting(target.num_cores, self._mode).to_json(),
            "objective": plan.objective,
            "batch": search.batch,
            "quantiser": recipe.quantiser,
            "scope": recipe.scope,
            "float_nodes": list(plan.float_nodes),
            "float_layers": list(winner.float_layers),
            "shapes": {name: asdict(profile) for name, profile in plan.profiles},
        }
        return Manifest(
            schema_version=1,
            identity=Identity(
                name=plan.name,
                version=plan.version,
                digest=artifact_digest(self._artifact_dir),
                producer=_versions(("ignition-xinfer",)),
            ),
            source=Source(
                onnx_digest=search.source_digest,
                opset=search.graph.opset,
                run_id=plan.run_id,
                dataset_digest=plan.dataset_digest,
                licences=plan.licences,
            ),
            io=self._io,
            task=winner.task,
            backend=recipe.backend,
            format=BACKENDS[recipe.backend].format,
            precision=Precision(requested=recipe.precision, executed=executed),
            compatibility=Compatibility(
                target=target.name,
                isa=tuple(sorted(flag for flag in flags if flag)),
                runtime={distribution: f">={major}.{minor},<{major + 1}", **_driver(target, recipe.device)},
            ),
            recipe=Recipe(
                settings=settings,
                seed=plan.seed,
                tools=_versions(TOOLS),
                calibration_digest=samples_digest(plan.calibration) if plan.calibration else None,
                agent=plan.agent,
                duration_s=round(search.elapsed_s, 3),
            ),
        )


def resign(
    package: EnginePackage, path: str | os.PathLike[str], *, signing_key: str | os.PathLike[str] | None
) -> EnginePackage:
    """Writes an engine under another signature, and proves that the file answers its golden pair.

    Args:
        package: The engine.
        path: The engine file to write; appears whole or not at all.
        signing_key: PEM private key; None leaves it unsigned.

    Returns:
        The package.

    Raises:
        SignatureError: The key cannot be used.
        VerificationError: It does not answer as recorded.
    """
    public_key = None if signing_key is None else signing.public_key_pem(signing_key)
    destination = Path(path)
    with tempfile.TemporaryDirectory(prefix="xinfer-sign-") as work:
        folder = package.extract(Path(work) / "engine")
        (folder / "model.sig").unlink(missing_ok=True)
        if signing_key is not None:
            signing.sign_folder(folder, signing_key)
        proved = EnginePackage.write(Path(work) / "signed.engine", folder)
        InferenceEngine.load(proved, public_key=public_key, require_signature=public_key is not None).close()
        return EnginePackage.write(destination, folder)


def _driver(target: HardwareTarget, device: str) -> dict[str, str]:
    """The driver that the engine was measured with, as a floor; nothing for CPUs."""
    names = {of: name for name, of in DRIVERS.items()}
    versions = [gpu.driver for gpu in target.gpus if gpu.device == device and gpu.driver]
    return {names[device]: f">={versions[0].split('.')[0]}"} if device in names and versions else {}


def _histogram(values: list[float]) -> Histogram | None:
    if not values:
        return None
    # The slowest percent would squeeze everything else into one bar.
    shown = np.clip(values, None, np.percentile(values, 99))
    counts, edges = np.histogram(shown, bins=NUM_BINS)
    return Histogram(edges=tuple(float(edge) for edge in edges), counts=tuple(int(count) for count in counts))


def _files(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    versions = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in versions.items() if version is not None}
