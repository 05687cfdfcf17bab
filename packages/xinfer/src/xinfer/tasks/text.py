"""Tasks on text: embedding, classification, token classification, extractive question answering."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.spec import InputSpec, TaskSpec


@InputSpec.VARIANTS.add("text")
@dataclass(frozen=True, kw_only=True)
class TextInput(InputSpec):
    """Texts as token numbers: int64 [N,S] tensors, S tokens of the longest text or always `max_length`.

    Attributes:
        name: The tensor of token numbers.
        attention_mask: The tensor that is 1 for tokens and 0 for padding; None where the model has none.
        token_types: The tensor of segment numbers; None where the model has none.
        tokenizer: The engine's asset that holds the tokeniser (Hugging Face's ``tokenizer.json``).
        max_length: Longest text in tokens, special tokens included; the rest is cut off.
        pad: ``longest``: to the longest text of a batch; ``max_length``: always, for engines of fixed shape.
    """

    kind: Literal["text"] = "text"
    attention_mask: str | None = "attention_mask"
    token_types: str | None = None
    tokenizer: str = "tokenizer.json"
    max_length: int
    pad: Literal["longest", "max_length"] = "longest"

    def __post_init__(self) -> None:
        # Two special tokens frame every text.
        if self.max_length < 3:
            raise ValueError(f"max_length must be at least 3, not {self.max_length}")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the model's inputs that it feeds."""
        return tuple(name for name in (self.name, self.attention_mask, self.token_types) if name)


@TaskSpec.VARIANTS.add("embedding")
@dataclass(frozen=True, kw_only=True)
class Embedding(TaskSpec):
    """A vector per text; near vectors mean near meanings.

    `outputs.embedding` is [N,D] where the graph pools, else [N,S,D] and `pooling` says how a text's tokens
    become its vector: their mean, or the first one.
    """

    task: Literal["embedding"] = "embedding"
    input: TextInput
    pooling: Literal["graph", "mean", "first"] = "graph"
    normalise: bool = True
    """Whether vectors are brought to unit length; harmless where the graph did so."""
    metric: Literal["cosine"] = "cosine"

    def __post_init__(self) -> None:
        self.require_outputs("embedding")


@TaskSpec.VARIANTS.add("text-classification")
@dataclass(frozen=True, kw_only=True)
class TextClassification(TaskSpec):
    """What a text (or a pair of texts) is: one label, or any number of them. `outputs.logits` is [N,C].

    Attributes:
        multi_label: Every label on its own (sigmoid) instead of one of them (softmax).
        temperature: Divides the logits, so that probabilities are calibrated on held-out data.
            Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2.
        thresholds: Of each label when `multi_label`; empty means 0.5 for all.
        abstain_below: No label is given where the best probability is less; not for `multi_label`.
    """

    task: Literal["text-classification"] = "text-classification"
    input: TextInput
    multi_label: bool = False
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    abstain_below: float | None = None
    metric: Literal["top1_agreement", "accuracy", "macro_f1"] = "top1_agreement"

    def __post_init__(self) -> None:
        self.require_outputs("logits")
        if len(self.labels) < (1 if self.multi_label else 2):
            raise ValueError(f"labels are too few: {list(self.labels)}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if self.thresholds and (not self.multi_label or len(self.thresholds) != len(self.labels)):
            raise ValueError("thresholds are one per label, and for multi_label only")
        if self.abstain_below is not None and (self.multi_label or not 0 <= self.abstain_below <= 1):
            raise ValueError("abstain_below is a probability, and not for multi_label")


@TaskSpec.VARIANTS.add("token-classification")
@dataclass(frozen=True, kw_only=True)
class TokenClassification(TaskSpec):
    """Names in a text. `outputs.logits` is [N,S,C]; labels are ``O``, ``B-X`` and ``I-X`` (or ``X`` alone).

    `stride` tokens of context are shared by neighbouring windows of a text longer than `max_length`.
    """

    task: Literal["token-classification"] = "token-classification"
    input: TextInput
    outside: str = "O"
    stride: int = 32
    metric: Literal["top1_agreement", "entity_f1"] = "top1_agreement"

    def __post_init__(self) -> None:
        self.require_outputs("logits")
        if self.outside not in self.labels or len(self.labels) < 2:
            raise ValueError(f"labels must hold {self.outside!r} and another, found {list(self.labels)}")
        _check_stride(self.stride, self.input)


@TaskSpec.VARIANTS.add("question-answering")
@dataclass(frozen=True, kw_only=True)
class ExtractiveAnswering(TaskSpec):
    """Where in a text the answer to a question stands. `outputs.start` and `outputs.end` are [N,S] logits.

    Attributes:
        stride: Tokens of context shared by neighbouring windows of a long text.
        max_answer_tokens: Longest answer.
        null_threshold: An answer must beat the score of "no answer" (the first token's) by this much; None
            where the model was trained on questions that all have an answer.
    """

    task: Literal["question-answering"] = "question-answering"
    input: TextInput
    stride: int = 64
    max_answer_tokens: int = 30
    null_threshold: float | None = None
    metric: Literal["top1_agreement", "answer_f1"] = "top1_agreement"

    def __post_init__(self) -> None:
        self.require_outputs("start", "end")
        if self.max_answer_tokens < 1:
            raise ValueError(f"max_answer_tokens must be positive, not {self.max_answer_tokens}")
        _check_stride(self.stride, self.input)


def _check_stride(stride: int, text: TextInput) -> None:
    if not 0 <= stride < text.max_length - 2:
        raise ValueError(f"stride must be less than max_length's {text.max_length - 2} tokens, not {stride}")
