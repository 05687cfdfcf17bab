"""``xinfer cache`` and ``hub``: what is kept here, and what a Hub has."""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from xinfer import hub
from xinfer.cli import output
from xinfer.cli.command import Command, add_json, did_you_mean, duration_s
from xinfer.cli.progress import Progress
from xinfer.errors import HubError
from xinfer.targets import HardwareTarget
from xinfer.zoo import resolve

PARTS = {
    "engines": "engines of the catalogue's models",
    "builds": "finished builds, which answer identical ones",
    "hub": "engines pulled from a Hub",
    "loaded": "unpacked engines and compiled blobs",
    "sources": "downloaded and exported source models",
}
"""Folders of the cache, in the order they are shown, and what stands in them."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing in the cache: a file or folder right below one of `PARTS`."""

    part: str
    path: Path
    size_bytes: int
    used_at: float


def configure_cache(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("list", "everything in it"), ("size", "how much it takes"), ("clear", "remove it")):
        action = actions.add_parser(name, help=text, allow_abbrev=False)
        action.add_argument("--part", choices=tuple(PARTS), help="only this part")
        if name == "clear":
            action.add_argument(
                "--older-than", type=duration_s, metavar="TIME", help="what was not used for: 12h, 30d"
            )
        add_json(action)


def run_cache(arguments: argparse.Namespace) -> int:
    """Lists, measures or clears the cache."""
    items = cache_items(arguments.part)
    if arguments.action == "clear":
        before = float("inf") if arguments.older_than is None else time.time() - arguments.older_than
        items = [item for item in items if item.used_at <= before]
        for item in items:
            if item.path.is_dir() and not item.path.is_symlink():
                shutil.rmtree(item.path, ignore_errors=True)
            else:
                item.path.unlink(missing_ok=True)
    total = sum(item.size_bytes for item in items)
    if arguments.json:
        output.print_json(
            {"home": resolve.home(), "action": arguments.action, "bytes": total, "items": items}
        )
        return 0
    if arguments.action == "list" and items:
        now = time.time()
        output.print_table(
            ["part", "name", "size", "used"],
            [
                [item.part, item.path.name, output.size(item.size_bytes), _ago(now - item.used_at)]
                for item in items
            ],
            left=2,
        )
    elif arguments.action == "size":
        parts = {part: sum(item.size_bytes for item in items if item.part == part) for part in PARTS}
        output.print_table(["part", "size"], [[part, output.size(num)] for part, num in parts.items()])
    verb = "removed" if arguments.action == "clear" else "in"
    print(f"{output.size(total)} {verb} {resolve.home()}")
    return 0


def cache_items(part: str | None = None) -> list[Item]:
    """What is in the cache, the least recently used first."""
    items = []
    for name in PARTS if part is None else (part,):
        folder = resolve.home() / name
        for path in folder.iterdir() if folder.is_dir() else ():
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            stats = [file.lstat() for file in files]
            items.append(
                Item(
                    part=name,
                    path=path,
                    size_bytes=sum(each.st_size for each in stats),
                    used_at=max((each.st_mtime for each in stats), default=path.lstat().st_mtime),
                )
            )
    return sorted(items, key=lambda item: item.used_at)


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def configure_hub(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("pull", "download the current engine of a model"),
        ("build", "let the Hub's farm build one (comes with the farm)"),
    ):
        action = actions.add_parser(name, help=text, allow_abbrev=False)
        action.add_argument("model", metavar="MODEL", help="owner/name, or a name that only one owner has")
        action.add_argument("--target", help="default: this machine's")
        if name == "pull":
            action.add_argument("-o", "--output", type=Path, metavar="FILE", help="also put it here")
            add_json(action)


def run_hub(arguments: argparse.Namespace) -> int:
    """Pulls an engine, or asks the farm for one."""
    target = arguments.target or HardwareTarget.detect().name
    if arguments.action == "build":
        raise HubError(
            f"a Hub does not build {arguments.model!r} for {target} yet: that comes with the build farm",
            code="hub.no_farm",
            value=arguments.model,
            hint=f"xinfer build {arguments.model} builds on this machine",
        )
    with Progress() as progress:

        def show(done: int, total: int) -> None:
            message = f"{output.size(done)} of {output.size(total)}"
            progress(f"Pulling {arguments.model}", done / total if total else 0.0, message)

        try:
            path = hub.download_engine(arguments.model, target, progress=show)
        except HubError as error:
            raise _with_suggestion(error, arguments.model) from error
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, arguments.output)
        path = arguments.output
    if arguments.json:
        output.print_json({"model": arguments.model, "target": target, "engine": path})
    else:
        print(path)
    return 0


def _with_suggestion(error: HubError, model: str) -> HubError:
    """The error with the Hub's closest names, where the name is what is wrong."""
    configured = hub.Hub.configured()
    if error.code != "hub.no_engine" or error.hint != "check the model's name" or configured is None:
        return error
    hint = did_you_mean(model, sorted({str(row.get("model")) for row in configured.engines()}))
    return HubError(error.message, code=error.code, value=error.value, hint=hint or error.hint)


COMMANDS = (
    Command(
        name="cache",
        help="list, measure or clear what is kept on this machine",
        configure=configure_cache,
        run=run_cache,
    ),
    Command(
        name="hub",
        help="pull engines from an Ignition Hub, or have it build them",
        configure=configure_hub,
        run=run_hub,
    ),
)
