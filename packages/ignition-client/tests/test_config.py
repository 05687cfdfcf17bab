from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from ignition_client.config import Profile, delete_profile, read_profile, resolve, write_profile
from ignition_client.errors import ConfigError, HubUnreachableError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("IGNITION_URL", "IGNITION_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IGNITION_HOME", str(tmp_path))
    return tmp_path


def local_hub(home: Path) -> None:
    (home / "run").mkdir()
    (home / "secrets").mkdir()
    (home / "run" / "hub.json").write_text(json.dumps({"url": "http://127.0.0.1:8800", "pid": 1}))
    (home / "secrets" / "cli-key").write_text("local-key\n")


def test_resolve_says_what_to_do_when_nothing_is_configured(home: Path) -> None:
    with pytest.raises(HubUnreachableError) as caught:
        resolve()
    assert "ignition up" in (caught.value.hint or "")


def test_resolve_finds_the_hub_of_this_machine(home: Path) -> None:
    local_hub(home)
    assert resolve() == Profile(url="http://127.0.0.1:8800", key="local-key")


def test_resolve_prefers_the_saved_profile(home: Path) -> None:
    local_hub(home)
    write_profile(home, Profile(url="https://hub.example", key="k"))
    assert resolve() == Profile(url="https://hub.example", key="k")
    assert delete_profile(home)
    assert resolve().key == "local-key"


def test_resolve_prefers_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(home, Profile(url="https://hub.example", key="k"))
    monkeypatch.setenv("IGNITION_URL", "https://other.example")
    monkeypatch.setenv("IGNITION_API_KEY", "env-key")
    assert resolve() == Profile(url="https://other.example", key="env-key")


def test_resolve_never_sends_a_key_to_another_address(home: Path) -> None:
    local_hub(home)
    write_profile(home, Profile(url="https://hub.example", key="k"))
    assert resolve("https://stranger.example").key is None
    assert resolve("http://127.0.0.1:8800/").key == "local-key"


def test_profile_is_private_and_survives_odd_characters(home: Path) -> None:
    profile = Profile(url="https://hub.example", key='a"b\\c')
    path = write_profile(home, profile)
    assert read_profile(home) == profile
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["url = ", "key = 'x'", "\x00"])
def test_damaged_profile_is_a_typed_error(home: Path, text: str) -> None:
    (home / "client.toml").write_text(text)
    with pytest.raises(ConfigError):
        resolve()
