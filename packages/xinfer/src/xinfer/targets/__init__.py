"""Kinds of hardware: the catalogue, this machine's target, and what an engine needs of it."""

from xinfer.targets.accelerators import Accelerator
from xinfer.targets.catalogue import AcceleratorKind, CpuKind, catalogue
from xinfer.targets.machine import ISA_FLAGS
from xinfer.targets.masking import tell_runtimes
from xinfer.targets.target import (
    BF16_FLAGS,
    INT8_FLAGS,
    TARGET_LEVELS,
    HardwareTarget,
    target_name,
)
from xinfer.targets.versions import installed_version, version_in_range

__all__ = [
    "BF16_FLAGS",
    "INT8_FLAGS",
    "ISA_FLAGS",
    "TARGET_LEVELS",
    "Accelerator",
    "AcceleratorKind",
    "CpuKind",
    "HardwareTarget",
    "catalogue",
    "installed_version",
    "target_name",
    "tell_runtimes",
    "version_in_range",
]
