"""The model that a run leaves: a sentence encoder with a linear head; token numbers in, logits out.

Shapes: N texts, S tokens, D channels, C labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtorch.models.bert import Bert, BertConfig, SentenceEncoder


@dataclass(frozen=True, kw_only=True)
class TextModelConfig:
    """Sizes of a `TextModel`."""

    num_labels: int
    bert: BertConfig = field(default_factory=BertConfig)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TextModelConfig:
        return cls(**fields | {"bert": BertConfig(**fields["bert"])})


class TextModel(nn.Module):
    """Embeddings of unit length, then a linear head."""

    def __init__(self, config: TextModelConfig, encoder: SentenceEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder or SentenceEncoder(Bert(config.bert))
        self.head = nn.Linear(config.bert.channels, config.num_labels)

    def forward(self, ids_NS: Tensor, mask_NS: Tensor) -> Tensor:
        """Logits float32 [N,C] of token numbers and mask, int64 [N,S] each."""
        logits_NC: Tensor = self.head(self.encoder(ids_NS, mask_NS))
        return logits_NC

    def set_head(self, weight_CD: np.ndarray, bias_C: np.ndarray) -> None:
        """Puts a fitted linear classifier in."""
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight_CD).float())
            self.head.bias.copy_(torch.from_numpy(bias_C).float())
