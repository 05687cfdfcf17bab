"""What this machine is: CPU, memory, and the limits that this process has, on Linux, macOS and Windows."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

from xinfer.targets import masking

ISA_FLAGS = {
    "x86_64": (
        "sse4_2", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
        "amx_int8", "amx_bf16",
    ),
    "aarch64": ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
}  # fmt: skip
"""Instruction sets that change which kernels a runtime chooses, under the kernel's names."""

_ARCHITECTURES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}
_APPLE_FLAGS = {"AdvSIMD": "asimd", "FEAT_DotProd": "asimddp", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16"}
"""What macOS calls them, below hw.optional.arm (and hw.optional for AdvSIMD)."""
_WINDOWS_FEATURES = {38: "sse4_2", 40: "avx2", 41: "avx512f", 43: "asimddp"}
"""Numbers of IsProcessorFeaturePresent. VNNI has none: Windows machines are taken for less than they are."""


def architecture() -> str:
    """This machine's, under the Linux kernel's name."""
    name = platform.machine().lower()
    return _ARCHITECTURES.get(name, name)


def cpu_and_isa(machine: str) -> tuple[str, tuple[str, ...]]:
    """The CPU's name and those of its instruction sets that `ISA_FLAGS` names and no mask hides."""
    if sys.platform == "darwin":
        cpu, flags = parse_sysctl(_output(["sysctl", "machdep.cpu", "hw.optional"]))
    elif sys.platform == "win32":
        cpu, flags = platform.processor(), _windows_flags()
    else:
        cpu, flags = parse_cpuinfo(read_text("/proc/cpuinfo"))
    isa = tuple(flag for flag in ISA_FLAGS.get(machine, ()) if flag in flags)
    return cpu or platform.processor() or machine, masking.visible(isa)


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """The CPU's name and flags from Linux's /proc/cpuinfo."""
    cpu, flags = "", frozenset[str]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not cpu:
            cpu = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
    return cpu, flags


def parse_sysctl(text: str) -> tuple[str, frozenset[str]]:
    """The CPU's name and flags from macOS's ``sysctl machdep.cpu hw.optional``."""
    values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    flags = {
        flag
        for name, flag in _APPLE_FLAGS.items()
        if "1" in (values.get(f"hw.optional.arm.{name}"), values.get(f"hw.optional.{name}"))
    }
    for name in ("avx2_0", "avx512f", "sse4_2"):
        if values.get(f"hw.optional.{name}") == "1":
            flags.add(name.removesuffix("_0"))
    if values.get("hw.optional.arm64") == "1":
        flags.add("asimd")
    return values.get("machdep.cpu.brand_string", ""), frozenset(flags)


def num_cores() -> int:
    """The cores that this process may use: affinity and cgroup limits count."""
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota, _, period = read_text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        return max(1, min(affinity, int(quota) // int(period)))
    return affinity


def memory_bytes() -> int:
    """The memory that this process may use; 0 where the system does not say."""
    if sys.platform == "win32":
        return _windows_memory_bytes()
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    limit = read_text("/sys/fs/cgroup/memory.max").strip()
    return min(physical, int(limit)) if limit.isdigit() else physical


def read_text(path: str | Path) -> str:
    """A system file's text, empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _windows_flags() -> frozenset[str]:
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  (there is no windll elsewhere)
    return frozenset(
        {flag for number, flag in _WINDOWS_FEATURES.items() if kernel32.IsProcessorFeaturePresent(number)}
        | ({"asimd"} if architecture() == "aarch64" else set())
    )


def _windows_memory_bytes() -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "pages", "b", "c", "d", "e")),
        )

    status = Status(length=ctypes.sizeof(Status))
    getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # noqa: B009
    return int(status.total)
