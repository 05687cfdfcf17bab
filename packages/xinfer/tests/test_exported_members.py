"""The public API: a change to it shows here."""

from __future__ import annotations

import xinfer

EXPORTED = [
    "AccuracyBudgetError", "AnomalyDetector", "AnomalyResult", "BackendError", "Benchmark", "BuildError",
    "BuiltEngine", "CalibrationError", "CatalogueError", "DocumentError", "EngineBuilder",
    "EngineClosedError", "EnginePackage", "FetchError", "HardwareTarget", "HubError", "ImageDecodeError",
    "IncompatibleTargetError", "InferenceEngine", "InputError", "Manifest", "MissingExtraError",
    "PackageError", "Preprocessing", "Receipt", "ShapeProfile", "SignatureError", "SourceModelError",
    "TaskSpec", "TaskSpecError", "TrustPolicy", "VerificationError", "XInferError", "parse_task",
]  # fmt: skip


def test_package_exports_what_it_promises() -> None:
    assert sorted(xinfer.__all__) == sorted(EXPORTED)
    for name in EXPORTED:
        assert hasattr(xinfer, name)


def test_engines_are_built_and_run_by_the_names_people_know() -> None:
    for name in (
        "from_onnx", "from_torch", "for_target", "with_precision", "with_int8", "with_accuracy_budget",
        "optimize_for", "with_preprocessing", "build", "build_and_save",
    ):  # fmt: skip
        assert callable(getattr(xinfer.EngineBuilder, name))
    for name in ("load", "infer", "infer_async", "infer_many", "profile", "benchmark", "close"):
        assert callable(getattr(xinfer.InferenceEngine, name))
