"""Contrastive fine-tuning of a sentence encoder with few labelled texts.

Texts of one label are drawn together and those of others apart; a linear head then reads the embeddings. All
pairs of a batch are compared, so a batch of N texts costs N passes and trains on N (N - 1) / 2 pairs.

Source: Tunstall et al., "Efficient Few-Shot Learning Without Prompts" (SetFit, 2022), section 3: cosine
similarity against 1 or 0, squared error; here over all pairs of a batch instead of drawn ones.

Shapes: N texts, D channels, C labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.models.bert import SentenceEncoder
from xtorch.tasks.text.tokens import Tokens, drop_tokens
from xtorch.tasks.text.training import Plan, Tuning, layer_groups, numpy_generator

NAME_COPIES = 2
"""How often a label's sentence stands among the texts to learn from."""
_TEXTS_AT_ONCE = 8
"""A batch passes the encoder in pieces of texts of like length: a third less padding."""
_Batch = tuple[list[tuple[Tensor, Tensor]], Tensor]
"""Token numbers and mask of each piece, and how alike all its texts are."""
_LEAST_OF_LABEL = 2
"""Texts of a label that a batch holds at least, if it holds the label: one alone has no like."""


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
    """Endless batches with several texts of each label that they hold, so that there are like pairs.

    Labels come in random order, each as often as any other; so do a label's texts.

    Args:
        targets_NC: 0 or 1; of several labels a text has, any may call for it.
    """
    members = [rows for column in targets_NC.T if len(rows := np.flatnonzero(column))]
    size = min(size, int((targets_NC.sum(axis=1) > 0).sum()))
    of_label = max(_LEAST_OF_LABEL, size // len(members))
    texts: list[list[int]] = [[] for _ in members]
    labels: list[int] = []
    while True:
        if len(labels) * of_label < size:
            labels = rng.permutation(len(members)).tolist()
        batch: dict[int, None] = {}
        while len(batch) < size:
            if not labels:
                labels = rng.permutation(len(members)).tolist()
            label = labels.pop()
            for _ in range(min(of_label, size - len(batch))):
                if not texts[label]:
                    texts[label] = rng.permutation(members[label]).tolist()
                batch[texts[label].pop()] = None
        yield np.array(list(batch))


def contrastive_tuning(
    encoder: SentenceEncoder, tokens: Tokens, targets_NC: np.ndarray, plan: Plan
) -> Tuning:
    """How an encoder is tuned so that texts of one label come together.

    Args:
        tokens: Texts to learn from.
        targets_NC: Their labels, 0 or 1.
    """
    same_NN = likeness(targets_NC)

    def draw(generator: torch.Generator) -> Iterator[_Batch]:
        for batch in balanced_batches(targets_NC, plan.batch_size, numpy_generator(generator)):
            rows = batch[np.argsort(tokens.lengths[batch], kind="stable")]
            pieces = [rows[start : start + _TEXTS_AT_ONCE] for start in range(0, len(rows), _TEXTS_AT_ONCE)]
            texts = [drop_tokens(*tokens.batch(piece), plan.token_dropout, generator) for piece in pieces]
            picked = torch.from_numpy(rows)
            yield texts, same_NN[picked][:, picked]

    def loss(model: nn.Module, batch: _Batch) -> Tensor:
        texts, same_nn = batch
        embeddings_ND = torch.cat([model(ids_NS, mask_NS) for ids_NS, mask_NS in texts]).float()
        with torch.autocast("cpu", enabled=False):
            return cosine_pair_loss(F.normalize(embeddings_ND, dim=1), same_nn)

    return Tuning(model=encoder, draw=draw, loss=loss, groups=layer_groups(encoder, plan), plan=plan)
