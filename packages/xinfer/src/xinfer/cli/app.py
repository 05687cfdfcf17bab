"""Builds, measures, verifies and runs inference engines.

Exit codes: 0 fine; 1 the answer is no (verification failed, a part is missing); 2 wrong use; 3 an error
with a code and a hint; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from xinfer.cli import build, convert, doctor, keys, measure, packages, store, verify, zoo
from xinfer.cli.command import Command, UsageError, did_you_mean
from xinfer.errors import SignatureError, VerificationError, XInferError
from xinfer.targets import installed_version

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        *build.COMMANDS,
        *measure.COMMANDS,
        *verify.COMMANDS,
        *packages.COMMANDS,
        *convert.COMMANDS,
        *zoo.COMMANDS,
        *doctor.COMMANDS,
        *store.COMMANDS,
        *keys.COMMANDS,
    )
}
"""Every command, in the order that ``--help`` shows."""

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Args: what follows ``xinfer``; default: the process's own. Returns: exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        hint = did_you_mean(given[0], COMMANDS) or "xinfer --help lists the commands"
        return _fail(UsageError(f"there is no command {given[0]!r}", value=given[0], hint=hint))
    arguments = parser().parse_args(given)
    try:
        with _ended_as_interrupted():
            return COMMANDS[arguments.command].run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has what they wanted; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except XInferError as error:
        return _fail(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(XInferError(f"{where}{error.strerror or error}", code="os.error"))


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Lets SIGTERM end a command as Ctrl-C does, so that temporary files go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parser() -> argparse.ArgumentParser:
    """The command line, with all commands."""
    summary, _, codes = (__doc__ or "").partition("\n\n")
    root = argparse.ArgumentParser(
        prog="xinfer",
        description=summary,
        epilog=codes,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"xinfer {installed_version('ignition-xinfer')}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS.values():
        command.configure(
            commands.add_parser(
                command.name,
                help=command.help,
                description=f"{command.help[0].upper()}{command.help[1:]}.",
                allow_abbrev=False,
            )
        )
    return root


def _fail(error: XInferError) -> int:
    print(f"error: {error.message} [{error.code}]", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    if isinstance(error, UsageError):
        return 2
    return 1 if isinstance(error, SignatureError | VerificationError) else 3
