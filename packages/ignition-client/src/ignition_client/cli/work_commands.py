"""train, runs, jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from ignition_client.api import Ignition
from ignition_client.cli import render, summary
from ignition_client.cli.live import push_progress, watch_run
from ignition_client.cli.output import ExitCode, JsonFlag, Output, parse_duration_s, parse_settings
from ignition_client.errors import WorkFailedError
from ignition_client.wire import Run, RunStatus

app = typer.Typer()
runs = typer.Typer(help="Runs: presses of Train & Optimize.", no_args_is_help=True)
jobs = typer.Typer(help="Jobs: the units of work of the agents.", no_args_is_help=True)
app.add_typer(runs, name="runs")
app.add_typer(jobs, name="jobs")

RunId = Annotated[str, typer.Argument(metavar="RUN")]
JobId = Annotated[str, typer.Argument(metavar="JOB")]


@app.command()
def train(
    template: Annotated[str, typer.Option(help="See `ignition templates`.")],
    data: Annotated[str, typer.Option(help="A folder, a table's file, or the name of a dataset.")],
    name: Annotated[str, typer.Option(help="Of the model and its endpoint: lower case, digits, hyphens.")],
    budget: Annotated[
        str | None, typer.Option(help="For training: 90s, 10m, 1h. Without it: the template's usual time.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="How much accuracy the engine may lose (0.01 = one point).", min=0, max=1)
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Of the split and the training.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the template; as often as needed."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Watch it until there is an endpoint.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Train, optimise and deploy: from data to a live endpoint."""
    out, chosen = Output(json), parse_settings(settings or [])
    budget_s = None if budget is None else parse_duration_s(budget)
    folder = Path(data).expanduser()
    with Ignition() as hub:
        with push_progress(out) as progress:
            run = hub.train(
                template,
                data=data,
                name=name,
                budget_s=budget_s,
                max_drop=max_drop,
                seed=seed,
                settings=chosen,
                idempotency_key=uuid4().hex,
                progress=progress,
            )
        if not wait:
            out.answer(run, render.run)
            out.note(f"Watch it with `ignition runs watch {run.id}`.")
            return
        _watch(hub, run.id, out, folder if folder.is_dir() else None)


def _watch(hub: Ignition, run_id: str, out: Output, data: Path | None = None) -> None:
    """Watches a run and prints what it made.

    Raises:
        WorkFailedError: It failed or was cancelled.
        typer.Exit: 130 after Ctrl-C.
    """
    out.note(f"Run {run_id}: {hub.url}/runs/{run_id}")
    try:
        run = watch_run(hub, run_id, out)
    except KeyboardInterrupt:
        out.note(f"\nThe run goes on. Watch it again with `ignition runs watch {run_id}`.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _raise_unless_succeeded(run)
    out.answer(summary.gather(hub, run, data=data), summary.show)


def _raise_unless_succeeded(run: Run) -> None:
    if run.status is not RunStatus.SUCCEEDED:
        raise WorkFailedError.from_job_error(run.error, f"Run {run.name}", run.status.value)


@runs.command("list")
def runs_list(json: JsonFlag = False) -> None:
    """All runs, newest first."""
    with Ignition() as hub:
        Output(json).answer(hub.runs.list(), render.runs)


@runs.command("show")
def runs_show(run_id: RunId, json: JsonFlag = False) -> None:
    """One run."""
    with Ignition() as hub:
        Output(json).answer(hub.runs.show(run_id), render.run)


@runs.command("watch")
def runs_watch(run_id: RunId, json: JsonFlag = False) -> None:
    """Watch a run until it is over, then print what it made."""
    with Ignition() as hub:
        _watch(hub, run_id, Output(json))


@runs.command("cancel")
def runs_cancel(run_id: RunId, json: JsonFlag = False) -> None:
    """Cancel a run."""
    with Ignition() as hub:
        hub.runs.cancel(run_id)
        Output(json).answer({"id": run_id}, lambda _: f"Cancelling run {run_id}.")


@jobs.command("list")
def jobs_list(
    run: Annotated[str | None, typer.Option(help="Only this run's.")] = None, json: JsonFlag = False
) -> None:
    """All jobs, newest first."""
    with Ignition() as hub:
        Output(json).answer(hub.jobs.list(run), render.jobs)


@jobs.command("show")
def jobs_show(job_id: JobId, json: JsonFlag = False) -> None:
    """One job."""
    with Ignition() as hub:
        Output(json).answer(hub.jobs.show(job_id), render.job)


@jobs.command("logs")
def jobs_logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job is over.")] = False,
    json: JsonFlag = False,
) -> None:
    """A job's log."""
    out = Output(json)
    with Ignition() as hub:
        pieces = hub.jobs.follow_log(job_id, follow=follow)
        if json:
            out.json({"id": job_id, "text": "".join(pieces)})
            return
        for text in pieces:
            out.console.out(text, end="", highlight=False)


@jobs.command("cancel")
def jobs_cancel(job_id: JobId, json: JsonFlag = False) -> None:
    """Cancel a job."""
    with Ignition() as hub:
        hub.jobs.cancel(job_id)
        Output(json).answer({"id": job_id}, lambda _: f"Cancelling job {job_id}.")
