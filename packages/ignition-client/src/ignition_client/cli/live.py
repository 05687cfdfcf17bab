"""Watching a run: a live picture on a terminal, lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ignition_client.api import Ignition
from ignition_client.cli import render
from ignition_client.cli.output import Output
from ignition_client.push import PushProgress
from ignition_client.wire import Run, RunSnapshot, StageStatus


def watch_run(hub: Ignition, run_id: str, out: Output) -> Run:
    """Shows a run until it is over; answers with its final state."""
    run: Run | None = None
    if out.as_json or not out.notes.is_terminal:
        lines = _Lines()
        for snapshot in hub.runs.stream(run_id):
            run = snapshot.run
            for line in lines.news(snapshot):
                out.note(line)
    else:
        with Live(console=out.notes, refresh_per_second=8, transient=False) as live:
            for snapshot in hub.runs.stream(run_id):
                run = snapshot.run
                live.update(render.snapshot(snapshot))
    return run or hub.runs.show(run_id)


class _Lines:
    """What is worth a line of a log: a stage began or ended, a job says something else."""

    def __init__(self) -> None:
        self._stages: dict[str, StageStatus] = {}
        self._said: dict[str, tuple[str, int]] = {}

    def news(self, snapshot: RunSnapshot) -> Iterator[str]:
        for stage in snapshot.run.stages:
            if stage.status is not self._stages.get(stage.id, StageStatus.WAITING):
                yield render.stage_line(stage).plain
            self._stages[stage.id] = stage.status
        for job in snapshot.jobs:
            event = job.last_event
            if event is None or job.status.final:
                continue
            said = (event.stage, int(10 * (event.progress or 0)))
            if said != self._said.get(job.id):
                yield f"  {render.event_line(event)}"
            self._said[job.id] = said


@contextmanager
def push_progress(out: Output) -> Iterator[PushProgress]:
    """A bar for hashing and one for uploading; in a pipe a line for each."""
    if out.as_json or not out.notes.is_terminal:

        def report_line(stage: str, done_bytes: int, total_bytes: int) -> None:
            titles = {"hash": "Reading", "upload": "Uploading what the Hub lacks"}
            if done_bytes == 0:
                out.note(f"{titles[stage]}: {render.size(total_bytes)}")

        yield report_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out.notes) as progress:
        tasks = {
            "hash": progress.add_task("Reading", total=None),
            "upload": progress.add_task("Uploading", total=None, start=False, visible=False),
        }

        def report_bar(stage: str, done_bytes: int, total_bytes: int) -> None:
            progress.start_task(tasks[stage])
            progress.update(tasks[stage], completed=done_bytes, total=total_bytes, visible=True)

        yield report_bar
