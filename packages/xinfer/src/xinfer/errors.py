"""Everything xInfer raises, as one tree.

XInferError                     xinfer.error            also target.unknown, target.bad_mask
├── MissingExtraError           dependency.missing
├── DocumentError               document.invalid        a JSON document does not follow its schema
│   └── TaskSpecError           task.invalid
├── PackageError                package.invalid         an engine file is damaged or not one of ours
├── SignatureError              signature.invalid       also .missing, .no_key, .bad_key, .policy, .revoked,
│                                                       .expired, .untrusted_publisher
├── IncompatibleTargetError     engine.incompatible
├── EngineClosedError           engine.closed
├── InputError                  input.invalid
├── ImageDecodeError            image.unreadable        also .truncated, .too_large, .unsupported
├── BackendError                backend.failed          also .unknown, .unsupported, .unavailable,
│                                                       .no_compiler
├── CatalogueError              catalogue.unknown       also .invalid
├── FetchError                  source.unavailable      also .digest
├── HubError                    hub.failed              also .not_configured, .no_engine
└── BuildError                  build.failed
    ├── SourceModelError        build.source_model      also .malformed, .truncated, .too_large, .cyclic,
    │                                                   .unsupported_op, ... (`sources.read_onnx`)
    ├── CalibrationError        build.calibration
    ├── VerificationError       build.verification      the packed engine does not do what was measured
    └── AccuracyBudgetError     build.accuracy_budget
"""

from __future__ import annotations

from typing import Any, ClassVar


class XInferError(Exception):
    """Root of all errors of this package.

    Args:
        message: What is wrong, in one sentence; the class's docstring when left out.
        code: Stable identifier; the class's own when left out.
        value: The offending value.
        hint: What to do about it.
    """

    default_code: ClassVar[str] = "xinfer.error"

    def __init__(
        self, message: str = "", *, code: str | None = None, value: Any = None, hint: str | None = None
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0])
        self.code = code or self.default_code
        self.value = value
        self.hint = hint

    @property
    def message(self) -> str:
        return str(self.args[0])


class MissingExtraError(XInferError):
    """A package that this call needs is not installed."""

    default_code = "dependency.missing"

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"{module} is not installed", value=module, hint=f"pip install 'ignition-xinfer[{extra}]'"
        )


class DocumentError(XInferError):
    """A document does not follow its schema."""

    default_code = "document.invalid"


class TaskSpecError(DocumentError):
    """A task spec does not follow its schema."""

    default_code = "task.invalid"


class PackageError(XInferError):
    """The file is not a usable engine package."""

    default_code = "package.invalid"


class SignatureError(XInferError):
    """The signature does not vouch for this content."""

    default_code = "signature.invalid"


class IncompatibleTargetError(XInferError):
    """This machine cannot run the engine."""

    default_code = "engine.incompatible"


class EngineClosedError(XInferError):
    """The engine was closed."""

    default_code = "engine.closed"


class InputError(XInferError):
    """The input does not fit the model."""

    default_code = "input.invalid"


class ImageDecodeError(XInferError):
    """The image cannot be decoded."""

    default_code = "image.unreadable"


class BackendError(XInferError):
    """A runtime failed."""

    default_code = "backend.failed"


class CatalogueError(XInferError):
    """The catalogue has no such entry, or it cannot be used that way."""

    default_code = "catalogue.unknown"


class FetchError(XInferError):
    """A file that the catalogue names cannot be had here."""

    default_code = "source.unavailable"


class HubError(XInferError):
    """The Hub cannot be used."""

    default_code = "hub.failed"


class BuildError(XInferError):
    """The build failed."""

    default_code = "build.failed"


class SourceModelError(BuildError):
    """The source model cannot be used."""

    default_code = "build.source_model"


class CalibrationError(BuildError):
    """The calibration data cannot be used."""

    default_code = "build.calibration"


class VerificationError(BuildError):
    """The packed engine does not reproduce what was measured."""

    default_code = "build.verification"


class AccuracyBudgetError(BuildError):
    """No candidate stays within the accuracy budget."""

    default_code = "build.accuracy_budget"
