"""Packing the winner, and proving the file before it counts as built."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xinfer import signing
from xinfer.backends import get_backend
from xinfer.builders.candidates import FORMATS
from xinfer.builders.measure import WARMUP, measure_pipeline
from xinfer.engine import InferenceEngine
from xinfer.errors import VerificationError
from xinfer.manifest import (
    Accuracy,
    Comparison,
    Compatibility,
    Identity,
    Machine,
    Manifest,
    ModelIO,
    Precision,
    Protocol,
    Receipt,
    Recipe,
    Source,
)
from xinfer.package import EnginePackage, Golden, artifact_digest, file_digest, stage
from xinfer.targets import installed_version

if TYPE_CHECKING:
    from xinfer.builders.candidates import Trial
    from xinfer.builders.search import Search

TOOLS = ("openvino", "onnxruntime", "nncf", "onnx", "numpy")
RUNTIMES = ("openvino", "onnxruntime")


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
        self._artifact_dir = winner.artifact_dir
        settings = winner.settings(search.plan.target.num_cores, self._mode)
        model = get_backend(winner.recipe.backend).load(self._artifact_dir, settings)
        try:
            # The smallest sample: it travels with every copy of the engine. Its outputs are the gated ones.
            sizes = [sum(array.nbytes for array in sample.values()) for sample in search.plan.samples]
            index = sizes.index(min(sizes))
            self._golden = Golden(inputs=dict(search.plan.samples[index]), outputs=winner.outputs[index])
            self._io = ModelIO(inputs=model.inputs, outputs=model.outputs)
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
                name, peer, images = plan.comparison
                self.receipt = self._make_receipt(measure_pipeline(engine, images, peer, peer_name=name))
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

    def close(self) -> None:
        """Removes the build's files."""
        shutil.rmtree(self._search.folder, ignore_errors=True)

    def __enter__(self) -> BuiltEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, path: Path, signing_key: str | os.PathLike[str] | None) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._search.folder))
        artifact = {
            file.relative_to(self._artifact_dir).as_posix(): file
            for file in self._artifact_dir.rglob("*")
            if file.is_file()
        }
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
                batch=1,
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
        )

    def _make_manifest(self) -> Manifest:
        search, plan, winner = self._search, self._search.plan, self._winner
        recipe, target = winner.recipe, plan.target
        executed = winner.executed or recipe.precision
        flags = {
            target.int8_flag if "int8" in executed else None,
            target.bf16_flag if "bf16" in executed else None,
        }
        distribution = get_backend(recipe.backend).distribution
        version = installed_version(distribution) or "0"
        major, minor = (int(part) for part in version.split(".")[:2])
        settings = {
            "runtime": winner.settings(target.num_cores, self._mode).to_json(),
            "objective": plan.objective,
            "quantiser": recipe.quantiser,
            "scope": recipe.scope,
            "float_nodes": list(plan.float_nodes),
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
                onnx_digest=file_digest(search.source),
                opset=search.graph.opset,
                run_id=plan.run_id,
                dataset_digest=plan.dataset_digest,
                licences=plan.licences,
            ),
            io=self._io,
            task=winner.task,
            backend=recipe.backend,
            format=FORMATS[recipe.backend],
            precision=Precision(requested=recipe.precision, executed=executed),
            compatibility=Compatibility(
                target=target.name,
                isa=tuple(sorted(flag for flag in flags if flag)),
                runtime={distribution: f">={major}.{minor},<{major + 1}"},
            ),
            recipe=Recipe(
                settings=settings,
                seed=plan.seed,
                tools=_versions(TOOLS),
                calibration_digest=search.calibration_digest,
                agent=plan.agent,
                duration_s=round(search.elapsed_s, 3),
            ),
        )


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    versions = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in versions.items() if version is not None}
