"""The command tree and the one place where errors become text and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from ignition_client.cli import hub_commands, registry_commands, work_commands
from ignition_client.cli.output import ExitCode, Output, exit_code_of
from ignition_client.errors import ClientError

app = typer.Typer(
    name="ignition",
    help="From data to a fast, verified, signed endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (hub_commands.app, work_commands.app, registry_commands.app):
    app.add_typer(part)


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        print(version("ignition-client"))
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Without the program's name; default: ``sys.argv``.

    Returns:
        The exit status (`ExitCode`).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    out = Output("--json" in arguments)
    try:
        status = app(arguments, standalone_mode=False, prog_name="ignition")
    except ClientError as error:
        out.error(error)
        return exit_code_of(error)
    except BrokenPipeError:  # whoever reads has enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains of it once more at its end
        return ExitCode.FAILED
    except OSError as error:
        out.error(ClientError(f"A local file cannot be used: {error.strerror}.", value=error.filename))
        return ExitCode.FAILED
    except typer.TyperException as error:  # usage
        if hasattr(error, "show"):
            error.show()
        return ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        out.note("Interrupted.")
        return ExitCode.INTERRUPTED
    return status if isinstance(status, int) else ExitCode.OK
