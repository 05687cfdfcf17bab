"""What every recipe shares: the course of a run, its settings, and what judges an engine.

A recipe is a package ``xtorch.tasks.<task>`` with these names (ARCHITECTURE.md, 10.3):

- ``TEMPLATE``: the template's id.
- ``check(dataset_dir, *, progress=None) -> dict``: the data check, a `wire.CheckReport`; imports no torch.
- ``run(dataset_dir, output_dir, *, name, budget_s, seed, settings, progress, cache_dir) -> dict``: trains,
  writes model, task spec and report; returns the fields of a `wire.TrainResult`.
- ``build_inputs(model_dir, dataset_dir) -> BuildInputs``: what the builder calibrates on and judges by.

``run`` begins a `Run`, takes its own steps and ends with `Run.finish`:

    with Run.begin(TEMPLATE, Settings, dataset_dir, output_dir, name=name, ...) as this:
        this.stages = Stages(this.progress, {"Checking": 5, "Training": 60})
        ...
        return this.finish(num_test=40, candidate="forest", metric="accuracy", metrics=..., ...)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from xtorch.errors import SettingsError
from xtorch.progress import Progress, Stages, silent
from xtorch.tasks.output_folder import all_or_nothing
from xtorch.tasks.report import Report

Feeds = dict[str, np.ndarray]
"""A model's inputs or outputs by name."""
SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, kw_only=True)
class BuildInputs:
    """What turns a trained model into an engine and says whether it is good enough.

    Attributes:
        metric: Name of what `evaluate` computes.
        evaluate: The outputs of all `test` feeds, in order -> a figure of which more is better.
        test: Held-out inputs that accuracy is measured on; training never saw them.
        calibration: Inputs for quantisers, from the training part.
        validation: Inputs that thresholds are carried over with; empty: the task has none.
        assets: Files that travel in the package (a tokeniser): name -> path.
        float_nodes: Nodes that INT8 leaves in float, as shell-style patterns.
        peer: The plain torch pipeline, from a request's body to an answer; None: no comparison is made.
        peer_title: What the peer is, for the receipt.
        payloads: Bodies of requests that engine and peer are compared with.
    """

    metric: str
    evaluate: Callable[[Sequence[Feeds]], float]
    test: Sequence[Feeds]
    calibration: Sequence[Feeds]
    validation: Sequence[Feeds] = ()
    assets: Mapping[str, Path] = field(default_factory=dict)
    float_nodes: Sequence[str] = ()
    peer: Callable[[bytes], Any] | None = None
    peer_title: str = "plain torch eager, fp32"
    payloads: Sequence[bytes] = ()


@dataclass(kw_only=True)
class Run(Generic[SettingsT]):
    """One run of a recipe. Steps are methods of a subclass, or functions that take one.

    Attributes:
        template: The recipe's id.
        dataset_dir: Where the data are.
        folder: Where outputs are written; they move to where they are wanted when all is done.
        name: The model's name, for the report.
        budget_s: Seconds for what may be left out.
        seed: Decides all that is drawn.
        settings: As asked for, checked.
        progress: Told about progress, by `stages`.
        cache_dir: Outlives the run; None: nothing is kept.
        started_s: When it began, by `time.monotonic`.
        stages: Set by the recipe, when it knows how much there is to do.
    """

    template: str
    dataset_dir: Path
    folder: Path
    name: str
    budget_s: float
    seed: int
    settings: SettingsT
    progress: Progress
    cache_dir: Path | None
    started_s: float
    stages: Stages = field(init=False)

    @classmethod
    @contextmanager
    def begin(
        cls,
        template: str,
        kind: type[SettingsT],
        dataset_dir: str | Path,
        output_dir: str | Path,
        *,
        name: str,
        budget_s: float,
        seed: int,
        settings: Mapping[str, Any] | None,
        progress: Progress | None,
        cache_dir: str | Path | None,
    ) -> Iterator[Self]:
        """A run for the block to carry out: `output_dir` gets all outputs, or none if the block raises.

        Args:
            template: The recipe's id.
            kind: Of the settings.
            dataset_dir, output_dir, name, budget_s, seed, settings, progress, cache_dir: What the recipe's
                ``run`` was given.

        Raises:
            SettingsError: A setting is unknown or out of range.
        """
        started_s = time.monotonic()
        chosen = parse_settings(kind, settings or {})
        with all_or_nothing(Path(output_dir)) as folder:
            yield cls(
                template=template,
                dataset_dir=Path(dataset_dir),
                folder=folder,
                name=name,
                budget_s=budget_s,
                seed=seed,
                settings=chosen,
                progress=progress or silent,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                started_s=started_s,
            )

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left; none or fewer once it is spent."""
        return self.started_s + self.budget_s - time.monotonic()

    def finish(self, *, num_test: int, candidate: str, **figures: Any) -> dict[str, Any]:
        """Ends the last stage and writes ``report.json``.

        Args:
            num_test: Held-out samples that were measured.
            candidate: The leaderboard's row that was kept.
            figures: Fields of `Report`, but for those that the run knows.

        Returns:
            The fields of `wire.TrainResult`.
        """
        self.stages.finish()
        report = Report(
            template=self.template,
            name=self.name,
            seed=self.seed,
            duration_s=round(time.monotonic() - self.started_s, 3),
            timings_s=self.stages.timings_s,
            **figures,
        )
        write_json(self.folder / "report.json", report.to_dict())
        return {
            "metric": report.metric,
            "value": report.metrics[report.metric]["value"],
            "num_test": num_test,
            "candidate": candidate,
            "duration_s": report.duration_s,
        }


def parse_settings(kind: type[SettingsT], settings: Mapping[str, Any]) -> SettingsT:
    """Settings from a job's mapping. Lists become tuples.

    Args:
        kind: A dataclass that checks its values.
        settings: By field name.

    Raises:
        SettingsError: A name is unknown, or a value has the wrong type or is out of range.
    """
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    for name in settings:
        if name not in known:
            raise SettingsError(
                f"There is no setting {name!r}.", value=name, hint=f"known: {', '.join(sorted(known))}"
            )
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise SettingsError(f"A setting has the wrong type: {error}", value=values) from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that any reader takes: UTF-8, no NaN, no infinity."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """
    Raises:
        WeightsError: The file is missing or damaged.
    """
    from xtorch.errors import WeightsError

    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(
            "A file of the trained model is missing or damaged.",
            value=path.name,
            hint="the folder must be the output of a training run",
        ) from error
