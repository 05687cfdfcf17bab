"""The ``ignition`` command: every command's answer as text and JSON, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
import typer
from cli_cases import Ignition, full_api
from fake_api import FakeApi, ProblemError

from ignition_client.cli.app import app
from ignition_client.cli.output import parse_duration_s

READING = [
    ("templates",),
    ("datasets", "list"),
    ("datasets", "show", "bolts"),
    ("runs", "list"),
    ("runs", "show", "r1"),
    ("jobs", "list"),
    ("jobs", "show", "j-train"),
    ("jobs", "logs", "j-train"),
    ("models",),
    ("engines", "list"),
    ("engines", "show", "e1"),
    ("endpoints", "list"),
    ("endpoints", "show", "bolts"),
    ("status",),
    ("inbox",),
    ("runs", "cancel", "r1"),
    ("jobs", "cancel", "j-train"),
    ("endpoints", "rotate-key", "bolts"),
    ("endpoints", "delete", "bolts", "--yes"),
    ("runs", "watch", "r1"),
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_command_succeeds_as_text_and_as_json(
    api: FakeApi, ignition: Ignition, arguments: tuple[str, ...]
) -> None:
    full_api(api)
    code, out, err = ignition(*arguments)
    assert (code, bool(out.strip())) == (0, True), err
    full_api(api)
    code, out, err = ignition(*arguments, "--json")
    assert code == 0
    json.loads(out)
    assert err == ""


def all_commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += all_commands(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def test_every_command_takes_json_and_has_help() -> None:
    commands = all_commands(typer.main.get_command(app))
    assert len(commands) == 29
    without = [
        path for path, command in commands if "--json" not in [o for p in command.params for o in p.opts]
    ]
    assert without == []
    assert [path for path, command in commands if not command.help] == []


def test_version_is_printed(ignition: Ignition) -> None:
    assert ignition("--version") == (0, "0.1.0\n", "")


def test_templates_name_what_can_be_set(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    code, out, _ = ignition("templates")
    assert code == 0
    assert "Which mistake costs more?" in out
    assert "max_false_alarm_rate=0.01" in out


def test_log_text_is_not_markup(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    assert ignition("jobs", "logs", "j-train")[1] == "a [bold] line\n"


# ------------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (ProblemError(401, "auth.required"), 3),
        (ProblemError(404, "not_found"), 4),
        (ProblemError(403, "auth.forbidden"), 1),
        (ProblemError(500, "hub.internal"), 1),
    ],
)
def test_errors_have_exit_codes(api: FakeApi, ignition: Ignition, problem: ProblemError, code: int) -> None:
    api.routes["GET /v1/runs"] = problem
    got, out, err = ignition("runs", "list")
    assert (got, out) == (code, "")
    assert problem.body["code"] in err
    got, out, err = ignition("runs", "list", "--json")
    assert (got, err) == (code, "")
    assert json.loads(out)["error"]["code"] == problem.body["code"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("runs", "show"),
        ("train",),
        ("predict", "bolts"),
        ("datasets", "push", "nowhere", "--name", "x"),
    ],
)
def test_wrong_usage_is_exit_code_2(ignition: Ignition, arguments: tuple[str, ...]) -> None:
    assert ignition(*arguments)[0] == 2


def test_unreachable_hub_is_exit_code_3(
    api: FakeApi, ignition: Ignition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignition_client.http.time.sleep", lambda _s: None)
    monkeypatch.setattr(httpx.Client, "request", _refuse)
    code, _, err = ignition("status")
    assert code == 3
    assert "ignition up" in err


def _refuse(*_: Any, **__: Any) -> None:
    raise httpx.ConnectError("refused")


def test_disk_error_is_a_message_not_a_stack_trace(
    api: FakeApi, ignition: Ignition, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_api(api)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "client.toml")

    monkeypatch.setattr("ignition_client.cli.hub_commands.write_profile", full)
    code, out, _ = ignition("login", api.url, "--key", "k2", "--json")
    assert code == 1
    assert "No space left" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_command_ends_quietly_when_nobody_reads_its_answer(api: FakeApi, flags: list[str]) -> None:
    full_api(api)
    log = ["x" * 1_000_000, "x" * 1_000_000, ""]
    api.routes["GET /v1/jobs/j-train/log"] = lambda _: {"text": log.pop(0), "next_offset": 14, "final": True}
    command = [sys.executable, "-m", "ignition_client.cli", "jobs", "logs", "j-train", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 1


# ------------------------------------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5m", 30)]
)
def test_durations_are_understood(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "m", "10x", "nan", "inf", "25h", "1h1"])
def test_durations_that_make_no_sense_are_refused(text: str) -> None:
    if text == "1h1":
        assert parse_duration_s(text) == 3601
    else:
        with pytest.raises(typer.BadParameter):
            parse_duration_s(text)
