"""A machine as engines see it, and what an engine needs of it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xinfer.backends.registry import BACKENDS
from xinfer.targets import machine, masking
from xinfer.targets.accelerators import Accelerator, accelerators
from xinfer.targets.catalogue import CpuKind, find_kind
from xinfer.targets.versions import installed_version, version_in_range

if TYPE_CHECKING:
    from xinfer.manifest import Manifest

TARGET_LEVELS = {
    "x86_64": ("amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "sse4_2"),
    "aarch64": ("sve2", "sve", "i8mm", "asimddp"),
}
"""The first flag that a machine has completes its target's name."""

BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")

DRIVERS = {"nvidia-driver": "cuda", "amdgpu-driver": "rocm"}
"""What a manifest may name as a runtime to ask for a driver -> the device whose driver it is."""


@dataclass(frozen=True, kw_only=True)
class HardwareTarget:
    """A machine as engines see it, or a kind of machine.

    Attributes:
        name: The CPU's kind, for example ``cpu-x86_64-avx512_vnni``; of a kind of accelerator, its name.
        architecture: The CPU's; empty for a kind of accelerator.
        isa: The CPU's instruction sets.
        num_cores: Of a machine: those that this process may use.
        memory_bytes: Of a machine: what this process may use.
        cpu: The CPU's name.
        gpus: GPUs and NPUs.
        os: The operating system, for example ``Linux``.
        is_here: Whether this is the machine that asks, so that its runtimes can be looked at.
    """

    name: str
    architecture: str
    isa: tuple[str, ...]
    num_cores: int
    memory_bytes: int
    cpu: str
    gpus: tuple[Accelerator, ...] = ()
    os: str = ""
    is_here: bool = True

    @classmethod
    def detect(cls) -> HardwareTarget:
        """Describes this machine, as far as this process may use it.

        Affinity and cgroup limits count, and so does ``XINFER_MAX_ISA``, which hides instruction sets.

        Raises:
            XInferError: ``XINFER_MAX_ISA`` names no CPU level.
        """
        architecture = machine.architecture()
        cpu, isa = machine.cpu_and_isa(architecture)
        masking.tell_runtimes()
        return cls(
            name=target_name(architecture, isa),
            architecture=architecture,
            isa=isa,
            num_cores=machine.num_cores(),
            memory_bytes=machine.memory_bytes(),
            cpu=cpu,
            gpus=accelerators(cpu),
            os=platform.system(),
        )

    @classmethod
    def from_name(cls, name: str) -> HardwareTarget:
        """A kind of hardware from the catalogue, such as ``cuda-sm_87``: to plan for, not to run on.

        Raises:
            XInferError: The catalogue has none of this name (``target.unknown``).
        """
        kind = find_kind(name)
        architecture, isa, gpus = "", tuple[str, ...](), tuple[Accelerator, ...]()
        if isinstance(kind, CpuKind):
            architecture, isa = kind.architecture, kind.isa
        else:
            gpus = (Accelerator(name=kind.title, device=kind.device, arch=kind.arch),)
        return cls(
            name=name,
            architecture=architecture,
            isa=isa,
            num_cores=1,
            memory_bytes=0,
            cpu=kind.title,
            gpus=gpus,
            is_here=False,
        )

    @property
    def bf16_flag(self) -> str | None:
        """The instruction set that executes bfloat16, if there is one."""
        return next((flag for flag in BF16_FLAGS if flag in self.isa), None)

    @property
    def int8_flag(self) -> str | None:
        """The instruction set that executes 8-bit dot products, if there is one."""
        return next((flag for flag in INT8_FLAGS if flag in self.isa), None)

    @property
    def targets(self) -> tuple[str, ...]:
        """All targets whose engines can run here: the CPU's and each accelerator's."""
        names = [self.name] if self.architecture else []
        return tuple(dict.fromkeys([*names, *(gpu.target for gpu in self.gpus)]))

    @property
    def runtimes(self) -> dict[str, str]:
        """Installed versions of the backends' packages."""
        versions = {info.distribution: installed_version(info.distribution) for info in BACKENDS.values()}
        return {name: version for name, version in versions.items() if version is not None}

    def compatible(self, manifest: Manifest) -> list[str]:
        """Why the engine cannot run here.

        Args:
            manifest: The engine's manifest.

        Returns:
            One sentence for each reason; empty if it can run.
        """
        needs = manifest.compatibility
        device, _, kind = needs.target.partition("-")
        reasons = []
        if device == "cpu":
            fits = kind.split("-")[0] == self.architecture
        else:
            # Compiled GPU code runs on its very architecture only, neither newer nor older.
            fits = any(gpu.target == needs.target for gpu in self.gpus)
        if not fits:
            reasons.append(f"the engine is built for {needs.target}, this machine is {self._described()}")
        missing = [flag for flag in needs.isa if flag not in self.isa]
        if missing:
            hidden = f" (hidden by {masking.VARIABLE})" if self.is_here and masking.hides(missing) else ""
            reasons.append(f"this CPU lacks {', '.join(missing)}{hidden}")
        if self.is_here:
            for package, version_range in needs.runtime.items():
                reasons += self._runtime_reasons(package, version_range)
        return reasons

    def _described(self) -> str:
        return " with ".join(filter(None, [self.name, ", ".join(self.targets[1:])]))

    def _runtime_reasons(self, package: str, version_range: str) -> list[str]:
        if package in DRIVERS:
            drivers = [gpu.driver for gpu in self.gpus if gpu.device == DRIVERS[package] and gpu.driver]
            version = drivers[0] if drivers else None
            how = "install the GPU's driver"
        else:
            version = installed_version(package)
            extras = {info.distribution: info.extra for info in BACKENDS.values()}
            how = f"pip install 'ignition-xinfer[{extras.get(package, package)}]'"
        if version is None:
            return [f"{package} is not installed: {how}"]
        try:
            fits = version_in_range(version, version_range)
        except ValueError:
            fits = False
        return [] if fits else [f"the engine needs {package} {version_range}, installed is {version}"]


def target_name(architecture: str, isa: tuple[str, ...]) -> str:
    """The target's name for an architecture and its instruction sets."""
    level = next((flag for flag in TARGET_LEVELS.get(architecture, ()) if flag in isa), None)
    return f"cpu-{architecture}" + (f"-{level}" if level else "")
