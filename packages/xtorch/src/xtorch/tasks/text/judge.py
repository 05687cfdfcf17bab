"""What a text engine is calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xinfer.preproc.text import Tokenizer
from xtorch.data.texts import read_texts
from xtorch.errors import DataError
from xtorch.tasks.recipe import BuildInputs, Feeds, read_json
from xtorch.tasks.text.figures import macro_f1
from xtorch.tasks.text.files import INPUTS, TOKENIZER, NaivePipeline
from xtorch.tasks.text.operating import answers, probabilities

CALIBRATION_TEXTS = 200
TEST_TEXTS = 1000
"""Of a larger test part, this many are measured, spread over the labels."""
COMPARED_TEXTS = 32


def build_inputs(model_dir: str | Path, dataset_dir: str | Path) -> BuildInputs:
    """
    Args:
        model_dir: The outputs of `run`.
        dataset_dir: The dataset it was trained on.

    Raises:
        WeightsError: The outputs are incomplete.
        DataError: The dataset is another one.
    """
    model_dir = Path(model_dir)
    splits, task = read_json(model_dir / "splits.json"), read_json(model_dir / "task.json")
    columns = read_json(model_dir / "model.json")["columns"]
    data = read_texts(dataset_dir, text_columns=columns["text"], label_columns=columns["label"])
    texts = {row.place: row.text for row in data.rows}
    tokenizer = Tokenizer.from_file(model_dir / TOKENIZER, max_length=task["input"]["max_length"])

    def feeds(items: Sequence[Mapping[str, Any]]) -> list[Feeds]:
        try:
            found = [texts[item["row"]] for item in items]
        except KeyError as error:
            raise DataError(
                "The dataset is not the one that the model was trained on.",
                value=str(error.args[0]),
                hint="build with the dataset of the training run",
            ) from error
        arrays = [tokenizer.encode_batch([text]) for text in found]
        return [{name: each[name] for name in INPUTS} for each in arrays]

    labels = task["labels"]
    test = _alternating(splits["test"])[:TEST_TEXTS]
    truth_NC = np.array([[label in item["labels"] for label in labels] for item in test], dtype=np.int64)

    def evaluate(outputs: Sequence[Feeds]) -> float:
        logits_NC = np.stack([output[task["outputs"]["logits"]][0] for output in outputs])
        found_NC = probabilities(logits_NC, task["temperature"], multi_label=task["multi_label"])
        return macro_f1(truth_NC, answers(found_NC, task["thresholds"], multi_label=task["multi_label"]))

    return BuildInputs(
        metric=task["metric"],
        evaluate=evaluate,
        test=feeds(test),
        calibration=feeds(_alternating(splits["train"])[:CALIBRATION_TEXTS]),
        assets={Path(TOKENIZER).name: model_dir / TOKENIZER},
        peer=NaivePipeline(model_dir),
        peer_title="tokenizers + torch eager, fp32",
        payloads=[texts[item["row"]].encode() for item in test[:COMPARED_TEXTS]],
    )


def _alternating(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All items, such that every beginning of the list has the labels in about the whole's shares."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(tuple(item["labels"]), []).append(item)
    placed = [
        ((index + 0.5) / len(group), labels, index)
        for labels, group in groups.items()
        for index in range(len(group))
    ]
    return [groups[labels][index] for _, labels, index in sorted(placed)]
