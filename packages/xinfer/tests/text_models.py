"""A tiny tokeniser and models whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from .zoo_engines import save_onnx

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", "?", "ada", "love", "##lace", "lives", "in", "london",
    "paris", "the", "and", "new", "york", "who", "where", "is", "good", "bad", "film", "a", "did", "it",
]  # fmt: skip
ID = {word: index for index, word in enumerate(WORDS)}


def tokenizer_json() -> bytes:
    """WordPiece as BERT's, with the words above; truncation and padding set, as published files have them."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra text is not installed")
    from tokenizers import models, normalizers, pre_tokenizers, processors

    tokenizer = tokenizers.Tokenizer(models.WordPiece(ID, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ID["[CLS]"]), ("[SEP]", ID["[SEP]"])],
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    return tokenizer.to_str().encode()


def table(columns: int, rows: dict[str, list[float]], default: list[float]) -> np.ndarray:
    """A row of numbers per word."""
    found = np.tile(np.array(default, np.float32), (len(WORDS), 1))
    for word, row in rows.items():
        found[ID[word]] = row
    assert found.shape[1] == columns
    return found


def token_inputs(batch: int | str, length: int | str, *, types: bool = False) -> dict:
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * types
    return {name: (TensorProto.INT64, [batch, length]) for name in names}


def masked_mean_nodes() -> list[NodeProto]:
    """tokens [N,S,D] and the mask -> embedding [N,D]."""
    return [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["weight"]),
        helper.make_node("Mul", ["tokens", "weight"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weight", "one"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["embedding"]),
    ]


def make_embedding_onnx(
    path: Path, rows: np.ndarray, *, pooled: bool, batch: int | str = "N", length: int | str = "S"
) -> Path:
    """A vector per word; their mean where pooled, else all tokens (and padding has a vector as well)."""
    nodes = [helper.make_node("Gather", ["rows", "input_ids"], ["tokens"])]
    # Every declared input must be used, or runtimes drop it.
    constants = {"rows": rows, "one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    nodes += masked_mean_nodes()
    dimension = rows.shape[1]
    outputs = {"embedding": [batch, dimension]}
    if not pooled:
        nodes[-1] = helper.make_node("Mul", ["count", "zero"], ["nothing"])
        nodes += [
            helper.make_node("Unsqueeze", ["nothing", "one"], ["nothing3"]),
            helper.make_node("Add", ["tokens", "nothing3"], ["embedding"]),
        ]
        constants["zero"] = np.float32(0)
        outputs = {"embedding": [batch, length, dimension]}
    return save_onnx(path, nodes, token_inputs(batch, length), outputs, constants)


def make_classifier_onnx(path: Path, rows: np.ndarray) -> Path:
    """The sum of the words' logits; the second text's (types 1) count ten times."""
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["tokens"]),
        helper.make_node("Mul", ["token_type_ids", "nine"], ["extra"]),
        helper.make_node("Add", ["extra", "attention_mask"], ["factor_int"]),
        helper.make_node("Cast", ["factor_int"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["factor", "two"], ["weight"]),
        helper.make_node("Mul", ["tokens", "weight"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "one"], ["logits"], keepdims=0),
    ]
    constants = {
        "rows": rows,
        "nine": np.array(9, np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
    }
    inputs = token_inputs("N", "S", types=True)
    return save_onnx(path, nodes, inputs, {"logits": ["N", rows.shape[1]]}, constants)


def make_token_onnx(path: Path, rows: np.ndarray, *, batch: int | str = "N", edge: float = 0.0) -> Path:
    """Logits per token; a token right after [CLS] gets `edge` on its first column, as one without context."""
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["tokens"]),
        helper.make_node("Slice", ["input_ids", "zero1", "minus1", "one"], ["front"]),
        helper.make_node("Slice", ["attention_mask", "zero1", "one", "one"], ["first_mask"]),
        helper.make_node("Sub", ["first_mask", "first_mask"], ["zeros"]),
        helper.make_node("Concat", ["zeros", "front"], ["before"], axis=1),
        helper.make_node("Equal", ["before", "cls"], ["is_edge"]),
        helper.make_node("Cast", ["is_edge"], ["edge_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["edge_float", "two"], ["edge_column"]),
        helper.make_node("Mul", ["edge_column", "edge_row"], ["edge_logits"]),
        helper.make_node("Add", ["tokens", "edge_logits"], ["logits"]),
    ]
    constants = {
        "rows": rows,
        "zero1": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "minus1": np.array([-1], np.int64),
        "two": np.array([2], np.int64),
        "cls": np.array(ID["[CLS]"], np.int64),
        "edge_row": np.array([edge] + [0.0] * (rows.shape[1] - 1), np.float32),
    }
    inputs = token_inputs(batch, "S")
    # Slice ends before the last token, one axis down: Slice takes starts, ends, axes.
    return save_onnx(path, nodes, inputs, {"logits": [batch, "S", rows.shape[1]]}, constants)


def make_answering_onnx(path: Path, rows: np.ndarray) -> Path:
    """Start and end logits per token, looked up by word."""
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["weight"]),
        helper.make_node("Mul", ["tokens", "weight"], ["logits"]),
        helper.make_node("Split", ["logits"], ["start3", "end3"], axis=2, num_outputs=2),
        helper.make_node("Squeeze", ["start3", "two"], ["start"]),
        helper.make_node("Squeeze", ["end3", "two"], ["end"]),
    ]
    constants = {"rows": rows, "two": np.array([2], np.int64)}
    outputs = {"start": ["N", "S"], "end": ["N", "S"]}
    return save_onnx(path, nodes, token_inputs("N", "S"), outputs, constants)


def golden_tokens(*, batch: int = 1, length: int = 6, types: bool = False) -> dict[str, np.ndarray]:
    ids = np.arange(batch * length, dtype=np.int64).reshape(batch, length) % len(WORDS)
    ids[:, 0] = ID["[CLS]"]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return feeds | ({"token_type_ids": np.zeros_like(ids)} if types else {})
