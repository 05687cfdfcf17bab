"""Image transforms: a marked point is followed through pixels, mask, box and keypoint."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtorch.errors import DataError, SettingsError
from xtorch.models.resize import resize
from xtorch.transforms import (
    HSV,
    Affine,
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianBlur,
    GaussianNoise,
    HorizontalFlip,
    ImageSample,
    JPEGArtifacts,
    Letterbox,
    MixUp,
    Mosaic,
    Normalise,
    OneOf,
    RandomApply,
    RandomErasing,
    RandomResizedCrop,
    ReplayCompose,
    Resize,
    Rotate90,
    SomeOf,
    Transform,
    VerticalFlip,
)

GEOMETRIC: dict[str, Callable[[], Transform[ImageSample]]] = {
    "horizontal flip": lambda: HorizontalFlip(1.0),
    "vertical flip": lambda: VerticalFlip(1.0),
    "rotate 90": Rotate90,
    "affine": lambda: Affine(degrees=180, scale=(0.7, 1.5), shear_degrees=15, translate=0.3),
    "resize": lambda: Resize(90, 70),
    "center crop": lambda: CenterCrop(48, 64),
    "random resized crop": lambda: RandomResizedCrop(80, 72, scale=(0.3, 1.0)),
    "letterbox": lambda: Letterbox(88, 96),
    "letterbox, top left": lambda: Letterbox(96, 64, position="top-left"),
    "all of them": lambda: Compose([HorizontalFlip(), Rotate90(), Affine(), Letterbox(80, 80)]),
}
COLOR: dict[str, Callable[[], Transform[ImageSample]]] = {
    "colour jitter": lambda: ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    "hsv": HSV,
    "blur": GaussianBlur,
    "noise": GaussianNoise,
    "jpeg": JPEGArtifacts,
    "erasing": RandomErasing,
    "erasing, grey": lambda: RandomErasing(fill=0),
}
RADIUS = 6


def marked(height: int, width: int, x: int, y: int, channels: int = 3) -> ImageSample:
    """A dark image with a bright square of class 7 around the keypoint (x + 0.5, y + 0.5)."""
    image_HWC = np.full((height, width, channels), 40, np.uint8)
    mask_HW = np.zeros((height, width), np.uint8)
    part = np.s_[y - RADIUS : y + RADIUS + 1, x - RADIUS : x + RADIUS + 1]
    image_HWC[part], mask_HW[part] = 240, 7
    box = [x - RADIUS, y - RADIUS, x + RADIUS + 1, y + RADIUS + 1]
    return ImageSample(
        image_HWC=image_HWC,
        boxes_N4=np.array([box], np.float32),
        labels_N=np.array([3]),
        mask_HW=mask_HW,
        keypoints_K2=np.array([[x + 0.5, y + 0.5]], np.float32),
        target="a class",
    )


def arrays(sample: ImageSample) -> list[np.ndarray]:
    found = (
        sample.image_HWC,
        sample.boxes_N4,
        sample.labels_N,
        sample.mask_HW,
        sample.keypoints_K2,
        sample.visible_K,
    )
    return [array for array in found if array is not None]


def same(first: ImageSample, second: ImageSample) -> bool:
    pairs = zip(arrays(first), arrays(second), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def check_in_step(moved: ImageSample, *, several: bool = False) -> None:
    """The keypoint stands on bright pixels of class 7, inside of the box, unless it has left the image.

    A point that one of several transforms cut away stays invisible where a later one moves its place back in.
    """
    assert moved.keypoints_K2 is not None
    assert moved.visible_K is not None
    assert moved.mask_HW is not None
    assert moved.boxes_N4 is not None
    assert moved.labels_N is not None
    height, width = moved.size
    (x, y), visible = moved.keypoints_K2[0], moved.visible_K[0]
    inside = 0 <= x < width and 0 <= y < height
    assert inside if visible else several or not inside
    assert moved.mask_HW.shape == (height, width)
    assert set(np.unique(moved.mask_HW)) <= {0, 7}
    if not visible:
        return
    assert moved.mask_HW[int(y), int(x)] == 7
    assert moved.image_HWC[int(y), int(x)].min() > 200
    if len(moved.boxes_N4):
        x1, y1, x2, y2 = moved.boxes_N4[0]
        assert x1 <= x <= x2
        assert y1 <= y <= y2
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        # The box bounds what is marked: the marked pixels' extent, to a pixel for the cut through pixels.
        rows, columns = np.nonzero(moved.mask_HW)
        assert x1 - 1 <= columns.min() <= columns.max() + 1 <= x2 + 1
        assert y1 - 1 <= rows.min() <= rows.max() + 1 <= y2 + 1
        assert moved.labels_N.tolist() == [3]


@pytest.mark.parametrize("name", GEOMETRIC)
@settings(max_examples=30, deadline=None)
@given(
    x=st.integers(RADIUS, 100 - RADIUS - 1),
    y=st.integers(RADIUS, 76 - RADIUS - 1),
    seed=st.integers(0, 2**32),
    channels=st.sampled_from([1, 3]),
)
def test_geometric_keeps_point_box_and_mask_in_step(
    name: str, x: int, y: int, seed: int, channels: int
) -> None:
    sample = marked(76, 100, x, y, channels)
    before = [array.copy() for array in arrays(sample)]
    moved = GEOMETRIC[name]()(sample, np.random.default_rng(seed))
    check_in_step(moved, several=name == "all of them")
    assert moved.image_HWC.dtype == np.uint8
    assert moved.image_HWC.shape[2] == channels
    assert moved.target == "a class"
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays(sample), strict=True))


@pytest.mark.parametrize("name", [*GEOMETRIC, *COLOR])
def test_same_seed_gives_same_result_and_another_seed_another(name: str) -> None:
    transform = (GEOMETRIC | COLOR)[name]()
    rng = np.random.default_rng(5)
    sample = ImageSample(image_HWC=rng.integers(256, size=(60, 50, 3), dtype=np.uint8))
    results = [transform(sample, np.random.default_rng(seed)) for seed in (1, 1, *range(2, 12))]
    assert same(results[0], results[1])
    fixed = "flip" in name or name in ("resize", "center crop") or "letterbox" in name
    assert fixed or any(not same(results[0], other) for other in results[2:])


@pytest.mark.parametrize("name", [*GEOMETRIC, *COLOR])
def test_record_is_json_and_repeats_what_was_done(name: str) -> None:
    transform = ReplayCompose([(GEOMETRIC | COLOR)[name]()])
    result = transform(marked(76, 100, 50, 30), np.random.default_rng(3))
    record = json.loads(json.dumps(result.record))
    assert same(transform.replay(marked(76, 100, 50, 30), record), result.sample)
    other = marked(76, 100, 20, 40)
    check = transform.replay(other, record)
    assert name in COLOR or check.size == result.sample.size
    if name in GEOMETRIC:
        check_in_step(check, several=name == "all of them")


@pytest.mark.parametrize("name", COLOR)
@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_color_changes_pixels_only(name: str, channels: int, seed: int) -> None:
    sample = marked(40, 52, 20, 20, channels)
    changed = COLOR[name]()(sample, np.random.default_rng(seed))
    assert changed.image_HWC.shape == sample.image_HWC.shape
    assert changed.image_HWC.dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(arrays(sample)[1:], arrays(changed)[1:], strict=True))


@pytest.mark.parametrize("name", COLOR)
def test_color_changes_something(name: str) -> None:
    rng = np.random.default_rng(0)
    sample = ImageSample(image_HWC=rng.integers(256, size=(40, 40, 3), dtype=np.uint8))
    assert any(not same(COLOR[name]()(sample, np.random.default_rng(seed)), sample) for seed in range(4))


def test_jitter_values_are_those_of_pillow() -> None:
    from PIL import Image, ImageEnhance

    rng = np.random.default_rng(0)
    image_HW3 = rng.integers(30, 200, size=(32, 32, 3), dtype=np.uint8)
    jitter = ColorJitter()
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    for name, enhance in {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }.items():
        found = jitter.apply(ImageSample(image_HWC=image_HW3), neutral | {name: 1.15}).image_HWC
        expected = np.asarray(enhance(Image.fromarray(image_HW3)).enhance(1.15))
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2, name


def test_resize_is_the_one_of_the_exported_graph() -> None:
    rng = np.random.default_rng(0)
    image_HW3 = rng.integers(256, size=(61, 83, 3), dtype=np.uint8)
    ours = Resize(40, 50)(ImageSample(image_HWC=image_HW3), rng).image_HWC
    x_NCHW = torch.from_numpy(image_HW3).permute(2, 0, 1)[None].float()
    graph = resize(x_NCHW, 40, 50)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - graph).max() <= 1.01  # two roundings to whole levels


def test_box_that_mostly_leaves_is_dropped_and_one_that_half_leaves_is_cut() -> None:
    sample = ImageSample(
        image_HWC=np.zeros((100, 100, 3), np.uint8),
        boxes_N4=np.array([[0, 0, 27, 27], [0, 0, 50, 50], [40, 40, 60, 60]], np.float32),
        labels_N=np.array([1, 2, 3]),
    )
    cut = CenterCrop(1, 2).apply(sample, {"box": [25, 25, 50, 50], "size": [50, 50]})
    assert cut.labels_N is not None
    assert cut.boxes_N4 is not None
    assert cut.labels_N.tolist() == [2, 3]
    assert cut.boxes_N4.tolist() == [[0, 0, 25, 25], [15, 15, 35, 35]]


def test_flip_swaps_keypoints_with_a_side() -> None:
    sample = ImageSample(
        image_HWC=np.zeros((10, 20, 3), np.uint8),
        keypoints_K2=np.array([[2, 3], [15, 4]], np.float32),
        visible_K=np.array([True, False]),
    )
    flipped = HorizontalFlip(1.0, keypoint_order=[1, 0])(sample, np.random.default_rng(0))
    assert flipped.keypoints_K2 is not None
    assert flipped.visible_K is not None
    assert flipped.keypoints_K2.tolist() == [[5, 4], [18, 3]]
    assert flipped.visible_K.tolist() == [False, True]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(30, 90), min_size=8, max_size=8))
def test_mosaic_keeps_points_boxes_and_masks_in_step(seed: int, sizes: list[int]) -> None:
    samples = [marked(h, w, w // 2, h // 2) for h, w in zip(sizes[:4], sizes[4:], strict=True)]
    rng = np.random.default_rng(seed)
    result = Mosaic(96, 120)(samples, rng)
    assert result.size == (96, 120)
    assert result.mask_HW is not None
    assert result.keypoints_K2 is not None
    assert result.visible_K is not None
    assert result.boxes_N4 is not None
    assert result.labels_N is not None
    assert len(result.keypoints_K2) == 4
    assert set(result.labels_N.tolist()) <= {3}
    for (x, y), visible in zip(result.keypoints_K2, result.visible_K, strict=True):
        if visible:
            assert result.mask_HW[int(y), int(x)] == 7
            assert result.image_HWC[int(y), int(x)].min() > 150
            inside = (result.boxes_N4[:, :2] <= [x, y]) & ([x, y] <= result.boxes_N4[:, 2:])
            assert inside.all(axis=1).any()
    assert ((result.boxes_N4 >= 0) & (result.boxes_N4 <= [120, 96, 120, 96])).all()
    # Every marked pixel belongs to a box, and every box holds marked pixels.
    rows, columns = np.nonzero(result.mask_HW)
    covered = np.zeros(len(rows), bool)
    for x1, y1, x2, y2 in result.boxes_N4:
        inside = (columns + 1 >= x1) & (columns <= x2) & (rows + 1 >= y1) & (rows <= y2)
        assert inside.any()
        covered |= inside
    assert covered.mean() > 0.8  # what is left are cut boxes of which too little is seen


def test_mixup_blends_pixels_and_joins_boxes() -> None:
    first, second = marked(40, 40, 10, 10), marked(80, 80, 60, 60)
    plain = [
        ImageSample(image_HWC=s.image_HWC, boxes_N4=s.boxes_N4, labels_N=s.labels_N) for s in (first, second)
    ]
    result = MixUp((0.25, 0.25))(plain, np.random.default_rng(0))
    assert result.boxes_N4 is not None
    assert result.boxes_N4.tolist() == [[4, 4, 17, 17], [27, 27, 33.5, 33.5]]
    assert result.image_HWC[10, 10].tolist() == [90] * 3  # 240 / 4 + 40 * 3 / 4
    with pytest.raises(DataError, match="Masks"):
        MixUp()([first, second], np.random.default_rng(0))


def test_mosaic_refuses_samples_of_which_only_some_have_boxes() -> None:
    samples = [marked(40, 40, 20, 20)] * 3 + [ImageSample(image_HWC=np.zeros((40, 40, 3), np.uint8))]
    with pytest.raises(DataError, match="Only some"):
        Mosaic(64, 64)(samples, np.random.default_rng(0))


def test_one_of_follows_its_weights_and_some_of_its_number() -> None:
    class Add(GaussianNoise):
        def __init__(self, level: int) -> None:
            super().__init__()
            self.level = level

        def pixels(self, image_HWC: np.ndarray, parameters: object) -> np.ndarray:
            return np.asarray(image_HWC + np.uint8(self.level))

    sample = ImageSample(image_HWC=np.zeros((1, 1, 1), np.uint8))
    rng = np.random.default_rng(0)
    one = OneOf([Add(1), Add(2)], weights=[3, 1])
    levels = [int(one(sample, rng).image_HWC[0, 0, 0]) for _ in range(400)]
    assert set(levels) == {1, 2}
    assert 250 < levels.count(1) < 350
    some = SomeOf([Add(1), Add(2), Add(4)], (2, 3))
    assert {int(some(sample, rng).image_HWC[0, 0, 0]) for _ in range(200)} == {3, 5, 6, 7}
    apply = RandomApply(Add(1), 0.25)
    assert 60 < sum(int(apply(sample, rng).image_HWC[0, 0, 0]) for _ in range(400)) < 140
    record = SomeOf([Add(1), Add(2), Add(4)], 2).run(sample, rng)[1]
    replayed = some.replay(sample, json.loads(json.dumps(record)))
    assert int(replayed.image_HWC[0, 0, 0]) == sum(2 ** part["index"] for part in record)


def test_normalise_comes_last() -> None:
    sample = ImageSample(image_HWC=np.full((4, 4, 3), 255, np.uint8))
    rng = np.random.default_rng(0)
    normalised = Normalise([127.0, 0.0, 255.0], 128.0)(sample, rng)
    assert normalised.image_HWC.dtype == np.float32
    assert normalised.image_HWC[0, 0].tolist() == [1.0, 255 / 128, 0.0]
    for later in (Resize(2, 2), HSV()):
        with pytest.raises(DataError, match="uint8") as caught:
            later(normalised, rng)
        assert caught.value.hint == "put Normalise last"


@pytest.mark.parametrize(
    "build",
    [
        lambda: OneOf([]),
        lambda: OneOf([HSV()], weights=[0.0]),
        lambda: OneOf([HSV()], weights=[1.0, 1.0]),
        lambda: SomeOf([HSV()], 2),
        lambda: RandomApply(HSV(), 1.5),
        lambda: Affine(scale=(0.0, 1.0)),
        lambda: Affine(fill=256),
        lambda: RandomResizedCrop(8, 8, scale=(0.5, 0.1)),
        lambda: Resize(0, 5),
        lambda: JPEGArtifacts((0, 50)),
        lambda: Normalise(0.0, 0.0),
        lambda: HorizontalFlip(keypoint_order=[0, 0]),
        lambda: Mosaic(1, 5),
    ],
)
def test_wrong_settings_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(SettingsError):
        build()


@pytest.mark.parametrize(
    "fields",
    [
        {"image_HWC": np.zeros((4, 4), np.uint8)},
        {"image_HWC": np.zeros((4, 4, 4), np.uint8)},
        {"image_HWC": np.zeros((4, 4, 3), np.float64)},
        {"boxes_N4": np.array([[3, 3, 1, 1]], np.float32), "labels_N": np.array([0])},
        {"boxes_N4": np.array([[0, 0, 1, 1]], np.float32)},
        {"boxes_N4": np.array([[0, 0, np.nan, 1]], np.float32), "labels_N": np.array([0])},
        {"labels_N": np.array([0])},
        {"mask_HW": np.zeros((4, 5), np.uint8)},
        {"mask_HW": np.zeros((4, 4), np.int64)},
        {"keypoints_K2": np.zeros((2, 3))},
    ],
)
def test_samples_that_do_not_fit_together_are_refused(fields: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError):
        ImageSample(**({"image_HWC": np.zeros((4, 4, 3), np.uint8)} | fields))


def test_sample_without_any_box_stays_without_one() -> None:
    sample = ImageSample(
        image_HWC=np.zeros((20, 20, 3), np.uint8), boxes_N4=np.zeros((0, 4)), labels_N=np.zeros(0)
    )
    moved = Compose([Affine(), HorizontalFlip(1.0), Letterbox(30, 30)])(sample, np.random.default_rng(0))
    assert moved.boxes_N4 is not None
    assert moved.boxes_N4.shape == (0, 4)
    assert moved.labels_N is not None
    assert moved.labels_N.dtype == np.int64
