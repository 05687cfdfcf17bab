"""up, down, status, login, logout, open."""

from __future__ import annotations

import signal
import sys
import webbrowser
from typing import Annotated, Any

import typer
from rich.text import Text

from ignition_client.api import Ignition
from ignition_client.cli import local, render
from ignition_client.cli.output import JsonFlag, Output
from ignition_client.config import (
    LocalHub,
    Profile,
    delete_profile,
    ignition_home,
    read_local_hub,
    resolve,
    write_profile,
)

app = typer.Typer()


@app.command()
def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Leave it running in the background.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="The Hub's port.", min=1, max=65535)] = None,
    gateway_port: Annotated[int | None, typer.Option(help="The gateway's port.", min=1, max=65535)] = None,
    json: JsonFlag = False,
) -> None:
    """Start the Hub, the gateway and an agent on this machine."""
    out, home = Output(json), ignition_home()
    hub = read_local_hub(home) if local.hub_is_running(home) else None
    if hub is not None and local.answers(hub):
        out.note("A Hub is running already.")
        _show_hub(out, hub)
        return
    options = [] if port is None else ["--port", str(port)]
    options += [] if gateway_port is None else ["--gateway-port", str(gateway_port)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's way to say Ctrl-C
    process = local.start_hub(home, options, detach=detach)
    try:
        hub = local.wait_until_up(home, process)
        _show_hub(out, hub)
        if detach:
            process.returncode = 0  # on its own from here: nobody waits for it, and nobody is warned
            out.note("It runs in the background; `ignition down` stops it.")
            return
        out.note("Ctrl-C stops it.")
        status = process.wait()
    except KeyboardInterrupt:
        # A terminal sends Ctrl-C to the Hub, too, but nobody else does; asked twice, it still stops once.
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait()
    except BaseException:  # also `SystemExit`, when nobody reads what is printed: no Hub stays unknown
        if process.poll() is None:
            process.terminate()
            process.wait()
        raise
    if status not in (0, -signal.SIGINT, -signal.SIGTERM, 130):
        raise local.HubStartError(f"The Hub ended with exit status {status}.")


def _show_hub(out: Output, hub: LocalHub) -> None:
    out.answer(
        hub,
        lambda h: render.fields(
            ("Hub", Text(h.url, style="bold")),
            ("gateway", h.gateway_url),
            ("set your password", h.setup_url),
            ("version", h.version),
        ),
    )


@app.command()
def down(json: JsonFlag = False) -> None:
    """Stop what `ignition up` started on this machine."""
    out = Output(json)
    outcome = local.stop_hub(ignition_home())
    sentences = {
        "stopped": "The Hub has stopped.",
        "killed": f"The Hub did not stop in {local.STOP_TIMEOUT_S:.0f} s and was killed.",
        "not running": "No Hub is running here.",
    }
    out.answer({"outcome": outcome}, lambda _: sentences[outcome])


@app.command()
def status(json: JsonFlag = False) -> None:
    """Show what runs: Hub, gateway, agent, endpoints."""
    out, home = Output(json), ignition_home()
    with Ignition() as hub:
        health = hub.health()
        me, endpoints = hub.me(), hub.endpoints.list()
        own = read_local_hub(home)
        is_local = own is not None and own.url.rstrip("/") == hub.url
        facts: dict[str, Any] = {
            "hub": {"url": hub.url, "version": health.version, "protocol": health.protocol, "status": "ok"},
            "user": me,
            "gateway": None,
            "agent": None,
            "endpoints": endpoints,
        }
        if own is not None and is_local:
            gateway = "ok" if local.gateway_answers(own.gateway_url) else "failed"
            facts["gateway"] = {"url": own.gateway_url, "status": gateway}
            facts["agent"] = {"status": "ok" if local.agent_is_running(home) else "failed"}
    if out.as_json:
        out.json(facts)
        return
    out.console.print(
        render.fields(
            ("hub", f"{hub.url} (version {health.version})"),
            ("user", f"{me.email}, {me.role} of {me.organisation}"),
            ("gateway", facts["gateway"] and f"{facts['gateway']['url']} {facts['gateway']['status']}"),
            ("agent", facts["agent"] and facts["agent"]["status"]),
        )
    )
    if endpoints:
        out.console.print(render.endpoints(endpoints))
    else:
        out.say("No endpoints yet: `ignition train`.")


@app.command()
def login(
    url: Annotated[str | None, typer.Argument(help="The Hub's address; default: the one in use.")] = None,
    email: Annotated[str | None, typer.Option(help="Asked for if left out.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Use this API key instead of a password; `-`: from stdin.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Log in to a Hub and remember it."""
    out, home = Output(json), ignition_home()
    url = url or resolve().url
    if key == "-":
        key = sys.stdin.readline().strip()
    if key is None:
        email = email or typer.prompt("E-mail", err=True)
        password = typer.prompt("Password", hide_input=True, err=True)
        with Ignition(url, "") as hub:
            key = hub.login(email, password).key
    with Ignition(url, key) as hub:
        me = hub.me()
    path = write_profile(home, Profile(url=url, key=key))
    out.answer(
        {"url": url, "user": me},
        lambda _: f"Logged in to {url} as {me.email} ({me.role} of {me.organisation}); remembered in {path}.",
    )


@app.command()
def logout(json: JsonFlag = False) -> None:
    """Forget the Hub that was logged in to."""
    forgotten = delete_profile(ignition_home())
    Output(json).answer({"forgotten": forgotten}, lambda _: "Logged out." if forgotten else "Not logged in.")


@app.command(name="open")
def open_(json: JsonFlag = False) -> None:
    """Open the Hub's web page."""
    out = Output(json)
    own = read_local_hub(ignition_home())
    with Ignition() as hub:
        hub.health()
        url = own.setup_url if own and own.setup_url and own.url.rstrip("/") == hub.url else hub.url
    opened = webbrowser.open(url)
    out.answer({"url": url, "opened": opened}, lambda _: url if opened else f"Open this in a browser: {url}")
