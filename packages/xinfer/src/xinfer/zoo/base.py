"""What every typed task shares: where the engine comes from, one prediction, many predictions."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np

from xinfer.engine import InferenceEngine
from xinfer.errors import CatalogueError, TaskSpecError
from xinfer.tasks import TaskSpec

if TYPE_CHECKING:
    from xinfer.catalogue import Entry

SpecT = TypeVar("SpecT", bound=TaskSpec)
ResultT = TypeVar("ResultT")

Feeds = dict[str, np.ndarray]
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class BuildInput:
    """What a catalogue entry becomes before `EngineBuilder`: the model to build and how to judge it.

    Attributes:
        onnx: The source model, with preprocessing in its graph where the task has any.
        task: The task spec.
        samples: Held-out inputs, at least one, that accuracy is measured on.
        calibration: Inputs for INT8; empty: INT8 is not tried.
        metric: A metric that needs no labels (`builders.metrics`): the engine is compared with its source.
        max_drop: Largest accepted loss of that metric.
        assets: Files that travel in the package: name -> path.
        float_nodes: Nodes that INT8 leaves in float, as shell-style patterns.
    """

    onnx: Path
    task: TaskSpec
    samples: tuple[Feeds, ...]
    calibration: tuple[Feeds, ...] = ()
    metric: str = "cosine"
    max_drop: float = 0.01
    assets: Mapping[str, Path] = field(default_factory=dict)
    float_nodes: tuple[str, ...] = ()


class TaskRunner(ABC, Generic[SpecT, ResultT]):
    """Runs an engine of one task. Thread-safe as its engine is; a context manager.

    A task gives `SPEC`, `prepare` and `interpret`; `setup` may read assets of the engine.

    Args:
        engine: An engine, the path of an engine file, or a catalogue id such as ``yolox-nano-coco``. An id is
            looked for in the Hub, then in the local cache, and else built from its source (`zoo.resolve`).
        load_options: Passed to `InferenceEngine.load`.

    Raises:
        TaskSpecError: The engine is for another task.
        CatalogueError: There is no such id.
        XInferError: Whatever loading or building raises.
    """

    SPEC: ClassVar[type[TaskSpec]]

    def __init__(self, engine: InferenceEngine | str | os.PathLike[str], **load_options: Any) -> None:
        given = isinstance(engine, InferenceEngine)
        self.engine = engine if isinstance(engine, InferenceEngine) else self._load(engine, load_options)
        try:
            if not isinstance(self.engine.task, self.SPEC):
                found = None if self.engine.task is None else self.engine.task.task
                wanted = getattr(self.SPEC, "task", self.SPEC.__name__)
                raise TaskSpecError(
                    f"{type(self).__name__} needs an engine for {wanted}, this one is for {found}",
                    value=found,
                )
            self.task = cast("SpecT", self.engine.task)
            self.setup()
        except BaseException:
            if not given:
                self.engine.close()
            raise

    @classmethod
    def _load(cls, engine: str | os.PathLike[str], options: dict[str, Any]) -> InferenceEngine:
        from xinfer.zoo import resolve

        if isinstance(engine, str) and resolve.is_id(engine):
            return resolve.load(engine, cls, **options)
        return InferenceEngine.load(engine, **options)

    def setup(self) -> None:
        """Called once, when `engine` and `task` are set."""

    @abstractmethod
    def prepare(self, x: Any) -> tuple[Feeds, Any]:
        """Turns one user input into feeds, and what `interpret` must know about it (such as its size).

        Raises:
            InputError: The input does not fit the task.
        """

    @abstractmethod
    def interpret(self, outputs: Outputs, context: Any) -> ResultT:
        """Turns the outputs of one inference into a result."""

    @classmethod
    def build_input(cls, entry: Entry, folder: Path) -> BuildInput:
        """Turns a catalogue entry into what is built.

        Args:
            entry: The entry; its files come from `catalogue.fetch`.
            folder: Where intermediate files may be written; outlives the build.

        Raises:
            CatalogueError: This task is not built from catalogue entries.
            FetchError: A file of the entry cannot be had.
        """
        del folder
        raise CatalogueError(f"{entry.id} cannot be built by {cls.__name__}", value=entry.id)

    def predict(self, x: Any) -> ResultT:
        """The result for one input. Raises InputError and its kin for inputs that do not fit the task."""
        feeds, context = self.prepare(x)
        return self.interpret(self.engine.infer(feeds), context)

    def predict_batch(self, xs: Iterable[Any]) -> list[ResultT]:
        """The results for many inputs, in order; as many at once as the engine has streams."""
        contexts: deque[Any] = deque()

        def feeds() -> Iterator[Feeds]:
            for x in xs:
                prepared, context = self.prepare(x)
                contexts.append(context)
                yield prepared

        return [self.interpret(outputs, contexts.popleft()) for outputs in self.engine.infer_many(feeds())]

    def close(self) -> None:
        """Closes the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
