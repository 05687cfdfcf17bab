"""The task spec (ARCHITECTURE 10.4): `task.json` and `manifest.task`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xinfer import schema
from xinfer.errors import TaskSpecError


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How an image becomes the model's input tensor; decoding is `xinfer.preproc.decode_image`."""

    name: str
    kind: Literal["image"]
    color: Literal["RGB"]
    min_side: int

    def __post_init__(self) -> None:
        if self.min_side < 1:
            raise ValueError(f"min_side must be positive, not {self.min_side}")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Anomaly detection: an image in; a score, a map and a verdict out.

    `score >= threshold` means `labels[1]`. `score_range` is the span of scores seen on held-out data;
    it scales confidence and heat maps.
    """

    task: Literal["anomaly-detection"]
    version: Literal[1]
    input: ImageInput
    outputs: dict[str, str]
    labels: tuple[str, ...]
    threshold: float
    map_threshold: float
    score_range: tuple[float, float]
    metric: Literal["image_auroc"]

    def __post_init__(self) -> None:
        if self.outputs.keys() != {"score", "map"}:
            raise ValueError(f"outputs must name 'score' and 'map', found {sorted(self.outputs)}")
        if len(self.labels) != 2:
            raise ValueError(f"labels must be two, [ok, defective], found {list(self.labels)}")
        numbers = (self.threshold, self.map_threshold, *self.score_range)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("thresholds and score_range must be finite")
        if not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"score_range must ascend, found {list(self.score_range)}")

    def to_json(self) -> dict[str, Any]:
        """The document as it stands in `task.json`."""
        return dataclasses.asdict(self)


def parse_task(source: dict[str, Any] | bytes | str | Path) -> TaskSpec:
    """Reads a task spec strictly.

    Args:
        source: The decoded document, its JSON text, or a path of `task.json`.

    Returns:
        The spec.

    Raises:
        TaskSpecError: Missing, unknown or mistyped fields, or an unknown task or version.
    """
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except OSError as error:
            raise TaskSpecError(f"cannot read the task spec: {error.strerror}", value=str(source)) from error
    if isinstance(source, str | bytes):
        data = source.encode() if isinstance(source, str) else source
        source = schema.loads(data, where="task", error=TaskSpecError)
    return schema.read(TaskSpec, source, where="task", error=TaskSpecError)
