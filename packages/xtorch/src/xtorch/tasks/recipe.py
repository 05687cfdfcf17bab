"""What every recipe shares: its settings, outputs that appear all at once, and what judges an engine.

A recipe is a package ``xtorch.tasks.<task>`` with these names (ARCHITECTURE.md, 10.3):

- ``TEMPLATE``: the template's id.
- ``check(dataset_dir, *, progress=None) -> dict``: the data check, a `wire.CheckReport`; imports no torch.
- ``run(dataset_dir, output_dir, *, name, budget_s, seed, settings, progress, cache_dir) -> dict``: trains,
  writes model, task spec and report; returns the fields of a `wire.TrainResult`.
- ``build_inputs(model_dir, dataset_dir) -> BuildInputs``: what the builder calibrates on and judges by.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xtorch.errors import SettingsError

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


@contextmanager
def all_or_nothing(output_dir: Path) -> Iterator[Path]:
    """A folder to write outputs into; they move to `output_dir` when the block ends well, else they go."""
    output_dir.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=output_dir))
    try:
        yield partial
        for item in sorted(partial.iterdir()):
            target = output_dir / item.name
            if target.is_dir():
                shutil.rmtree(target)
            item.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
