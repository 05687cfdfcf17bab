"""Training the network's last blocks, from the feature map of stride 16 on, beginning with the tuned head.

The frozen blocks before it are run once per image (`features`), so an epoch costs a fraction of a full one.

Source: the head first, then the network, as in Kumar et al., "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution" (ICLR 2022), section 3.4.

Shapes: N images, V views (as it is, mirrored), C channels or classes, h and w rows and columns of a map.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.callbacks import Callback, KeepBest, Monitor, TimeLimit, TrainState
from xtorch.class_metrics import fit_temperature, log_loss, softmax
from xtorch.models import efficientnet
from xtorch.models.classifier import Tail
from xtorch.tasks.classification.features import Features
from xtorch.tasks.classification.head import LinearHead
from xtorch.trainer import Trainer, TrainerConfig
from xtorch.tune import Choice, Float, Outcome, Params, Search, Space, Trial, TrialRow, TuneResult, tune

SPACE: Space = {
    "learning_rate": Float(low=3e-5, high=2e-3, log=True),
    "dropout": Choice(options=(0.0, 0.3)),
}
PORTFOLIO: tuple[Params, ...] = (
    {"learning_rate": 3e-4, "dropout": 0.3},
    {"learning_rate": 1e-3, "dropout": 0.3},
    {"learning_rate": 1e-4, "dropout": 0.0},
)
EPOCHS = 8
MAX_TRIALS = 6
_BATCH = 32
_WEIGHT_DECAY = 0.02
_LABEL_SMOOTHING = 0.05


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """
    Attributes:
        net: With the trained blocks; logits are not divided by the temperature.
        validation_logits: Of the validation part, float32 [N,C].
    """

    net: efficientnet.EfficientNetLite0
    search: TuneResult
    validation_logits: np.ndarray
    temperature: float
    validation_log_loss: float


def fine_tune(
    train: Features,
    labels_N: np.ndarray,
    validation: Features,
    validation_labels_N: np.ndarray,
    head: LinearHead,
    *,
    budget_s: float,
    seed: int,
    on_trial: Callable[[TrialRow], None] | None = None,
) -> FineTuned:
    """Trains with a few settings; validation chooses setting and epoch.

    Args:
        train, labels_N: What is trained on.
        validation, validation_labels_N: What is decided by.
        head: Where the classifier begins; fitted on `train` alone.
        budget_s: Seconds for all; the first setting is cut off at its end.

    Raises:
        TuningError: No setting gave a result.
    """
    best: list[tuple[float, efficientnet.EfficientNetLite0, np.ndarray, float]] = []
    deadline_s = time.monotonic() + budget_s

    def objective(trial: Trial) -> Outcome:
        net = efficientnet_with_head(head)
        tail = Tail(net, dropout=float(trial.params["dropout"] or 0.0))
        epochs = _train(
            tail,
            train,
            labels_N,
            validation,
            validation_labels_N,
            trial,
            seed=seed,
            limit_s=max(1.0, deadline_s - time.monotonic()),
        )
        logits_NC = tail_logits(tail, validation)
        temperature = fit_temperature(validation_labels_N, logits_NC)
        value = log_loss(validation_labels_N, softmax(logits_NC / temperature))
        if not best or value < best[0][0]:
            best[:] = [(value, net, logits_NC, temperature)]
        accuracy = float((logits_NC.argmax(axis=1) == validation_labels_N).mean())
        return Outcome(value=value, measured={"top1": accuracy}, facts={"epochs": epochs})

    search = tune(
        objective,
        Search(
            space=SPACE,
            portfolio=PORTFOLIO,
            budget_s=budget_s,
            max_trials=MAX_TRIALS,
            patience=2,
            direction="minimize",
            seed=seed,
            warmup_steps=1,
        ),
        on_trial=on_trial,
    )
    value, net, logits_NC, temperature = best[0]
    return FineTuned(
        net=net.eval().requires_grad_(False),
        search=search,
        validation_logits=logits_NC,
        temperature=temperature,
        validation_log_loss=value,
    )


def efficientnet_with_head(head: LinearHead) -> efficientnet.EfficientNetLite0:
    """The pretrained network with a fitted head for a classifier."""
    pretrained = efficientnet.efficientnet_lite0()
    net = efficientnet.EfficientNetLite0(num_classes=len(head.bias))
    state = pretrained.state_dict()
    state["_fc.weight"] = torch.from_numpy(np.ascontiguousarray(head.weight.T))
    state["_fc.bias"] = torch.from_numpy(head.bias)
    net.load_state_dict(state)
    return net.eval()


def tail_logits(tail: Tail, features: Features) -> np.ndarray:
    """Logits float32 [N,C] of the images as they are."""
    tail.eval()
    with torch.inference_mode():
        chunks = [tail(chunk.float()) for chunk in features.maps[:, 0].split(64)]
        logits_NC: np.ndarray = torch.cat(chunks).numpy()
    return logits_NC


class _Report(Callback):
    """Tells the search about every epoch, which may end the trial."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def on_epoch_end(self, state: TrainState) -> None:
        self._trial.report(state.metrics["validation_loss"], step=state.epoch - 1)


def _train(
    tail: Tail,
    train: Features,
    labels_N: np.ndarray,
    validation: Features,
    validation_labels_N: np.ndarray,
    trial: Trial,
    *,
    seed: int,
    limit_s: float,
) -> int:
    """Trains in place, with the best epoch's weights in the end; returns the number of epochs."""
    labels = torch.from_numpy(labels_N)

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for picks in torch.randperm(len(labels), generator=generator).split(_BATCH):
            yield _draw(train.maps, labels, picks, generator)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        maps, targets = batch
        return F.cross_entropy(model(maps).float(), targets, label_smoothing=_LABEL_SMOOTHING)

    def validate(_: nn.Module) -> dict[str, float]:
        logits_NC = tail_logits(tail, validation)
        temperature = fit_temperature(validation_labels_N, logits_NC)
        return {"validation_loss": log_loss(validation_labels_N, softmax(logits_NC / temperature))}

    trainer = Trainer(
        TrainerConfig(
            max_epochs=EPOCHS,
            steps_per_epoch=-(-len(labels) // _BATCH),
            learning_rate=float(trial.params["learning_rate"] or 0.0),
            weight_decay=_WEIGHT_DECAY,
            seed=seed,
            precision="bf16" if _has_bf16() else "fp32",
            channels_last=True,
        ),
        [KeepBest(Monitor(metric="validation_loss")), TimeLimit(limit_s), _Report(trial)],
    )
    return trainer.fit(tail, batches, loss=loss, validate=validate).epochs


def _draw(
    maps_NVChw: Tensor, labels: Tensor, picks: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images of a batch, each in a random view, all moved by up to one cell of the map."""
    view = torch.randint(maps_NVChw.shape[1], (len(picks),), generator=generator)
    down, right = (int(torch.randint(3, (1,), generator=generator)) for _ in range(2))
    height, width = maps_NVChw.shape[3:]
    padded = F.pad(maps_NVChw[picks, view].float(), (1, 1, 1, 1), mode="replicate")
    return padded[:, :, down : down + height, right : right + width], labels[picks]


def _has_bf16() -> bool:
    """Whether the processor computes in bfloat16; elsewhere it would be slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
