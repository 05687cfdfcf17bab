"""Started by torchrun: trains in two processes, interrupts and resumes; rank 0 writes what came out.

torchrun --nproc-per-node 2 train_in_processes.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xtorch import EMA, Callback, Checkpointing, KeepBest, StepOutput, Trainer, TrainerConfig
from xtorch.callbacks import Monitor, TrainState
from xtorch.distributed import full_state_dict, process_group, rank, shard
from xtorch.streaming import Accuracy

Batch = tuple[Tensor, Tensor]


def batches(generator: torch.Generator) -> Iterator[Batch]:
    """Nine batches: the ninth has no partner, and is left out."""
    for _ in range(9):
        x_NF = torch.randn(4, 6, generator=generator)
        yield x_NF, (x_NF[:, 0] > x_NF[:, 1]).long()


def paired(generator: torch.Generator) -> Iterator[Batch]:
    """What one process has to see in pairs to do the same."""
    for number, batch in enumerate(batches(generator)):
        if number < 8:
            yield batch


def loss(model: nn.Module, batch: Batch) -> StepOutput:
    scores_NK = model(batch[0])
    return StepOutput(
        loss=nn.functional.cross_entropy(scores_NK, batch[1]), predictions=scores_NK, targets=batch[1]
    )


class InterruptError(Exception):
    pass


class Interrupt(Callback):
    def __init__(self, step: int = -1) -> None:
        self.step = step

    def on_batch_end(self, state: TrainState) -> None:
        if state.step == self.step:
            raise InterruptError


class StopInOne(Callback):
    """Only the second process wants to stop."""

    def on_batch_end(self, state: TrainState) -> None:
        if state.step == 2 and rank() == 1:
            state.stop_reason = "the second process had enough"


def train(
    source: Any,
    *,
    accumulate: int = 1,
    parallel: Any = "ddp",
    callbacks: Any = (),
    resume: Path | None = None,
) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 2))
    validation = list(paired(torch.Generator().manual_seed(99)))
    config = TrainerConfig(
        max_epochs=3, learning_rate=0.05, accumulate=accumulate, parallel=parallel, steps_per_epoch=4
    )
    result = Trainer(config, callbacks).fit(
        model,
        source,
        loss=loss,
        validation_batches=validation,
        metrics={"accuracy": Accuracy()},
        resume=resume,
    )
    return model, result


def everything(folder: Path, step: int = -1) -> list[Callback]:
    monitor = Monitor(metric="validation_loss")
    return [
        Interrupt(step),
        EMA(0.9),
        KeepBest(monitor),
        Checkpointing(folder, every_s=0, keep=1),
    ]


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    with process_group():
        for parallel in ("ddp", "fsdp"):
            model, result = train(shard(batches), parallel=parallel)
            weights = full_state_dict(model)
            found[parallel] = {"history": list(result.history), "steps": result.steps}
            if parallel == "fsdp":
                found["local shapes"] = [list(p.to_local().shape) for p in model.parameters()]  # type: ignore[attr-defined]
            whole_model, whole = train(
                shard(batches), parallel=parallel, callbacks=everything(folder / f"{parallel}-whole")
            )
            cut = folder / f"{parallel}-cut"
            try:
                train(shard(batches), parallel=parallel, callbacks=everything(cut, 6))
            except InterruptError:
                found[parallel]["interrupted"] = True
            resumed_model, resumed = train(
                shard(batches), parallel=parallel, callbacks=everything(cut), resume=cut
            )
            expected, got = full_state_dict(whole_model), full_state_dict(resumed_model)
            found[parallel]["resumed weights are equal"] = all(
                torch.equal(expected[name], got[name]) for name in expected
            )
            found[parallel]["resumed history is equal"] = list(whole.history) == list(resumed.history)
            if rank() == 0:
                save_file(
                    {name: tensor.contiguous() for name, tensor in weights.items()},
                    folder / f"{parallel}.safetensors",
                )
        _, stopped = train(shard(batches), callbacks=[StopInOne()])
        found["stopped"] = [stopped.steps, stopped.stop_reason]
        if rank() == 0:
            (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
