from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # fake_api, fake_hub, fake_jobs, cli_cases

from cli_cases import Ignition
from fake_api import FakeApi

from ignition_client.cli import main


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """A Hub's user-facing routes, found by way of the environment."""
    api = FakeApi()
    monkeypatch.setenv("IGNITION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IGNITION_URL", api.url)
    monkeypatch.setenv("IGNITION_API_KEY", "user-key")
    monkeypatch.delenv("IGNITION_ENDPOINT_KEY", raising=False)
    yield api
    api.close()


@pytest.fixture
def ignition(api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ignition:
    """Runs a command; answers exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return int(code), out, err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("ok/1.jpg", "b/2.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    return tmp_path / "photos"
