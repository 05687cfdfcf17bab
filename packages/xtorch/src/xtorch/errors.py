"""What can go wrong in xTorch.

XTorchError
├── DataError                 data.invalid            the dataset cannot be trained on
│   ├── LayoutError           data.layout             folders are not laid out in a known way
│   ├── TooFewImagesError     data.too_few            a class has fewer usable images than needed
│   ├── TableError            data.table              a table cannot be read
│   ├── ColumnsError          data.columns            a table's columns are not what the task needs
│   └── SampleError           data.sample             a sample cannot be loaded while training
├── SettingsError             settings.invalid        a setting is unknown or out of range
├── WorkerError               loader.worker           a process that loads data died
├── WeightsError              weights.unavailable     pretrained weights are missing or do not fit
├── TrainingError             training.failed         training gave nothing usable (loss is not finite)
├── CheckpointError           checkpoint.invalid      a checkpoint is torn, missing or cannot be written
│   └── ForeignCheckpointError checkpoint.foreign     a checkpoint is of another model, setting or machine set
├── TuningError               tuning.failed           a hyper-parameter search gave nothing usable
│   └── TuningStorageError    tuning.storage          a search's journal is in use, damaged or another's
└── ExportError               export.failed           the model could not be exported
    └── ParityError           export.parity           the exported model does not agree with its source
"""

from __future__ import annotations

from typing import Any


class XTorchError(Exception):
    """Base of every error that xTorch raises on purpose.

    Args:
        message: what happened, in a sentence.
        value: the offending value.
        hint: what to do about it.
    """

    code = "xtorch.error"
    hint: str | None = None

    def __init__(self, message: str, *, value: Any = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.value = value
        if hint is not None:
            self.hint = hint


class DataError(XTorchError):
    """The dataset cannot be trained on."""

    code = "data.invalid"


class LayoutError(DataError):
    """The folders are not laid out in a known way."""

    code = "data.layout"
    hint = (
        "put good images into ok/ and faulty ones into defective/, or use "
        "train/ok, test/ok and test/defective"
    )


class TooFewImagesError(DataError):
    """A class has fewer usable images than training needs."""

    code = "data.too_few"


class TableError(DataError):
    """A table cannot be read."""

    code = "data.table"


class ColumnsError(DataError):
    """A table's columns are not what the task needs, or it cannot be told which is which."""

    code = "data.columns"


class SampleError(DataError):
    """A sample cannot be loaded, or a batch not be put together; `value` is its index, or their indices."""

    code = "data.sample"


class WorkerError(XTorchError):
    """A process that loads data died."""

    code = "loader.worker"


class SettingsError(XTorchError):
    """A setting is unknown or out of range."""

    code = "settings.invalid"


class WeightsError(XTorchError):
    """Pretrained weights are missing or do not fit the architecture."""

    code = "weights.unavailable"


class TrainingError(XTorchError):
    """Training gave nothing usable."""

    code = "training.failed"


class TuningError(XTorchError):
    """A hyper-parameter search gave nothing usable."""

    code = "tuning.failed"


class TuningStorageError(TuningError):
    """A search's journal cannot be used: another process writes it, it is damaged or another search's."""

    code = "tuning.storage"


class CheckpointError(XTorchError):
    """A checkpoint is torn, missing or cannot be written."""

    code = "checkpoint.invalid"


class ForeignCheckpointError(CheckpointError):
    """A checkpoint belongs to another training: other model, settings, callbacks or number of processes."""

    code = "checkpoint.foreign"
    hint = "resume with the model, settings and callbacks of that training, or use another folder"


class ExportError(XTorchError):
    """The model could not be exported."""

    code = "export.failed"


class ParityError(ExportError):
    """The exported model does not give the same answers as the model it was made from."""

    code = "export.parity"
