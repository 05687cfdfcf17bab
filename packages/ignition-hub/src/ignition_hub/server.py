"""The Hub's process: sockets, uvicorn, children, signals, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import cast

import structlog
import uvicorn
import uvloop

from ignition_hub import __version__
from ignition_hub.app import create_app
from ignition_hub.errors import SettingsError
from ignition_hub.hub import Hub
from ignition_hub.lock import write_info
from ignition_hub.observability import configure_logging
from ignition_hub.settings import Settings
from ignition_hub.supervisor import Supervisor, children_of

logger = structlog.get_logger(__name__)
_PORTS_TRIED = 50
_GRACE_S = 5


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us: the children stop first, while the Hub still answers them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT.

    Raises:
        SettingsError: A port that was asked for is busy.
    """
    configure_logging(settings.home / "logs" / "hub.log")
    listener = _listen(settings.host, settings.port, asked="port" in settings.model_fields_set)
    port = listener.getsockname()[1]
    with _listen(
        settings.host, settings.gateway_port, asked="gateway_port" in settings.model_fields_set
    ) as probe:
        gateway_port = probe.getsockname()[1]
    settings = settings.model_copy(update={"port": port, "gateway_port": gateway_port})
    with listener:
        return uvloop.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> int:
    app = create_app(settings)
    hub = cast(Hub, app.state.hub)
    config = uvicorn.Config(
        app,
        http="httptools",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    server = _Server(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    if not server.started:
        await serving
        logger.error("the Hub did not start")
        return 1
    supervisor = Supervisor(children_of(settings))
    supervisor.start()
    _announce(settings, hub)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    logger.info("stopping")
    await supervisor.stop()
    hub.signals.close()
    server.should_exit = True
    await serving
    stopping.cancel()
    logger.info("stopped")
    return 0


def _announce(settings: Settings, hub: Hub) -> None:
    info = {
        "url": settings.hub_address,
        "gateway_url": settings.gateway_address,
        "pid": os.getpid(),
        "setup_url": hub.setup_url,
        "version": __version__,
    }
    write_info(settings.home, info)
    logger.info("ready", url=settings.hub_address, gateway_url=settings.gateway_address)
    print(f"Ignition Hub {__version__}: {settings.resolved_public_url}", flush=True)
    if hub.setup_url:
        print(f"Choose a password: {hub.setup_url}", flush=True)


def _listen(host: str, port: int, *, asked: bool) -> socket.socket:
    """A listening socket on `port`, or the next free one when it was not asked for.

    Raises:
        SettingsError: Busy.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if asked else range(port, min(port + _PORTS_TRIED, 65536)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            reason = error
        else:
            return listener
    raise SettingsError(
        f"Cannot listen on {host}, port {port}: {reason.strerror}.",
        value=port,
        hint="Choose another with --port or --gateway-port.",
    )
