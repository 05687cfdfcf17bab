"""Datasets as people have them: each is trained on, or refused with a typed error and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xtorch.data.check import inspect_images
from xtorch.data.layout import scan_image_folder
from xtorch.data.splits import split
from xtorch.errors import DataError, LayoutError, SettingsError, TooFewImagesError, XTorchError
from xtorch.tasks.anomaly import run

SMALL = {"input_size": 128, "memory_size": 64, "candidates": ["memory"]}
Mess = Callable[[Any, Path], None]
"""Makes a mess of a folder of plates."""


def train(data: Path, out: Path) -> dict[str, Any]:
    result = run(data, out, name="dirty", settings=SMALL)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert result["value"] == report["metrics"][result["metric"]]["value"]
    return report


def codes(report: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in report["check"]["findings"]}


def used(report: dict[str, Any], out: Path) -> set[str]:
    splits = json.loads((out / "splits.json").read_text())
    return {item["path"] for part in splits.values() for item in part}


def one_pixel(plates: Any, root: Path) -> None:
    Image.new("RGB", (1, 1), (9, 9, 9)).save(root / "ok/dot.png")


def one_row(plates: Any, root: Path) -> None:
    Image.new("RGB", (300, 1), (9, 9, 9)).save(root / "ok/row.png")


def cmyk(plates: Any, root: Path) -> None:
    Image.open(root / "ok/plate_000.png").convert("CMYK").save(root / "ok/plate_000.jpg")
    (root / "ok/plate_000.png").unlink()


def turned(plates: Any, root: Path) -> None:
    image = Image.open(root / "ok/plate_001.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(root / "ok/turned.jpg", exif=exif, quality=95)


def deep(plates: Any, root: Path) -> None:
    grey = np.asarray(Image.open(root / "ok/plate_002.png").convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(root / "ok/deep.tif")


def alpha(plates: Any, root: Path) -> None:
    Image.open(root / "ok/plate_003.png").convert("RGBA").save(root / "ok/alpha.png")


def palette(plates: Any, root: Path) -> None:
    Image.open(root / "ok/plate_004.png").convert("P").save(root / "ok/palette.gif")


def bilevel(plates: Any, root: Path) -> None:
    Image.open(root / "ok/plate_005.png").convert("1").save(root / "ok/bilevel.png")


def truncated(plates: Any, root: Path) -> None:
    path = root / "ok/plate_006.png"
    path.write_bytes(path.read_bytes()[:900])


def empty_file(plates: Any, root: Path) -> None:
    (root / "ok/empty.jpg").touch()


def text_as_image(plates: Any, root: Path) -> None:
    (root / "defective/note.jpg").write_text("not a picture")


def strange_name(plates: Any, root: Path) -> None:
    (root / "ok/plate_007.png").rename(root / "ok/Prüfling #7 (ä, 雪).PNG")


def wrong_suffix(plates: Any, root: Path) -> None:
    Image.open(root / "ok/plate_008.png").save(root / "ok/really_jpeg.bmp", format="JPEG")


def other_files(plates: Any, root: Path) -> None:
    (root / "ok/readme.txt").write_text("hello")
    (root / "ok/table.csv").write_text("a,b")


def hidden_files(plates: Any, root: Path) -> None:
    (root / "ok/.DS_Store").write_bytes(b"x")
    (root / "__MACOSX/ok").mkdir(parents=True)
    (root / "__MACOSX/ok/._plate_000.png").write_bytes(b"x")


def copies(plates: Any, root: Path) -> None:
    for index in range(5):
        shutil.copy(root / "ok/plate_009.png", root / f"ok/copy_{index}.png")


def contradiction(plates: Any, root: Path) -> None:
    shutil.copy(root / "ok/plate_010.png", root / "defective/same.png")


def mask_of_other_size(plates: Any, root: Path) -> None:
    mask = Image.new("L", (30, 70), 0)
    mask.paste(255, (0, 0, 9, 9))
    (root / "ground_truth/defective").mkdir(parents=True)
    mask.save(root / "ground_truth/defective/plate_000_mask.png")


def mask_without_image(plates: Any, root: Path) -> None:
    (root / "ground_truth").mkdir()
    Image.new("L", (80, 72), 255).save(root / "ground_truth/plate_777_mask.png")


def mask_without_image_beside(plates: Any, root: Path) -> None:
    Image.new("L", (80, 72), 255).save(root / "defective/lost_mask.png")


def mask_of_nothing(plates: Any, root: Path) -> None:
    (root / "masks").mkdir()
    Image.new("L", (80, 72), 0).save(root / "masks/plate_000.png")


def mask_that_is_a_photograph(plates: Any, root: Path) -> None:
    (root / "masks").mkdir()
    shutil.copy(root / "ok/plate_000.png", root / "masks/plate_000.png")


def wrapped(plates: Any, root: Path) -> None:
    (root / "export/final").mkdir(parents=True)
    for name in ("ok", "defective"):
        (root / name).rename(root / "export/final" / name)


def upper_case(plates: Any, root: Path) -> None:
    (root / "ok").rename(root / "OK")
    (root / "defective").rename(root / "NG")


def black_images(plates: Any, root: Path) -> None:
    for index in range(4):
        Image.new("L", (70 + index, 70), 0).save(root / f"ok/black_{index}.png")


ALL_AT_ONCE = (
    *(one_pixel, one_row, cmyk, turned, deep, alpha, palette, bilevel, truncated, empty_file, text_as_image),
    *(strange_name, wrong_suffix, other_files, hidden_files, copies, contradiction, mask_of_other_size),
    *(mask_of_nothing, mask_without_image_beside, black_images),
)


@pytest.mark.parametrize(
    ("mess", "code", "left_out"),
    [
        (one_pixel, "image.tiny", None),
        (one_row, "image.tiny", None),
        (cmyk, "image.mixed_modes", None),
        (turned, "image.mixed_sizes", None),
        (deep, "image.mixed_modes", None),
        (alpha, "image.mixed_modes", None),
        (palette, "image.mixed_modes", None),
        (bilevel, "image.mixed_modes", None),
        (truncated, "image.corrupt", "ok/plate_006.png"),
        (empty_file, "image.corrupt", "ok/empty.jpg"),
        (text_as_image, "image.corrupt", "defective/note.jpg"),
        (strange_name, None, None),
        (wrong_suffix, None, None),
        (other_files, "file.not_image", "ok/readme.txt"),
        (hidden_files, None, "__MACOSX/ok/._plate_000.png"),
        (copies, "duplicate.exact", None),
        (contradiction, "duplicate.label_conflict", "defective/same.png"),
        (mask_of_other_size, "mask.size", None),
        (mask_without_image, "mask.orphan", None),
        (mask_without_image_beside, "mask.orphan", "defective/lost_mask.png"),
        (mask_of_nothing, "mask.empty", None),
        (mask_that_is_a_photograph, "mask.unreadable", None),
        (wrapped, None, None),
        (upper_case, None, None),
        (black_images, None, None),
    ],
)
def test_mess_is_noticed_and_left_out(
    plates: Any, mess: Mess, code: str | None, left_out: str | None
) -> None:
    data = plates({"ok": 24, "defective": 4})
    mess(plates, data)
    inspection = inspect_images(scan_image_folder(data))
    assert not inspection.errors
    assert code is None or code in {finding["code"] for finding in inspection.report["findings"]}
    paths = {image.path for image in inspection.usable}
    assert all((data / path).is_file() for path in paths)
    assert left_out is None or left_out not in paths
    assert not any("ground_truth" in path or "masks" in path for path in paths)
    assert len([image for image in inspection.usable if image.label == 0]) >= 23


def test_all_messes_at_once_are_trained_on(plates: Any, tmp_path: Path, weights: Path) -> None:
    data = plates({"ok": 24, "defective": 4})
    for mess in ALL_AT_ONCE:
        mess(plates, data)
    report = train(data, tmp_path / "out")
    paths = used(report, tmp_path / "out")
    for name in ("dot.png", "row.png", "turned.jpg", "deep.tif", "alpha.png", "palette.gif", "bilevel.png"):
        assert f"ok/{name}" in paths
    assert all(report["counts"][part]["ok"] >= 4 for part in ("train", "validation", "test"))
    assert report["counts"]["test"]["defective"] == 4
    assert {"image.corrupt", "duplicate.label_conflict", "mask.orphan"} <= codes(report)


def test_overlapping_splits_do_not_leak(plates: Any, tmp_path: Path, weights: Path) -> None:
    data = plates({"train/ok": 24, "test/ok": 6, "test/defective": 4})
    shutil.copy(data / "test/ok/plate_000.png", data / "train/ok/leak.png")
    report = train(data, tmp_path / "out")
    assert "duplicate.leakage" in codes(report)
    splits = json.loads((tmp_path / "out/splits.json").read_text())
    assert "train/ok/leak.png" not in {item["path"] for item in splits["train"] + splits["validation"]}
    assert len(splits["test"]) == 10


def test_photographs_of_one_product_can_be_divided(plates: Any, tmp_path: Path) -> None:
    """All good images look nearly the same: in one group, there would be no test part."""
    rng = np.random.default_rng(0)
    scene = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((90, 90), 3))
    for index in range(24):
        picture = (scene.astype(int) + rng.integers(0, 4, scene.shape)).clip(0, 255).astype(np.uint8)
        plates.save(tmp_path / "data/ok" / f"{index:02d}.png", picture)
    inspection = inspect_images(scan_image_folder(tmp_path / "data"))
    assert "duplicate.near" in {finding["code"] for finding in inspection.report["findings"]}
    parts = split(inspection.usable, seed=0)
    assert all(counts["ok"] >= 4 for counts in parts.counts().values())
    assert "look alike" in parts.protocol


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        ({}, DataError),
        ({"ok": 7}, TooFewImagesError),
        ({"defective": 30}, LayoutError),
        ({"bolts": 20, "nuts": 20}, LayoutError),
        ({".": 30}, LayoutError),
        ({"train/ok": 8, "test/ok": 30}, TooFewImagesError),
        ({"train/ok": 30, "test/hole": 5}, DataError),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    plates: Any, tmp_path: Path, counts: dict[str, int], kind: type[XTorchError]
) -> None:
    with pytest.raises(kind) as caught:
        run(plates(counts), tmp_path / "out", name="x", settings=SMALL)
    assert caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_only_corrupt_images_are_refused(tmp_path: Path) -> None:
    for index in range(30):
        path = tmp_path / "data/ok" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"broken %d" % index)
    with pytest.raises(TooFewImagesError):
        run(tmp_path / "data", tmp_path / "out", name="x", settings=SMALL)
    assert list((tmp_path / "out").iterdir()) == []


def test_limit_on_misses_without_defects_is_refused_before_work_is_done(plates: Any, tmp_path: Path) -> None:
    stages: list[str] = []
    with pytest.raises(SettingsError, match="max_miss_rate"):
        run(
            plates({"ok": 24, "defective": 5}),
            tmp_path / "out",
            name="x",
            settings=SMALL | {"max_miss_rate": 0.02},
            progress=lambda stage, **_: stages.append(stage),
        )
    assert set(stages) == {"Checking images"}
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run(tmp_path / "nowhere", tmp_path / "out", name="x")
