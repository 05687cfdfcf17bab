"""The job runner, with the real functions where they are quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ignition_client.errors import InputError
from ignition_client.jobs.runner import JobContext, run_folder
from ignition_client.jobs.train import RECIPES, recipe_module
from ignition_client.wire import CheckReport


def make_folder(path: Path, kind: str = "check", spec: dict[str, Any] | None = None) -> Path:
    (path / "inputs" / "dataset").mkdir(parents=True)
    job = {
        "kind": kind,
        "job_id": "j",
        "epoch": 1,
        "spec": spec or {"dataset": "d", "version": 1},
        "cache_dir": str(path / "cache"),
        "signing_key": str(path / "key.pem"),
    }
    (path / "job.json").write_text(json.dumps(job))
    return path


def outcome(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


def test_check_job_reports_on_real_images_without_loading_torch(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(3):
        path = folder / "inputs" / "dataset" / "ok" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(path)
    program = (
        "import sys, pathlib\n"
        "from ignition_client.jobs.runner import run_folder\n"
        "status = run_folder(pathlib.Path(sys.argv[1]))\n"
        "sys.exit(9 if 'torch' in sys.modules else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = CheckReport.model_validate(outcome(folder)["result"])
    assert report.num_items == 3
    assert report.facts == {"Image size": "100 × 80"}
    assert report.suits[0] == "visual-anomaly-detection"
    assert report.blocking, "three images are too few"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (InputError("Bad.", code="job.bad_model", hint="h"), "job.bad_model", False),
        (ValueError("x"), "job.crashed", False),
        (MemoryError(), "job.out_of_memory", True),
        (OSError(28, "No space left on device"), "job.disk_full", True),
    ],
)
def test_failures_become_typed_results(tmp_path: Path, error: Exception, code: str, retryable: bool) -> None:
    def fail(_context: JobContext) -> dict[str, Any]:
        raise error

    folder = make_folder(tmp_path)
    assert run_folder(folder, lambda _kind: fail) == 1
    result = outcome(folder)
    assert (result["status"], result["error"]["code"], result["retryable"]) == ("failed", code, retryable)


def test_damaged_job_file_is_a_result_too(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "job.json").write_text("{")
    assert run_folder(folder) == 1
    assert outcome(folder)["status"] == "failed"


def test_check_job_is_the_templates_that_was_asked_for(tmp_path: Path) -> None:
    """Classes are no good and defective parts: the check of that template says so."""
    folder = make_folder(
        tmp_path, spec={"dataset": "d", "version": 1, "template": "visual-anomaly-detection"}
    )
    for name in ("cat/a", "dog/b"):
        path = folder / "inputs" / "dataset" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (80, 80)).save(path)
    assert run_folder(folder) == 0
    report = CheckReport.model_validate(outcome(folder)["result"])
    assert report.template == "visual-anomaly-detection"
    assert report.suits == ["image-classification"]
    assert report.blocking


def test_check_of_what_suits_nothing_says_what_was_looked_for(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "inputs" / "dataset" / "notes.pdf").write_bytes(b"%PDF")
    assert run_folder(folder) == 0
    report = CheckReport.model_validate(outcome(folder)["result"])
    assert (report.template, report.suits, report.blocking) == (None, [], True)
    assert "CSV" in report.findings[0].hint


def test_recipe_that_is_not_installed_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "visual-anomaly-detection", "xtorch.tasks.not_there")
    with pytest.raises(InputError) as caught:
        recipe_module("visual-anomaly-detection")
    assert (caught.value.code, caught.value.value) == ("job.unknown_template", "visual-anomaly-detection")


def test_package_that_is_missing_is_named(tmp_path: Path) -> None:
    def fail(_context: JobContext) -> dict[str, Any]:
        raise ModuleNotFoundError("No module named 'lightgbm'", name="lightgbm")

    folder = make_folder(tmp_path)
    assert run_folder(folder, lambda _kind: fail) == 1
    error = outcome(folder)["error"]
    assert error["code"] == "job.missing_package"
    assert "lightgbm" in error["message"]
    assert error["hint"]


def test_unknown_template_is_a_typed_error() -> None:
    with pytest.raises(InputError) as caught:
        recipe_module("astrology")
    assert caught.value.code == "job.unknown_template"


def test_client_imports_neither_torch_nor_web_framework() -> None:
    program = (
        "import sys, ignition_client.cli, ignition_client.agent\n"
        "heavy = ('torch', 'xtorch', 'xinfer', 'fastapi', 'starlette', 'sqlalchemy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
