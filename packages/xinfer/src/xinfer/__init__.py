"""xInfer: builds, verifies, runs and serves hardware-optimised inference engines.

Importing this package imports NumPy only; every runtime and tool is an extra, imported when needed.
"""

from xinfer.builders import BuiltEngine, EngineBuilder
from xinfer.builders.preprocessing import Preprocessing
from xinfer.engine import Benchmark, InferenceEngine
from xinfer.errors import (
    AccuracyBudgetError,
    BackendError,
    BuildError,
    CalibrationError,
    CatalogueError,
    DocumentError,
    EngineClosedError,
    FetchError,
    HubError,
    ImageDecodeError,
    IncompatibleTargetError,
    InputError,
    MissingExtraError,
    PackageError,
    SignatureError,
    SourceModelError,
    TaskSpecError,
    VerificationError,
    XInferError,
)
from xinfer.manifest import Manifest, Receipt
from xinfer.package import EnginePackage
from xinfer.sources import ShapeProfile
from xinfer.targets import HardwareTarget
from xinfer.tasks import TaskSpec, parse_task
from xinfer.trust import TrustPolicy
from xinfer.zoo import AnomalyDetector, AnomalyResult

__all__ = [
    "AccuracyBudgetError",
    "AnomalyDetector",
    "AnomalyResult",
    "BackendError",
    "Benchmark",
    "BuildError",
    "BuiltEngine",
    "CalibrationError",
    "CatalogueError",
    "DocumentError",
    "EngineBuilder",
    "EngineClosedError",
    "EnginePackage",
    "FetchError",
    "HardwareTarget",
    "HubError",
    "ImageDecodeError",
    "IncompatibleTargetError",
    "InferenceEngine",
    "InputError",
    "Manifest",
    "MissingExtraError",
    "PackageError",
    "Preprocessing",
    "Receipt",
    "ShapeProfile",
    "SignatureError",
    "SourceModelError",
    "TaskSpec",
    "TaskSpecError",
    "TrustPolicy",
    "VerificationError",
    "XInferError",
    "parse_task",
]
