"""templates, datasets, models, engines, endpoints, predict, inbox."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from ignition_client.api import Ignition
from ignition_client.cli import render
from ignition_client.cli.live import push_progress
from ignition_client.cli.output import JsonFlag, Output, exit_code_of, parse_history, problem_of
from ignition_client.digests import atomic_file
from ignition_client.errors import ClientError, InputError
from ignition_client.prediction import Prediction

app = typer.Typer()
datasets = typer.Typer(help="Datasets: versioned files.", no_args_is_help=True)
engines = typer.Typer(help="Engines: built, measured and signed.", no_args_is_help=True)
endpoints = typer.Typer(help="Endpoints: deployed engines.", no_args_is_help=True)
app.add_typer(datasets, name="datasets")
app.add_typer(engines, name="engines")
app.add_typer(endpoints, name="endpoints")

EndpointName = Annotated[str, typer.Argument(metavar="NAME")]


@app.command()
def templates(json: JsonFlag = False) -> None:
    """What can be trained."""
    with Ignition() as hub:
        Output(json).answer(hub.templates.list(), render.templates)


@datasets.command("push")
def datasets_push(
    folder: Annotated[Path, typer.Argument(help="e.g. with ok/ and defective/ in it.")],
    name: Annotated[str, typer.Option(help="Lower case, digits, hyphens.")],
    json: JsonFlag = False,
) -> None:
    """Upload a folder as a dataset version. Only what the Hub lacks is sent; run it again to resume."""
    out = Output(json)
    with Ignition() as hub, push_progress(out) as progress:
        dataset = hub.datasets.push(folder, name, progress=progress)
    out.answer(dataset, render.dataset)


@datasets.command("list")
def datasets_list(json: JsonFlag = False) -> None:
    """All datasets, their latest versions."""
    with Ignition() as hub:
        Output(json).answer(hub.datasets.list(), render.datasets)


@datasets.command("show")
def datasets_show(
    name: EndpointName,
    version: Annotated[int | None, typer.Option(help="Default: the latest.", min=1)] = None,
    json: JsonFlag = False,
) -> None:
    """One dataset and what its check found."""
    with Ignition() as hub:
        Output(json).answer(hub.datasets.show(name, version), render.dataset)


@app.command()
def models(json: JsonFlag = False) -> None:
    """The registry's models."""
    with Ignition() as hub:
        Output(json).answer(hub.models.list(), render.models)


@engines.command("list")
def engines_list(json: JsonFlag = False) -> None:
    """All engines."""
    with Ignition() as hub:
        Output(json).answer(hub.engines.list(), render.engines)


@engines.command("show")
def engines_show(engine_id: Annotated[str, typer.Argument(metavar="ENGINE")], json: JsonFlag = False) -> None:
    """One engine with its receipt: every candidate that was measured."""
    with Ignition() as hub:
        Output(json).answer(hub.engines.show(engine_id), render.engine)


@engines.command("pull")
def engines_pull(
    engine_id: Annotated[str, typer.Argument(metavar="ENGINE")],
    to: Annotated[Path, typer.Option("--to", "-o", help="A folder or a file.")] = Path(),
    json: JsonFlag = False,
) -> None:
    """Download an engine; its digest is checked."""
    out = Output(json)
    with Ignition() as hub:
        path = hub.engines.pull(engine_id, to)
    out.answer({"path": path, "size_bytes": path.stat().st_size}, lambda _: str(path))


@endpoints.command("list")
def endpoints_list(json: JsonFlag = False) -> None:
    """All endpoints."""
    with Ignition() as hub:
        Output(json).answer(hub.endpoints.list(), render.endpoints)


@endpoints.command("show")
def endpoints_show(name: EndpointName, json: JsonFlag = False) -> None:
    """One endpoint."""
    with Ignition() as hub:
        Output(json).answer(hub.endpoints.show(name), render.endpoint)


@endpoints.command("rotate-key")
def endpoints_rotate_key(name: EndpointName, json: JsonFlag = False) -> None:
    """Make a new key; the one before stops working."""
    out = Output(json)
    with Ignition() as hub:
        key = hub.endpoints.create_key(name)
    out.answer(key, lambda made: render.fields(("key", made.key), ("", "shown this once")))


@endpoints.command("delete")
def endpoints_delete(
    name: EndpointName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonFlag = False,
) -> None:
    """Delete an endpoint. The model and its engines stay."""
    if not yes:
        typer.confirm(f"Delete endpoint {name}?", abort=True, err=True)
    with Ignition() as hub:
        hub.endpoints.delete(name)
        Output(json).answer({"name": name}, lambda _: f"Endpoint {name} is deleted.")


@app.command()
def predict(
    name: Annotated[str, typer.Argument(help="The endpoint's name.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="Images.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; as often as needed.")] = None,
    history: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="A series' past: 112,118,nan,129; or a file of such, or - ."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="IGNITION_ENDPOINT_KEY",
            help="The endpoint's key: asks the gateway. Without it the Hub asks for you.",
        ),
    ] = None,
    heatmap: Annotated[Path | None, typer.Option(help="Write the heat map (PNG) here; for one FILE.")] = None,
    json: JsonFlag = False,
) -> None:
    """Ask an endpoint about images, texts or a series."""
    files = files or []
    if sum(map(bool, (files, text, history))) != 1:
        raise typer.BadParameter("give either FILE..., --text or --history")
    if heatmap is not None and len(files) != 1:
        raise typer.BadParameter("--heatmap takes exactly one FILE")
    out = Output(json)
    questions: list[tuple[str | Path, dict[str, Any]]] = [(file, {"image": file}) for file in files]
    questions += [(one, {"text": one}) for one in text or []]
    if history:
        questions.append(("history", {"history": parse_history(history)}))
    answers: list[tuple[str | Path, Prediction]] = []
    failure: ClientError | None = None
    with Ignition() as hub:
        for asked, given in questions:
            try:
                answers.append((asked, hub.predict(name, **given, key=key, heatmap=heatmap is not None)))
            except ClientError as error:  # the answers so far are worth having
                failure = error
                break
    if heatmap is not None and answers:
        _write_heatmap(answers[0][1], heatmap)
    if answers and out.as_json:
        named = "file" if files else "text" if text else "input"
        items = [{named: asked, **answer.to_json()} for asked, answer in answers]
        if failure is not None:  # one document, whatever happens
            items.append({named: questions[len(answers)][0], "error": problem_of(failure)})
        out.json(items)
        if failure is not None:
            raise typer.Exit(exit_code_of(failure))
    elif answers:
        out.console.print(render.predictions(answers))
    if failure is not None:
        raise failure


def _write_heatmap(prediction: Prediction, path: Path) -> None:
    if prediction.heatmap is None:
        raise InputError("The endpoint sent no heat map.", value=prediction.model)
    try:
        with atomic_file(path) as file:
            file.write(prediction.heatmap.to_bytes())
    except OSError as error:
        raise InputError(f"The heat map cannot be written: {error.strerror}.", value=str(path)) from error


@app.command()
def inbox(
    keep: Annotated[bool, typer.Option("--keep-unread", help="Do not mark the messages as read.")] = False,
    json: JsonFlag = False,
) -> None:
    """What happened while you were away."""
    with Ignition() as hub:
        messages = hub.inbox.list()
        Output(json).answer(messages, render.inbox)
        for message in messages:
            if not (message.read or keep):
                with contextlib.suppress(ClientError):
                    hub.inbox.read(message.id)
