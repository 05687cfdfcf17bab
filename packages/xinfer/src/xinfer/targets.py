"""Kinds of hardware: this machine's target and what an engine needs of it."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xinfer.manifest import Manifest

ISA_FLAGS = {
    "x86_64": (
        "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
        "amx_bf16",
    ),
    "aarch64": ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
}  # fmt: skip
"""Instruction sets that change which kernels a runtime chooses, under the kernel's names."""

TARGET_LEVELS = {"x86_64": ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2"), "aarch64": ("i8mm",)}
"""The first flag that a machine has completes its target's name."""

BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")

_ARCHITECTURES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, kw_only=True)
class HardwareTarget:
    """A machine as engines see it. `name` is its kind, for example ``cpu-x86_64-avx512_vnni``."""

    name: str
    architecture: str
    isa: tuple[str, ...]
    num_cores: int
    memory_bytes: int
    cpu: str

    @classmethod
    def detect(cls) -> HardwareTarget:
        """Describes this machine, as far as this process may use it (affinity and cgroup limits count)."""
        architecture = platform.machine().lower()
        architecture = _ARCHITECTURES.get(architecture, architecture)
        cpu, flags = _cpuinfo(_read_text("/proc/cpuinfo"))
        isa = tuple(flag for flag in ISA_FLAGS.get(architecture, ()) if flag in flags)
        return cls(
            name=target_name(architecture, isa),
            architecture=architecture,
            isa=isa,
            num_cores=_num_cores(),
            memory_bytes=_memory_bytes(),
            cpu=cpu or platform.processor() or architecture,
        )

    @property
    def bf16_flag(self) -> str | None:
        """The instruction set that executes bfloat16, if there is one."""
        return next((flag for flag in BF16_FLAGS if flag in self.isa), None)

    @property
    def int8_flag(self) -> str | None:
        """The instruction set that executes 8-bit dot products, if there is one."""
        return next((flag for flag in INT8_FLAGS if flag in self.isa), None)

    def compatible(self, manifest: Manifest) -> list[str]:
        """Why the engine cannot run here.

        Args:
            manifest: The engine's manifest.

        Returns:
            One sentence for each reason; empty if it can run.
        """
        needs = manifest.compatibility
        architecture = needs.target.split("-")[1] if needs.target.count("-") else ""
        reasons = []
        if not needs.target.startswith("cpu-") or architecture != self.architecture:
            reasons.append(f"the engine is built for {needs.target}, this machine is {self.name}")
        missing = [flag for flag in needs.isa if flag not in self.isa]
        if missing:
            reasons.append(f"this CPU lacks {', '.join(missing)}")
        for package, version_range in needs.runtime.items():
            version = installed_version(package)
            if version is None:
                reasons.append(f"{package} is not installed: pip install 'ignition-xinfer[{package}]'")
                continue
            try:
                fits = version_in_range(version, version_range)
            except ValueError:
                fits = False
            if not fits:
                reasons.append(f"the engine needs {package} {version_range}, installed is {version}")
        return reasons


def target_name(architecture: str, isa: tuple[str, ...]) -> str:
    """The target's name for an architecture and its instruction sets."""
    level = next((flag for flag in TARGET_LEVELS.get(architecture, ()) if flag in isa), None)
    return f"cpu-{architecture}" + (f"-{level}" if level else "")


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def version_in_range(version: str, version_range: str) -> bool:
    """Whether a release number meets every clause of a range such as ``>=2026.4,<2027``.

    Args:
        version: For example ``2026.4.1``; what follows the digits and dots is ignored.
        version_range: Clauses of ``>=``, ``<``, ``==``, joined by commas.

    Raises:
        ValueError: A clause is not understood.
    """
    have = _release(version)
    for clause in version_range.split(","):
        match = re.fullmatch(r"\s*(>=|<|==)\s*([0-9][0-9.]*)\s*", clause)
        if not match:
            raise ValueError(f"not a version range: {version_range!r}")
        operator, want = match[1], _release(match[2])
        width = max(len(have), len(want))
        left, right = (number + (0,) * (width - len(number)) for number in (have, want))
        if not {">=": left >= right, "<": left < right, "==": left == right}[operator]:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (0,)


def _cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    cpu, flags = "", frozenset[str]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not cpu:
            cpu = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
    return cpu, flags


def _num_cores() -> int:
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota, _, period = _read_text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        return max(1, min(affinity, int(quota) // int(period)))
    return affinity


def _memory_bytes() -> int:
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    limit = _read_text("/sys/fs/cgroup/memory.max").strip()
    return min(physical, int(limit)) if limit.isdigit() else physical


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
