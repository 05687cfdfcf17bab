"""Splits texts into training, validation and test parts, and into folds.

Shapes: N texts, C labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtorch.data.texts import UsableText

#: Of training, validation and test where nothing is given; a validation part too small joins training.
_SHARES = (0.65, 0.15, 0.2)
_HELD_BACK = 0.2
#: Where the rarest label has fewer texts to learn from, decisions come from cross-validation.
MIN_OF_LABEL_TO_HOLD_BACK = 40
NUM_FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class TextSplit:
    """Indices into the usable texts; near duplicates are never in two parts, nor in two folds.

    Attributes:
        folds: (texts to fit on, texts to judge by): one pair where a part was held back, else
            cross-validation over all texts but the test's.
        protocol: How it was done and what was never touched, in a sentence.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    folds: tuple[tuple[np.ndarray, np.ndarray], ...]
    protocol: str

    @property
    def development(self) -> np.ndarray:
        """All but the test part."""
        return np.sort(np.concatenate([self.train, self.validation]))

    @property
    def is_cross_validated(self) -> bool:
        return len(self.folds) > 1


def deal(
    targets_NC: np.ndarray, groups_N: Sequence[int], shares: Sequence[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """Divide texts into parts of about these shares, whole groups each, every label in proportion.

    Groups are dealt in a random order, those with the rarest label first; each goes to the part that lacks
    most of that label.

    Source: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data" (ECML 2011),
    algorithm 1, with groups instead of single examples.

    Args:
        targets_NC: 0 or 1.
        groups_N: Number of each text's group.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups_N):
        members[group].append(index)
    # Texts without any label are a label of their own.
    bare_N1 = (targets_NC.sum(axis=1, keepdims=True) == 0).astype(targets_NC.dtype)
    labels_NC = np.concatenate([targets_NC, bare_N1], axis=1)
    totals_C = labels_NC.sum(axis=0)
    rarity_C = np.where(totals_C > 0, totals_C, np.inf)
    keys = sorted(members)
    order = [keys[int(i)] for i in rng.permutation(len(keys))]

    def rarest(group: int) -> int:
        present = labels_NC[members[group]].sum(axis=0) > 0
        return int(np.where(present, rarity_C, np.inf).argmin())

    order.sort(key=lambda group: (totals_C[rarest(group)], rarest(group)))
    have_PC = np.zeros((len(shares), labels_NC.shape[1]))
    dealt_C = np.zeros(labels_NC.shape[1])
    parts: list[list[int]] = [[] for _ in shares]
    share_P = np.array(shares)
    for group in order:
        label = rarest(group)
        counts_C = labels_NC[members[group]].sum(axis=0)
        dealt_C += counts_C
        behind_P = np.where(share_P > 0, share_P * dealt_C[label] - have_PC[:, label], -np.inf)
        size_P = np.array([len(part) for part in parts]) / np.maximum(share_P, 1e-9)
        best = max(range(len(shares)), key=lambda part: (round(float(behind_P[part]), 9), -size_P[part]))
        parts[best] += members[group]
        have_PC[best] += counts_C
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def split_texts(texts: Sequence[UsableText], targets_NC: np.ndarray, *, seed: int) -> TextSplit:
    """Split texts; the same texts and seed give the same split.

    Args:
        texts: Where any says that it belongs to a test (validation) part, exactly those are that part.
        targets_NC: Their labels, 0 or 1.
        seed: Decides who goes where.
    """
    rng = np.random.default_rng(seed)
    groups_N = np.array([text.group for text in texts])
    given = {
        part: np.array([i for i, text in enumerate(texts) if text.part == part], dtype=np.int64)
        for part in ("validation", "test")
    }
    rest = np.array([i for i, text in enumerate(texts) if text.part in (None, "train")], dtype=np.int64)

    def divide(rows: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
        return [rows[part] for part in deal(targets_NC[rows], groups_N[rows].tolist(), shares, rng)]

    words = []
    test = given["test"]
    if len(test):
        words.append("The test part is exactly the given one")
    else:
        rest, test = divide(rest, (1 - _SHARES[2], _SHARES[2]))
        words.append(
            f"{_SHARES[2]:.0%} of the texts, drawn at random by label and with near duplicates kept "
            "together, are the test part"
        )
    words.append("it was used once, after everything was decided")
    validation = given["validation"]
    enough = targets_NC[rest].sum(axis=0).min() >= MIN_OF_LABEL_TO_HOLD_BACK
    if len(validation):
        train = rest
        words.append("decisions were made on the given validation part")
    elif enough:
        share = _HELD_BACK if len(given["test"]) else _SHARES[1] / (_SHARES[0] + _SHARES[1])
        train, validation = divide(rest, (1 - share, share))
        words.append(f"decisions were made on {len(validation)} texts held back from training")
    else:
        train = rest
        words.append(f"decisions were made by {NUM_FOLDS}-fold cross-validation, as texts are few")
    if len(validation):
        folds: tuple[tuple[np.ndarray, np.ndarray], ...] = ((train, validation),)
    else:
        pieces = [piece for piece in divide(train, [1 / NUM_FOLDS] * NUM_FOLDS) if len(piece)]
        folds = tuple((np.setdiff1d(train, piece), piece) for piece in pieces)
    protocol = "; ".join(words) + "."
    return TextSplit(train=train, validation=validation, test=test, folds=folds, protocol=protocol)
