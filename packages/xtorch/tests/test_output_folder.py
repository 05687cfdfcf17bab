"""Outputs that appear all at once, whatever happens to who writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xtorch.tasks.output_folder import all_or_nothing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_outputs_appear_at_the_end_and_replace_earlier_ones(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "model"
    for content in ("one", "two"):
        with all_or_nothing(output) as partial:
            (partial / "model.onnx").write_text(content)
            (partial / "assets").mkdir()
            (partial / "assets" / content).touch()
            assert not (output / "assets" / content).exists()
    assert names(output) == ["assets", "model.onnx"]
    assert names(output / "assets") == ["two"]
    assert (output / "model.onnx").read_text() == "two"


def test_nothing_is_left_of_a_block_that_fails(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("before")

    def fail() -> None:
        with all_or_nothing(tmp_path) as partial:
            (partial / "model.onnx").write_text("after")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "before"


@pytest.mark.faults
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from xtorch.tasks.output_folder import all_or_nothing\n"
        "with all_or_nothing(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').touch()\n"
        "    print(partial.name, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            left = process.stdout.readline().strip()
            with all_or_nothing(tmp_path) as partial:
                assert names(tmp_path) == sorted([left, partial.name]), "its process lives"
        finally:
            process.kill()
    assert names(tmp_path) == [left]
    assert names(tmp_path / left) == ["half"]
    with all_or_nothing(tmp_path) as partial:
        assert names(tmp_path) == [partial.name]
    assert names(tmp_path) == []


def test_what_only_looks_abandoned_stays(tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    output.mkdir()
    (output / ".partial-link").symlink_to(elsewhere)
    (output / ".partial-file").touch()
    with all_or_nothing(output) as one, all_or_nothing(output) as other:
        assert one.is_dir()
        assert other.is_dir()
    assert names(output) == [".partial-file", ".partial-link"]
    assert names(elsewhere) == ["kept"]
