"""Mixed precision: an INT8 candidate over the accuracy budget gets its worst layers back in float.

Layers are ranked once, with the quantised ONNX file that came closest to the budget; the ranking serves the
other recipes too, since it tells about the model. Then the fewest layers are looked for that must be float
(`builders.sensitivity`).
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from xinfer.builders import steps
from xinfer.builders.candidates import Trial
from xinfer.builders.sensitivity import LayerSensitivity, mixed_precision

if TYPE_CHECKING:
    from xinfer.builders.search import Search

MAX_STEPS = 6
MAX_SHARE = 0.75
"""Of the quantised layers may become float: beyond it the engine is a float one with detours."""
NUM_REPAIRED = 2
"""Candidates that are repaired: the closest to the budget, of different recipes."""


def repair(search: Search) -> None:
    """Adds repaired candidates where INT8 was tried and none of it holds the budget.

    Args:
        search: Its trials are gated; repaired ones are appended, gated too.
    """
    int8 = [trial for trial in search.trials if trial.recipe.precision == "int8"]
    broken = [trial for trial in int8 if trial.status == "over_budget" and trial.drop is not None]
    if not broken or any(trial.status == "ok" for trial in int8):
        return
    broken.sort(key=lambda trial: trial.drop or 0.0)
    ranking = _rank(search, broken)
    if not ranking:
        return
    repaired: set[tuple[str, str]] = set()
    for trial in broken:
        key = trial.recipe.backend, trial.recipe.quantiser
        if len(repaired) < NUM_REPAIRED and key not in repaired and search.repair_left_s > 0:
            repaired.add(key)
            _repair(search, trial, ranking)


def _rank(search: Search, broken: list[Trial]) -> list[LayerSensitivity]:
    """The ranking by the first of the candidates whose quantised ONNX file can be read."""
    for trial in broken:
        quantised = steps.quantised_file(trial.recipe, search.artifacts)
        if not quantised.exists():
            continue  # NNCF on OpenVINO's graph leaves no ONNX file
        search.progress("Building candidates", 0.6, f"ranking the layers of {trial.recipe.id}")
        try:
            return steps.rank(
                search.source,
                quantised,
                search.folder / "calibration",
                timeout_s=max(30.0, search.repair_left_s),
            )
        except steps.StepError as error:
            trial.reason = f"{trial.reason}; layers could not be ranked: {error}"
    return []


def _repair(search: Search, broken: Trial, ranking: list[LayerSensitivity]) -> None:
    recipe = replace(broken.recipe, mixed=True)
    best: list[Trial] = []

    def make(float_nodes: frozenset[str]) -> Trial:
        trial = Trial(recipe=recipe, float_layers=tuple(sorted(float_nodes)))
        title = f"{recipe.id}: {len(float_nodes)} of {len(ranking)} layers in float"
        search.progress("Building candidates", 0.61, title)
        shutil.rmtree(search.artifacts / recipe.artifact_key, ignore_errors=True)
        steps.quantised_file(recipe, search.artifacts).unlink(missing_ok=True)
        search.make(trial, timeout_s=max(60.0, search.repair_left_s), float_nodes=float_nodes)
        return trial

    def gate(trial: Trial) -> bool:
        search.gate(trial)
        if trial.status == "ok":
            # The next attempt makes the artifact anew in the same place.
            kept = search.folder / f"mixed-{len(search.trials)}-{len(best)}"
            assert trial.artifact_dir is not None
            shutil.copytree(trial.artifact_dir, kept)
            trial.artifact_dir = kept
            trial.outputs_file = kept.with_suffix(".npz")
            shutil.copyfile(search.outputs_file(recipe), trial.outputs_file)
            best.append(trial)
        return trial.status == "ok"

    found = mixed_precision(
        make,
        gate,
        ranking,
        max_steps=MAX_STEPS,
        max_float=max(1, int(MAX_SHARE * len(ranking))),
        deadline=time.monotonic() + max(1.0, search.repair_left_s),
    )
    if found.made is not None:
        search.trials.append(found.made)
        return
    trial = Trial(recipe=recipe)
    tried = ", ".join(str(step.num_float) for step in found.steps) or "none"
    trial.end("over_budget", f"with {tried} of {len(ranking)} layers in float it misses the budget too")
    search.trials.append(trial)
