"""Hardware targets and the compatibility check."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xinfer import EnginePackage, HardwareTarget, IncompatibleTargetError, InferenceEngine, XInferError
from xinfer.backends import BACKENDS
from xinfer.manifest import Manifest
from xinfer.targets import (
    ISA_FLAGS,
    TARGET_LEVELS,
    Accelerator,
    CpuKind,
    catalogue,
    target_name,
    version_in_range,
)
from xinfer.targets.accelerators import amd, intel, jetson, parse_nvidia_smi
from xinfer.targets.machine import parse_cpuinfo, parse_sysctl

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
        ("x86_64", ("avx2", "avx512_vnni", "avx512_bf16"), "cpu-x86_64-avx512_bf16"),
        ("x86_64", ("avx2",), "cpu-x86_64-avx2"),
        ("aarch64", ("asimd", "asimddp", "i8mm"), "cpu-aarch64-i8mm"),
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


def test_the_catalogue_is_consistent() -> None:
    kinds = catalogue()
    assert {
        "cuda-sm_75",
        "cuda-sm_87",
        "cuda-sm_110",
        "cuda-sm_121",
        "rocm-gfx942",
        "coreml-m4",
    } <= kinds.keys()
    for name, kind in kinds.items():
        assert kind.name == name
        assert kind.examples
        assert set(kind.backends) <= BACKENDS.keys()
        for backend in kind.backends:
            assert kind.device in BACKENDS[backend].devices
        if isinstance(kind, CpuKind):
            assert set(kind.isa) <= set(ISA_FLAGS[kind.architecture])
            assert (
                (kind.name == target_name(kind.architecture, kind.isa))
                or not kind.isa
                or kind.isa == ("asimd",)
            )
        else:
            assert name == f"{kind.device}-{kind.arch}"


def test_every_level_that_detection_names_is_in_the_catalogue() -> None:
    for architecture, levels in TARGET_LEVELS.items():
        for level in levels:
            kind = catalogue()[f"cpu-{architecture}-{level}"]
            assert isinstance(kind, CpuKind)
            assert level in kind.isa


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_a_target_is_made_from_its_name(name: str) -> None:
    target = HardwareTarget.from_name(name)
    assert target.targets == (name,)
    assert not target.is_here
    kind = catalogue()[name]
    if isinstance(kind, CpuKind):
        assert (target.bf16_flag is not None) == ("bf16" in kind.precisions)
        assert (target.int8_flag is not None) == ("int8" in kind.precisions)


def test_an_unknown_target_is_a_typed_error_with_its_family() -> None:
    with pytest.raises(XInferError) as caught:
        HardwareTarget.from_name("cuda-sm_42")
    assert caught.value.code == "target.unknown"
    assert caught.value.hint is not None
    assert "cuda-sm_87" in caught.value.hint
    assert "rocm" not in caught.value.hint


NVIDIA_SMI = """NVIDIA H200, 9.0, 143771, 580.95.05
NVIDIA GeForce RTX 3090, 8.6, 24576, 580.95.05
Orin (nvgpu), [N/A], [N/A], 540.4.0
"""


def test_nvidia_gpus_are_read() -> None:
    h200, rtx = parse_nvidia_smi(NVIDIA_SMI)
    assert (h200.target, h200.driver, h200.memory_bytes) == ("cuda-sm_90", "580.95.05", 143771 << 20)
    assert rtx.target == "cuda-sm_86"
    assert parse_nvidia_smi("No devices were found\n") == []
    assert parse_nvidia_smi("Thor, 10.1, [N/A], 580\n")[0].target == "cuda-sm_110"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_jetson_is_known_by_its_chip(tmp_path: Path) -> None:
    assert jetson(tmp_path) == []
    write(
        tmp_path,
        {
            "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0",
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        },
    )
    (orin,) = jetson(tmp_path)
    assert (orin.target, orin.name, orin.driver) == (
        "cuda-sm_87",
        "NVIDIA Jetson AGX Orin Developer Kit",
        "36.4.3",
    )


def test_amd_and_intel_devices_are_read_from_the_kernel(tmp_path: Path) -> None:
    assert amd(tmp_path) == intel(tmp_path) == []
    nodes = "sys/class/kfd/kfd/topology/nodes"
    write(
        tmp_path,
        {
            f"{nodes}/0/properties": "cpu_cores_count 64\ngfx_target_version 0\n",
            f"{nodes}/1/properties": "simd_count 1216\ngfx_target_version 90402\n",
            f"{nodes}/1/name": "aqua_vanjaram\n",
            f"{nodes}/2/properties": "gfx_target_version 90010\n",
            "sys/module/amdgpu/version": "6.12.12\n",
            "sys/class/drm/card0/device/vendor": "0x1002\n",
            "sys/class/drm/card0/device/mem_info_vram_total": "206141652992\n",
            "sys/class/drm/card1/device/vendor": "0x8086\n",
            "sys/class/drm/card1/device/device": "0x56a0\n",
            "sys/class/drm/card1-DP-1/device/vendor": "0x8086\n",
            "sys/class/accel/accel0/device/vendor": "0x8086\n",
        },
    )
    mi300, mi250 = amd(tmp_path)
    assert (mi300.target, mi300.driver, mi300.memory_bytes) == ("rocm-gfx942", "6.12.12", 206141652992)
    assert mi250.target == "rocm-gfx90a"
    assert [device.target for device in intel(tmp_path)] == ["gpu-intel", "npu-intel"]


def test_cpus_are_read_on_linux_and_macos() -> None:
    cpu, flags = parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n")
    assert (cpu, "i8mm" in flags) == ("", True)
    text = """machdep.cpu.brand_string: Apple M2 Pro
hw.optional.arm64: 1
hw.optional.AdvSIMD: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 0
"""
    assert parse_sysctl(text) == ("Apple M2 Pro", frozenset({"asimd", "asimddp", "i8mm"}))
    text = "machdep.cpu.brand_string: Intel(R) Core(TM)\nhw.optional.avx2_0: 1\nhw.optional.avx512f: 1\n"
    assert parse_sysctl(text)[1] == {"avx2", "avx512f"}


GPU = Accelerator(name="NVIDIA A10", device="cuda", arch="sm_86", driver="535.183")


@pytest.fixture
def gpu_manifest(engine_file: Path) -> Manifest:
    manifest = EnginePackage.open(engine_file).manifest
    needs = replace(manifest.compatibility, target="cuda-sm_86", isa=(), runtime={"nvidia-driver": ">=525"})
    return replace(manifest, compatibility=needs)


@pytest.mark.parametrize(
    ("gpus", "reasons"),
    [
        ((GPU,), ()),
        ((replace(GPU, arch="sm_89"),), ("built for cuda-sm_86", "cuda-sm_89")),
        ((replace(GPU, driver="515.65"),), ("nvidia-driver >=525", "515.65")),
        ((), ("built for cuda-sm_86", "nvidia-driver is not installed")),
    ],
    ids=["fits", "other SM", "old driver", "no GPU"],
)
def test_gpu_engines_need_their_architecture_and_driver(
    gpus: tuple[Accelerator, ...], reasons: tuple[str, ...], gpu_manifest: Manifest
) -> None:
    found = replace(HERE, gpus=gpus).compatible(gpu_manifest)
    assert bool(found) == bool(reasons)
    for part in reasons:
        assert part in " ".join(found)


def test_a_cpu_engine_runs_on_a_machine_with_a_gpu(engine_file: Path) -> None:
    manifest = EnginePackage.open(engine_file).manifest
    assert replace(HERE, gpus=(GPU,)).compatible(manifest) == []
    # What is installed here says nothing about another machine.
    needs = replace(manifest.compatibility, runtime={"nope": ">=1"})
    assert replace(HERE, is_here=False).compatible(replace(manifest, compatibility=needs)) == []


NEEDS_AVX512 = pytest.mark.skipif("avx512f" not in HERE.isa, reason="this CPU has no AVX-512 to hide")


@NEEDS_AVX512
def test_engines_that_need_a_hidden_instruction_set_are_refused(
    engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = EnginePackage.open(engine_file).manifest
    manifest = replace(manifest, compatibility=replace(manifest.compatibility, isa=("avx2", "avx512f")))
    assert HardwareTarget.detect().compatible(manifest) == []
    monkeypatch.setattr("xinfer.targets.masking.tell_runtimes", lambda: None)
    monkeypatch.setenv("XINFER_MAX_ISA", "avx2")
    masked = HardwareTarget.detect()
    assert masked.name == "cpu-x86_64-avx2"
    (reason,) = masked.compatible(manifest)
    assert reason == "this CPU lacks avx512f (hidden by XINFER_MAX_ISA)"


def test_a_mask_that_names_no_level_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XINFER_MAX_ISA", "avx10")
    with pytest.raises(XInferError) as caught:
        HardwareTarget.detect()
    assert caught.value.code == "target.bad_mask"


KERNELS = """
import sys
from pathlib import Path
from xinfer.backends import RuntimeSettings, get_backend
model = get_backend("openvino").load(Path(sys.argv[1]), RuntimeSettings(num_threads=1, num_streams=1))
for node in model._compiled.get_runtime_model().get_ordered_ops():
    info = node.get_rt_info()
    if info["layerType"].astype(str) == "Convolution":
        print(info["primitiveType"].astype(str))
"""


@NEEDS_AVX512
@pytest.mark.parametrize(("mask", "level"), [("", "avx512"), ("avx2", "avx2"), ("sse4_2", "sse42")])
def test_openvino_executes_the_kernels_of_the_level_that_a_mask_leaves(
    mask: str, level: str, anomaly_onnx: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="shows its kernels")
    from xinfer.builders import openvino_ir

    openvino_ir.convert(anomaly_onnx, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", KERNELS, str(tmp_path)],
        env=environment | {"XINFER_MAX_ISA": mask},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    kernels = done.stdout.split()
    assert any(level in kernel for kernel in kernels), kernels
    hidden = ("avx512", "avx2", "sse42")[: ("avx512", "avx2", "sse42").index(level)]
    assert not any(name in kernel for name in hidden for kernel in kernels), kernels
