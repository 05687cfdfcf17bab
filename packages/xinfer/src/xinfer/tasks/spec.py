"""The task spec (ARCHITECTURE 10.4): `task.json` and `manifest.task`.

A spec is data: how user input becomes tensors, which outputs mean what, labels and thresholds. The code that
reads it stands in `xinfer.zoo`, one module per task. `task` and `input.kind` say which class a document is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from xinfer import schema
from xinfer.errors import TaskSpecError
from xinfer.schema import Variants


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How user input becomes tensors; base of the kinds."""

    VARIANTS: ClassVar[Variants] = Variants("kind")

    name: str
    """The model's input."""
    kind: str

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the model's inputs that it feeds."""
        return (self.name,)


@InputSpec.VARIANTS.add("image")
@dataclass(frozen=True, kw_only=True)
class ImageInput(InputSpec):
    """One image: uint8 RGB, [1,H,W,3]; normalising stands in the graph.

    Decoding is `xinfer.preproc.decode_image`, which may decode smaller where no side falls below `min_side`.

    Attributes:
        size: Height and width that the graph takes; None: any.
        mode: How an image comes to that size (`xinfer.preproc.ImageProcessor`): ``any``: not at all, the
            graph scales; ``letterbox``: scaled, then padded on the right and below; ``stretch``: its aspect
            ratio is lost; ``crop``: scaled until it covers, then cut around the middle.
        pad_value: Of letterbox, 0..255.
    """

    kind: Literal["image"] = "image"
    color: Literal["RGB"]
    min_side: int
    size: tuple[int, int] | None = None
    mode: Literal["any", "letterbox", "stretch", "crop"] = "any"
    pad_value: int = 0

    def __post_init__(self) -> None:
        if self.min_side < 1:
            raise ValueError(f"min_side must be positive, not {self.min_side}")
        if (self.size is None) != (self.mode == "any"):
            raise ValueError(f"mode {self.mode!r} and size {self.size} do not go together")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be positive, not {list(self.size)}")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value must be in 0..255, not {self.pad_value}")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What every task has; base of the tasks."""

    VARIANTS: ClassVar[Variants] = Variants("task")

    task: str
    version: Literal[1] = 1
    input: InputSpec
    outputs: dict[str, str]
    """What the task calls it -> the model's output."""
    labels: tuple[str, ...] = ()
    metric: str
    """What accuracy is measured by; higher is better."""

    def to_json(self) -> dict[str, Any]:
        """The document as it stands in `task.json`."""
        return dataclasses.asdict(self)

    def require_outputs(self, *names: str) -> None:
        """Raises ValueError unless `outputs` names exactly these."""
        if self.outputs.keys() != set(names):
            raise ValueError(f"outputs must name {sorted(names)}, found {sorted(self.outputs)}")


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
