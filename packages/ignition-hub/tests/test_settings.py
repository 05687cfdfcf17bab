from __future__ import annotations

from pathlib import Path

import pytest

from ignition_hub.errors import SettingsError
from ignition_hub.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IGNITION_HOME", str(tmp_path))
    return tmp_path


def test_settings_come_from_command_line_then_environment_then_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "hub.toml").write_text('port = 1000\ngateway_port = 1001\nhost = "10.0.0.1"\n')
    monkeypatch.setenv("IGNITION_PORT", "2000")
    monkeypatch.setenv("IGNITION_GATEWAY_PORT", "2001")
    settings = Settings.load(port=3000, gateway_port=None)
    assert (settings.port, settings.gateway_port, settings.host) == (3000, 2001, "10.0.0.1")
    assert settings.lease_s == 15
    assert settings.resolved_public_url == "http://10.0.0.1:3000"
    assert settings.resolved_database_url == f"sqlite:///{home / 'hub.sqlite3'}"


@pytest.mark.parametrize("text", ["prot = 1", "port = 0", "lease_s = 'long'"])
def test_settings_fail_when_the_file_has_an_unknown_key_or_a_wrong_value(home: Path, text: str) -> None:
    (home / "hub.toml").write_text(text)
    with pytest.raises(SettingsError) as error:
        Settings.load()
    assert error.value.hint


def test_secret_is_read_from_its_file_and_not_shown(home: Path) -> None:
    (home / "password").write_text("s3cret\n")
    assert Settings.load(smtp_password_file=home / "password").smtp_secret == "s3cret"
    assert "s3cret" not in repr(Settings.load(smtp_password="s3cret"))


def test_settings_fail_when_the_file_is_not_toml(home: Path) -> None:
    (home / "hub.toml").write_text("port = \n")
    with pytest.raises(SettingsError, match=r"hub\.toml"):
        Settings.load()


def test_address_is_a_url_when_the_host_is_ipv6(home: Path) -> None:
    settings = Settings.load(host="::1", public_gateway_url="")
    assert settings.hub_address == "http://[::1]:8800"
    assert settings.gateway_address == "http://[::1]:8801"
    assert Settings.load(host="::").hub_address == "http://127.0.0.1:8800"
