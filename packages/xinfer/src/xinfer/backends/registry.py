"""Which backends there are and what each can do, as data; their modules are imported when one is used."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xinfer.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xinfer.backends.base import Backend, Device


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """A backend's capabilities.

    Attributes:
        name: As in manifests.
        module: Where its `BACKEND` stands.
        runtime: The module that must be importable.
        distribution: The package whose version an engine depends on.
        extra: The extra of `ignition-xinfer` that installs it.
        format: Its artifact's name in manifests.
        files: The artifact's files.
        precisions: Device -> what it executes there, if the hardware does (`HardwareTarget`).
        settings: Fields of `RuntimeSettings` that change how it runs.
        needs_target: The artifact is compiled code for one kind of hardware.
    """

    name: str
    module: str
    runtime: str
    distribution: str
    extra: str
    format: str
    files: tuple[str, ...]
    precisions: Mapping[Device, tuple[str, ...]]
    settings: tuple[str, ...] = field(
        default=("num_threads", "num_streams", "float_precision", "device"),
    )
    needs_target: bool = False

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that it runs on."""
        return tuple(self.precisions)

    @property
    def installed(self) -> bool:
        """Whether its runtime can be imported; does not import it."""
        try:
            return importlib.util.find_spec(self.runtime) is not None
        except (ModuleNotFoundError, ValueError):
            return False

    def refusal(self, device: Device, precision: str) -> str | None:
        """Why it cannot execute `precision` on `device`, None if it can."""
        if device not in self.precisions:
            return f"{self.name} does not run on {device}: it runs on {', '.join(self.devices)}"
        if precision not in self.precisions[device]:
            return f"{self.name} does not execute {precision} on {device}"
        return None


BACKENDS: dict[str, BackendInfo] = {
    info.name: info
    for info in (
        BackendInfo(
            name="openvino",
            module="xinfer.backends.openvino",
            runtime="openvino",
            distribution="openvino",
            extra="openvino",
            format="openvino-ir",
            files=("model.xml", "model.bin"),
            precisions={
                "cpu": ("fp32", "bf16", "int8"),
                "gpu": ("fp32", "fp16", "int8"),
                "npu": ("fp16", "int8"),
            },
        ),
        BackendInfo(
            name="onnxruntime",
            module="xinfer.backends.onnxruntime",
            runtime="onnxruntime",
            distribution="onnxruntime",
            extra="onnxruntime",
            format="onnx",
            files=("model.onnx",),
            precisions={
                "cpu": ("fp32", "int8"),
                "cuda": ("fp32", "int8"),
                "rocm": ("fp32", "fp16", "int8"),
                "coreml": ("fp32", "fp16"),
            },
        ),
        BackendInfo(
            name="inductor",
            module="xinfer.backends.inductor",
            runtime="torch",
            distribution="torch",
            extra="inductor",
            format="pt2",
            files=("model.pt2", "io.json"),
            precisions={"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")},
            settings=("num_threads", "num_streams", "device"),
            needs_target=True,
        ),
        BackendInfo(
            name="tensorrt",
            module="xinfer.backends.tensorrt",
            runtime="tensorrt",
            distribution="tensorrt",
            extra="tensorrt",
            format="tensorrt-engine",
            files=("model.engine", "io.json"),
            precisions={"cuda": ("fp32", "fp16", "bf16", "int8")},
            settings=("num_streams", "device"),
            needs_target=True,
        ),
    )
}
"""Backend -> its capabilities."""


def get_backend(name: str) -> Backend:
    """The backend of this name, imported now.

    Raises:
        BackendError: There is none (``backend.unknown``).
        MissingExtraError: Its runtime is not installed.
    """
    if name not in BACKENDS:
        raise BackendError(
            f"there is no backend {name!r}",
            code="backend.unknown",
            value=name,
            hint=f"known: {', '.join(BACKENDS)}",
        )
    from xinfer.targets.masking import tell_runtimes

    # A runtime reads what it may use when it is imported.
    tell_runtimes()
    backend: Backend = importlib.import_module(BACKENDS[name].module).BACKEND
    return backend


def check_settings(name: str, *, device: Device, precision: str) -> None:
    """Refuses what a backend cannot do. Raises BackendError (``backend.unsupported``)."""
    reason = BACKENDS[name].refusal(device, precision)
    if reason is None:
        return
    others = [
        info.name
        for info in BACKENDS.values()
        if info.name != name and info.refusal(device, precision) is None
    ]
    raise BackendError(
        reason,
        code="backend.unsupported",
        value=f"{device}/{precision}",
        hint=f"{' or '.join(others)} can" if others else None,
    )


def required_target(name: str, artifact_dir: Path) -> tuple[str, ...]:
    """What an artifact's own code needs: CPU instruction sets and an SM; nothing where it has no code.

    Args:
        name: The backend.
        artifact_dir: Its artifact.

    Returns:
        Flags of `ISA_FLAGS` for the manifest's `compatibility.isa`, and ``sm_..`` for GPU code.

    Raises:
        BackendError: The artifact's `io.json` cannot be used.
    """
    if not BACKENDS[name].needs_target:
        return ()
    from xinfer.backends.artifact_io import ArtifactIO

    return ArtifactIO.load(artifact_dir).target
