"""Hardware targets and the compatibility check."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from xinfer import EnginePackage, HardwareTarget, IncompatibleTargetError, InferenceEngine
from xinfer.targets import target_name, version_in_range

HERE = HardwareTarget.detect()


def test_detect_describes_this_machine() -> None:
    assert HERE.name.startswith(f"cpu-{HERE.architecture}")
    assert 1 <= HERE.num_cores <= (os.cpu_count() or 1)
    assert HERE.memory_bytes > 1 << 28
    assert HERE.cpu


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_detect_honours_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert HardwareTarget.detect().num_cores == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("architecture", "isa", "expected"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), "cpu-x86_64-avx512_vnni"),
        ("x86_64", ("avx2", "avx512_vnni", "amx_int8"), "cpu-x86_64-amx_int8"),
        ("x86_64", ("avx2",), "cpu-x86_64-avx2"),
        ("x86_64", (), "cpu-x86_64"),
        ("aarch64", ("asimd",), "cpu-aarch64"),
    ],
)
def test_target_names(architecture: str, isa: tuple[str, ...], expected: str) -> None:
    assert target_name(architecture, isa) == expected


@pytest.mark.parametrize(
    ("flag", "expected"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_vnni", False)]
)
def test_bf16_needs_its_instructions(flag: str, expected: bool) -> None:
    assert (replace(HERE, isa=(flag,)).bf16_flag is not None) is expected


@pytest.mark.parametrize(
    ("version", "version_range", "expected"),
    [
        ("2026.4.1", ">=2026.4,<2027", True),
        ("2026.3.9", ">=2026.4,<2027", False),
        ("2027.0.0", ">=2026.4,<2027", False),
        ("1.10", ">=1.9", True),
        ("1.9.0", "==1.9", True),
        ("2026.4.1-19000-abc", ">=2026.4", True),
    ],
)
def test_version_ranges(version: str, version_range: str, expected: bool) -> None:
    assert version_in_range(version, version_range) is expected


def test_version_range_is_refused_when_not_understood() -> None:
    with pytest.raises(ValueError, match="not a version range"):
        version_in_range("1", "~=1.0")


def test_compatible_names_every_reason(engine_file: Path) -> None:
    manifest = EnginePackage.open(engine_file).manifest
    assert HERE.compatible(manifest) == []
    needs = replace(
        manifest.compatibility,
        target="cpu-sparc64",
        isa=("avx9000",),
        runtime={"onnxruntime": ">=999", "nope": ">=1"},
    )
    reasons = HERE.compatible(replace(manifest, compatibility=needs))
    assert len(reasons) == 4
    assert "cpu-sparc64" in reasons[0]
    assert "avx9000" in reasons[1]
    assert ">=999" in reasons[2]
    assert "not installed" in reasons[3]


def test_an_engine_is_incompatible_when_its_range_is_not_understood(engine_file: Path) -> None:
    manifest = EnginePackage.open(engine_file).manifest
    needs = replace(manifest.compatibility, runtime={"onnxruntime": "latest"})
    (reason,) = HERE.compatible(replace(manifest, compatibility=needs))
    assert "latest" in reason


def test_load_is_refused_when_the_machine_lacks_instructions(
    engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alien = replace(HERE, architecture="riscv64", name="cpu-riscv64")
    monkeypatch.setattr(HardwareTarget, "detect", classmethod(lambda cls: alien))
    with pytest.raises(IncompatibleTargetError, match="cpu-riscv64"):
        InferenceEngine.load(engine_file, require_signature=False)
