"""A Hub without children on a temporary home, driven through ASGI; databases of both kinds."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ignition_hub.app import create_app
from ignition_hub.db import Database
from ignition_hub.hub import Hub
from ignition_hub.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))  # fakes


class RunningHub:
    """An open application and clients of it."""

    def __init__(self, app: Any, hub: Hub) -> None:
        self.app = app
        self.hub = hub

    def client(self, token: str | None = None, **headers: str) -> httpx.AsyncClient:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://hub", headers=headers, timeout=30)

    def secret(self, name: str) -> str:
        return (self.hub.home / "secrets" / name).read_text().strip()

    def user(self) -> httpx.AsyncClient:
        return self.client(self.secret("cli-key"))


OpenHub = Callable[..., AbstractAsyncContextManager[RunningHub]]


@pytest.fixture
def open_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenHub:
    """Opens the Hub on the test's home folder; closing and opening again is a restart."""
    home = tmp_path / "home"
    for name in list(os.environ):
        if name.startswith("IGNITION_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IGNITION_HOME", str(home))

    @asynccontextmanager
    async def opened(**overrides: Any) -> AsyncIterator[RunningHub]:
        app = create_app(Settings.load(home=home, **overrides))
        async with app.router.lifespan_context(app):
            yield RunningHub(app, app.state.hub)

    return opened


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of its own; skips where its programs are not installed."""
    found = shutil.which("initdb")
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found is None and not candidates:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are not installed")
    programs = Path(found).resolve().parent if found else candidates[-1].parent
    folder = tmp_path_factory.mktemp("postgres")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            nobody = pwd.getpwnam("postgres")
        except KeyError:
            nobody = pwd.getpwnam("nobody")
        for parent in [folder, *folder.parents]:
            if parent.stat().st_uid == 0 and parent != Path("/") and "pytest" in str(parent):
                parent.chmod(0o755)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data = folder / "data"
    command = [programs / "initdb", "-D", data, "-U", "ignition", "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(command, check=True, capture_output=True, **user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, "-F", "-h", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "1", "-q"]
    try:
        for _ in range(60):
            if subprocess.run(ready, check=False).returncode == 0:
                break
            assert server.poll() is None, "the PostgreSQL server ended"
        yield f"postgresql+psycopg://ignition@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for clients
        server.wait(30)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated, empty database of each kind."""
    if request.param == "sqlite":
        db = Database(f"sqlite:///{tmp_path / 'hub.sqlite3'}")
    else:
        db = Database(request.getfixturevalue("postgres_url"))
        db.migrate()
        db.migrate("base", down=True)
    db.migrate()
    yield db
    db.close()
