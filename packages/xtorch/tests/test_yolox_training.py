"""The loss and its assignment, batch norm's statistics, and the detector around the network."""

from __future__ import annotations

import math
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from xtorch.errors import SettingsError
from xtorch.export import OnnxModel, export_image_model
from xtorch.models.detector import (
    PAD_VALUE,
    Decode,
    Detector,
    DetectorConfig,
    Letterbox,
    from_bgr,
    unfold_batch_norm,
)
from xtorch.models.resize import resize
from xtorch.models.yolox import Yolox, YoloxConfig, decode_boxes, locations
from xtorch.models.yolox_loss import Objects, assign, overlap, pairwise_overlap, yolox_loss
from xtorch.tasks.detection.judge import FLOAT_NODES

SIZE = (64, 96)
NUM = 8 * 12 + 4 * 6 + 2 * 3
SMALLEST = YoloxConfig(depth=1 / 3, width=0.125, depthwise=True, num_classes=2)


def perfect(objects: Objects, *, sure: float = 8.0) -> Tensor:
    """Logits [A,7] that say at every location near an object exactly what it is."""
    cells, strides = locations(SIZE)
    logits = torch.full((NUM, 7), -sure)
    logits[:, :4] = 0
    for box, label in zip(objects.boxes, objects.labels, strict=True):
        middle = (box[:2] + box[2:]) / 2
        near = (((cells + 0.5) * strides - middle).abs().amax(dim=1) / strides[:, 0]) < 1.5
        logits[near, :2] = (middle / strides - cells)[near]
        logits[near, 2:4] = ((box[2:] - box[:2]) / strides).log()[near]
        logits[near, 4] = sure
        logits[near, 5 + int(label)] = sure
    return logits


def objects(*rows: tuple[float, ...], labels: tuple[int, ...]) -> Objects:
    return Objects(boxes=torch.tensor(rows).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.int64))


def boxes_of(logits: Tensor) -> Tensor:
    decoded = decode_boxes(logits[None], SIZE)[0]
    return torch.cat([decoded[:, :2] - decoded[:, 2:4] / 2, decoded[:, :2] + decoded[:, 2:4] / 2], dim=1)


def test_overlap_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30]])
    torch.testing.assert_close(pairwise_overlap(a, b), torch.tensor([[1 / 3, 0.0]]))
    torch.testing.assert_close(overlap(a, b[:1]), torch.tensor([1 / 3]))


def test_assignment_takes_as_many_locations_as_overlaps_suggest() -> None:
    # One object; four locations near its centre predict overlaps 1, 1, 0.5 and 0.5: 3 of them answer.
    truth = objects((24.0, 24, 40, 40), labels=(1,))
    cells, strides = locations(SIZE)
    centres = (cells + 0.5) * strides
    logits = torch.full((NUM, 7), -8.0)
    boxes = torch.zeros(NUM, 4)
    at = [
        int(((centres - torch.tensor(point)).abs().sum(dim=1) + (strides[:, 0] - 8).abs() * 100).argmin())
        for point in ((28.0, 28.0), (36.0, 28.0), (28.0, 36.0), (36.0, 36.0))
    ]
    boxes[at] = torch.tensor([[24.0, 24, 40, 40], [24, 24, 40, 40], [24, 24, 40, 32], [24, 24, 32, 40]])
    logits[at[0], 4], logits[at[0], 6] = 5.0, 5.0
    found = assign(boxes, logits, truth, cells, strides)
    assert set(found.locations.tolist()) >= {at[0], at[1]}
    assert len(found.locations) == 3
    assert set(found.locations.tolist()) <= set(at)
    assert found.objects.tolist() == [0, 0, 0]
    assert sorted(round(value, 3) for value in found.overlaps.tolist()) == [0.5, 1.0, 1.0]


def test_a_location_answers_for_the_object_it_costs_least_with() -> None:
    # Two objects around the same centre: the location's box and class are those of the second.
    truth = objects((20.0, 20, 44, 44), (28, 28, 36, 36), labels=(0, 1))
    logits = perfect(objects((28.0, 28, 36, 36), labels=(1,)))
    cells, strides = locations(SIZE)
    found = assign(boxes_of(logits), logits, truth, cells, strides)
    assert len(set(found.locations.tolist())) == len(found.locations)
    best = int(found.overlaps.argmax())
    assert found.objects[best] == 1
    assert found.overlaps[best] == pytest.approx(1.0, abs=1e-4)
    # The first object wants some of the same locations, and costs more at each.
    assert set(found.objects.tolist()) == {1}


def test_an_object_outside_every_location_is_left_out() -> None:
    cells, strides = locations(SIZE)
    truth = objects((500.0, 500, 510, 510), labels=(0,))
    found = assign(torch.zeros(NUM, 4), torch.zeros(NUM, 7), truth, cells, strides)
    assert len(found.locations) == 0
    assert math.isfinite(float(yolox_loss(torch.zeros(1, NUM, 7), SIZE, [truth]).total))


def test_loss_of_random_logits_by_hand() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, NUM, 7) * 0.3
    truth = objects((10.0, 12, 40, 44), labels=(1,))
    losses = yolox_loss(logits, SIZE, [truth], with_offsets=True)
    cells, strides = locations(SIZE)
    found = assign(boxes_of(logits[0]), logits[0], truth, cells, strides)
    rows, num = found.locations, len(found.locations)
    bce = nn.BCEWithLogitsLoss(reduction="sum")
    wanted = torch.zeros(NUM)
    wanted[rows] = 1
    torch.testing.assert_close(losses.objectness, bce(logits[0, :, 4], wanted) / num)
    target = torch.zeros(num, 2)
    target[:, 1] = found.overlaps
    torch.testing.assert_close(losses.classes, bce(logits[0, rows, 5:], target) / num)
    torch.testing.assert_close(losses.box, 5 * (1 - found.overlaps**2).sum() / num)
    box = truth.boxes[0]
    expected = 0.0
    for row in rows.tolist():
        stride = float(strides[row])
        goal = [
            (10 + 40) / 2 / stride - float(cells[row, 0]),
            (12 + 44) / 2 / stride - float(cells[row, 1]),
            math.log(float(box[2] - box[0]) / stride),
            math.log(float(box[3] - box[1]) / stride),
        ]
        expected += float((logits[0, row, :4] - torch.tensor(goal)).abs().sum())
    assert float(losses.offsets) == pytest.approx(expected / num, rel=1e-4)
    torch.testing.assert_close(losses.total, losses.box + losses.objectness + losses.classes + losses.offsets)


def test_loss_is_small_when_all_is_said_and_large_when_it_is_wrong() -> None:
    truth = objects((16.0, 16, 48, 48), (60, 8, 90, 40), labels=(0, 1))
    good = perfect(truth)[None]
    right = yolox_loss(good, SIZE, [truth], with_offsets=True)
    assert float(right.box) < 1e-3
    assert float(right.offsets) < 1e-3
    assert float(right.classes) < 0.01
    swapped = yolox_loss(good, SIZE, [Objects(boxes=truth.boxes, labels=1 - truth.labels)])
    assert float(swapped.classes) > 5
    nothing = yolox_loss(good, SIZE, [objects(labels=())])
    assert float(nothing.objectness) > 50


def test_gradient_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    network = Yolox(SMALLEST).train()
    images = torch.rand(2, 3, *SIZE) * 255
    truth = [objects((16.0, 16, 48, 48), labels=(0,)), objects((60.0, 8, 90, 40), labels=(1,))]
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = yolox_loss(network.logits(images), SIZE, truth).total
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert losses[-1] < 0.7 * losses[0]


# --- batch norm, colours


def settled(seed: int = 0) -> Yolox:
    torch.manual_seed(seed)
    network = Yolox(SMALLEST).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return network


def test_unfolded_batch_norm_computes_the_same_and_knows_the_data() -> None:
    network = settled()
    images = torch.rand(4, 3, 64, 64) * 255
    with torch.inference_mode():
        before = network(images)
    unfold_batch_norm(network, [images[:2], images[2:]])
    with torch.inference_mode():
        torch.testing.assert_close(network(images), before, rtol=1e-3, atol=1e-4)
    seen: list[tuple[Tensor, Tensor]] = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda norm, x: seen.append((x[0].mean(dim=(0, 2, 3)), norm.running_mean))
            )
    with torch.inference_mode():
        network(images)
    for mean, running in seen:
        torch.testing.assert_close(mean, running, rtol=1e-3, atol=1e-3)
    # So normalising by the batch changes little, which with folded statistics it would a lot.
    with torch.inference_mode():
        assert (network.train()(images) - before)[..., 4:].abs().max() < 0.02


def test_a_network_of_bgr_becomes_one_of_rgb() -> None:
    network = settled()
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        before = network(images)
        torch.testing.assert_close(from_bgr(network)(images.flip(1)), before)


# --- letterbox, decoding, export


@pytest.mark.parametrize("shape", [(48, 64), (200, 100), (37, 211), (1, 1), (64, 96)])
def test_letterbox_scales_by_one_factor_and_pads_below_and_right(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (1, *shape, 3), dtype=np.uint8))
    with torch.inference_mode():
        boxed, scale = Letterbox(SIZE)(image)
    factor = max(shape[0] / SIZE[0], shape[1] / SIZE[1])
    assert float(scale) == pytest.approx(factor)
    height, width = shape[0] / factor, shape[1] / factor
    assert boxed.shape == (1, 3, *SIZE)
    assert (boxed[:, :, math.ceil(height) :] == PAD_VALUE).all()
    assert (boxed[:, :, :, math.ceil(width) :] == PAD_VALUE).all()
    if height == round(height) and width == round(width):
        # Where sizes are whole it is the plain resize.
        expected = resize(image.permute(0, 3, 1, 2).float(), round(height), round(width))
        torch.testing.assert_close(boxed[:, :, : round(height), : round(width)], expected, rtol=0, atol=0.01)


def test_decoding_returns_to_the_images_pixels() -> None:
    truth = objects((16.0, 16, 48, 48), labels=(0,))
    logits = perfect(truth)
    found = torch.cat([logits[:, :4], logits[:, 4:].sigmoid()], dim=1)[None]
    boxes, scores = Decode(SIZE)(found, torch.tensor([2.5]))
    best = int(scores[0, :, 0].argmax())
    torch.testing.assert_close(boxes[0, best], truth.boxes[0] * 2.5)
    assert float(scores[0, best, 0]) == pytest.approx(1.0, abs=1e-3)
    assert float(scores[0, :, 1].max()) < 0.01


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    made = Detector(DetectorConfig(architecture="nano", height=64, width=96, num_classes=2))
    unfold_batch_norm(made.network, [torch.rand(2, 3, 64, 96) * 255])
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_image_model(detector, path, output_names=["boxes", "scores"])
    return path


def test_export_gives_the_same_boxes_and_scores_for_images_of_any_size(
    detector: Detector, exported: Path
) -> None:
    model = OnnxModel(exported)
    rng = np.random.default_rng(0)
    for shape in ((2, 48, 64), (1, 333, 100), (1, 1, 1), (3, 64, 96), (1, 70, 900)):
        images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        with torch.inference_mode():
            boxes, scores = detector(torch.from_numpy(images))
        found_boxes, found_scores = model(images)
        assert found_boxes.shape == (shape[0], NUM, 4)
        np.testing.assert_allclose(found_scores, scores.numpy(), atol=1e-5)
        np.testing.assert_allclose(found_boxes, boxes.numpy(), rtol=1e-4, atol=1e-2)


def test_exported_nodes_that_int8_leaves_alone_are_there(exported: Path) -> None:
    names = [node.name for node in onnx.load(exported).graph.node]
    for pattern in FLOAT_NODES:
        assert any(fnmatch(name, pattern) for name in names), pattern
    left = [name for name in names if not any(fnmatch(name, pattern) for pattern in FLOAT_NODES)]
    assert sum("Conv" in name for name in left) > 50
    assert not any("preds" in name or name.startswith("decode") for name in left)


def test_detector_refuses_sizes_and_names_that_do_not_exist() -> None:
    for architecture, height in (("huge", 64), ("nano", 60), ("nano", 0)):
        with pytest.raises(SettingsError):
            DetectorConfig(architecture=architecture, height=height, width=64, num_classes=2)
