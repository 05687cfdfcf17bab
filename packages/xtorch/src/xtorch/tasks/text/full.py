"""Full fine-tuning: encoder and head together, after the head alone.

Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (ICLR
2022), section 4: linear probing, then fine-tuning (LP-FT).

Shapes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.tasks.text.model import TextModel
from xtorch.tasks.text.tokens import Tokens, drop_tokens
from xtorch.tasks.text.training import Plan, Tuning, layer_groups, numpy_generator

_HEAD_RATE = 20.0
"""The head's learning rate, as a multiple of the last layer's: it is linear and starts fitted."""


def like_length_batches(tokens: Tokens, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches of texts of like length, in random order: every text once in each pass over them."""
    while True:
        # Noise on the length makes other batches in each pass.
        noisy = tokens.lengths * rng.uniform(0.9, 1.1, len(tokens))
        order = np.argsort(noisy)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for index in rng.permutation(len(batches)):
            yield batches[int(index)]


def full_tuning(
    model: TextModel, tokens: Tokens, targets_NC: np.ndarray, plan: Plan, *, multi_label: bool
) -> Tuning:
    """How a model whose head is fitted already is tuned.

    Args:
        tokens: Texts to learn from.
        targets_NC: Their labels, 0 or 1; exactly one 1 a row unless `multi_label`.
    """
    targets = torch.from_numpy(targets_NC.astype(np.float32))

    def draw(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows in like_length_batches(tokens, plan.batch_size, numpy_generator(generator)):
            ids_NS, mask_NS = drop_tokens(*tokens.batch(rows), plan.token_dropout, generator)
            yield ids_NS, mask_NS, targets[torch.from_numpy(rows)]

    def loss(trained: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ids_NS, mask_NS, wanted_NC = batch
        logits_NC = trained(ids_NS, mask_NS).float()
        if multi_label:
            return F.binary_cross_entropy_with_logits(logits_NC, wanted_NC)
        return F.cross_entropy(logits_NC, wanted_NC)

    groups = [
        *layer_groups(model.encoder, plan),
        {"params": list(model.head.parameters()), "lr": _HEAD_RATE * plan.learning_rate},
    ]
    return Tuning(model=model, draw=draw, loss=loss, groups=groups, plan=plan)
