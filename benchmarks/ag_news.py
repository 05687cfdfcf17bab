"""Few-shot accuracy of the text recipe on AG News, against SetFit's published mean.

Protocol: of the 7,600 rows of AG News' test part, `n` rows of each of the four labels are drawn with the seed
and are all that is learned from; accuracy is measured on all other rows, once. A row's title and description
are joined by a space. Labels' names come from ``classes.txt``. No row that is tested is used in any other way
(nothing is transductive), and nothing is chosen by the result: which of the recipe's rungs tunes the encoder
follows from the number of texts alone (contrastive with up to 32 of each label, full fine-tuning above), with
the rung's own settings. The recipe itself compares both by validation, which this protocol has no texts for.

    python benchmarks/ag_news.py [--data FOLDER] [--shots 8 64 500] [--seeds 0 1 2] [--without-names]
                                 [--cache FOLDER] [--out FILE]

Published: SetFit with this encoder (all-MiniLM-L6-v2), 8 texts of each label, 10 seeds: 83.11 +- 2.31.
Measured before with this encoder frozen and a linear probe: 75.9, 84.8, 87.7 with 8, 64, 500 of each label.
The linear probe of this run stands beside each result.

Each (shots, seed) is added to ``results/ag_news.json`` as soon as it is measured; what stands there is
not measured again (``--again`` does). ``--cache`` keeps the frozen encoder's embeddings between calls. Tested
with OpenVINO in bfloat16 where it is installed (the engine's precision), else with torch in bfloat16.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xinfer.preproc.text import Tokenizer
from xtorch.tasks.feature_cache import FeatureCache
from xtorch.tasks.text.candidates import (
    FEW_OF_LABEL,
    Contrastive,
    Corpus,
    Effort,
    FineTuned,
    Frozen,
)
from xtorch.tasks.text.files import published_encoder, tokenizer_bytes
from xtorch.tasks.text.tokens import Tokens, outputs_of, tokenise

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("IGNITION_TEST_DATA", HERE.parent.parent / "shared" / "data")) / "ag_news"
RESULT = HERE / "results" / "ag_news.json"
MAX_TOKENS = 128
PUBLISHED = {"setfit_8_shot": {"mean": 0.8311, "std": 0.0231, "seeds": 10}}
PROBE = {"8": 0.759, "64": 0.848, "500": 0.877}


def machine() -> dict[str, Any]:
    """The hardware line, with the load at the end of the run."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    packages = {}
    for name in ("torch", "openvino", "scikit-learn", "tokenizers", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu or platform.processor(),
        "num_cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "load_average": list(os.getloadavg()),
    }


def read(folder: Path) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Texts, numbers of their labels, and the labels' names."""
    names = tuple((folder / "classes.txt").read_text(encoding="utf-8").split("\n")[:4])
    with (folder / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [f"{row[1]} {row[2]}" for row in rows], np.array([int(row[0]) - 1 for row in rows]), names


def engine(model: nn.Module) -> tuple[Callable[[Tokens], np.ndarray], str]:
    """Logits of texts, as fast as this machine gives them, and what computes them."""
    try:
        import openvino
    except ImportError:
        return lambda tokens: outputs_of(model, tokens), "torch bfloat16"
    example = torch.ones((2, 8), dtype=torch.int64)
    converted = openvino.convert_model(model, example_input=(example, example))
    compiled = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})

    def logits(tokens: Tokens) -> np.ndarray:
        found: list[np.ndarray] = []
        order: list[np.ndarray] = []
        for rows in tokens.buckets(16):
            ids_NS, mask_NS = tokens.batch(rows)
            found.append(np.array(compiled((ids_NS.numpy(), mask_NS.numpy()))[0]))
            order.append(rows)
        stacked = np.concatenate(found)
        result = np.empty_like(stacked)
        result[np.concatenate(order)] = stacked
        return result

    return logits, "OpenVINO bfloat16"


def everything(
    texts: list[str], labels_N: np.ndarray, names: tuple[str, ...], *, cache_dir: Path | None
) -> Corpus:
    """All texts as the recipe's rungs take them, embedded once."""
    tokenizer = Tokenizer.from_bytes(tokenizer_bytes(), max_length=MAX_TOKENS)
    tokens, encoder = tokenise(texts, tokenizer), published_encoder()
    cache = FeatureCache(cache_dir, {"benchmark": "ag_news"}, (len(texts), encoder.bert.config.channels))
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    frozen = cache.load(digest)
    if frozen is None:
        frozen = engine(encoder)[0](tokens).astype(np.float16)
        cache.save(digest, frozen)
    return Corpus(
        texts=texts,
        tokens=tokens,
        frozen=frozen.astype(np.float32),
        targets=np.eye(len(names), dtype=np.int64)[labels_N],
        labels=names,
        multi_label=False,
        encoder=encoder,
        tokenise=lambda sentences: tokenise(sentences, tokenizer),
    )


def measure(corpus: Corpus, *, shots: int, seed: int, use_names: bool) -> dict[str, Any]:
    """Draw, tune, test."""
    rng = np.random.default_rng(seed)
    labels_N = corpus.targets.argmax(axis=1)
    picks = [rng.permutation(np.flatnonzero(column))[:shots] for column in corpus.targets.T]
    rows = np.concatenate(picks)
    rest = np.setdiff1d(np.arange(len(labels_N)), rows)
    corpus.use_label_names = use_names
    rung = Contrastive(corpus=corpus) if shots <= FEW_OF_LABEL else FineTuned(corpus=corpus)
    started, cpu = time.monotonic(), time.process_time()
    tuned = rung.fit(rows, Effort(seed=seed))
    train_s, train_cpu_s = time.monotonic() - started, time.process_time() - cpu
    assert tuned.model is not None
    logits, runtime = engine(tuned.model())
    answers_N = logits(corpus.tokens.take(rest)).argmax(axis=1)
    corpus.use_label_names = False
    probe = Frozen(corpus=corpus, strength=1.0).fit(rows, Effort())
    return {
        "shots": shots,
        "seed": seed,
        "rung": rung.name,
        "label_names": bool(tuned.settings.get("label_names", False)),
        "accuracy": float((answers_N == labels_N[rest]).mean()),
        "linear_probe": float((probe.logits(rest).argmax(axis=1) == labels_N[rest]).mean()),
        "num_test": len(rest),
        "settings": tuned.settings,
        "runtime": runtime,
        "train_s": round(train_s, 1),
        "train_cpu_s": round(train_cpu_s, 1),
        "load_average": os.getloadavg()[0],
    }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds of each setting."""
    groups: dict[tuple[int, bool], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["shots"], run["label_names"]), []).append(run)
    return [
        {
            "shots": shots,
            "label_names": names,
            "rung": group[0]["rung"],
            "seeds": sorted(run["seed"] for run in group),
            "mean": statistics.fmean(run["accuracy"] for run in group),
            "std": statistics.stdev(run["accuracy"] for run in group) if len(group) > 1 else None,
            "linear_probe_mean": statistics.fmean(run["linear_probe"] for run in group),
        }
        for (shots, names), group in sorted(groups.items())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--shots", type=int, nargs="+", default=[8, 64, 500])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--without-names", action="store_true", help="labels' names are not learned from")
    parser.add_argument("--cache", type=Path, help="keeps embeddings")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print("ag_news: the data is missing; give --data or IGNITION_TEST_DATA", file=sys.stderr)
        return 2
    corpus = everything(*read(arguments.data), cache_dir=arguments.cache)
    result: Path = arguments.out
    runs: list[dict[str, Any]] = []
    if result.exists():
        runs = json.loads(result.read_text(encoding="utf-8"))["runs"]
    for shots in arguments.shots:
        for seed in arguments.seeds:
            use_names = not arguments.without_names
            same = [
                run
                for run in runs
                if (run["shots"], run["seed"]) == (shots, seed)
                and run["label_names"] == (use_names and shots <= FEW_OF_LABEL)
            ]
            if same and not arguments.again:
                continue
            run = measure(corpus, shots=shots, seed=seed, use_names=use_names)
            runs = [each for each in runs if each not in same] + [run]
            print(json.dumps(run), flush=True)
            out = {
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine(),
                "protocol": " ".join((__doc__ or "").split("\n\n")[1].split()),
                "published": PUBLISHED,
                "linear_probe_before": PROBE,
                "summary": summary(runs),
                "runs": runs,
            }
            result.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    for row in summary(runs):
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
