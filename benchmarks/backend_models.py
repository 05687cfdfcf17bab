"""The six models of `backends.py`: weights, inputs, and how an engine's answers are judged.

Real data come from the folder `IGNITION_TEST_DATA` names (default `../shared/data`); where a set is missing
its inputs are made up, which the result says. ResNet-50 and U-Net have random weights (no package carries
any): they are judged by the cosine to the source model's outputs. N-HiTS is trained here for a few seconds.

Shapes: N images or series, A locations, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image

from xtorch import sources

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("IGNITION_TEST_DATA", ROOT.parent / "shared" / "data"))
MEAN, STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))

Feeds = dict[str, np.ndarray]
Evaluate = Callable[[Sequence[np.ndarray]], float]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One model with its inputs.

    Attributes:
        name: of the model.
        reference: for `xtorch.sources`.
        weights: where they came from.
        data: where the inputs came from.
        calibration: inputs for quantisers.
        samples: held-out inputs.
        metric: what `evaluate` computes from the outputs of all samples; "cosine": to the source model.
        evaluate: None for "cosine".
        transformer: whether NNCF is told so.
    """

    name: str
    reference: str
    weights: str
    data: str
    calibration: list[Feeds] = field(repr=False)
    samples: list[Feeds] = field(repr=False)
    metric: str = "cosine"
    evaluate: Evaluate | None = field(default=None, repr=False)
    transformer: bool = False


def centred_cosine(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Like `cosine`, of what the outputs have beyond the expected ones' mean: stricter, where a network
    answers much the same to all inputs."""
    mean = np.mean(np.stack(list(expected)), axis=0)
    return cosine([a - mean for a in found], [b - mean for b in expected])


def cosine(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Mean over the samples of the cosine of two outputs."""
    values = []
    for a, b in zip(found, expected, strict=True):
        a64, b64 = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
        values.append(a64 @ b64 / max(np.linalg.norm(a64) * np.linalg.norm(b64), 1e-30))
    return float(np.mean(values))


# ------------------------------------------------------------------------------------------ images


def _pictures(paths: Sequence[Path], size: int) -> list[np.ndarray]:
    """uint8 [size,size,3] of each file."""
    return [
        np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        for path in paths
    ]


def _made_up_pictures(number: int, size: int, seed: int) -> list[np.ndarray]:
    """Smooth noise, uint8 [size,size,3]."""
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for _ in range(number)]
    return [np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)) for picture in coarse]


def _clothing(part: str, per_class: int) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(sorted(p for p in (DATA / "clothing" / part).glob("*") if p.is_dir())):
        chosen = sorted(folder.iterdir())[:per_class]
        paths += chosen
        labels += [label] * len(chosen)
    return paths, labels


def _image_feeds(pictures: Sequence[np.ndarray], mean: np.ndarray, std: np.ndarray) -> list[Feeds]:
    feeds = []
    for picture in pictures:
        x_HWC = (picture.astype(np.float32) / 255 - mean) / std
        feeds.append({"images": np.ascontiguousarray(x_HWC.transpose(2, 0, 1)[None], np.float32)})
    return feeds


def _plain_images(name: str, size: int, number: int) -> Workload:
    """A network with random weights on photographs."""
    train, test = _clothing("train", -(-number // 10))[0], _clothing("test", -(-number // 10))[0]
    if train and test:
        data = "clothing-dataset-small"
        calibration, samples = _pictures(train[:number], size), _pictures(test[:number], size)
    else:
        data = "made up: smooth noise"
        calibration, samples = _made_up_pictures(number, size, 0), _made_up_pictures(number, size, 1)
    return Workload(
        name=name,
        reference=name,
        weights=sources.load(name).weights,
        data=data,
        calibration=_image_feeds(calibration, MEAN, STD),
        samples=_image_feeds(samples, MEAN, STD),
    )


def resnet50(folder: Path, number: int) -> Workload:  # noqa: ARG001
    return _plain_images("resnet50", 224, number)


def unet(folder: Path, number: int) -> Workload:  # noqa: ARG001
    return _plain_images("unet", 256, number)


def efficientnet_lite0(folder: Path, number: int) -> Workload:  # noqa: ARG001
    """Judged by the accuracy of a linear classifier of garments on the source model's ImageNet logits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mean, std = np.full(3, 127 / 255, np.float32), np.full(3, 128 / 255, np.float32)
    few = number < 64
    train, train_labels = _clothing("train", 12 if few else 60)
    test, test_labels = _clothing("test", 6 if few else 20)
    loaded = sources.load("efficientnet_lite0")
    if not train or not test:
        return Workload(
            name="efficientnet_lite0",
            reference="efficientnet_lite0",
            weights=loaded.weights,
            data="made up: smooth noise",
            calibration=_image_feeds(_made_up_pictures(number, 224, 0), mean, std),
            samples=_image_feeds(_made_up_pictures(number, 224, 1), mean, std),
        )
    train_feeds = _image_feeds(_pictures(train, 224), mean, std)
    with torch.inference_mode():
        logits_NC = np.concatenate(
            [loaded.model(torch.from_numpy(feeds["images"])).numpy() for feeds in train_feeds]
        )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    classifier.fit(logits_NC, train_labels)
    stride = max(1, len(train_feeds) // number)

    def accuracy(outputs: Sequence[np.ndarray]) -> float:
        return float(np.mean(classifier.predict(np.concatenate(list(outputs))) == test_labels))

    return Workload(
        name="efficientnet_lite0",
        reference="efficientnet_lite0",
        weights=loaded.weights,
        data=f"clothing-dataset-small, {len(test)} test images",
        calibration=train_feeds[::stride][:number],
        samples=_image_feeds(_pictures(test, 224), mean, std),
        metric="accuracy of a linear classifier on the logits",
        evaluate=accuracy,
    )


# ---------------------------------------------------------------------------------------- detection


def _letterbox(path: Path, size: int) -> tuple[Feeds, float, tuple[int, int]]:
    """BGR 0..255 [1,3,size,size] with grey right and below; the scale, and (width, height) of the file."""
    picture = Image.open(path).convert("RGB")
    scale = min(size / picture.width, size / picture.height)
    small = picture.resize(
        (int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR
    )
    canvas = np.full((size, size, 3), 114, np.uint8)
    canvas[: small.height, : small.width] = np.asarray(small)[..., ::-1]
    x = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32)
    return {"images": x}, scale, (picture.width, picture.height)


def _iou(box_4: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
    """Overlap of one (left, top, right, bottom) with others."""
    sides = np.minimum(box_4[2:], boxes_N4[:, 2:]) - np.maximum(box_4[:2], boxes_N4[:, :2])
    shared = sides.clip(min=0).prod(1)
    areas = (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(1)
    return shared / ((box_4[2:] - box_4[:2]).prod() + areas - shared + 1e-9)


def _detections(raw_AC: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, classes and scores after decoding and class-wise suppression (IoU 0.65)."""
    from xtorch.models.yolox import decode_boxes

    decoded = decode_boxes(torch.from_numpy(raw_AC[None]), (size, size))[0].numpy()
    scores_AC = decoded[:, 5:] * decoded[:, 4:5]
    classes = scores_AC.argmax(1)
    scores = scores_AC.max(1)
    order = np.argsort(-scores)[:300]
    order = order[scores[order] > 0.05]
    boxes = np.concatenate(
        [decoded[:, :2] - decoded[:, 2:4] / 2, decoded[:, :2] + decoded[:, 2:4] / 2], axis=1
    )
    kept: list[int] = []
    for index in order:
        rivals = [k for k in kept if classes[k] == classes[index]]
        if not rivals or _iou(boxes[index], boxes[rivals]).max() < 0.65:
            kept.append(int(index))
    return boxes[kept], classes[kept], scores[kept]


def average_precision(
    outputs: Sequence[np.ndarray], truth: Sequence[tuple[np.ndarray, np.ndarray]], size: int
) -> float:
    """Area under precision and recall at IoU 0.5, all classes' detections in one ranking."""
    hits: list[tuple[float, bool]] = []
    for raw, (true_boxes, true_classes) in zip(outputs, truth, strict=True):
        free = np.ones(len(true_boxes), bool)
        for box, kind, score in zip(*_detections(raw[0], size), strict=True):
            candidates = np.flatnonzero(free & (true_classes == kind))
            overlaps = _iou(box, true_boxes[candidates])
            hit = len(candidates) > 0 and overlaps.max() >= 0.5
            if hit:
                free[candidates[overlaps.argmax()]] = False
            hits.append((float(score), bool(hit)))
    hits.sort(key=lambda entry: -entry[0])
    found = np.array([hit for _, hit in hits], bool)
    total = sum(len(boxes) for boxes, _ in truth)
    if not found.any():
        return 0.0
    precision = np.maximum.accumulate((found.cumsum() / np.arange(1, len(found) + 1))[::-1])[::-1]
    return float(precision[found].sum() / total)


def yolox_nano(folder: Path, number: int) -> Workload:  # noqa: ARG001
    size = 416
    weights = DATA / "weights" / "yolox_nano_416_coco.onnx"
    images = sorted((DATA / "coco128_val" / "images").glob("*.jpg"))
    if not weights.is_file() or not images:
        rng = np.random.default_rng(0)
        feeds = [
            {"images": rng.uniform(0, 255, (1, 3, size, size)).astype(np.float32)} for _ in range(2 * number)
        ]
        return Workload(
            name="yolox_nano",
            reference="yolox_nano",
            weights=sources.load("yolox_nano").weights,
            data="made up: noise",
            calibration=feeds[:number],
            samples=feeds[number:],
        )
    calibration = [_letterbox(path, size)[0] for path in images[: min(number, 48)]]
    samples, truth = [], []
    for path in images[48 : 48 + (number if number < 64 else 80)]:
        feeds_one, scale, (width, height) = _letterbox(path, size)
        samples.append(feeds_one)
        label = path.parent.parent / "labels" / f"{path.stem}.txt"
        rows = np.array([line.split() for line in label.read_text().splitlines() if line], float).reshape(
            -1, 5
        )
        centres = rows[:, 1:3] * (width * scale, height * scale)
        halves = rows[:, 3:5] * (width * scale, height * scale) / 2
        truth.append((np.concatenate([centres - halves, centres + halves], axis=1), rows[:, 0].astype(int)))
    return Workload(
        name="yolox_nano",
        reference=f"yolox_nano?weights={weights}",
        weights="COCO, Megvii's published export",
        data=f"{len(samples)} COCO val2017 images",
        calibration=calibration,
        samples=samples,
        metric="AP50, all classes in one ranking",
        evaluate=lambda outputs: average_precision(outputs, truth, size),
    )


# ------------------------------------------------------------------------------------ text, series


def minilm(folder: Path, number: int) -> Workload:  # noqa: ARG001
    """News, some short and padded, some filling all 128 tokens; judged by cosine."""
    length = 128
    loaded = sources.load("minilm")
    path = DATA / "ag_news" / "test.csv"
    rng = np.random.default_rng(0)
    if path.is_file() and not loaded.is_random:
        import csv

        from tokenizers import Tokenizer

        from xtorch.models.bert import minilm_folder

        tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        tokenizer.enable_padding(length=length)
        tokenizer.enable_truncation(length)
        with path.open(newline="") as file:
            news = [f"{row[1]} {row[2]}" for row in csv.reader(file)]
        texts = [
            " ".join(news[int(i)] for i in rng.integers(0, len(news), 1 if k % 2 else 4))
            for k in range(2 * number)
        ]
        encoded = tokenizer.encode_batch(texts)
        rows = [(np.array([e.ids]), np.array([e.attention_mask])) for e in encoded]
        data = "AG News"
    else:
        rows = [
            (rng.integers(1000, 30000, (1, length)), np.ones((1, length), np.int64))
            for _ in range(2 * number)
        ]
        data = "made up: random tokens"
    feeds = [{"input_ids": ids, "attention_mask": mask} for ids, mask in rows]
    return Workload(
        name="minilm",
        reference=f"minilm?sequence={length}",
        weights=loaded.weights,
        data=data,
        calibration=feeds[:number],
        samples=feeds[number:],
        transformer=True,
    )


def nhits(folder: Path, number: int) -> Workload:
    """M4 hourly windows of 120 values, 24 ahead, 64 at once; trained here."""
    import csv

    from xtorch.models.nhits import NHiTS

    length, horizon, batch = 120, 24, 64
    path = DATA / "m4" / "Train" / "Hourly-train.csv"
    rng = np.random.default_rng(0)
    if path.is_file():
        with path.open(newline="") as file:
            rows = [np.array([v for v in row[1:] if v], np.float32) for row in list(csv.reader(file))[1:]]
        data = "M4 hourly"
    else:
        hours = np.arange(700)
        rows = [
            np.float32(np.sin(hours * 2 * np.pi / 24 + rng.uniform(0, 6)) + rng.normal(0, 0.2, 700))
            for _ in range(100)
        ]
        data = "made up: daily waves"

    def windows(series: Sequence[np.ndarray], count: int) -> np.ndarray:
        chosen = []
        for _ in range(count):
            row = series[rng.integers(len(series))]
            start = rng.integers(0, len(row) - length - horizon + 1)
            window = row[start : start + length + horizon]
            scale = window[:length].std() + 1e-6
            chosen.append((window - window[:length].mean()) / scale)
        return np.float32(chosen)

    half = len(rows) // 2
    train_NL = torch.from_numpy(windows(rows[:half], 8192))
    torch.manual_seed(0)
    model = NHiTS()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(300):
        batch_NL = train_NL[(step * 256) % 8192 :][:256]
        loss = (model(batch_NL[:, :length]) - batch_NL[:, length:]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = folder / "nhits.pth"
    torch.save(model.state_dict(), weights)

    def feeds(series: Sequence[np.ndarray]) -> list[Feeds]:
        return [{"past": np.ascontiguousarray(windows(series, batch)[:, :length])} for _ in range(number)]

    return Workload(
        name="nhits",
        reference=f"nhits?batch={batch}&weights={weights}",
        weights="trained here, 300 steps",
        data=data,
        calibration=feeds(rows[:half]),
        samples=feeds(rows[half:]),
    )


WORKLOADS: dict[str, Callable[[Path, int], Workload]] = {
    "resnet50": resnet50,
    "efficientnet_lite0": efficientnet_lite0,
    "yolox_nano": yolox_nano,
    "minilm": minilm,
    "unet": unet,
    "nhits": nhits,
}
"""Name -> builder, from a folder for its files and the number of samples of each kind."""


def operations(path: Path) -> float:
    """Multiplications and additions of one inference, counted from an ONNX file's Conv, MatMul and Gemm."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    total = 0.0
    for node in graph.node:
        if node.op_type == "Conv":
            weight = shapes[node.input[1]]  # [outputs, inputs / groups, kernel...]
            total += 2.0 * np.prod(shapes[node.output[0]]) * np.prod(weight[1:])
        elif node.op_type == "ConvTranspose":
            weight = shapes[node.input[1]]  # [inputs, outputs / groups, kernel...]
            total += 2.0 * np.prod(shapes[node.input[0]]) * np.prod(weight[1:])
        elif node.op_type in ("MatMul", "Gemm"):
            left = shapes[node.input[0]]
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            total += 2.0 * np.prod(shapes[node.output[0]]) * left[0 if turned else -1]
    return float(total)
