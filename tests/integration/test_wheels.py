"""What each wheel pulls in, asked of pip itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for package in ("xinfer", "ignition-client"):
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT / "packages" / package],
            check=True,
            capture_output=True,
        )
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def resolved(wheel: Path) -> set[str]:
    """Names of the distributions that pip would install for `wheel` into an empty environment."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
    ]
    answer = subprocess.run(
        [*command, str(wheel)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    return {
        item["metadata"]["name"].lower().replace("_", "-") for item in json.loads(answer.stdout)["install"]
    }


def test_xinfer_wheel_pulls_numpy_only(wheels: dict[str, Path]) -> None:
    assert resolved(wheels["ignition_xinfer"]) == {"ignition-xinfer", "numpy"}


def test_client_wheel_pulls_no_web_framework_no_database_and_no_torch(wheels: dict[str, Path]) -> None:
    names = resolved(wheels["ignition_client"])
    assert "httpx" in names
    unwanted = {"fastapi", "starlette", "uvicorn", "flask", "django", "sqlalchemy", "dbos", "torch", "numpy"}
    assert names & unwanted == set()
