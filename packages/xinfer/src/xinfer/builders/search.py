"""The search: make every candidate, gate it on accuracy, measure what is left, choose."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from xinfer.backends import get_backend
from xinfer.builders import steps
from xinfer.builders.candidates import Trial, search_space
from xinfer.builders.graph import inspect_graph, load_onnx
from xinfer.builders.measure import WARMUP, Contestant, run_round, warm_up
from xinfer.builders.pack import BuiltEngine
from xinfer.builders.worker import write_samples
from xinfer.engine import LOAD_ATTEMPTS
from xinfer.errors import (
    AccuracyBudgetError,
    BackendError,
    BuildError,
    CalibrationError,
    SourceModelError,
    VerificationError,
)
from xinfer.tasks import AnomalyDetection
from xinfer.tasks.operating_point import for_engine, verdict_agreement
from xinfer.verify import compare_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xinfer.backends import CompiledModel
    from xinfer.builders.builder import BuildPlan
    from xinfer.tasks import TaskSpec

PREPARE_SHARE = 0.7
"""Of the time budget; the rest is for measuring."""
MAX_ROUNDS = 5
NUM_SINGLE = 10
LOSER_FACTOR = 2.0
"""A candidate this many times slower than the best after two rounds leaves the race."""
NUM_CHECKED = 8
"""Samples, about, on which a loaded candidate is compared with its gated outputs."""


class Search:
    """One build's search. Call `run` once."""

    def __init__(self, plan: BuildPlan) -> None:
        self.plan = plan
        self.started = time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix="xinfer-build-"))
        self.trials: list[Trial] = []
        self.repeats = 0

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
    def calibration_digest(self) -> str | None:
        """Content address of the calibration data, None without any."""
        if not self.plan.calibration:
            return None
        digest = hashlib.sha256()
        for sample in self.plan.calibration:
            for name in sorted(sample):
                array = np.ascontiguousarray(sample[name])
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(array.tobytes())
        return "sha256:" + digest.hexdigest()

    @property
    def elapsed_s(self) -> float:
        """Since the start of the build."""
        return time.monotonic() - self.started

    def _check_plan(self) -> None:
        plan = self.plan
        if plan.evaluate is None or not plan.samples:
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
        self.source = self.folder / "source.onnx"
        model = load_onnx(plan.source)
        shutil.copyfile(plan.source, self.source)
        self.graph = inspect_graph(model)
        inputs = {value.name for value in model.graph.input}
        outputs = {value.name for value in model.graph.output}
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
            wanted = {plan.task.input.name} - inputs | set(plan.task.outputs.values()) - outputs
            if wanted:
                raise SourceModelError(
                    f"the task names {sorted(wanted)}, the model has {sorted(inputs | outputs)}",
                    value=sorted(wanted),
                )
        write_samples(self.folder / "calibration", list(plan.calibration))
        write_samples(self.folder / "samples", [*plan.samples, *plan.validation])

    # -------------------------------------------------------------------------- make and gate

    def _make_all(self) -> None:
        plan = self.plan
        recipes = search_space(plan.target, plan.precisions, plan.backends)
        self.reference = reference = self._reference()
        self.source_value = self._evaluate(reference.outputs)
        if plan.source_value is not None:
            self.source_value = plan.source_value
        float_patterns = self.graph.matching(plan.float_nodes)
        for index, recipe in enumerate(recipes):
            trial = reference if recipe == reference.recipe else Trial(recipe=recipe)
            self.trials.append(trial)
            title = f"candidate {index + 1} of {len(recipes)}: {recipe.id}"
            self.progress("Building candidates", 0.65 * index / len(recipes), title)
            rest_s = plan.budget_s * PREPARE_SHARE - self.elapsed_s
            # A busy machine must not leave a whole precision untried: the first of each always gets its turn.
            is_first = all(t.recipe.precision != recipe.precision for t in self.trials[:-1])
            if rest_s <= 0 and not is_first and recipe.precision != "fp32":
                trial.end("dropped", "no time left in the budget")
                continue
            narrower = next((t for t in self.trials if t.recipe == recipe.narrower), None)
            if narrower is not None and narrower.status != "ok":
                trial.end("dropped", f"{narrower.recipe.id}, which quantises less, is {narrower.status}")
                continue
            try:
                if trial is not reference:
                    self._make(trial, float_patterns, timeout_s=max(rest_s, 300.0 if is_first else 60.0))
            except steps.StepError as error:
                trial.end("failed", str(error))
                continue
            self._gate(trial, reference)
        self._require_survivor()

    def _reference(self) -> Trial:
        """The source model as written: ONNX Runtime in fp32, in a process of its own."""
        plan = self.plan
        self.progress("Measuring the source model", 0.0, f"{len(plan.samples)} held-out samples")
        trial = Trial(recipe=search_space(plan.target, frozenset(), frozenset({"onnxruntime"}))[0])
        try:
            self._make(trial, frozenset(), timeout_s=600)
        except steps.StepError as error:
            raise SourceModelError(f"ONNX Runtime cannot run the source model: {error}") from error
        for index, output in enumerate(trial.outputs):
            for name, array in output.items():
                if not np.isfinite(array).all():
                    raise SourceModelError(
                        f"output {name!r} of the source model is not finite for sample {index}", value=index
                    )
        return trial

    def _make(self, trial: Trial, float_nodes: frozenset[str], *, timeout_s: float) -> None:
        recipe, plan = trial.recipe, self.plan
        artifact_dir = self.folder / "artifacts" / recipe.artifact_key
        if not artifact_dir.exists():
            if recipe.scope == "all":
                float_nodes = float_nodes | (self.graph.preprocessing - self.graph.products)
            elif recipe.scope is not None:
                float_nodes = float_nodes | self.graph.preprocessing
            if recipe.scope == "network":
                float_nodes = float_nodes | self.graph.tail
            artifact_dir.parent.mkdir(exist_ok=True)
            try:
                steps.prepare(
                    recipe,
                    self.source,
                    self.folder / "calibration",
                    artifact_dir,
                    float_nodes=float_nodes,
                    reduce_range=plan.target.architecture == "x86_64" and plan.target.int8_flag is None,
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
            trial.settings(plan.target.num_cores, "latency"),
            self.folder / "samples",
            timeout_s=timeout_s,
        )
        trial.outputs, trial.validation = outputs[: len(plan.samples)], outputs[len(plan.samples) :]
        trial.load_ms = float(result["load_ms"])
        trial.peak_memory_bytes = result["peak_memory_bytes"]
        trial.executed = result["executed"]

    def _evaluate(self, outputs: list[dict[str, np.ndarray]]) -> float:
        assert self.plan.evaluate is not None
        value = float(self.plan.evaluate(outputs))
        if not np.isfinite(value):
            raise BuildError(f"evaluate() returned {value}", value=str(value))
        return value

    def _gate(self, trial: Trial, reference: Trial) -> None:
        plan = self.plan
        outputs = [*trial.outputs, *trial.validation]
        if not all(np.isfinite(array).all() for output in outputs for array in output.values()):
            trial.end("over_budget", "an output is not finite")
            return
        trial.task = plan.task
        if isinstance(plan.task, AnomalyDetection) and plan.validation:
            trial.task = for_engine(plan.task, reference.validation, trial.validation)
        trial.accuracy, trial.verdict_agreement, shortfall = self.judge(trial.outputs, trial.task)
        if not np.isfinite(trial.accuracy):
            trial.accuracy = None
        else:
            trial.drop = self.source_value - trial.accuracy
        if shortfall:
            fault = " in fp32: the export is at fault" if trial.recipe.precision == "fp32" else ""
            trial.end("over_budget", shortfall + fault)

    def judge(
        self, outputs: Sequence[dict[str, np.ndarray]], task: TaskSpec | None
    ) -> tuple[float, float | None, str | None]:
        """Holds outputs for the held-out samples to the accuracy budget.

        Args:
            outputs: One dict per sample.
            task: With the thresholds that go with these outputs.

        Returns:
            The metric, the share of verdicts that are the source model's, and what is missed, if anything.
        """
        plan = self.plan
        assert plan.evaluate is not None
        value, agreement = float(plan.evaluate(outputs)), None
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
        """Interleaved rounds over the survivors; the fastest by the objective."""
        num_cores = self.plan.target.num_cores
        models: dict[str, list[CompiledModel]] = {}
        racing: dict[str, Contestant] = {}
        by_id = {trial.recipe.id: trial for trial in self.trials}
        try:
            for trial in self.trials:
                if trial.status == "ok":
                    try:
                        models[trial.recipe.id] = self._load_both(trial)
                    except BackendError as error:
                        trial.end("failed", error.message)
                        continue
                    single, concurrent = models[trial.recipe.id]
                    racing[trial.recipe.id] = Contestant(single=single.infer, concurrent=concurrent.infer)
            self._require_survivor()
            measured = dict(racing)
            samples = self.plan.samples
            with ThreadPoolExecutor(num_cores, "xinfer-measure") as pool:
                warm_up(racing, samples, pool, WARMUP)
                for index in range(MAX_ROUNDS):
                    started = time.monotonic()
                    self.progress("Measuring", 0.65 + 0.2 * index / MAX_ROUNDS, f"round {index + 1}")
                    run_round(
                        racing, samples, pool, num_single=NUM_SINGLE, num_concurrent=NUM_SINGLE * num_cores
                    )
                    self.repeats += NUM_SINGLE
                    # One round may have met another's work on this machine; two seldom do.
                    if index:
                        self._drop_losers(racing, by_id)
                    if self.elapsed_s + (time.monotonic() - started) > self.plan.budget_s and index:
                        break
        finally:
            for pair in models.values():
                for model in pair:
                    model.close()
        for name, contestant in measured.items():
            trial = by_id[name]
            trial.latency_ms = contestant.latency_ms
            trial.throughput_per_s = contestant.throughput_per_s
            trial.cpu_ms_per_item = contestant.cpu_ms_per_item
        best = min(racing, key=lambda name: _cost(racing[name], self.plan.objective))
        return by_id[best]

    def _load_both(self, trial: Trial) -> list[CompiledModel]:
        return [self._load_checked(trial, "latency"), self._load_checked(trial, "throughput")]

    def _load_checked(self, trial: Trial, mode: Literal["latency", "throughput"]) -> CompiledModel:
        """A model that answers as the candidate did when its accuracy was measured."""
        assert trial.artifact_dir is not None
        settings = trial.settings(self.plan.target.num_cores, mode)
        stride = max(1, len(trial.outputs) // NUM_CHECKED)
        samples, outputs = self.plan.samples[::stride], trial.outputs[::stride]
        for attempt in range(1, LOAD_ATTEMPTS + 1):
            model = get_backend(trial.recipe.backend).load(trial.artifact_dir, settings)
            try:
                with ThreadPoolExecutor(settings.num_streams) as pool:
                    for found, gated in zip(pool.map(model.infer, samples), outputs, strict=True):
                        compare_outputs(found, gated)
                return model
            except (BackendError, VerificationError) as error:
                model.close()
                if attempt == LOAD_ATTEMPTS:
                    raise BackendError(f"in {mode} mode: {error.message}") from error
        raise AssertionError("the last attempt returns or raises")

    def _drop_losers(self, racing: dict[str, Contestant], by_id: dict[str, Trial]) -> None:
        costs = {name: _cost(contestant, self.plan.objective) for name, contestant in racing.items()}
        best = min(costs.values())
        for name, cost in costs.items():
            if cost > LOSER_FACTOR * best:
                by_id[name].end("dropped", f"{cost / best:.1f}x slower")
                del racing[name]


def _cost(contestant: Contestant, objective: str) -> float:
    """Lower is better: seconds per item, or the median latency in milliseconds."""
    return 1 / contestant.throughput_per_s if objective == "throughput" else contestant.latency_ms.p50
