"""A trained text classifier on disk (ARCHITECTURE.md, 10.3 and 10.4), its export, the plain torch pipeline.

Shapes: N texts, S tokens, C labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xinfer.preproc.text import Tokenizer
from xinfer.tasks.spec import parse_task
from xtorch.errors import ParityError
from xtorch.export import export_tensor_model
from xtorch.models.bert import SentenceEncoder, minilm_folder
from xtorch.tasks.recipe import read_json
from xtorch.tasks.saved import load_weights, save_weights
from xtorch.tasks.text.model import TextModel, TextModelConfig
from xtorch.tasks.text.operating import probabilities
from xtorch.tasks.text.tokens import Tokens

TOKENIZER = "assets/tokenizer.json"
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "logits"
#: Logits are of order 10; float32 sums in another order differ by about 1e-5 of that.
PARITY_TOLERANCE = 2e-3
_EXAMPLE_TOKENS = 24


def tokenizer_bytes() -> bytes:
    """The published ``tokenizer.json``.

    Raises:
        WeightsError: The package that carries it is not installed.
    """
    return (minilm_folder() / "tokenizer.json").read_bytes()


def save_model(model: TextModel, folder: Path, *, columns: dict[str, list[str]]) -> None:
    """Write ``model.safetensors``, ``model.json`` and the tokeniser.

    Args:
        columns: ``text`` and ``label`` columns that were asked for, which `build_inputs` reads the data by.
    """
    save_weights(model, folder, model.config.to_dict(), columns=columns)
    (folder / TOKENIZER).parent.mkdir(exist_ok=True)
    (folder / TOKENIZER).write_bytes(tokenizer_bytes())


def load_model(folder: str | Path) -> TextModel:
    """Rebuild the torch model of a training output.

    Args:
        folder: Holds ``model.safetensors`` and ``model.json``.

    Returns:
        In evaluation mode: token numbers and mask int64 [N,S] -> logits float32 [N,C].

    Raises:
        WeightsError: A file is missing, or the two do not fit each other.
    """
    return load_weights(folder, TextModel, lambda config: TextModel(TextModelConfig.from_dict(config)))


def task_spec(
    labels: Sequence[str],
    *,
    max_length: int,
    multi_label: bool,
    temperature: float,
    thresholds: Sequence[float],
    abstain_below: float | None,
) -> dict[str, Any]:
    """The task spec, `xinfer.tasks.text.TextClassification`, checked by reading it."""
    document = {
        "task": "text-classification",
        "version": 1,
        "input": {
            "name": INPUTS[0],
            "kind": "text",
            "attention_mask": INPUTS[1],
            "token_types": None,
            "tokenizer": Path(TOKENIZER).name,
            "max_length": max_length,
            "pad": "longest",
        },
        "outputs": {"logits": OUTPUT},
        "labels": list(labels),
        "multi_label": multi_label,
        "temperature": temperature,
        "thresholds": list(thresholds),
        "abstain_below": abstain_below,
        "metric": "macro_f1",
    }
    parse_task(document)
    return document


def export_model(model: TextModel, path: Path) -> None:
    """Write ``model.onnx``: ``input_ids`` and ``attention_mask`` int64 [N,S], ``logits`` float32 [N,C].

    Raises:
        ExportError: The exporter or ONNX's checker refuses.
    """
    ids_NS = torch.ones((2, _EXAMPLE_TOKENS), dtype=torch.int64)
    export_tensor_model(
        model,
        [ids_NS, torch.ones_like(ids_NS)],
        path,
        input_names=INPUTS,
        output_names=[OUTPUT],
        free_axes=range(2),
        axis_names="NS",
    )


class OnnxTextModel:
    """Runs ``model.onnx`` with ONNX Runtime on the CPU, as the reference reading of the file."""

    def __init__(self, path: Path) -> None:
        # From 1.29 on it reports to its maker otherwise.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, ids_NS: np.ndarray, mask_NS: np.ndarray) -> np.ndarray:
        """Logits float32 [N,C] of int64 [N,S]."""
        logits_NC: np.ndarray = self._session.run(
            [OUTPUT], dict(zip(INPUTS, (ids_NS, mask_NS), strict=True))
        )[0]
        return logits_NC


def logits_parity(
    model: TextModel, path: Path, tokens: Tokens, *, tolerance: float = PARITY_TOLERANCE
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the exported file with its source, text by text.

    Returns:
        Logits of source and export, float32 [N,C] each.

    Raises:
        ParityError: A logit differs by more than `tolerance`, or is not finite.
    """
    exported = OnnxTextModel(path)
    source: list[np.ndarray] = []
    onnx: list[np.ndarray] = []
    for row in range(len(tokens)):
        ids_1S, mask_1S = tokens.batch([row])
        with torch.inference_mode():
            source.append(model(ids_1S, mask_1S).numpy())
        onnx.append(exported(ids_1S.numpy(), mask_1S.numpy()))
    source_NC, onnx_NC = np.concatenate(source), np.concatenate(onnx)
    worst = float(np.abs(source_NC - onnx_NC).max())
    if not np.isfinite(onnx_NC).all() or not worst <= tolerance:
        raise ParityError(
            f"The exported model's logits differ from the source's by up to {worst:.2g}, "
            f"more than {tolerance:.2g}.",
            value=worst,
            hint="this is a defect of the export: report it with the versions of torch and onnxscript",
        )
    return source_NC, onnx_NC


class NaivePipeline:
    """The pipeline that most people deploy, as the peer that engines are compared with: the tokeniser, torch
    eagerly in float32, softmax. The same weights and (to rounding) the same answers as an engine.

    Args:
        folder: The outputs of a training run.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        task = read_json(folder / "task.json")
        self._model = load_model(folder)
        self._labels = task["labels"]
        self._multi_label, self._temperature = task["multi_label"], task["temperature"]
        self._tokenizer = Tokenizer.from_file(folder / TOKENIZER, max_length=task["input"]["max_length"])

    def __call__(self, data: bytes) -> dict[str, float]:
        """Probability of each label.

        Args:
            data: A text in UTF-8.
        """
        arrays = self._tokenizer.encode_batch([data.decode("utf-8")])
        with torch.inference_mode():
            logits_1C = self._model(*(torch.from_numpy(arrays[name]) for name in INPUTS)).numpy()
        found = probabilities(logits_1C, self._temperature, multi_label=self._multi_label)
        return dict(zip(self._labels, found[0].tolist(), strict=True))


def published_encoder() -> SentenceEncoder:
    """all-MiniLM-L6-v2.

    Raises:
        WeightsError: The package that carries it is not installed.
    """
    from xtorch.models.bert import minilm

    return minilm()
