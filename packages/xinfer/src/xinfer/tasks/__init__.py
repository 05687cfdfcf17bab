"""Task specs: what turns user input into tensors and tensors into results, as data."""

from xinfer.tasks.spec import ImageInput, TaskSpec, parse_task

__all__ = ["ImageInput", "TaskSpec", "parse_task"]
