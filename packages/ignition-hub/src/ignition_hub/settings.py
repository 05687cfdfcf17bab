"""The Hub's configuration: command line > ``IGNITION_*`` > ``$IGNITION_HOME/hub.toml`` > default."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ignition_hub.errors import SettingsError


def default_home() -> Path:
    return Path(os.environ.get("IGNITION_HOME") or "~/.ignition").expanduser()


class Settings(BaseSettings):
    """Three URLs decide the scale: `database_url`, `blob_url`, `public_url`."""

    model_config = SettingsConfigDict(env_prefix="IGNITION_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=default_home, description="Folder for everything that is kept.")
    database_url: str = Field("", description="SQLAlchemy URL; default: hub.sqlite3 in the home folder.")
    blob_url: str = Field(
        "", description="Where files are kept: file:///… (s3://… planned); default: blobs/ in home."
    )
    public_url: str = Field("", description="How people reach the Hub; default: http://HOST:PORT.")
    public_gateway_url: str = Field(
        "", description="How applications reach endpoints; default: http://HOST:GATEWAY_PORT."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8800, ge=1, le=65535, description="The Hub's port.")
    gateway_port: int = Field(8801, ge=1, le=65535, description="The gateway's port.")
    embedded_gateway: bool = Field(True, description="Start the gateway as a child process.")
    embedded_agent: bool = Field(True, description="Start an agent as a child process.")

    lease_s: float = Field(
        15, gt=1, le=600, description="A job whose agent is silent for so long is given to another."
    )
    max_attempts: int = Field(3, ge=1, le=20, description="Leases a job may use before it fails.")
    deploy_timeout_s: float = Field(120, gt=0, description="How long the gateway may take to load an engine.")
    session_lifetime_s: float = Field(14 * 86_400, gt=0, description="How long a browser stays signed in.")
    max_blob_bytes: int = Field(2 * 1024**3, gt=0, description="Largest file that is taken.")
    max_predict_bytes: int = Field(20 * 1024**2, gt=0, description="Largest image for the playground.")

    smtp_host: str = Field("", description="Mail server; empty: no e-mail.")
    smtp_port: int = Field(587, ge=1, le=65535)
    smtp_user: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_password_file: Path | None = Field(None, description="File that holds the password.")
    smtp_starttls: bool = Field(True, description="Use STARTTLS where the server offers it.")
    smtp_from: str = Field("ignition@localhost", description="Sender of e-mail.")
    smtp_to: str = Field(
        "", description="Receivers, separated by commas; empty: the person who started the run."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, default_home() / "hub.toml")
        return init_settings, env_settings, toml

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read all sources.

        Raises:
            SettingsError: A value is wrong or a key is unknown.
        """
        try:
            return cls(**{key: value for key, value in overrides.items() if value is not None})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise SettingsError(
                f"hub.toml cannot be read: {error}.", value=str(default_home() / "hub.toml")
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise SettingsError(
                f"{name}: {first['msg']}.",
                value=first.get("input"),
                hint=f"Set it by IGNITION_{name.upper()}, in hub.toml, or on the command line.",
            ) from error

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'hub.sqlite3'}"

    @property
    def resolved_blob_url(self) -> str:
        return self.blob_url or (self.home / "blobs").absolute().as_uri()

    @property
    def resolved_public_url(self) -> str:
        return (self.public_url or f"http://{_reachable(self.host)}:{self.port}").rstrip("/")

    @property
    def resolved_gateway_url(self) -> str:
        default = f"http://{_reachable(self.host)}:{self.gateway_port}"
        return (self.public_gateway_url or default).rstrip("/")

    @property
    def hub_address(self) -> str:
        """Where processes on this machine reach the Hub."""
        return f"http://{_reachable(self.host)}:{self.port}"

    @property
    def gateway_address(self) -> str:
        """Where the Hub itself reaches the gateway."""
        return f"http://{_reachable(self.host)}:{self.gateway_port}"

    @property
    def smtp_secret(self) -> str:
        if self.smtp_password_file is not None:
            return self.smtp_password_file.read_text().strip()
        return self.smtp_password.get_secret_value()


def _reachable(host: str) -> str:
    """`host` as it stands in a URL."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
