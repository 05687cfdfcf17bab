"""Fitting the scorers that compete in a run, on cached features.

Shapes: N images, C channels, h and w rows and columns of the patch grid, P patches, M descriptors kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from xtorch.callbacks import Callback, EarlyStopping, KeepBest, Monitor, TimeLimit
from xtorch.metrics import auroc
from xtorch.models.anomaly import GaussianScorer, HeadScorer, MemoryScorer, Tail, top_weights
from xtorch.trainer import FitResult, Trainer, TrainerConfig

_PROJECTED = 32
_SCORE_BATCH = 64


def sample_patches(patches_NChw: Tensor, num: int, *, generator: torch.Generator) -> Tensor:
    """At most `num` patches drawn without replacement: float32 [P,C]."""
    count, channels, height, width = patches_NChw.shape
    total = count * height * width
    picks = torch.randperm(total, generator=generator)[:num]
    image, place = picks // (height * width), picks % (height * width)
    return patches_NChw.reshape(count, channels, -1)[image, :, place].float()


def greedy_coreset(patches_PC: Tensor, size: int, *, generator: torch.Generator) -> Tensor:
    """Indices of `size` patches that cover all others: each next is the one furthest from those chosen.

    Distances are taken after a random projection.

    Source: Roth et al. (CVPR 2022), algorithm 1; projection by Johnson and Lindenstrauss, section 3.2.
    """
    total, channels = patches_PC.shape
    if size >= total:
        return torch.arange(total)
    projection = torch.randn(channels, _PROJECTED, generator=generator) / _PROJECTED**0.5
    projected = patches_PC @ projection
    squares = projected.square().sum(dim=1)
    chosen = torch.empty(size, dtype=torch.long)
    chosen[0] = torch.randint(total, (1,), generator=generator)
    nearest = torch.full((total,), float("inf"))
    for index in range(1, size):
        last = projected[chosen[index - 1]]
        distance = squares - 2 * (projected @ last) + last.square().sum()
        nearest = torch.minimum(nearest, distance)
        chosen[index] = nearest.argmax()
    return chosen


def fit_memory(patches_NChw: Tensor, size: int, *, pool: int, generator: torch.Generator) -> MemoryScorer:
    """Memory of good images' patches, chosen from a random `pool` of them."""
    sampled_PC = sample_patches(patches_NChw, pool, generator=generator)
    picks = greedy_coreset(sampled_PC, size, generator=generator)
    scorer = MemoryScorer(sampled_PC.shape[1], len(picks))
    scorer.bank_CM.copy_(sampled_PC[picks].T)
    return scorer


def fit_gaussian(patches_NChw: Tensor, *, pool: int, generator: torch.Generator) -> GaussianScorer:
    """Gaussian of good images' patches, its covariance shrunk.

    Source: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices"
    (J. Multivariate Analysis 2004).
    """
    sampled_PC = sample_patches(patches_NChw, pool, generator=generator).numpy().astype(np.float64)
    estimate = LedoitWolf().fit(sampled_PC)
    values, vectors = np.linalg.eigh(estimate.covariance_)
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-12))).T
    scorer = GaussianScorer(sampled_PC.shape[1], len(whiten))
    scorer.whiten_RC.copy_(torch.from_numpy(whiten).float())
    scorer.offset_R.copy_(torch.from_numpy(-whiten @ estimate.location_).float())
    return scorer


def pooled(values_Nhw: Tensor, top_fractions: Sequence[float]) -> Tensor:
    """Image scores float32 [N] of patch values, as `models.anomaly.Tail` pools them."""
    num_patches = values_Nhw.shape[1] * values_Nhw.shape[2]
    return Tail(top_weights(top_fractions, num_patches), map_size=1).pool(values_Nhw)


def score_patches(scorer: nn.Module, patches_NChw: Tensor) -> Tensor:
    """Patch values float32 [N,h,w], in batches."""
    with torch.inference_mode():
        return torch.cat([scorer(chunk.float()) for chunk in patches_NChw.split(_SCORE_BATCH)])


def _dihedral(x_NChw: Tensor, turn: int) -> Tensor:
    """One of the eight symmetries of a square."""
    if turn & 4:
        x_NChw = x_NChw.flip(3)
    return torch.rot90(x_NChw, turn & 3, dims=(2, 3))


def fit_head(
    patches_NChw: Tensor,
    labels_N: Tensor,
    validation_NChw: Tensor,
    validation_labels_N: Tensor,
    *,
    hidden: int,
    top_fractions: Sequence[float],
    seed: int,
    limit_s: float,
    max_epochs: int = 40,
    callbacks: Sequence[Callback] = (),
) -> tuple[HeadScorer, FitResult]:
    """Train a head on labelled images: the strangest patches decide the image (multiple instances).

    Every patch of a good image is good; of a defective one, the highest-scoring share is defective.
    Validation chooses the epoch.

    Source: pooled instances as in Ilse et al., "Attention-based Deep Multiple Instance Learning"
    (ICML 2018), section 2.1, with the mean of the top as the pooling.
    """
    torch.manual_seed(seed)
    scorer = HeadScorer(patches_NChw.shape[1], hidden)
    num_defective = int(labels_N.sum())
    balance = torch.tensor((len(labels_N) - num_defective) / max(1, num_defective))

    def batches(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(labels_N), generator=generator)
        chunks = []
        for picks in order.split(32):
            turn = int(torch.randint(8, (1,), generator=generator))
            chunks.append((_dihedral(patches_NChw[picks].float(), turn), labels_N[picks].float()))
        return chunks

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        patches, labels = batch
        values = model(F.dropout(patches, 0.1, training=model.training))
        image_loss = F.binary_cross_entropy_with_logits(
            pooled(values, top_fractions), labels, pos_weight=balance
        )
        good = values[labels == 0]
        patch_loss = F.softplus(good).mean() if len(good) else values.new_zeros(())
        return image_loss + 0.5 * patch_loss

    def validate(model: nn.Module) -> dict[str, float]:
        scores = pooled(score_patches(model, validation_NChw), top_fractions)
        labels = validation_labels_N.float()
        value = F.binary_cross_entropy_with_logits(scores, labels, pos_weight=balance)
        return {
            "validation_loss": float(value),
            "validation_auroc": auroc(validation_labels_N.numpy(), scores.numpy()),
        }

    monitor = Monitor(metric="validation_loss", min_delta=1e-4)
    trainer = Trainer(
        TrainerConfig(max_epochs=max_epochs, learning_rate=2e-3, weight_decay=1e-2, seed=seed),
        [KeepBest(monitor), EarlyStopping(monitor, patience=10), TimeLimit(limit_s), *callbacks],
    )
    result = trainer.fit(scorer, batches, loss=loss, validate=validate)
    return scorer.requires_grad_(False), result


@dataclass(kw_only=True)
class Candidate:
    """A fitted scorer with what it gave on validation.

    Attributes:
        num_fits: Of how many the validation part chose it.
        values: Part of the split -> patch values [N,h,w].
    """

    name: str
    title: str
    scorer_kind: str
    scorer: nn.Module
    scorer_size: int
    top_fractions: tuple[float, ...]
    fit_s: float
    settings: dict[str, Any]
    note: str = ""
    num_fits: int = 1
    validation_auroc: float | None = None
    values: dict[str, Tensor] = field(default_factory=dict)

    def scores(self, part: str) -> np.ndarray:
        """Image scores of a part, float32 [N]."""
        return pooled(self.values[part], self.top_fractions).numpy()
