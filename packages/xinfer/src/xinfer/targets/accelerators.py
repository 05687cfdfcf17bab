"""The GPUs and NPUs of this machine, without any vendor's library."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from xinfer.targets.machine import read_text

_TEGRA = {"nvidia,tegra234": "sm_87", "nvidia,tegra264": "sm_110"}
"""Jetson modules by their system-on-chip; their nvidia-smi does not say."""
_RENAMED = {"10.1": "sm_110"}
"""Jetson Thor's name before CUDA 13."""
_QUERY = ["--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits"]
_INTEL, _AMD = "0x8086", "0x1002"


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU or NPU.

    Attributes:
        name: The vendor's name of it.
        device: As in RuntimeSettings.
        arch: What code is compiled for: ``sm_90``, ``gfx942``, ``intel``, ``m2``.
        memory_bytes: Its own memory; 0 where it shares the host's or does not say.
        driver: Version of the driver, empty where unknown.
    """

    name: str
    device: Literal["cuda", "rocm", "gpu", "npu", "coreml"]
    arch: str
    memory_bytes: int = 0
    driver: str = ""

    @property
    def target(self) -> str:
        """The target's name for engines that run on it."""
        return f"{self.device}-{self.arch}"


@cache
def accelerators(cpu: str = "") -> tuple[Accelerator, ...]:
    """All accelerators of this machine, in the order of vendors; read once per process.

    Args:
        cpu: The CPU's name: Apple's GPU belongs to it.
    """
    root = Path("/")
    apple = re.match(r"Apple (M\d+)", cpu)
    return (
        *(parse_nvidia_smi(_nvidia_smi()) or jetson(root)),
        *amd(root),
        *intel(root),
        *([Accelerator(name=cpu, device="coreml", arch=apple[1].lower())] if apple else []),
    )


def parse_nvidia_smi(text: str) -> list[Accelerator]:
    """Reads what ``nvidia-smi`` says of each GPU in one line; lines that say less are left out."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and re.fullmatch(r"\d+\.\d+", fields[1]):
            name, capability, memory_mib, driver = fields
            found.append(
                Accelerator(
                    name=name,
                    device="cuda",
                    arch=_RENAMED.get(capability, "sm_" + capability.replace(".", "")),
                    memory_bytes=int(memory_mib) << 20 if memory_mib.isdigit() else 0,
                    driver=driver,
                )
            )
    return found


def jetson(root: Path) -> list[Accelerator]:
    """The GPU of an NVIDIA Jetson module."""
    compatible = read_text(root / "proc/device-tree/compatible").split("\0")
    model = read_text(root / "proc/device-tree/model").strip("\0\n ")
    release = re.search(r"R(\d+).*?REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    return [
        Accelerator(
            name=model or chip,
            device="cuda",
            arch=arch,
            driver=f"{release[1]}.{release[2]}" if release else "",
        )
        for chip, arch in _TEGRA.items()
        if chip in compatible
    ]


def amd(root: Path) -> list[Accelerator]:
    """AMD GPUs that the kernel's compute driver knows."""
    driver = read_text(root / "sys/module/amdgpu/version").strip()
    memories = [
        int(size)
        for card in _cards(root, _AMD)
        if (size := read_text(card / "mem_info_vram_total").strip()).isdigit()
    ]
    found: list[Accelerator] = []
    for properties in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties")):
        version = re.search(r"^gfx_target_version (\d+)$", read_text(properties), re.MULTILINE)
        if version and (number := int(version[1])):  # the CPU's nodes say 0
            # 90010 is major 9, minor 0, stepping 10: gfx90a.
            arch = f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}"
            name = read_text(properties.parent / "name").strip() or arch
            memory = memories[len(found)] if len(found) < len(memories) else 0
            found.append(Accelerator(name=name, device="rocm", arch=arch, memory_bytes=memory, driver=driver))
    return found


def intel(root: Path) -> list[Accelerator]:
    """Intel GPUs and NPUs that the kernel knows."""
    found = [
        Accelerator(name=f"Intel GPU {read_text(card / 'device').strip()}", device="gpu", arch="intel")
        for card in _cards(root, _INTEL)
    ]
    for accelerator in sorted((root / "sys/class/accel").glob("accel*/device")):
        if read_text(accelerator / "vendor").strip() == _INTEL:
            found.append(Accelerator(name="Intel NPU", device="npu", arch="intel"))
    return found


def _cards(root: Path, vendor: str) -> list[Path]:
    """The PCI folders of this vendor's graphics cards."""
    cards = sorted((root / "sys/class/drm").glob("card[0-9]*"))
    return [
        card / "device"
        for card in cards
        if "-" not in card.name and read_text(card / "device/vendor").strip() == vendor
    ]


def _nvidia_smi() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        done = subprocess.run([command, *_QUERY], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
