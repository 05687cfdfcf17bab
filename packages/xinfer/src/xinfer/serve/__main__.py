"""`python -m xinfer.serve`: the gateway's command line."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from xinfer.errors import XInferError
from xinfer.serve.server import ServeOptions, serve_file, serve_hub


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m xinfer.serve",
        description="Serve engines over HTTP: those a Hub deploys (--hub-url), or one file.",
    )
    defaults = ServeOptions()
    parser.add_argument("engine", nargs="?", type=Path, help="an engine file to serve without a Hub")
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0: any free port")
    parser.add_argument("--workers", type=int, default=defaults.num_workers, help="threads that run engines")
    parser.add_argument(
        "--max-queued", type=int, default=defaults.max_queued, help="waiting requests before callers get 503"
    )
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="stop when stdin closes")
    file = parser.add_argument_group("one file")
    file.add_argument("--name", help="the endpoint's name; default: the file's")
    file.add_argument("--public-key", type=Path, help="PEM file that must have signed the engine")
    file.add_argument("--key-file", type=Path, help="accepted keys, one a line")
    file.add_argument("--no-auth", action="store_true", help="ask for no key; on loopback only")
    hub = parser.add_argument_group("a Hub's endpoints")
    hub.add_argument("--hub-url")
    hub.add_argument("--token-file", type=Path, help="holds the gateway's token")
    hub.add_argument("--home", type=Path, help="keeps engines below <home>/gateway")
    options = parser.parse_args(arguments)
    if (options.engine is None) == (options.hub_url is None):
        parser.error("give an engine file or --hub-url")
    if options.hub_url and not (options.token_file and options.home):
        parser.error("--hub-url needs --token-file and --home")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve_options = ServeOptions(
        host=options.host,
        port=options.port,
        num_workers=max(1, options.workers),
        max_queued=max(0, options.max_queued),
        exit_on_stdin_eof=options.exit_on_stdin_eof,
    )
    try:
        if options.hub_url:
            serve_hub(
                serve_options, hub_url=options.hub_url, token_file=options.token_file, home=options.home
            )
        else:
            serve_file(
                serve_options,
                options.engine,
                name=options.name,
                public_key_file=options.public_key,
                key_file=options.key_file,
                no_auth=options.no_auth,
            )
    except XInferError as error:
        print(f"error: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
