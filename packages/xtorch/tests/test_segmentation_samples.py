"""What the network is shown: image and mask stay together, rare classes come more often, seeds decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xtorch.data.check_segmentation import UsableImage, inspect_segmentation
from xtorch.data.label_masks import IGNORED
from xtorch.models.segmenter import Segmenter, SegmenterConfig, normalised
from xtorch.tasks.segmentation.fitting import Validation, input_size
from xtorch.tasks.segmentation.samples import (
    Batch,
    Masks,
    Scenes,
    TrainingImages,
    augmentation,
    collate,
    frequencies,
)
from xtorch.tasks.segmentation.training import FromPixels, batch_loss
from xtorch.transforms import ImageSample

from .segmentation_data import save, scene, write


def usable(*pixels: tuple[int, ...], width: int = 80, height: int = 64) -> list[UsableImage]:
    return [
        UsableImage(
            path=f"{index}.png",
            mask=f"{index}_mask.png",
            width=width,
            height=height,
            pixels=np.array(counts),
            part=None,
            digest=str(index),
            group=index,
        )
        for index, counts in enumerate(pixels)
    ]


def training_images(root: Path, num: int = 8, size: tuple[int, int] = (64, 96)) -> TrainingImages:
    data = inspect_segmentation(write(root, max(12, num)))
    masks = Masks(root, data.legend, data.background)
    return TrainingImages(root, masks, data.usable[:num], size)


def test_training_sees_what_the_engine_sees(tmp_path: Path) -> None:
    images = training_images(tmp_path)
    model = Segmenter(SegmenterConfig(num_classes=3, height=64, width=96, backbone="unet"))
    for index in range(3):
        pixels = np.array(Image.open(tmp_path / images.images[index].path))
        sample = images.sample(index)
        ours = normalised(collate([sample]).images)
        engines = model.preprocess(torch.from_numpy(pixels)[None])
        # Rounded to 8 bits: half a level is 1 / 256.
        assert float((ours - engines).abs().max()) <= 0.5 / 128 + 1e-5
        assert sample.mask_HW is not None
        assert sample.mask_HW.shape == (64, 96)
        assert images.sample(index) is sample, "kept"


@pytest.mark.parametrize("any_direction", [False, True])
def test_masks_go_with_their_images(any_direction: bool) -> None:
    """A picture that shows its own mask still does after every augmentation."""
    labels = scene(2, width=96, height=64).labels
    shown = np.array([20, 130, 240], np.uint8)[labels]
    sample = ImageSample(image_HWC=np.repeat(shown[..., None], 3, axis=2), mask_HW=labels)
    change = augmentation((64, 96), any_direction=any_direction)
    seen_outside = False
    for seed in range(20):
        moved = change(sample, np.random.default_rng(seed))
        assert moved.mask_HW is not None
        assert moved.image_HWC.shape == (64, 96, 3)
        grey = moved.image_HWC.mean(axis=2)
        means = [
            grey[moved.mask_HW == number].mean()
            for number in range(3)
            if (moved.mask_HW == number).sum() > 50
        ]
        assert means == sorted(means)
        known = moved.mask_HW != IGNORED
        seen_outside |= not known.all()
        classes = moved.mask_HW[known].astype(int)
        assert np.corrcoef(grey[known], classes)[0, 1] > 0.85
    assert seen_outside, "what comes in from outside is ignored"


def test_rare_classes_are_shown_more_often_and_plain_images_not_too_often() -> None:
    images = usable(*[(90, 10, 0)] * 9, (90, 0, 10), *[(100, 0, 0)] * 90)
    weights = frequencies(images, 3)
    assert weights[0] == 1.0
    assert weights[9] == pytest.approx(np.sqrt(0.5 / 0.1))
    assert weights[10:].sum() == pytest.approx(weights[:10].sum())
    assert frequencies(usable((50, 50), (10, 90)), 2).tolist() == [1.0, 1.0]
    assert frequencies(usable((100, 0), (100, 0)), 2).tolist() == [1.0, 1.0]


def scenes(images: TrainingImages, weights: list[float], **changes: Any) -> Scenes:
    settings: dict[str, Any] = {"batch_size": 4, "steps": 5, "seed": 1}
    return Scenes(
        images, np.array(weights), augmentation(images.size, any_direction=False), **settings | changes
    )


def test_each_image_comes_as_often_as_its_share_says(tmp_path: Path) -> None:
    images = training_images(tmp_path, 8)
    drawn = scenes(images, [3.0, 1, 1, 1, 1, 1, 1, 1], steps=25)
    for epoch in range(4):
        counts = np.bincount(drawn.order(epoch), minlength=8)
        assert counts.sum() == 100
        assert counts[0] in (30, 31, 29)
        assert set(counts[1:]) <= {9, 10, 11}
    assert drawn.order(0).tolist() != drawn.order(1).tolist()


def test_batches_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    images = training_images(tmp_path, 8)
    first, second = scenes(images, [1.0] * 8), scenes(images, [1.0] * 8)
    second.set_epoch(3)
    list(second)
    second.set_epoch(0)
    batches = list(first)
    assert len(batches) == len(first) == 5
    for one, other in zip(batches, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)
    first.set_epoch(1)
    assert not torch.equal(next(iter(first)).images, batches[0].images)


def test_images_that_do_not_fit_into_memory_are_read_again(tmp_path: Path) -> None:
    data = inspect_segmentation(write(tmp_path, 12))
    masks = Masks(tmp_path, data.legend, data.background)
    images = TrainingImages(tmp_path, masks, data.usable, (64, 64), cache_bytes=4 * 64 * 64)
    assert images.sample(0) is images.sample(0)
    once, again = images.sample(1), images.sample(1)
    assert once is not again
    np.testing.assert_array_equal(once.image_HWC, again.image_HWC)


def test_loss_ignores_what_is_not_labelled_and_falls_to_nothing_for_the_truth() -> None:
    masks = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(0))

    class Told(torch.nn.Module):
        def __init__(self, logits: torch.Tensor) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return self.logits

    right = 30.0 * torch.nn.functional.one_hot(masks, 3).movedim(-1, 1).float()
    images = torch.zeros(2, 3, 32, 32)
    assert float(batch_loss(Told(right), Batch(images, masks))) < 1e-3
    wrong = right.roll(1, dims=1)
    assert float(batch_loss(Told(wrong), Batch(images, masks))) > 10
    half = masks.clone()
    half[:, :16] = IGNORED
    mixed = right.clone()
    mixed[:, :, :16] = wrong[:, :, :16]
    assert float(batch_loss(Told(mixed), Batch(images, half))) < 1e-3


def test_input_takes_the_images_median_shape() -> None:
    assert input_size(usable((1, 1), width=640, height=480), 256) == (192, 256)
    assert input_size(usable((1, 1), width=480, height=640), 256) == (256, 192)
    assert input_size(usable((1, 1), width=900, height=90), 256) == (32, 256)
    assert input_size(usable((1, 1), width=500, height=490), 256) == (256, 256)


def test_validation_counts_every_pixel_once(tmp_path: Path) -> None:
    images = training_images(tmp_path, 10, (64, 64))

    class Perfect(torch.nn.Module):
        """Knows the masks of the validation images by their order."""

        def __init__(self) -> None:
            super().__init__()
            self.place = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            masks = [images.sample(self.place + row).mask_HW for row in range(len(x))]
            self.place += len(x)
            labels = torch.from_numpy(np.stack(masks).astype(np.int64))  # type: ignore[arg-type]
            return 9.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()

    validation = Validation(images, 3)
    assert validation(Perfect()) == {"mean_iou": 1.0}
    torch.manual_seed(0)
    config = SegmenterConfig(num_classes=3, height=64, width=64, backbone="unet")
    assert validation(FromPixels(Segmenter(config)).eval())["mean_iou"] < 0.6


def test_images_without_a_mask_are_background(tmp_path: Path) -> None:
    write(tmp_path, 12)
    save(tmp_path / "good/x.png", scene(40).pixels)
    data = inspect_segmentation(tmp_path)
    masks = Masks(tmp_path, data.legend, data.background)
    item = {"path": "good/x.png", "mask": None, "width": 80, "height": 64}
    assert not masks.read(item, (10, 12)).any()
