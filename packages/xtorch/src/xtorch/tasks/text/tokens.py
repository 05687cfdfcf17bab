"""Texts as token numbers, and batches of texts of like length.

Shapes: N texts, S tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from xinfer.preproc.text import Tokenizer

_TEXTS_AT_ONCE = 256


class Tokens:
    """Token numbers of texts, each as long as it is.

    Args:
        ids: Of each text, int64 [S], special tokens included.
        pad_id: Fills batches up.
    """

    def __init__(self, ids: Sequence[np.ndarray], *, pad_id: int = 0) -> None:
        self.ids = list(ids)
        self.lengths = np.array([len(row) for row in self.ids], dtype=np.int64)
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int] | np.ndarray) -> Tokens:
        """Some of the texts."""
        return Tokens([self.ids[int(index)] for index in indices], pad_id=self.pad_id)

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Token numbers and mask of some texts, int64 [N,S] each, padded to the longest."""
        length = int(self.lengths[indices].max())
        ids_NS = np.full((len(indices), length), self.pad_id, dtype=np.int64)
        mask_NS = np.zeros_like(ids_NS)
        for row, index in enumerate(indices):
            ids = self.ids[int(index)]
            ids_NS[row, : len(ids)] = ids
            mask_NS[row, : len(ids)] = 1
        return torch.from_numpy(ids_NS), torch.from_numpy(mask_NS)

    def buckets(self, size: int) -> Iterator[np.ndarray]:
        """Indices of all texts in batches of at most `size`, shortest first: hardly any padding."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size]


def tokenise(texts: Sequence[str], tokenizer: Tokenizer) -> Tokens:
    """Token numbers exactly as an engine's tokeniser gives them, cut off at its `max_length`."""
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        arrays = tokenizer.encode_batch(list(texts[start : start + _TEXTS_AT_ONCE]))
        for ids, mask in zip(arrays["input_ids"], arrays["attention_mask"], strict=True):
            rows.append(ids[mask == 1])
    return Tokens(rows)


def drop_tokens(
    ids_NS: Tensor, mask_NS: Tensor, rate: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hides a share of each text's words, never its first token: another view of the same text.

    Source: word deletion of Wei and Zou, "EDA" (EMNLP 2019), section 2, here through the attention mask.
    """
    kept = torch.rand(ids_NS.shape, generator=generator) >= rate
    kept[:, 0] = True
    return ids_NS, mask_NS * kept


def outputs_of(
    model: nn.Module,
    tokens: Tokens,
    *,
    batch_size: int = 32,
    report: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """What a model of (ids, mask) says of all texts, float32 [N,D], in their order; bfloat16 inside.

    Args:
        report: Called with (done, total) now and then.
    """
    outputs: list[np.ndarray] = []
    order: list[np.ndarray] = []
    done = 0
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for indices in tokens.buckets(batch_size):
            outputs.append(model(*tokens.batch(indices)).float().numpy())
            order.append(indices)
            done += len(indices)
            if report is not None:
                report(done, len(tokens))
    stacked = np.concatenate(outputs)
    result = np.empty_like(stacked)
    result[np.concatenate(order)] = stacked
    return result
