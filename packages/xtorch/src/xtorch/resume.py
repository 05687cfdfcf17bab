"""Whether a checkpoint belongs to the training that is to go on from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from xtorch import distributed
from xtorch.callbacks.base import Callback
from xtorch.errors import ForeignCheckpointError

_log = logging.getLogger(__name__)

MAY_CHANGE = ("max_epochs",)
"""Settings that may differ from the checkpoint's: the rest of training then follows the new schedule."""


def environment() -> dict[str, Any]:
    """What decides the last bits of results, beside settings and data."""
    return {"torch": torch.__version__, "num_threads": torch.get_num_threads()}


def refuse_foreign(
    snapshot: Mapping[str, Any],
    *,
    settings: Mapping[str, str],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    callbacks: Sequence[Callback],
    metrics: Iterable[str],
) -> None:
    """Refuses a snapshot of another training.

    Raises:
        ForeignCheckpointError: settings, model, optimiser, callbacks, metrics or number of processes differ,
            or the snapshot lacks something.
    """
    try:
        saved = snapshot["settings"]
        changed = [name for name in settings if name not in MAY_CHANGE and saved.get(name) != settings[name]]
        if changed:
            raise ForeignCheckpointError(
                f"The checkpoint was made with {changed[0]} {saved.get(changed[0])}, "
                f"this training has {settings[changed[0]]}.",
                value=changed,
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in snapshot["model"].items()}
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        other = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        if other:
            raise ForeignCheckpointError(
                f"The checkpoint is of another model: {other[0]} is {shapes.get(other[0])} there "
                f"and {wanted.get(other[0])} here.",
                value=other,
            )
        groups = [len(group["params"]) for group in snapshot["optimiser"]["param_groups"]]
        if groups != [len(group["params"]) for group in optimiser.param_groups]:
            raise ForeignCheckpointError("The checkpoint's optimiser has other parameters.", value=groups)
        names = [entry["name"] for entry in snapshot["callbacks"]]
        if names != [type(callback).__name__ for callback in callbacks]:
            raise ForeignCheckpointError("The checkpoint was made with other callbacks.", value=names)
        processes = snapshot["processes"]
        if len(processes) != distributed.world_size():
            raise ForeignCheckpointError(
                f"The checkpoint was made by {len(processes)} processes, these are "
                f"{distributed.world_size()}.",
                value=len(processes),
            )
        if set(processes[0]["metrics"]) != set(metrics):
            raise ForeignCheckpointError(
                "The checkpoint was made with other metrics.", value=sorted(processes[0]["metrics"])
            )
        made_in = snapshot["environment"]
    except (KeyError, IndexError, AttributeError) as error:
        raise ForeignCheckpointError(f"The checkpoint lacks {error}.", value=str(error)) from error
    if made_in != environment():
        _log.warning(
            "The checkpoint was made with %s, this is %s: results may differ in the last bits.",
            made_in,
            environment(),
        )
