from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xtorch import check_image_folder
from xtorch.data.check import MIN_OK, inspect_images
from xtorch.data.layout import scan_image_folder


def found(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["code"]: finding for finding in report["findings"]}


def usable(root: Path) -> set[str]:
    return {image.path for image in inspect_images(scan_image_folder(root)).usable}


def test_report_is_a_wire_check_report(plates: Any) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    report = check_image_folder(plates({"ok": 22, "defective/hole": 5}))
    parsed = wire.CheckReport.model_validate(report)
    assert not parsed.blocking
    assert parsed.model_dump(mode="json", exclude={"template"}) == json.loads(json.dumps(report))
    assert [(entry.name, entry.num_items) for entry in parsed.classes] == [("ok", 22), ("defective", 5)]
    assert len(parsed.classes[0].examples) == 12
    assert (parsed.item, parsed.num_items) == ("images", 27)
    assert parsed.facts == {"Image sizes": "80 × 72 (10), 80 × 73 (9), 80 × 74 (8)"}


def test_check_reports_progress_up_to_the_end(plates: Any) -> None:
    seen: list[float | None] = []

    def progress(stage: str, **details: Any) -> None:
        assert stage == "Checking images"
        seen.append(details["progress"])

    check_image_folder(plates({"ok": 22, "defective": 5}), progress)
    assert seen[-1] == 1.0


def test_check_leaves_out_files_when_they_are_broken(plates: Any) -> None:
    root = plates({"ok": 24, "defective": 5})
    Image.fromarray(plates.picture(np.random.default_rng(9))).save(root / "ok/cut.jpg")
    data = (root / "ok/cut.jpg").read_bytes()
    (root / "ok/cut.jpg").write_bytes(data[: len(data) // 2])
    (root / "ok/empty.png").write_bytes(b"")
    (root / "ok/text.png").write_text("not an image")
    (root / "ok/notes.txt").write_text("hello")
    findings = found(check_image_folder(root))
    assert findings["image.corrupt"]["paths"] == ["ok/cut.jpg", "ok/empty.png", "ok/text.png"]
    assert findings["image.corrupt"]["severity"] == "warning"
    assert findings["file.not_image"]["paths"] == ["ok/notes.txt"]
    assert not usable(root) & {"ok/cut.jpg", "ok/empty.png", "ok/text.png"}


def test_check_keeps_one_copy_when_files_are_equal(plates: Any) -> None:
    root = plates({"ok": 24, "defective": 5})
    shutil.copy(root / "ok/plate_003.png", root / "ok/zz_copy.png")
    assert found(check_image_folder(root))["duplicate.exact"]["paths"] == ["ok/zz_copy.png"]
    assert "ok/plate_003.png" in usable(root)
    assert "ok/zz_copy.png" not in usable(root)


def test_check_drops_both_sides_when_labels_contradict(plates: Any) -> None:
    root = plates({"ok": 24, "defective": 6})
    shutil.copy(root / "ok/plate_003.png", root / "defective/same.png")
    conflict = found(check_image_folder(root))["duplicate.label_conflict"]
    assert conflict["paths"] == ["defective/same.png", "ok/plate_003.png"]
    assert not usable(root) & set(conflict["paths"])


def test_check_drops_the_training_copy_when_it_is_in_test(plates: Any) -> None:
    root = plates({"train/ok": 24, "test/ok": 6, "test/hole": 6})
    shutil.copy(root / "test/ok/plate_001.png", root / "train/ok/leak.png")
    assert found(check_image_folder(root))["duplicate.leakage"]["paths"][-1] == "train/ok/leak.png"
    assert "train/ok/leak.png" not in usable(root)
    assert "test/ok/plate_001.png" in usable(root)


def test_check_groups_images_when_they_look_nearly_the_same(plates: Any) -> None:
    root = plates({"defective": 6})
    rng = np.random.default_rng(0)
    for index in range(24):  # blobs at different places: no two alike
        picture = np.asarray(
            Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((90, 90), 3)
        )
        plates.save(root / f"ok/scene_{index:02d}.png", picture)
    first = np.asarray(Image.open(root / "ok/scene_00.png")).astype(int)
    plates.save(
        root / "ok/zz_near.png", (first + rng.integers(0, 4, first.shape)).clip(0, 255).astype(np.uint8)
    )
    near = found(check_image_folder(root))["duplicate.near"]
    assert {"ok/scene_00.png", "ok/zz_near.png"} <= set(near["paths"])
    groups = {image.path: image.group for image in inspect_images(scan_image_folder(root)).usable}
    assert groups["ok/scene_00.png"] == groups["ok/zz_near.png"] != groups["ok/scene_01.png"]


def test_check_warns_when_images_are_tiny(plates: Any) -> None:
    root = plates({"ok": 24, "defective": 5})
    plates.save(root / "ok/tiny.png", plates.picture(np.random.default_rng(5))[:20, :20])
    assert found(check_image_folder(root))["image.tiny"]["paths"] == ["ok/tiny.png"]


def test_check_informs_when_sizes_and_modes_are_mixed(plates: Any) -> None:
    root = plates({"ok": 24, "defective": 5})
    Image.fromarray(plates.picture(np.random.default_rng(5))).convert("L").save(root / "ok/grey.png")
    findings = found(check_image_folder(root))
    assert findings["image.mixed_sizes"]["severity"] == "info"
    assert "L (1)" in findings["image.mixed_modes"]["title"]


def test_check_reads_sixteen_bit_grey(plates: Any) -> None:
    root = plates({"ok": 24, "defective": 5})
    values = np.random.default_rng(0).integers(0, 65535, (70, 70)).astype(np.uint16)
    Image.fromarray(values).save(root / "ok/deep.png")
    assert "image.corrupt" not in found(check_image_folder(root))


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({"ok": MIN_OK - 1, "defective": 5}, "ok.too_few"),
        ({"train/ok": MIN_OK - 1}, "ok.too_few"),
        ({"cats": 10, "dogs": 10}, "layout.unknown"),
        ({".": 10}, "layout.unknown"),
        ({}, "image.none"),
        ({"train/ok": 30, "test/hole": 5}, "test.no_ok"),
    ],
)
def test_check_blocks_when_data_cannot_be_trained_on(plates: Any, counts: dict[str, int], code: str) -> None:
    findings = found(check_image_folder(plates(counts)))
    assert findings[code]["severity"] == "error"
    assert findings[code]["hint"]


def test_check_warns_when_there_is_little_or_lopsided_data(plates: Any) -> None:
    findings = found(check_image_folder(plates({"ok": MIN_OK, "defective": 8})))
    assert findings["ok.few"]["severity"] == findings["defective.few"]["severity"] == "warning"
    lopsided = found(check_image_folder(plates({"ok": MIN_OK, "defective/b": 30}, seed=3)))
    assert lopsided["class.imbalance"]["severity"] == "warning"


@pytest.mark.parametrize(
    "counts", [{"ok": MIN_OK}, {"train/good": MIN_OK}, {"train/ok": MIN_OK, "test/ok": 5}]
)
def test_check_passes_good_images_alone_and_says_what_cannot_be_measured(
    plates: Any, counts: dict[str, int]
) -> None:
    report = check_image_folder(plates(counts))
    assert found(report)["defective.none"]["severity"] == "info"
    assert "cannot be measured" in found(report)["defective.none"]["hint"]
    assert not [finding for finding in report["findings"] if finding["severity"] == "error"]


def test_check_warns_when_hardly_a_defect_is_there(plates: Any) -> None:
    assert (
        found(check_image_folder(plates({"ok": MIN_OK, "defective": 1})))["defective.few"]["severity"]
        == "warning"
    )
