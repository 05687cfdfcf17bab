from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # fake_api, fake_hub, fake_jobs

from fake_api import FakeApi


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
