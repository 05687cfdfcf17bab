from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xtorch.models.detector import PAD_VALUE
from xtorch.tasks.detection.samples import (
    Augmentation,
    Sample,
    Scene,
    TrainingImages,
    mirrored,
    shifted_colours,
    upside_down,
)
from xtorch.tasks.detection.training import Scenes, TrainingOptions

from .detection_data import LABELS, Picture, pictures, save

SIZE = (96, 128)
COLOURS = {"disc": (20, 220, 40), "square": (230, 20, 30)}
PLAIN = Augmentation(hue=0, saturation=0, value=0)


def images_of(root: Path, data: list[Picture], *, cache_bytes: int = 1 << 28) -> TrainingImages:
    samples = []
    for each in data:
        save(root / f"{each.name}.png", each.pixels)
        width, height = each.size
        boxes = np.array([box for _, box in each.things], float) / [width, height, width, height]
        labels = np.array([LABELS.index(label) for label, _ in each.things])
        samples.append(Sample(path=f"{each.name}.png", boxes=boxes, labels=labels))
    return TrainingImages(root, samples, SIZE, cache_bytes=cache_bytes)


def check_boxes(scene: Scene) -> None:
    """Every box is filled with its thing's colour, and all such pixels lie in a box."""
    inside = np.zeros(scene.image.shape[:2], bool)
    H, W = scene.image.shape[:2]
    for box, label in zip(scene.boxes, scene.labels, strict=True):
        left, top, right, bottom = box.round().astype(int)
        inside[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = True
        if min(right - left, bottom - top) < 6:
            continue
        whole = left > 0 and top > 0 and right < W and bottom < H
        part = scene.image[top:bottom, left:right].astype(int)
        share = (np.abs(part - COLOURS[LABELS[label]]).max(axis=2) < 60).mean()
        # Of a disc that is cut off, a corner of its box may be left.
        assert share >= (0.85 if LABELS[label] == "square" else 0.5 if whole else 0.0), (box, label, share)
    assert (scene.boxes >= 0).all()
    assert (scene.boxes <= [W, H, W, H]).all()
    vivid = (np.ptp(scene.image.astype(int), axis=2) > 150) & ~inside
    # Things that show by less than a pixel have no box.
    assert vivid.sum() <= 40


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_follow_their_things_through_every_augmentation(mosaic: float, tmp_path: Path) -> None:
    images = images_of(tmp_path, pictures(6))
    for seed in range(25):
        scene = images.scene(
            seed % 6, replace(PLAIN, mosaic=mosaic, min_visible=0), np.random.default_rng(seed)
        )
        assert scene.image.shape == (*SIZE, 3)
        assert scene.image.dtype == np.uint8
        check_boxes(scene)


def test_plain_scenes_are_letterboxed_and_keep_all_objects(tmp_path: Path) -> None:
    data = pictures(3)
    images = images_of(tmp_path, data)
    for index, each in enumerate(data):
        scene = images.plain(index)
        check_boxes(scene)
        factor = min(SIZE[1] / each.size[0], SIZE[0] / each.size[1])
        np.testing.assert_allclose(scene.boxes, np.array([box for _, box in each.things]) * factor, atol=0.5)
        assert (scene.image[:, round(each.size[0] * factor) + 1 :] == PAD_VALUE).all()


def test_boxes_of_images_that_do_not_fill_whole_pixels_are_exact(tmp_path: Path) -> None:
    # 97x71 becomes 128x93.69, of which 93 rows are covered whole.
    pixels = np.full((71, 97, 3), 90, np.uint8)
    images = images_of(tmp_path, [Picture(name="a", pixels=pixels, things=(("disc", (10, 20, 97, 71)),))])
    scaled = images.image(0)
    assert scaled.pixels.shape == (93, 128, 3)
    factor = 128 / 97
    assert (scaled.width, scaled.height) == pytest.approx((128, 71 * factor))
    np.testing.assert_allclose(images.plain(0).boxes, [np.array([10, 20, 97, 71]) * factor], rtol=1e-5)


def test_things_that_are_mostly_cut_off_are_left_out(tmp_path: Path) -> None:
    pixels = np.full((96, 128, 3), 90, np.uint8)
    pixels[40:60, 0:20] = COLOURS["square"]
    each = Picture(name="a", pixels=pixels, things=(("square", (0, 40, 20, 60)),))
    images = images_of(tmp_path, [each])
    kept = {
        seed: images.scene(0, replace(PLAIN, mosaic=0, flip=0, shift=0.2), np.random.default_rng(seed))
        for seed in range(60)
    }
    shares = []
    for seed, scene in kept.items():
        rng = np.random.default_rng(seed)
        rng.random()
        zoom = rng.uniform(*PLAIN.scale)
        x = 128 * (1 - zoom) / 2 + rng.uniform(-0.2, 0.2, 2)[0] * 128
        share = min(max((x + 20 * zoom) / (20 * zoom), 0), 1)
        shares.append(share)
        if abs(share - PLAIN.min_visible) > 0.05:
            assert (len(scene.labels) == 1) == (share >= PLAIN.min_visible)
    assert min(shares) < 0.2
    assert max(shares) == 1


def test_mirroring_twice_changes_nothing(tmp_path: Path) -> None:
    scene = images_of(tmp_path, pictures(1)).plain(0)
    again = mirrored(mirrored(scene))
    np.testing.assert_array_equal(again.image, scene.image)
    np.testing.assert_allclose(again.boxes, scene.boxes, atol=1e-4)
    check_boxes(mirrored(scene))


def test_upside_down_twice_changes_nothing(tmp_path: Path) -> None:
    scene = images_of(tmp_path, pictures(1)).plain(0)
    turned = upside_down(scene)
    check_boxes(turned)
    np.testing.assert_array_equal(turned.image[::-1], scene.image)
    np.testing.assert_allclose(upside_down(turned).boxes, scene.boxes, atol=1e-4)


def test_only_images_without_a_direction_are_shown_upside_down(tmp_path: Path) -> None:
    images = images_of(tmp_path, pictures(1))
    still = replace(PLAIN, mosaic=0, flip=0, shift=0, scale=(1, 1))

    def scenes(augmentation: Augmentation) -> set[bytes]:
        return {images.scene(0, augmentation, np.random.default_rng(i)).image.tobytes() for i in range(20)}

    assert len(scenes(still)) == 1
    assert len(scenes(replace(still, flip_vertical=0.5))) == 2


def test_colours_change_within_their_gains() -> None:
    image = np.full((4, 4, 3), (200, 60, 60), np.uint8)
    rng = np.random.default_rng(0)
    changed = [shifted_colours(image, Augmentation(), rng) for _ in range(30)]
    values = np.array([each.max() for each in changed], int)
    assert values.min() >= 200 - 32
    assert values.max() <= 200 + 32
    assert len(set(values.tolist())) > 5
    np.testing.assert_array_equal(shifted_colours(image, PLAIN, rng), image)


def test_scenes_are_the_same_for_the_same_seed_and_epoch_with_or_without_a_cache(tmp_path: Path) -> None:
    data = pictures(5)
    options = TrainingOptions(batch_size=2)

    def batches(seed: int, epoch: int, cache_bytes: int = 1 << 28) -> list[np.ndarray]:
        scenes = Scenes(images_of(tmp_path, data, cache_bytes=cache_bytes), options, seed=seed, epochs=10)
        scenes.set_epoch(epoch)
        assert len(scenes) == 3
        return [batch.images.numpy() for batch in scenes]

    first = batches(0, 1)
    assert [len(each) for each in first] == [2, 2, 1]
    # No batch of one image where another could share.
    sizes = [
        len(scenes)
        for scenes in images_of(tmp_path, data).batches(range(5), 4, options.augmentation, seed=[0])
    ]
    assert sizes == [3, 2]
    for again in (batches(0, 1), batches(0, 1, cache_bytes=0)):
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], batches(0, 2)[0])
    assert not np.array_equal(first[0], batches(1, 1)[0])


def test_the_last_epochs_are_without_mosaic_and_with_the_offsets_loss(tmp_path: Path) -> None:
    scenes = Scenes(images_of(tmp_path, pictures(4)), TrainingOptions(), seed=0, epochs=10)
    for epoch, last in ((7, False), (8, True)):
        scenes.set_epoch(epoch)
        assert all(batch.with_offsets is last for batch in scenes)
