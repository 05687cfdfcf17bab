"""A trained model on disk: ``model.safetensors`` and ``model.json`` (ARCHITECTURE.md, 10.3). No pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from xtorch.errors import SettingsError, WeightsError
from xtorch.tasks.recipe import read_json, write_json

ModelT = TypeVar("ModelT", bound=nn.Module)


def save_weights(model: nn.Module, folder: Path, config: Mapping[str, Any], **more: Any) -> None:
    """Writes a model's weights, and what it takes to build it again.

    Args:
        model: Its class is the architecture.
        folder: Gets the two files.
        config: What `load_weights` builds it from.
        more: Further fields of ``model.json``.
    """
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(state))
    write_json(
        folder / "model.json", {"architecture": _architecture(type(model)), "config": dict(config), **more}
    )


def load_weights(folder: str | Path, kind: type[ModelT], make: Callable[[dict[str, Any]], ModelT]) -> ModelT:
    """Rebuilds the torch model of a training output.

    Args:
        folder: Holds ``model.safetensors`` and ``model.json``.
        kind: The architecture that it must be.
        make: From the saved configuration to a model.

    Returns:
        In evaluation mode, without gradients.

    Raises:
        WeightsError: A file is missing, or the two do not fit each other.
    """
    folder = Path(folder)
    described = read_json(folder / "model.json")
    try:
        if described["architecture"] != _architecture(kind):
            raise WeightsError("model.json names another architecture.", value=described["architecture"])
        model = make(described["config"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, SettingsError) as error:
        raise WeightsError(
            f"The model cannot be loaded: {error}",
            value=folder.name,
            hint="the folder must be the output of a training run of this or an older version",
        ) from error
    return model.eval().requires_grad_(False)


def _architecture(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
