"""Full fine-tuning: encoder and head together, after the head alone.

Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (ICLR
2022), section 4: linear probing, then fine-tuning (LP-FT).

Shapes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xtorch.tasks.text.model import TextModel
from xtorch.tasks.text.tokens import Tokens, drop_tokens
from xtorch.tasks.text.training import Plan, layer_groups, train

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


def tune_fully(
    model: TextModel,
    tokens: Tokens,
    targets_NC: np.ndarray,
    plan: Plan,
    *,
    multi_label: bool,
    seed: int,
    report: Callable[[int, int, float], None] | None = None,
) -> int:
    """Tune a model whose head is fitted already, in place; it ends in evaluation mode.

    Args:
        tokens: Texts to learn from.
        targets_NC: Their labels, 0 or 1; exactly one 1 a row unless `multi_label`.
        seed: Decides batches and hidden tokens.
        report: As of `train`.

    Returns:
        The steps that were made.

    Raises:
        TrainingError: The loss is not finite.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    targets = torch.from_numpy(targets_NC.astype(np.float32))
    batches = like_length_batches(tokens, plan.batch_size, rng)

    def next_loss() -> Tensor:
        rows = next(batches)
        ids_NS, mask_NS = drop_tokens(*tokens.batch(rows), plan.token_dropout, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_NC = model(ids_NS, mask_NS).float()
        wanted_NC = targets[torch.from_numpy(rows)]
        if multi_label:
            return F.binary_cross_entropy_with_logits(logits_NC, wanted_NC)
        return F.cross_entropy(logits_NC, wanted_NC)

    model.train()
    groups = [
        *layer_groups(model.encoder, plan),
        {"params": list(model.head.parameters()), "share": _HEAD_RATE},
    ]
    try:
        return train(groups, next_loss, plan, report=report)
    finally:
        model.eval()
