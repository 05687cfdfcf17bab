"""Training in several processes, started by torchrun: who is who, sharding data, wrapping models, agreeing.

Outside torchrun everything here is for one process and does nothing. Processes trust each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xtorch.errors import SettingsError

Parallel = Literal["ddp", "fsdp"]


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _active() else 1


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that torchrun started; started otherwise, does nothing.

    NCCL where there are CUDA devices, each process taking that of its local rank; gloo elsewhere.

    Example::

        with process_group():
            Trainer(config).fit(model, shard(batches), loss=loss)
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "MASTER_ADDR" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


class _Shard:
    """Every world_size-th batch of a source."""

    def __init__(self, batches: Iterable[Any], drop_last: bool) -> None:
        self._batches, self._drop_last = batches, drop_last
        if hasattr(batches, "set_epoch"):
            self.set_epoch = batches.set_epoch

    def __iter__(self) -> Iterator[Any]:
        world, mine = world_size(), rank()
        held = None
        number = -1
        for number, batch in enumerate(self._batches):
            if number % world == mine:
                held = batch
            if number % world == world - 1:
                yield held
        if not self._drop_last and mine <= number % world < world - 1:
            yield held


class _SizedShard(_Shard):
    def __len__(self) -> int:
        world = world_size()
        full, rest = divmod(len(self._batches), world)  # type: ignore[arg-type]
        return full + (not self._drop_last and rank() < rest)


def shard(
    batches: Iterable[Any] | Callable[[torch.Generator], Iterable[Any]], *, drop_last: bool = True
) -> Any:
    """This process's part of the batches: of each round of `world_size()` batches, the one of its rank.

    One step of n processes then sees what one process with ``accumulate=n`` sees. The source is read by every
    process and has to give the same batches in all of them; one that shards its files itself costs less.

    Args:
        batches: as for `Trainer.fit`.
        drop_last: leave out an incomplete last round, so that all processes take as many steps; needed for
            training, wrong for validation.
    """
    if not hasattr(batches, "__iter__"):
        make = batches
        return lambda generator: shard(make(generator), drop_last=drop_last)
    return (_SizedShard if hasattr(batches, "__len__") else _Shard)(batches, drop_last)


def wrap(model: nn.Module, parallel: Parallel, device: torch.device) -> nn.Module:
    """The module to call in training steps; the model itself where there is one process.

    Args:
        model: on its device. For "fsdp" it is changed in place: its parameters become shards (DTensor).
        parallel: "ddp" replicates the model; "fsdp" shards parameters, gradients and optimiser state, one
            group per child that has parameters and one for the rest (FSDP2).
        device: the model's.

    Source: Li et al., "PyTorch Distributed" (VLDB 2020); Zhao et al., "PyTorch FSDP" (VLDB 2023).
    """
    if world_size() == 1:
        return model
    if parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world_size(),))
        for child in model.children():
            if next(child.parameters(), None) is not None and not isinstance(
                child, nn.ModuleList | nn.ModuleDict
            ):
                fully_shard(child, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    from torch.nn.parallel import DistributedDataParallel

    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


@contextlib.contextmanager
def gradients_stay_local(module: nn.Module, local: bool) -> Iterator[None]:
    """While `local`, backward passes add to gradients without the processes exchanging them."""
    changed: Any = module
    if local and hasattr(module, "no_sync"):
        with changed.no_sync():
            yield
    elif hasattr(module, "set_requires_gradient_sync"):
        changed.set_requires_gradient_sync(not local)
        yield
    else:
        yield


def mean(value: float, weight: float = 1.0) -> float:
    """The weighted mean of a number over all processes."""
    if world_size() == 1:
        return value
    pairs = [pair for pair in gather((value, weight)) if pair[1] > 0]
    total = sum(pair[1] for pair in pairs)
    return sum(pair[0] * pair[1] for pair in pairs) / total if total else float("nan")


def gather(value: Any) -> list[Any]:
    """A value of every process, by rank; pickled on the way."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """Rank 0's value, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_of(flags: tuple[bool, ...], device: torch.device) -> tuple[bool, ...]:
    """For each flag, whether it is set in any process."""
    if world_size() == 1:
        return flags
    flags_F = torch.tensor(flags, dtype=torch.uint8, device=device)
    dist.all_reduce(flags_F, op=dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in flags_F.tolist())


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in every process; others as they are. All processes have to call it."""
    whole: Tensor = tensor.full_tensor() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return whole


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict without shards. All processes have to call it."""
    return {name: full(tensor) for name, tensor in model.state_dict().items()}


def like(reference: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor on the device of a reference, sharded like it where it is."""
    moved = whole.to(reference.device)
    if not _is_sharded(reference):
        return moved
    from torch.distributed.tensor import distribute_tensor

    sharded: Tensor = distribute_tensor(moved, reference.device_mesh, reference.placements)  # type: ignore[attr-defined]
    return sharded


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def check(parallel: str) -> None:
    """Refuses a kind of parallelism that does not exist."""
    if parallel not in ("ddp", "fsdp"):
        raise SettingsError("parallel must be ddp or fsdp.", value=parallel)
