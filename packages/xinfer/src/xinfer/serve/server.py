"""Puts the parts together: sockets, threads, signals and the two ways a gateway learns what to serve."""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from xinfer import InferenceEngine
from xinfer.serve import keys
from xinfer.serve.adaptive import AdaptiveEngine
from xinfer.serve.app import GatewayApp
from xinfer.serve.config import NAME
from xinfer.serve.connection import Connection
from xinfer.serve.errors import ServeError
from xinfer.serve.exchange import Limits
from xinfer.serve.host import Catalogue, Endpoint, EngineHost, WorkerPool
from xinfer.serve.hub_client import HubClient
from xinfer.serve.hub_sync import HubSync
from xinfer.zoo import runner_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to listen and how much to take on.

    Attributes:
        host, port: Where to listen; port 0 takes a free one.
        num_workers: Threads that run engines; one per core.
        max_queued: Requests that may wait for a thread before callers get 503.
        exit_on_stdin_eof: Stop when stdin closes, because the parent is gone.
    """

    host: str = "127.0.0.1"
    port: int = 8801
    num_workers: int = len(os.sched_getaffinity(0))
    max_queued: int = 128
    exit_on_stdin_eof: bool = False
    limits: Limits = field(default_factory=Limits)


def load_host(
    path: Path, public_key: bytes | None, *, num_workers: int, temp_dir: Path | None = None
) -> EngineHost:
    """Open an engine file for serving: checked, compiled for one caller and for many, and warmed up.

    Args:
        public_key: PEM; None skips the signature check.
        temp_dir: Where it is unpacked; default: the system's place for temporary files.

    Raises:
        XInferError: it cannot be loaded or does not run.
    """

    def load(num_streams: int) -> InferenceEngine:
        engine = InferenceEngine.load(
            path,
            public_key=public_key,
            require_signature=public_key is not None,
            num_streams=num_streams,
            num_threads=num_workers,
            temp_dir=temp_dir,
        )
        try:
            # The first inference allocates: no caller should wait for that. A broken engine shows here.
            for future in [engine.infer_async(engine.golden.inputs) for _ in range(2 * num_streams)]:
                future.result()
        except BaseException:
            engine.close()
            raise
        return engine

    together = load(num_workers)
    try:
        runner = None if together.task is None else runner_for(together.task.task)(together)
        engine = together if num_workers == 1 else AdaptiveEngine(load(1), together)
    except BaseException:
        together.close()
        raise
    return EngineHost(engine, digest=together.digest, public_key=public_key, runner=runner)


def serve_hub(options: ServeOptions, *, hub_url: str, token_file: Path, home: Path) -> None:
    """Serve what a Hub deploys, until told to stop."""
    try:
        token = token_file.read_text().strip()
    except OSError as error:
        raise ServeError(f"the token file cannot be read: {error.strerror}", value=str(token_file)) from error
    # A gateway that was killed leaves its engines unpacked; a fresh one starts with an empty folder.
    unpacked = home / "gateway" / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True, mode=0o700)
    catalogue = Catalogue()
    sync = HubSync(
        HubClient(hub_url, token),
        catalogue,
        home / "gateway",
        lambda path, public_key: load_host(
            path, public_key, num_workers=options.num_workers, temp_dir=unpacked
        ),
    )
    _run(options, catalogue, is_ready=lambda: sync.is_ready, start=sync.start, stop=sync.stop)


def serve_file(
    options: ServeOptions,
    path: Path,
    *,
    name: str | None,
    public_key_file: Path | None,
    key_file: Path | None,
    no_auth: bool,
) -> None:
    """Serve one engine file without a Hub, until told to stop."""
    if no_auth == (key_file is not None):
        raise ServeError(
            "give either --key-file or --no-auth",
            hint="a key file has one key a line; --no-auth is for loopback",
        )
    if no_auth and not _is_loopback(options.host):
        raise ServeError(
            f"--no-auth serves this machine only, not {options.host}",
            value=options.host,
            hint="use --key-file, or --host 127.0.0.1",
        )
    name = name or path.stem.lower()
    if not NAME.fullmatch(name):
        raise ServeError(
            f"'{name}' cannot be an endpoint's name", value=name, hint="--name lower-case-with-hyphens"
        )
    digests = None if key_file is None else _read_keys(key_file)
    try:
        public_key = None if public_key_file is None else public_key_file.read_bytes()
    except OSError as error:
        raise ServeError(
            f"the public key cannot be read: {error.strerror}", value=str(public_key_file)
        ) from error
    if public_key is None:
        logger.warning("no --public-key: the engine's signature is not checked")
    catalogue = Catalogue()
    host = load_host(path, public_key, num_workers=options.num_workers)
    catalogue.replace({name: Endpoint(name=name, key_sha256=digests, host=host)})
    _run(options, catalogue, asks_for_keys=not no_auth)


def _run(
    options: ServeOptions,
    catalogue: Catalogue,
    *,
    asks_for_keys: bool = True,
    is_ready: Callable[[], bool] = lambda: True,
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> None:
    listener = _listen(options.host, options.port)
    pool = WorkerPool(options.num_workers, max_queued=options.max_queued)
    app = GatewayApp(catalogue, pool, limits=options.limits, is_ready=is_ready, asks_for_keys=asks_for_keys)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            loop="uvloop",
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=15,
        )
    )
    # uvicorn stops gracefully at these signals and then raises them again for whoever handled them before:
    # that is us, so that what follows `run` still happens.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: setattr(server, "should_exit", True))
    if options.exit_on_stdin_eof:
        threading.Thread(target=_stop_at_eof, args=(server,), name="stdin", daemon=True).start()
    # Workers hold the interpreter for microseconds between calls into native code; the event loop must not
    # wait the default 5 ms for its turn.
    sys.setswitchinterval(0.0005)
    start()
    host, port = listener.getsockname()[:2]
    print(f"xinfer gateway on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    try:
        server.run(sockets=[listener])
    finally:
        stop()
        pool.close()
        catalogue.replace({})


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServeError(
            f"cannot listen on {host}:{port}: {error.strerror}", value=port, hint="choose another --port"
        ) from error


def _stop_at_eof(server: uvicorn.Server) -> None:
    # The descriptor itself: a thread blocked inside sys.stdin's buffer would hold its lock at exit.
    while os.read(0, 4096):
        pass
    server.should_exit = True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_keys(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text().split()
    except OSError as error:
        raise ServeError(f"the key file cannot be read: {error.strerror}", value=str(path)) from error
    if not lines:
        raise ServeError("the key file is empty", value=str(path), hint="write one key a line into it")
    return tuple(keys.key_digest(line.encode()) for line in lines)
