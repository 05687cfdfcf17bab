"""Splits texts into training, validation and test parts, and into folds.

Shapes: N texts, C labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtorch.data.texts import UsableText
from xtorch.errors import DataError

_TEST_SHARE = 0.2
"""Of all texts, where no test part is given."""
_VALIDATION_SHARE = 0.1875
"""Of the rest: 15 % of all where no test part is given."""
MIN_HELD_BACK = 150
"""With fewer validation texts a share of right answers is off by more than 3 points (one standard error at
85 %): then decisions come from cross-validation."""
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

    Raises:
        DataError: Too many texts say nearly the same: nothing is left for some part.
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
        rest, test = divide(rest, (1 - _TEST_SHARE, _TEST_SHARE))
        words.append(
            f"{_TEST_SHARE:.0%} of the texts, drawn at random by label and with near duplicates kept "
            "together, are the test part"
        )
    words.append("it was used once, after everything was decided")
    validation = given["validation"]
    if len(validation):
        train = rest
        words.append("decisions were made on the given validation part")
    elif _VALIDATION_SHARE * len(rest) >= MIN_HELD_BACK:
        train, validation = divide(rest, (1 - _VALIDATION_SHARE, _VALIDATION_SHARE))
        words.append(f"decisions were made on {len(validation)} texts held back from training")
    else:
        train = rest
        words.append(f"decisions were made by {NUM_FOLDS}-fold cross-validation, as texts are few")
    if len(validation):
        folds = [(train, validation)]
    else:
        pieces = [piece for piece in divide(train, [1 / NUM_FOLDS] * NUM_FOLDS) if len(piece)]
        folds = [(np.setdiff1d(train, piece), piece) for piece in pieces]
    if not len(test) or not folds or not all(len(fit) for fit, _ in folds):
        raise DataError(
            "The texts cannot be divided into parts to learn from and to test on.",
            value=len(texts),
            hint="add texts, or fewer near duplicates: these must not be in two parts",
        )
    protocol = "; ".join(words) + "."
    return TextSplit(train=train, validation=validation, test=test, folds=tuple(folds), protocol=protocol)
