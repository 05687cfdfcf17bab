"""EngineBuilder: from a source model to a measured, signed engine."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from xinfer.backends import BACKENDS
from xinfer.backends.base import Device
from xinfer.builders import cache
from xinfer.builders.metrics import AGREEMENT
from xinfer.builders.pack import BuiltEngine, resign
from xinfer.builders.preprocessing import Preprocessing, wrap
from xinfer.builders.search import Search
from xinfer.errors import BuildError, CalibrationError
from xinfer.package import EnginePackage
from xinfer.sources import ShapeProfile, from_torch, resolve_source
from xinfer.targets import HardwareTarget
from xinfer.tasks import TaskSpec

Feeds = dict[str, np.ndarray]
Outputs = dict[str, np.ndarray]
Evaluate = Callable[[Sequence[Outputs]], float]
EvaluateClasses = Callable[[Sequence[Outputs]], Mapping[str, tuple[int, float]]]
"""From the outputs of all samples to each class's number of samples and value."""
Progress = Callable[[str, float, str], None]
"""Called with the stage's title, the share of the build that is done, and a message."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
OBJECTIVES = ("throughput", "latency")
MAX_CALIBRATION_SAMPLES = 64
MAX_BATCH = 1024


class SourceFolder:
    """A folder that is removed when the last plan that keeps it is gone."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="xinfer-source-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Everything a build is told; `EngineBuilder` fills it in."""

    source: Path
    target: HardwareTarget
    keeps: tuple[SourceFolder, ...] = ()
    profiles: tuple[tuple[str, ShapeProfile], ...] = ()
    program: Path | None = None
    """The exported program (`torch.export.save`) that the source was made from, if it was."""
    task: TaskSpec | None = None
    labels: tuple[str, ...] = ()
    precisions: frozenset[str] = frozenset({"fp32", "bf16"})
    backends: frozenset[str] = frozenset(BACKENDS)
    calibration: tuple[Feeds, ...] = ()
    float_nodes: tuple[str, ...] = ()
    metric: str = ""
    max_drop: float = 0.01
    evaluate: Evaluate | None = None
    evaluate_classes: EvaluateClasses | None = None
    samples: tuple[Feeds, ...] = ()
    validation: tuple[Feeds, ...] = ()
    source_value: float | None = None
    min_agreement: float = 0.98
    objective: Literal["throughput", "latency"] = "throughput"
    batches: tuple[int, ...] = (1,)
    assets: tuple[tuple[str, Path], ...] = ()
    budget_s: float = 120
    seed: int = 0
    name: str = "model"
    version: int = 1
    run_id: str | None = None
    dataset_digest: str | None = None
    licences: tuple[str, ...] = ()
    agent: str | None = None
    comparison: tuple[str, Callable[[bytes], Any], tuple[bytes, ...]] | None = None
    cache_dir: Path | None = None
    evaluation: str = ""

    @property
    def device(self) -> Device:
        """What executes engines for the target."""
        device: Device = self.target.name.split("-")[0]  # type: ignore[assignment]
        return device

    progress: Progress | None = None


class EngineBuilder:
    """Searches backends x precisions x recipes on this machine and keeps the fastest within budget.

    Start with `from_onnx`; every `with_...` returns a new builder.

    Example::

        package = (
            EngineBuilder.from_onnx("model.onnx")
            .with_task(spec, spec.labels)
            .with_int8(calibration)
            .with_accuracy_budget(metric="image_auroc", evaluate=evaluate, samples=samples)
            .build_and_save("gravel.engine", signing_key="key.pem")
        )
    """

    def __init__(self, plan: BuildPlan) -> None:
        self.plan = plan

    @classmethod
    def from_onnx(cls, source: str | os.PathLike[str] | bytes) -> Self:
        """Starts from a float ONNX model.

        Args:
            source: The file, whose external weights stand beside it, or its content. It is read by `build`,
                in a process of its own.
        """
        target = HardwareTarget.detect()
        if isinstance(source, bytes):
            folder = SourceFolder()
            path = folder.path / "source.onnx"
            path.write_bytes(source)
            return cls(BuildPlan(source=path, target=target, keeps=(folder,)))
        return cls(BuildPlan(source=Path(source), target=target))

    @classmethod
    def from_torch(
        cls,
        model: Any,
        example_inputs: Sequence[Any],
        *,
        dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> Self:
        """Starts from a torch module or exported program, exported now and compared with torch.

        The backend ``inductor`` compiles the same exported program.

        Args:
            model: A `torch.nn.Module` or `torch.export.ExportedProgram`.
            example_inputs: One tensor per input, on the CPU; a free axis needs a size of at least 2.
            dynamic_axes: Input -> axis -> name of the axis, for a module.
            input_names, output_names: Default: the names of forward's arguments, and the exporter's.

        Raises:
            SourceModelError: torch cannot export it, or the export answers something else.
        """
        folder = SourceFolder()
        source = from_torch(
            model,
            example_inputs,
            folder=folder.path,
            dynamic_axes=dynamic_axes,
            input_names=input_names,
            output_names=output_names,
        )
        target, program = HardwareTarget.detect(), source.exported_program
        return cls(BuildPlan(source=source.path, program=program, target=target, keeps=(folder,)))

    @classmethod
    def from_reference(cls, reference: str) -> Self:
        """Starts from what a reference names: a file, ``https://...``, or a plugin's, as ``xtorch:resnet50``.

        Raises:
            SourceModelError: It cannot be had.
        """
        return cls.from_onnx(resolve_source(reference))

    def _with(self, **changes: Any) -> Self:
        return type(self)(replace(self.plan, **changes))

    def for_target(self, target: HardwareTarget | str) -> Self:
        """What to build for: this machine's CPU (default) or one of its accelerators.

        Args:
            target: The target or its name, such as ``cuda-sm_90``. It must be here, since everything is
                measured.

        Raises:
            BuildError: It is not here.
        """
        here = HardwareTarget.detect()
        name = target if isinstance(target, str) else target.name
        if name not in here.targets:
            raise BuildError(
                f"cannot build for {name} on {', '.join(here.targets)}: engines are measured where they run",
                value=name,
                hint="run the build on a machine of that target",
            )
        return self._with(target=replace(here, name=name))

    def named(
        self,
        name: str,
        version: int = 1,
        *,
        run_id: str | None = None,
        dataset_digest: str | None = None,
        licences: Sequence[str] = (),
        agent: str | None = None,
    ) -> Self:
        """What the manifest says about the model's origin; `licences` are SPDX identifiers."""
        return self._with(
            name=name,
            version=version,
            run_id=run_id,
            dataset_digest=dataset_digest,
            licences=tuple(licences),
            agent=agent,
        )

    def with_preprocessing(self, spec: Preprocessing, *, input_name: str = "image") -> Self:
        """Puts preprocessing into the graph: the model then takes uint8 RGB images [N,H,W,3].

        Args:
            spec: What the network wants of an image.
            input_name: Name of the new input.

        Raises:
            SourceModelError: The model has no single float image input.
        """
        folder = SourceFolder()
        wrapped = wrap(self.plan.source, folder.path / "model.onnx", spec, input_name=input_name)
        # The exported program has no such preprocessing: it is no candidate any more.
        return self._with(source=wrapped, program=None, keeps=(*self.plan.keeps, folder))

    def with_shapes(self, shapes: Mapping[str, Sequence[int] | ShapeProfile]) -> Self:
        """Fixes free axes, or says between what they vary.

        Args:
            shapes: Input -> its shape, or its smallest, most common and largest ones. Fixed shapes make
                faster engines; a profile is kept in the manifest, and for TensorRT it is needed.

        Raises:
            InputError: A shape is not one.
        """
        profiles = {
            name: shape if isinstance(shape, ShapeProfile) else ShapeProfile.fixed(tuple(shape))
            for name, shape in shapes.items()
        }
        return self._with(profiles=tuple(sorted(profiles.items())))

    def with_task(self, spec: TaskSpec, labels: Sequence[str] | None = None) -> Self:
        """The task spec and class names; labels default to the spec's."""
        return self._with(task=spec, labels=tuple(spec.labels if labels is None else labels))

    def with_assets(self, assets: Mapping[str, str | os.PathLike[str]]) -> Self:
        """Files that the task needs beside the model, such as a tokeniser: name in the package -> file."""
        for name, path in assets.items():
            if name != Path(name).name or not Path(path).is_file():
                raise BuildError(f"asset {name!r} is not a file under a plain name", value=str(path))
        return self._with(assets=tuple((name, Path(path)) for name, path in assets.items()))

    def with_precision(self, *precisions: str) -> Self:
        """Which precisions to try, of fp32, bf16, fp16 and int8, where the target executes them.

        Raises:
            BuildError: There is no such precision.
        """
        _check_choice("precision", precisions, PRECISIONS)
        return self._with(precisions=frozenset(precisions))

    def with_backends(self, *backends: str) -> Self:
        """Which backends to try. Raises BuildError for unknown ones."""
        _check_choice("backend", backends, tuple(BACKENDS))
        return self._with(backends=frozenset(backends))

    def with_int8(self, calibration: Iterable[Feeds], *, max_samples: int = MAX_CALIBRATION_SAMPLES) -> Self:
        """Tries INT8, calibrated on training data.

        Args:
            calibration: Model inputs, one dict per sample, never of the test part; shapes may differ.
            max_samples: How many to take.

        Raises:
            CalibrationError: There are none.
        """
        samples = tuple(islice(calibration, max_samples))
        if not samples:
            raise CalibrationError("there are no calibration samples", value=0, hint="pass training data")
        return self._with(calibration=samples, precisions=self.plan.precisions | {"int8"})

    def with_float_nodes(self, *patterns: str) -> Self:
        """Nodes that INT8 leaves in float, as shell-style patterns of ONNX node names."""
        return self._with(float_nodes=(*self.plan.float_nodes, *patterns))

    def with_accuracy_budget(
        self,
        *,
        metric: str,
        evaluate: Evaluate | None = None,
        samples: Iterable[Feeds],
        max_drop: float = 0.01,
        source_value: float | None = None,
        min_agreement: float = 0.98,
        evaluate_classes: EvaluateClasses | None = None,
    ) -> Self:
        """What every candidate must keep; required.

        Args:
            metric: Name of the metric, higher is better. ``cosine`` and ``top1_agreement`` need no
                `evaluate`: they compare with the source model (`builders.metrics`).
            evaluate: From the outputs of all samples, in order, to the metric's value.
            samples: Held-out inputs, one dict per sample.
            max_drop: Largest accepted loss against the source model, as a fraction (0.01: one point).
            source_value: The metric of the model before export, if it was measured; default: of the ONNX
                file in fp32. Given, it also proves the export.
            min_agreement: Least share of clear samples (`tasks.operating_point`) with the source model's
                verdict, for tasks with a threshold.
            evaluate_classes: For the receipt: the metric of each class.
        """
        if evaluate is None and metric not in AGREEMENT:
            raise BuildError(
                f"metric {metric!r} needs evaluate=...",
                value=metric,
                hint=f"without labels choose of {', '.join(AGREEMENT)}",
            )
        return self._with(
            metric=metric,
            evaluate=evaluate,
            evaluate_classes=evaluate_classes,
            samples=tuple(samples),
            max_drop=max_drop,
            source_value=source_value,
            min_agreement=min_agreement,
        )

    def with_operating_point(self, validation: Iterable[Feeds]) -> Self:
        """Carries the task's thresholds over to each candidate's own scores (`tasks.operating_point`).

        Args:
            validation: The inputs that the thresholds were chosen on, never of the test part.
        """
        return self._with(validation=tuple(validation))

    def optimize_for(
        self, objective: Literal["throughput", "latency"], *, batch: int | Sequence[int] = 1
    ) -> Self:
        """What "fastest" means: samples per second under load (default), or the median of single ones.

        Args:
            objective: The choice.
            batch: Samples in one concurrent inference; several: the fastest of these is searched for. The
                model's first axis must be free where it is more than one.

        Raises:
            BuildError: There is no such objective, or a batch is out of range.
        """
        _check_choice("objective", (objective,), OBJECTIVES)
        batches = (batch,) if isinstance(batch, int) else tuple(batch)
        if not batches or any(not 1 <= size <= MAX_BATCH for size in batches):
            raise BuildError(f"batches are 1 to {MAX_BATCH}, not {batch}", value=str(batch))
        return self._with(objective=objective, batches=batches)

    def with_budget(self, seconds: float) -> Self:
        """About how long the search may take. fp32 and the first of each precision always have a turn."""
        return self._with(budget_s=float(seconds))

    def with_seed(self, seed: int) -> Self:
        """Recorded in the manifest; quantisers sample with it."""
        return self._with(seed=seed)

    def with_comparison(
        self, peer_name: str, peer: Callable[[bytes], Any], payloads: Sequence[bytes]
    ) -> Self:
        """Measures the winner's pipeline against a peer and puts the result into the receipt.

        Args:
            peer_name: For example "PIL + torch eager, fp32".
            peer: From a request's body to a result.
            payloads: Such bodies: image files, or texts in UTF-8.
        """
        return self._with(comparison=(peer_name, peer, tuple(payloads)))

    def with_cache(self, folder: str | os.PathLike[str], *, evaluation: str = "") -> Self:
        """Lets `build_and_save` answer at once what was built here before (`builders.cache`).

        Args:
            folder: Where finished builds are kept.
            evaluation: Names what `evaluate` computes, for example by the digest of its labels; without a
                name a build with an `evaluate` is not kept.
        """
        return self._with(cache_dir=Path(folder), evaluation=evaluation)

    def on_progress(self, callback: Progress) -> Self:
        """Calls `callback(stage, fraction, message)` as the build goes on."""
        return self._with(progress=callback)

    def build(self) -> BuiltEngine:
        """Runs the search.

        Returns:
            The winner with its receipt; close it, or use it as a context manager.

        Raises:
            SourceModelError: The model cannot be used.
            CalibrationError: INT8 without usable samples.
            AccuracyBudgetError: Nothing stays within the budget.
            BuildError: The plan is incomplete, or every candidate failed.
        """
        return Search(self.plan).run()

    def build_and_save(
        self, path: str | os.PathLike[str], *, signing_key: str | os.PathLike[str] | None = None
    ) -> EnginePackage:
        """Runs the search, packs, signs, and proves the file by loading it again.

        Args:
            path: The engine file to write; appears whole or not at all.
            signing_key: PEM private key; None leaves the engine unsigned.

        Returns:
            The package.

        Raises:
            VerificationError: The packed engine does not reproduce what was measured.
            SignatureError: The key cannot be used.
            BuildError: As `build`.
        """
        plan = self.plan
        key = None if plan.cache_dir is None else cache.build_key(plan)
        if plan.cache_dir is not None and key is not None:
            kept = cache.find(plan.cache_dir, key)
            if kept is not None:
                if plan.progress:
                    plan.progress("Built", 1.0, "an identical build was made before")
                return resign(kept, path, signing_key=signing_key)
        with self.build() as built:
            package = built.save(path, signing_key=signing_key)
            if plan.cache_dir is not None and key is not None:
                built.keep(plan.cache_dir, key)
            return package


def _check_choice(what: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise BuildError(
            f"unknown {what} {unknown[0]!r}" if unknown else f"no {what} was chosen",
            value=list(chosen),
            hint=f"choose of {', '.join(known)}",
        )
