"""Our suppression against OpenCV's, torchvision's published algorithm and the plain loop.

    .venv/bin/python benchmarks/nms.py [--seconds 4]

Scenes are generated: clusters of boxes as detectors give them. All take NumPy arrays of corners, best scores
and labels, and give indices; what they keep is compared. On a machine with a GPU and Triton, our kernel joins
in, its input and output on the GPU.

Legend: N boxes; 4 = x1, y1, x2, y2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from interleaved import Call, gpu_or_reason, machine, measure, report

from xinfer.postproc import batched_nms, nms

RESULT = Path(__file__).parent / "results" / "nms.json"
IOU, SCORE = 0.45, 0.25
SCENES = {
    "8400 boxes, 400 candidates, 18 classes": (8400, 400, 18),
    "8400 boxes, 400 candidates, 1 class": (8400, 400, 1),
    "8400 boxes, 3000 candidates, 80 classes": (8400, 3000, 80),
}


def scene(num: int, num_candidates: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Boxes, scores and labels; candidates stand in clusters of ten."""
    rng = np.random.default_rng(seed)
    clusters = max(1, num_candidates // 10)
    members = rng.integers(0, clusters, num)
    centres = rng.uniform(0, 640, (clusters, 2))[members] + rng.normal(0, 5, (num, 2))
    sides = rng.uniform(30, 90, (clusters, 2))[members] * rng.uniform(0.85, 1.15, (num, 2))
    boxes_N4 = np.hstack([centres - sides / 2, centres + sides / 2]).astype(np.float32)
    scores_N = rng.uniform(0, SCORE * 0.9, num).astype(np.float32)
    chosen = rng.choice(num, num_candidates, replace=False)
    scores_N[chosen] = rng.uniform(SCORE, 1, num_candidates)
    return boxes_N4, scores_N, rng.integers(0, num_classes, clusters)[members]


def opencv(boxes_N4: np.ndarray, scores_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """cv2.dnn.NMSBoxesBatched, given the candidates only, which is its faster way.

    Its top_k limits what goes in, not what comes out, and so changes the result: it is not used.
    """
    candidates = np.flatnonzero(scores_N >= SCORE)
    corners = boxes_N4[candidates]
    sized = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).astype(np.float64)
    kept = cv2.dnn.NMSBoxesBatched(sized, scores_N[candidates], labels_N[candidates], SCORE, IOU)
    return candidates[np.asarray(kept)[:300]]


def offsets(boxes_N4: np.ndarray, scores_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """torchvision.ops.batched_nms as its documentation describes it: classes shifted apart, then greedy."""
    candidates = np.flatnonzero(scores_N >= SCORE)
    corners = boxes_N4[candidates]
    corners = corners + labels_N[candidates, None] * (corners.max() + 1).astype(np.float32)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    order = np.argsort(-scores_N[candidates], kind="stable")
    kept = []
    while len(order) and len(kept) < 300:
        best, rest = order[0], order[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[rest, :2])
        high = np.minimum(corners[best, 2:], corners[rest, 2:])
        size = np.clip(high - low, 0, None)
        both = size[:, 0] * size[:, 1]
        order = rest[both <= IOU * (areas[best] + areas[rest] - both)]
    return candidates[np.array(kept, np.int64)]


def plain_loop(boxes_N4: np.ndarray, scores_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """What one writes first, in plain Python numbers."""
    boxes, scores, labels = boxes_N4.tolist(), scores_N.tolist(), labels_N.tolist()
    kept: list[int] = []
    for i in sorted((i for i, score in enumerate(scores) if score >= SCORE), key=lambda i: -scores[i]):
        x1, y1, x2, y2 = boxes[i]
        for j in kept:
            if labels[i] != labels[j]:
                continue
            a1, b1, a2, b2 = boxes[j]
            both = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            if both > IOU * ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both):
                break
        else:
            kept.append(i)
            if len(kept) == 300:
                break
    return np.array(kept, np.int64)


def on_gpu(arrays: tuple[np.ndarray, ...]) -> Call:
    import torch

    from xinfer.kernels.nms import nms as gpu_nms

    boxes, scores, labels = (torch.from_numpy(array).cuda() for array in arrays)

    def call() -> Any:
        kept = gpu_nms(boxes, scores, labels, iou_threshold=IOU, score_threshold=SCORE)
        torch.cuda.synchronize()
        return kept

    return call


def ways(arrays: tuple[np.ndarray, ...], *, gpu: bool) -> dict[str, Call]:
    """Name -> call, for one scene."""
    settings: dict[str, Any] = {"iou_threshold": IOU, "score_threshold": SCORE}
    calls: dict[str, Call] = {
        "xinfer (numba)": lambda: nms(*arrays, **settings, implementation="numba"),
        "xinfer (numpy)": lambda: nms(*arrays, **settings, implementation="numpy"),
        "cv2.dnn.NMSBoxesBatched": lambda: opencv(*arrays),
        "coordinate offsets, greedy, NumPy": lambda: offsets(*arrays),
        "plain Python loop": lambda: plain_loop(*arrays),
    }
    if gpu:
        calls["xinfer (Triton)"] = on_gpu(arrays)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4, help="per scene")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    gpu, gpu_note = gpu_or_reason()
    hardware = machine("numpy", "numba", "opencv-python-headless", "torch", "triton")
    rows, kept = {}, {}
    for name, shape in SCENES.items():
        calls = ways(scene(*shape), gpu=gpu is not None)
        expected = calls["plain Python loop"]().tolist()
        kept[name] = {
            way: {"num": len(found), "same_as_plain_loop": list(map(int, found)) == expected}
            for way, found in ((way, call()) for way, call in calls.items())
        }
        rows[name] = measure(calls, seconds=options.seconds)
    boxes_N4, scores_N, labels_N = scene(8400, 400, 80)
    scores_NC = np.random.default_rng(1).uniform(0, 0.1, (8400, 80)).astype(np.float32)
    scores_NC[np.arange(8400), labels_N] = scores_N
    boxes_BN4, scores_BNC = np.stack([boxes_N4] * 4), np.stack([scores_NC] * 4)

    def batch_of_arrays() -> list[np.ndarray]:
        best = scores_BNC.argmax(axis=2)
        return [
            opencv(boxes, scores.max(axis=1), labels)
            for boxes, scores, labels in zip(boxes_BN4, scores_BNC, best, strict=True)
        ]

    batch: dict[str, Call] = {
        f"xinfer ({way})": lambda way=way: batched_nms(  # type: ignore[misc]
            boxes_BN4, scores_BNC, iou_threshold=IOU, score_threshold=SCORE, implementation=way
        )
        for way in ("numba", "numpy")
    }
    batch["argmax, then cv2.dnn.NMSBoxesBatched"] = batch_of_arrays
    rows["4 images x 8400 boxes x 80 scores"] = measure(batch, seconds=options.seconds)
    result = {
        "machine": hardware,
        "gpu": gpu_note,
        "protocol": {"rounds": "in turns", "iou_threshold": IOU, "score_threshold": SCORE, "threads": 1},
        "kept": kept,
        "rows": rows,
    }
    report(result, options.out, ours="xinfer (numba)")
    for name, found in kept.items():
        print(name, {way: (value["num"], value["same_as_plain_loop"]) for way, value in found.items()})


if __name__ == "__main__":
    main()
