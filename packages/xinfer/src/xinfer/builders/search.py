"""The search: make every candidate, gate it on accuracy, race what is left, choose."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xinfer._extras import require
from xinfer.builders import repair, steps
from xinfer.builders.candidates import (
    BEHIND_FACTOR,
    SCOPES,
    Mode,
    Recipe,
    Scope,
    Trial,
    default_settings,
    narrower,
    other_settings,
    search_space,
)
from xinfer.builders.metrics import AGREEMENT
from xinfer.builders.pack import BuiltEngine
from xinfer.builders.race import Runner, race_job, run_race, uncertainty
from xinfer.builders.samples import write_samples
from xinfer.errors import AccuracyBudgetError, BuildError, CalibrationError, SourceModelError
from xinfer.sources import apply_static, read_onnx
from xinfer.tasks import AnomalyDetection
from xinfer.tasks.operating_point import for_engine, verdict_agreement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xinfer.backends import RuntimeSettings
    from xinfer.builders.builder import BuildPlan
    from xinfer.sources import OnnxSource
    from xinfer.tasks import TaskSpec

Outputs = dict[str, np.ndarray]

PREPARE_SHARE = 0.55
"""Of the time budget; the rest is for measuring."""
REPAIR_SHARE = 0.7
"""Of the time budget is over when INT8 that misses the accuracy budget is given up."""
RACE_SHARE = 0.85
"""Of the time budget is over when the race ends; the rest is for settings."""
FIRST_LOOK_FACTOR = 4.0
"""A candidate this many times slower than the best when its accuracy is measured does not enter the race."""
NUM_TUNED = 2
"""Leaders of the race whose settings are varied."""


class Search:
    """One build's search. Call `run` once."""

    def __init__(self, plan: BuildPlan) -> None:
        self.plan = plan
        self.started = time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix="xinfer-build-"))
        self.artifacts = self.folder / "artifacts"
        self.artifacts.mkdir()
        self.trials: list[Trial] = []
        self.repeats = 0
        self.batch = plan.batches[0]

    def run(self) -> BuiltEngine:
        """Searches. Raises what `EngineBuilder.build` says."""
        try:
            self._check_plan()
            self._make_all()
            winner = self._measure()
            winner.status = "selected"
            return BuiltEngine(self, winner)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def progress(self, stage: str, fraction: float, message: str = "") -> None:
        """Tells whoever asked to be told."""
        if self.plan.progress:
            self.plan.progress(stage, fraction, message)

    @property
    def elapsed_s(self) -> float:
        """Since the start of the build."""
        return time.monotonic() - self.started

    @property
    def repair_left_s(self) -> float:
        """What is left of the time in which INT8 may be repaired."""
        return self.plan.budget_s * REPAIR_SHARE - self.elapsed_s

    def _check_plan(self) -> None:
        plan = self.plan
        if not plan.samples or (plan.evaluate is None and plan.metric not in AGREEMENT):
            raise BuildError(
                "there is no accuracy budget: an engine is only published with its accuracy measured",
                hint="call with_accuracy_budget(metric=..., evaluate=..., samples=...) with held-out samples",
            )
        numbers = {"max_drop": plan.max_drop, "min_agreement": plan.min_agreement}
        if plan.source_value is not None:
            numbers["source_value"] = plan.source_value
        for what, number in numbers.items():
            # Nothing is larger than NaN: with one of these, every candidate would pass.
            if not np.isfinite(number) or (what != "source_value" and not 0 <= number <= 1):
                raise BuildError(f"{what} is {number}", value=str(number), hint="give a share: 0.01 is 1 %")
        if "int8" in plan.precisions and not plan.calibration:
            raise CalibrationError("INT8 needs calibration samples", hint="call with_int8(calibration)")
        model = read_onnx(plan.source, folder=self.folder / "source")
        if plan.profiles:
            model = self._with_shapes(model)
        self.source, self.source_digest = model.path, model.source_digest
        self.graph, self.transformer = model.graph, model.facts.is_transformer
        self.inputs = [value.name for value in model.facts.inputs]
        self.outputs = [value.name for value in model.facts.outputs]
        inputs, outputs = set(self.inputs), set(self.outputs)
        for what, samples in (
            ("calibration", plan.calibration),
            ("accuracy", plan.samples),
            ("validation", plan.validation),
        ):
            for index, sample in enumerate(samples):
                if sample.keys() != inputs:
                    raise CalibrationError(
                        f"{what} sample {index} is for {sorted(sample)}, the model takes {sorted(inputs)}",
                        value=sorted(sample),
                    )
        if plan.task is not None:
            wanted = set(plan.task.input.tensors) - inputs | set(plan.task.outputs.values()) - outputs
            if wanted:
                raise SourceModelError(
                    f"the task names {sorted(wanted)}, the model has {sorted(inputs | outputs)}",
                    value=sorted(wanted),
                )
        write_samples(self.folder / "calibration", list(plan.calibration))
        write_samples(self.folder / "samples", [*plan.samples, *plan.validation])

    def _with_shapes(self, model: OnnxSource) -> OnnxSource:
        """The source with the plan's fixed shapes, after a look that the samples fit all shapes."""
        profiles = dict(self.plan.profiles)
        unknown = sorted(profiles.keys() - {value.name for value in model.facts.inputs})
        if unknown:
            known = ", ".join(value.name for value in model.facts.inputs)
            raise SourceModelError(
                f"the model has no input {unknown[0]!r}", value=unknown[0], hint=f"it has {known}"
            )
        for sample in (*self.plan.calibration, *self.plan.samples, *self.plan.validation):
            for name, profile in profiles.items():
                if name in sample and not profile.admits(sample[name].shape):
                    raise CalibrationError(
                        f"a sample of {name!r} has shape {list(sample[name].shape)}, which is outside "
                        f"{list(profile.min)} to {list(profile.max)}",
                        value=list(sample[name].shape),
                    )
        fixed = {name: profile.min for name, profile in profiles.items() if profile.is_fixed}
        if not fixed:
            return model
        onnx = require("onnx", "build")
        changed = self.folder / "fixed.onnx"
        onnx.save(apply_static(onnx.load(str(model.path)), fixed), str(changed))
        read = read_onnx(changed, folder=self.folder / "source")
        return replace(read, source_digest=model.source_digest)

    # -------------------------------------------------------------------------- make and gate

    def _make_all(self) -> None:
        plan = self.plan
        self.scopes = self._scopes()
        recipes = search_space(
            plan.target,
            plan.precisions,
            plan.backends,
            scopes=self.scopes,
            transformer=self.transformer,
            device=plan.device,
        )
        if plan.program is None:
            recipes = [recipe for recipe in recipes if recipe.backend != "inductor"]
        if not recipes:
            raise BuildError(
                "nothing is left to try with these backends", value=sorted(plan.backends), hint="allow more"
            )
        self.reference = reference = self._reference()
        self.source_value = self._evaluate(reference.outputs)
        if plan.source_value is not None:
            self.source_value = plan.source_value
        for index, recipe in enumerate(recipes):
            trial = reference if recipe == reference.recipe else Trial(recipe=recipe)
            self.trials.append(trial)
            title = f"candidate {index + 1} of {len(recipes)}: {recipe.id}"
            self.progress("Building candidates", 0.6 * index / len(recipes), title)
            rest_s = plan.budget_s * PREPARE_SHARE - self.elapsed_s
            # A busy machine must not leave a whole precision untried: the first of each always gets its turn.
            is_first = all(t.recipe.precision != recipe.precision for t in self.trials[:-1])
            if rest_s <= 0 and not is_first and recipe.precision != "fp32":
                trial.end("dropped", "no time left in the budget")
                continue
            before = next((t for t in self.trials if t.recipe == narrower(recipe, self.scopes)), None)
            if before is not None and before.status != "ok":
                trial.end("dropped", f"{before.recipe.id}, which quantises less, is {before.status}")
                continue
            if before is not None and self._is_behind(before):
                trial.end("dropped", f"{before.recipe.id}, which quantises less, is far behind already")
                continue
            try:
                if trial is not reference:
                    self.make(trial, timeout_s=max(rest_s, 300.0 if is_first else 60.0))
            except steps.StepError as error:
                trial.end("failed", str(error))
                continue
            self.gate(trial)
        repair.repair(self)
        self._require_survivor()

    def _is_behind(self, trial: Trial) -> bool:
        times = [
            each.first_look_ms
            for each in self.trials
            if each.recipe.precision == "int8" and each.status == "ok" and each.first_look_ms
        ]
        return (trial.first_look_ms or 0.0) > BEHIND_FACTOR * min(times, default=np.inf)

    def _scopes(self) -> tuple[Scope, ...]:
        """From narrow to wide, those that leave different nodes in float."""
        found: dict[frozenset[str], Scope] = {}
        for scope in SCOPES:
            found.setdefault(self.float_nodes(scope), scope)
        return tuple(found.values())

    def float_nodes(self, scope: Scope | None) -> frozenset[str]:
        """Names of the nodes that INT8 leaves in float in this scope."""
        nodes = self.graph.matching(self.plan.float_nodes)
        if scope == "all":
            nodes |= self.graph.preprocessing - self.graph.products
        elif scope is not None:
            nodes |= self.graph.preprocessing
        return nodes | self.graph.tail if scope == "network" else nodes

    def _reference(self) -> Trial:
        """The source model as written: ONNX Runtime in fp32, in a process of its own."""
        self.progress("Measuring the source model", 0.0, f"{len(self.plan.samples)} held-out samples")
        trial = Trial(recipe=Recipe(backend="onnxruntime", precision="fp32"))
        try:
            self.make(trial, timeout_s=600)
        except steps.StepError as error:
            raise SourceModelError(f"ONNX Runtime cannot run the source model: {error}") from error
        for index, output in enumerate(trial.outputs):
            for name, array in output.items():
                if not np.isfinite(array).all():
                    raise SourceModelError(
                        f"output {name!r} of the source model is not finite for sample {index}", value=index
                    )
        return trial

    def make(self, trial: Trial, *, timeout_s: float, float_nodes: frozenset[str] = frozenset()) -> None:
        """Makes a candidate's artifact and runs the samples through it, each in a process of its own.

        Args:
            trial: Gets `artifact_dir`, `outputs` and what was measured on the way.
            float_nodes: Further nodes to leave in float. The artifact is then made anew.

        Raises:
            steps.StepError: It failed, crashed or took too long.
        """
        recipe, plan = trial.recipe, self.plan
        artifact_dir = self.artifacts / recipe.artifact_key
        if not artifact_dir.exists():
            try:
                steps.prepare(
                    recipe,
                    self.source,
                    self.folder / "calibration",
                    artifact_dir,
                    float_nodes=self.float_nodes(recipe.scope) | float_nodes,
                    reduce_range=plan.target.architecture == "x86_64" and plan.target.int8_flag is None,
                    transformer=self.transformer,
                    program=plan.program,
                    inputs=self.inputs,
                    outputs=self.outputs,
                    profiles={name: asdict(profile) for name, profile in plan.profiles},
                    seed=plan.seed,
                    timeout_s=timeout_s,
                )
            except steps.StepError:
                shutil.rmtree(artifact_dir, ignore_errors=True)
                raise
        trial.artifact_dir = artifact_dir
        result, outputs = steps.probe(
            recipe.backend,
            artifact_dir,
            # One stream: with several, OpenVINO compiles wrongly by chance (`engine.LOAD_ATTEMPTS`).
            default_settings(recipe, plan.target.num_cores, "latency"),
            self.folder / "samples",
            self.outputs_file(recipe),
            timeout_s=timeout_s,
        )
        trial.outputs_file = self.outputs_file(recipe)
        trial.outputs, trial.validation = outputs[: len(plan.samples)], outputs[len(plan.samples) :]
        trial.load_ms = float(result["load_ms"])
        trial.first_look_ms = float(result["infer_ms"])
        trial.peak_memory_bytes = result["peak_memory_bytes"]
        trial.executed = result["executed"]

    def outputs_file(self, recipe: Recipe) -> Path:
        """Where a candidate's outputs are kept until the race."""
        return self.folder / f"outputs-{recipe.id.replace('/', '-')}.npz"

    def _evaluate(self, outputs: Sequence[Outputs]) -> float:
        value = self.metric_of(outputs)
        if not np.isfinite(value):
            raise BuildError(f"evaluate() returned {value}", value=str(value))
        return value

    def metric_of(self, outputs: Sequence[Outputs]) -> float:
        """The plan's metric: of these outputs, or of their agreement with the source model's."""
        if self.plan.evaluate is not None:
            return float(self.plan.evaluate(outputs))
        return AGREEMENT[self.plan.metric](outputs, self.reference.outputs)

    def gate(self, trial: Trial) -> None:
        """Ends a candidate that misses the accuracy budget."""
        plan = self.plan
        outputs = [*trial.outputs, *trial.validation]
        if not all(np.isfinite(array).all() for output in outputs for array in output.values()):
            trial.end("over_budget", "an output is not finite")
            return
        trial.task = plan.task
        if isinstance(plan.task, AnomalyDetection) and plan.validation:
            trial.task = for_engine(plan.task, self.reference.validation, trial.validation)
        trial.accuracy, trial.verdict_agreement, shortfall = self.judge(trial.outputs, trial.task)
        if not np.isfinite(trial.accuracy):
            trial.accuracy = None
        else:
            trial.drop = self.source_value - trial.accuracy
        if shortfall:
            fault = " in fp32: the export is at fault" if trial.recipe.precision == "fp32" else ""
            trial.end("over_budget", shortfall + fault)

    def judge(
        self, outputs: Sequence[Outputs], task: TaskSpec | None
    ) -> tuple[float, float | None, str | None]:
        """Holds outputs for the held-out samples to the accuracy budget.

        Args:
            outputs: One dict per sample.
            task: With the thresholds that go with these outputs.

        Returns:
            The metric, the share of verdicts that are the source model's, and what is missed, if anything.
        """
        plan = self.plan
        value, agreement = self.metric_of(outputs), None
        if isinstance(plan.task, AnomalyDetection) and isinstance(task, AnomalyDetection):
            agreement, clear = verdict_agreement(plan.task, self.reference.outputs, task, outputs)
            if not clear >= plan.min_agreement:
                return value, agreement, f"only {clear:.1%} of the clear verdicts are the source model's"
        if not self.source_value - value <= plan.max_drop:
            drop = self.source_value - value
            return value, agreement, f"{plan.metric} drops by {drop:.4f}, allowed are {plan.max_drop:.4f}"
        return value, agreement, None

    def _require_survivor(self) -> None:
        if any(trial.status == "ok" for trial in self.trials):
            return
        reasons = "; ".join(f"{trial.recipe.id}: {trial.reason}" for trial in self.trials)
        if all(trial.status != "over_budget" for trial in self.trials):
            raise BuildError(f"every candidate failed: {reasons}")
        raise AccuracyBudgetError(
            f"no candidate stays within the accuracy budget of {self.plan.max_drop}: {reasons}",
            value=self.plan.max_drop,
            hint="fp32 misses too, so the export differs from the source model: check it first"
            if any(t.recipe.precision == "fp32" and t.status == "over_budget" for t in self.trials)
            else "allow a larger drop, or leave fp32 among the precisions",
        )

    # ------------------------------------------------------------------------------- measure

    def _measure(self) -> Trial:
        """Races the survivors, then varies the leaders' settings; the fastest by the objective."""
        plan, num_cores = self.plan, self.plan.target.num_cores
        self._first_look()
        entries = {
            trial.recipe.id: (trial, self._default_settings(trial), self.batch)
            for trial in self.trials
            if trial.status == "ok"
        }
        leaders = self._race(entries, RACE_SHARE, first=True)
        self._require_survivor()
        by_id = {trial.recipe.id: trial for trial in self.trials}
        best = by_id[leaders[0]]
        variants: dict[str, tuple[Trial, dict[Mode, RuntimeSettings], int]] = {}
        for name in leaders[:NUM_TUNED]:
            trial, default, batch = entries[name]
            variants[name] = (trial, default, batch)
            for settings in other_settings(trial.recipe, num_cores, plan.objective):
                label = f"{name} with {settings.num_streams} streams on {settings.num_threads} threads"
                variants[label] = (trial, default | {plan.objective: settings}, batch)
            for size in plan.batches[1:]:
                variants[f"{name} with batches of {size}"] = (trial, default, size)
        if len(variants) > len(leaders[:NUM_TUNED]):
            order = self._race(variants, 1.0, first=False)
            if order:
                best, _, self.batch = variants[order[0]]
        return best

    def _first_look(self) -> None:
        """Leaves out what is far behind already; fp32 always races, it is what speed is compared with."""
        alive = [trial for trial in self.trials if trial.status == "ok" and trial.first_look_ms]
        best = min((trial.first_look_ms for trial in alive if trial.first_look_ms), default=0.0)
        for trial in alive:
            assert trial.first_look_ms is not None
            slower = trial.first_look_ms / best
            if slower > FIRST_LOOK_FACTOR and trial.recipe.precision != "fp32":
                trial.end("dropped", f"{slower:.1f}x slower when its accuracy was measured")

    def _default_settings(self, trial: Trial) -> dict[Mode, RuntimeSettings]:
        num_cores = self.plan.target.num_cores
        return {
            "latency": default_settings(trial.recipe, num_cores, "latency"),
            "throughput": default_settings(trial.recipe, num_cores, "throughput"),
        }

    def _race(
        self,
        entries: dict[str, tuple[Trial, dict[Mode, RuntimeSettings], int]],
        until_share: float,
        *,
        first: bool,
    ) -> list[str]:
        """Runs a race; the names of those still in it, the fastest first.

        Args:
            entries: Name -> candidate, its settings, samples in one inference.
            until_share: Of the time budget, after which no round begins.
            first: A candidate that fails or falls behind ends here; else it is only a variant that does.
        """
        plan = self.plan
        low, high = (0.62, 0.78) if first else (0.78, 0.85)

        def lost(name: str, status: str, reason: str) -> None:
            if first:
                entries[name][0].end("failed" if status == "failed" else "dropped", reason)

        with contextlib.ExitStack() as running:
            runners: dict[str, Runner] = {}
            for name, (trial, settings, batch) in entries.items():
                assert trial.artifact_dir is not None
                job = race_job(
                    trial.recipe.backend,
                    trial.artifact_dir,
                    settings,
                    self.folder / "samples",
                    trial.outputs_file,
                    batch=batch,
                )
                runner = Runner(name=name, job=job)
                self.progress("Measuring", low, f"loading {name}")
                running.callback(runner.stop)
                try:
                    runner.start()
                except steps.StepError as error:
                    lost(name, "failed", str(error))
                    continue
                runners[name] = runner
            order = run_race(
                runners,
                plan.objective,
                deadline_s=self.started + plan.budget_s * until_share,
                lost=lost,
                progress=lambda index, num: self.progress(
                    "Measuring",
                    low + (high - low) * index / num,
                    f"round {index + 1}, {len(runners)} candidates",
                ),
            )
            noted: list[Trial] = []
            # Of several variants of one candidate its row shows the best.
            for name in [*order, *(runners.keys() - order.keys())]:
                trial, settings, _ = entries[name]
                if runners[name].rates_per_s and not any(trial is other for other in noted):
                    noted.append(trial)
                    trial.settings = settings
                    self._note(trial, runners[name])
        self.repeats += sum(len(runner.latencies_ms) for runner in runners.values()) // max(1, len(runners))
        return list(order)

    def _note(self, trial: Trial, runner: Runner) -> None:
        trial.latency_ms, trial.latencies_ms = runner.latency_ms, list(runner.latencies_ms)
        trial.throughput_per_s = runner.throughput_per_s
        trial.cpu_ms_per_item = runner.cpu_ms_per_item
        trial.uncertainty = uncertainty(runner.costs(self.plan.objective))
