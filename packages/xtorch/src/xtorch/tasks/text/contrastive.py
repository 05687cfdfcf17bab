"""Contrastive fine-tuning of a sentence encoder with few labelled texts.

Texts of one label are drawn together and those of others apart; a linear head then reads the embeddings. All
pairs of a batch are compared, so a batch of N texts costs N passes and trains on N (N - 1) / 2 pairs.

Source: Tunstall et al., "Efficient Few-Shot Learning Without Prompts" (SetFit, 2022), section 3: cosine
similarity against 1 or 0, squared error; here over all pairs of a batch instead of drawn ones.

Shapes: N texts, D channels, C labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xtorch.models.bert import SentenceEncoder
from xtorch.tasks.text.tokens import Tokens, drop_tokens
from xtorch.tasks.text.training import Plan, layer_groups, train

NAME_COPIES = 2
"""How often a label's sentence stands among the texts to learn from."""


def name_sentences(labels: Sequence[str]) -> list[str | None]:
    """A sentence for each label that its name makes: what the label means is known before any example.

    Names without letters (numbers) say nothing: None.

    Source: Tunstall et al. (SetFit), section 6, and Yin, Hay and Roth, "Benchmarking Zero-shot Text
    Classification" (EMNLP 2019), section 5: label names as templated sentences.
    """
    sentences: list[str | None] = []
    for label in labels:
        words = " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-./|]+", " ", label).split())
        sentences.append(f"This is about {words}." if sum(c.isalpha() for c in words) >= 3 else None)
    return sentences


def cosine_pair_loss(embeddings_ND: Tensor, same_NN: Tensor) -> Tensor:
    """Squared error of the cosine of every pair against its likeness; like and unlike pairs weigh the same.

    Args:
        embeddings_ND: Of unit length.
        same_NN: How alike the labels of two texts are, 0..1.
    """
    above = torch.triu(torch.ones_like(same_NN, dtype=torch.bool), diagonal=1)
    error = (embeddings_ND @ embeddings_ND.T - same_NN)[above] ** 2
    same = same_NN[above]
    groups = [(error * weight).sum() / weight.sum() for weight in (same, 1 - same) if float(weight.sum()) > 0]
    return torch.stack(groups).mean() if groups else error.sum() * 0


def likeness(targets_NC: np.ndarray) -> Tensor:
    """How alike the label sets of texts are (Jaccard), float32 [N,N]: 0 or 1 where each has one label."""
    targets = torch.from_numpy(targets_NC.astype(np.float32))
    both_NN = targets @ targets.T
    sizes_N = targets.sum(dim=1)
    return both_NN / (sizes_N[:, None] + sizes_N[None, :] - both_NN).clamp(min=1)


def balanced_batches(targets_NC: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches with every label in turn, each label's texts in a new order once all were seen.

    Args:
        targets_NC: 0 or 1; of several labels a text has, any may call for it.
    """
    members = [rows for column in targets_NC.T if len(rows := np.flatnonzero(column))]
    size = min(size, int((targets_NC.sum(axis=1) > 0).sum()))
    queues: list[list[int]] = [[] for _ in members]
    turn = 0
    while True:
        batch: dict[int, None] = {}
        while len(batch) < size:
            which = turn % len(members)
            turn += 1
            if not queues[which]:
                queues[which] = rng.permutation(members[which]).tolist()
            batch[queues[which].pop()] = None
        yield np.array(list(batch))


def tune_contrastively(
    encoder: SentenceEncoder,
    tokens: Tokens,
    targets_NC: np.ndarray,
    plan: Plan,
    *,
    seed: int,
    report: Callable[[int, int, float], None] | None = None,
) -> int:
    """Tune an encoder in place; it ends in evaluation mode.

    Args:
        tokens: Texts to learn from.
        targets_NC: Their labels, 0 or 1.
        seed: Decides batches and hidden tokens.
        report: As of `train`.

    Returns:
        The steps that were made.

    Raises:
        TrainingError: The loss is not finite.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    same_NN = likeness(targets_NC)
    batches = balanced_batches(targets_NC, plan.batch_size, rng)

    def next_loss() -> Tensor:
        rows = next(batches)
        ids_NS, mask_NS = drop_tokens(*tokens.batch(rows), plan.token_dropout, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeddings_ND = encoder(ids_NS, mask_NS)
        picked = torch.from_numpy(rows)
        return cosine_pair_loss(F.normalize(embeddings_ND.float(), dim=1), same_NN[picked][:, picked])

    encoder.train()
    try:
        return train(layer_groups(encoder, plan), next_loss, plan, report=report)
    finally:
        encoder.eval()
