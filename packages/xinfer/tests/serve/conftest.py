"""A real gateway in a process of its own, serving a real small engine on loopback."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

KEY = "igne_test-key"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def json_header(self) -> Any:
        """The JSON before an Open Inference answer's binary tensors."""
        return orjson.loads(
            self.body[: int(self.headers.get("inference-header-content-length", len(self.body)))]
        )


@dataclass
class Gateway:
    """A running gateway process."""

    process: subprocess.Popen[str]
    port: int
    log: Path
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, self.headers if headers is None else headers)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        finally:
            connection.close()


@contextmanager
def run_gateway(log: Path, *arguments: str | Path, stdin: int = subprocess.DEVNULL) -> Iterator[Gateway]:
    """Start `python -m xinfer.serve` with these arguments on a free port; stop it by SIGTERM."""
    command = [sys.executable, "-m", "xinfer.serve", *map(str, arguments), "--port", "0"]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("xinfer gateway on http://"), log.read_text()
        yield Gateway(process, int(line.rsplit(":", 1)[1]), log)
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture(scope="session")
def start_gateway() -> Any:
    return run_gateway


@pytest.fixture(scope="session")
def gateway(
    engine_file: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    key_file = folder / "keys"
    key_file.write_text(KEY + "\n")
    options = ("--name", "tiny", "--public-key", keys[1], "--key-file", key_file, "--workers", "2")
    with run_gateway(folder / "log", engine_file, *options) as gateway:
        yield gateway
