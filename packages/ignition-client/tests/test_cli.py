"""The ``ignition`` command: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_api
import httpx
import pytest
import typer
from fake_api import FakeApi, ProblemError, Sse

from ignition_client.cli import local, main
from ignition_client.cli.app import app
from ignition_client.cli.output import parse_duration_s
from ignition_client.config import read_profile

Ignition = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ignition(api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ignition:
    """Runs a command; answers exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return int(code), out, err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("ok/1.jpg", "b/2.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    return tmp_path / "photos"


def full_api(api: FakeApi) -> None:
    log = ["a [bold] line\n", ""]
    api.routes |= {
        "GET /v1/health": {"status": "ok", "version": "0.1.0"},
        "GET /v1/me": {"email": "a@b.c", "organisation": "default", "role": "owner"},
        "GET /v1/templates": [
            {
                "id": "visual-anomaly-detection",
                "name": "Visual Anomaly Detection",
                "summary": "s",
                "data": "ok/ and defective/",
                "learns": "l",
                "returns": "verdict",
                "icon": "i",
                "input": "image",
                "questions": [
                    {
                        "id": "operating-point",
                        "title": "Which mistake costs more?",
                        "choices": [
                            {"title": "Balanced"},
                            {"title": "Few alarms", "settings": {"max_false_alarm_rate": 0.01}},
                        ],
                    }
                ],
            }
        ],
        "GET /v1/datasets": [fake_api.dataset()],
        "GET /v1/datasets/bolts": fake_api.dataset(),
        "POST /v1/datasets": fake_api.dataset(),
        "POST /v1/runs": fake_api.run("running"),
        "GET /v1/runs": [fake_api.run()],
        "GET /v1/runs/r1": fake_api.run(),
        "GET /v1/runs/r1/report": fake_api.report(),
        "POST /v1/runs/r1/cancel": {},
        "GET /v1/jobs": [fake_api.job()],
        "GET /v1/jobs/j-train": fake_api.job(),
        "GET /v1/jobs/j-train/log": lambda _: {"text": log.pop(0), "next_offset": 14, "final": True},
        "POST /v1/jobs/j-train/cancel": {},
        "GET /v1/models": [
            {
                "name": "default/bolts",
                "template": "t",
                "latest_version": 1,
                "created_at": fake_api.NOW,
                "metric": "image_auroc",
                "value": 0.99,
            }
        ],
        "GET /v1/engines": [fake_api.engine()],
        "GET /v1/engines/e1": fake_api.engine(),
        "GET /v1/endpoints": [fake_api.endpoint(api.url)],
        "GET /v1/endpoints/bolts": fake_api.endpoint(api.url),
        "POST /v1/endpoints/bolts/keys": {"name": "bolts", "key": "ig_secret", "prefix": "ig_s"},
        "POST /v1/endpoints/bolts/predict": fake_api.prediction(heatmap=True),
        "DELETE /v1/endpoints/bolts": {},
        "GET /v1/inbox": [
            {
                "id": "m1",
                "kind": "run_succeeded",
                "title": "bolts is live",
                "body": "b",
                "link": "/x",
                "created_at": fake_api.NOW,
                "read": False,
            }
        ],
        "POST /v1/inbox/m1/read": {},
    }
    running = {"run": fake_api.run("running"), "jobs": [fake_api.job()]}
    api.routes["GET /v1/runs/r1/stream"] = Sse([running, {"run": fake_api.run(), "jobs": []}])


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


def test_version_is_printed(ignition: Ignition) -> None:
    assert ignition("--version") == (0, "0.1.0\n", "")


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


# ------------------------------------------------------------------------------------------------ work

TRAIN = ("train", "--template", "visual-anomaly-detection", "--name", "bolts", "--budget", "1m", "--data")


def test_train_ends_with_all_there_is_to_know(api: FakeApi, ignition: Ignition, photos: Path) -> None:
    full_api(api)
    code, out, err = ignition(*TRAIN, str(photos))
    assert code == 0, err
    for expected in (
        "ok 70, defective 30",
        "Duplicates [same]",
        "0.992",
        "0.980 – 0.999",
        "PatchCore",
        "said defective",
        "openvino",
        "int8",
        "selected",
        "crashed",
        "10.0x",
        "ig_secret",
        f"{api.url}/v1/endpoints/bolts/predict",
        f"{api.url}/endpoints/bolts",
        str(photos / "b" / "2.jpg"),
    ):
        assert expected in out
    assert "Extracting features" in err
    assert json.loads(api.sent("POST /v1/runs")[0])["budget_s"] == 60


def test_printed_snippets_work_as_they_are(
    api: FakeApi, ignition: Ignition, photos: Path, tmp_path: Path
) -> None:
    full_api(api)
    code, out, _ = ignition(*TRAIN, str(photos), "--json")
    assert code == 0
    answer = json.loads(out)
    curl = subprocess.run(["bash", "-c", answer["curl"]], capture_output=True, text=True, check=True)
    assert json.loads(curl.stdout)["verdict"] == "defective"
    python = subprocess.run(
        [sys.executable, "-c", answer["python"]], capture_output=True, text=True, check=True
    )
    assert "'verdict': 'defective'" in python.stdout
    asked = [(body, headers) for method, path, body, headers in api.requests if path.endswith("/predict")]
    assert [body for body, _ in asked] == [b"b/2.jpg"] * 2
    assert {headers["Authorization"] for _, headers in asked} == {"Bearer ig_secret"}


def test_train_keeps_the_key_of_an_endpoint_in_use(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    api.routes["GET /v1/endpoints/bolts"] = fake_api.endpoint(api.url, key_prefix="ig_old")
    code, out, _ = ignition(*TRAIN, "bolts")
    assert code == 0
    assert "ig_old" in out
    assert api.sent("POST /v1/endpoints/bolts/keys") == []


def test_train_no_wait_answers_at_once(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    code, out, err = ignition(*TRAIN, "bolts", "--no-wait", "--json")
    assert (code, json.loads(out)["id"], err) == (0, "r1", "")


def test_failed_run_is_exit_code_1_with_its_reason(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    error = {"code": "data.too_few", "message": "Only 3 good images.", "hint": "Add more."}
    api.routes["GET /v1/runs/r1/stream"] = Sse([{"run": fake_api.run("failed", error=error), "jobs": []}])
    code, _, err = ignition("runs", "watch", "r1")
    assert code == 1
    for part in error.values():
        assert part in err


def test_ctrl_c_stops_the_waiting_and_says_how_to_resume(
    api: FakeApi, ignition: Ignition, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_api(api)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ignition_client.cli.work_commands.watch_run", interrupt)
    code, _, err = ignition(*TRAIN, "bolts")
    assert code == 130
    assert "ignition runs watch r1" in err
    assert api.sent("POST /v1/runs/r1/cancel") == []


def test_predict_prints_verdicts_and_writes_the_heatmap(
    api: FakeApi, ignition: Ignition, photos: Path, tmp_path: Path
) -> None:
    full_api(api)
    png = tmp_path / "out.png"
    code, out, _ = ignition("predict", "bolts", str(photos / "b/2.jpg"), "--heatmap", str(png))
    assert code == 0
    assert "defective" in out
    assert png.read_bytes() == b"PNG"
    code, out, _ = ignition("predict", "bolts", str(photos / "b/2.jpg"), str(photos / "ok/1.jpg"), "--json")
    assert [item["verdict"] for item in json.loads(out)] == ["defective"] * 2


BASE = {"model": "m", "version": 1, "engine": fake_api.DIGEST, "timing_ms": {"total": 1.5}}
TEXTS = {"task": "text-classification", "label": "late", "labels": ["late"], "confidence": 0.9,
         "probabilities": {"late": 0.9, "broken": 0.1}}  # fmt: skip
ANSWERS: dict[str, tuple[dict[str, Any], tuple[str, ...], list[str]]] = {
    "classes": (
        {"task": "image-classification", "label": "cat", "probability": 0.75, "labels": ["cat"],
         "top": [{"label": "cat", "probability": 0.75}, {"label": "dog", "probability": 0.25}]},
        ("FILE",), ["cat", "75.0%", "dog 25.0%"],
    ),
    "boxes": (
        {"task": "object-detection", "image": {"width": 9, "height": 9},
         "detections": [{"label": "cell", "score": 0.876, "box": [1, 2, 30.4, 40]}]},
        ("FILE",), ["cell", "0.876", "1, 2, 30, 40"],
    ),
    "no boxes": ({"task": "object-detection", "detections": []}, ("FILE",), ["nothing found"]),
    "mask": (
        {"task": "semantic-segmentation", "labels": ["sky"], "shares": {"sky": 0.25},
         "mask": {"media_type": "image/png", "data_base64": "UE5H"}},
        ("FILE",), ["sky 25.0%"],
    ),
    "text": (TEXTS, ("--text", "where is it?"), ["where is it?", "late", "90.0%", "broken 10.0%"]),
    "unsure": (TEXTS | {"label": None, "labels": []}, ("--text", "hm"), ["not sure"]),
    "series": (
        {"task": "forecast", "horizon": 2, "quantiles": {"0.1": [1, 2], "0.5": [3, 4], "0.9": [5, 6]}},
        ("--history", "1,2,nan,3"), ["10%", "50%", "90%", "3", "6"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_predict_prints_in_the_tasks_own_columns(
    api: FakeApi, ignition: Ignition, photos: Path, case: str
) -> None:
    answer, arguments, expected = ANSWERS[case]
    full_api(api)
    api.routes["POST /v1/endpoints/bolts/predict"] = {**BASE, **answer}
    given = [str(photos / "b/2.jpg") if word == "FILE" else word for word in arguments]
    code, out, _ = ignition("predict", "bolts", *given)
    assert code == 0
    for words in expected:
        assert words in out
    code, out, _ = ignition("predict", "bolts", *given, "--json")
    assert code == 0
    [item] = json.loads(out)
    assert "mask" not in item, "pictures are no text"
    assert {name: item[name] for name in answer if name != "mask"} == {
        k: v for k, v in answer.items() if k != "mask"
    }
    assert set(item) - set(BASE) - set(answer) <= {"file", "text", "input"}, "nothing of other tasks"


def test_predict_sends_text_and_history_as_json(api: FakeApi, ignition: Ignition, tmp_path: Path) -> None:
    full_api(api)
    api.routes["POST /v1/endpoints/bolts/predict"] = {**BASE, **TEXTS}
    assert ignition("predict", "bolts", "--text", "a", "--text", "ü")[0] == 0
    (tmp_path / "past.csv").write_text("1;2\nnan 4.5\n")
    assert ignition("predict", "bolts", "--history", str(tmp_path / "past.csv"), "--json")[0] == 0
    sent = [(json.loads(body), headers["Content-Type"]) for _, path, body, headers in api.requests]
    assert [body for body, _ in sent] == [{"text": "a"}, {"text": "ü"}, {"history": [1.0, 2.0, None, 4.5]}]
    assert {kind for _, kind in sent} == {"application/json"}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a.jpg", "--text", "x"),
        ("--text", "x", "--history", "1"),
        ("--history", "one"),
        ("--history", ","),
    ],
)
def test_predict_is_refused_when_it_is_not_about_one_thing(
    api: FakeApi, ignition: Ignition, arguments: tuple[str, ...]
) -> None:
    full_api(api)
    assert ignition("predict", "bolts", *arguments)[0] == 2
    assert api.requests == []


def test_settings_are_sent_as_json_values(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    chosen = ["--set", "max_false_alarm_rate=0.01", "--set", 'candidates=["memory"]', "--set", "gaps=zero"]
    assert ignition(*TRAIN, "bolts", "--no-wait", *chosen)[0] == 0
    assert json.loads(api.sent("POST /v1/runs")[0])["settings"] == {
        "max_false_alarm_rate": 0.01,
        "candidates": ["memory"],
        "gaps": "zero",
    }
    assert ignition(*TRAIN, "bolts", "--no-wait", "--set", "horizon")[0] == 2


def test_templates_name_what_can_be_set(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    code, out, _ = ignition("templates")
    assert code == 0
    assert "Which mistake costs more?" in out
    assert "max_false_alarm_rate=0.01" in out


def test_predict_answers_one_json_document_when_an_image_fails(
    api: FakeApi, ignition: Ignition, photos: Path
) -> None:
    full_api(api)
    code, out, _ = ignition("predict", "bolts", str(photos / "b/2.jpg"), str(photos / "none.jpg"), "--json")
    assert code == 2
    good, bad = json.loads(out)
    assert good["verdict"] == "defective"
    assert (bad["file"], bad["error"]["code"]) == (str(photos / "none.jpg"), "client.input")


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


def test_log_text_is_not_markup(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    assert ignition("jobs", "logs", "j-train")[1] == "a [bold] line\n"


# ------------------------------------------------------------------------------------------- the local Hub


def test_login_with_a_key_is_remembered(api: FakeApi, ignition: Ignition, tmp_path: Path) -> None:
    full_api(api)
    assert ignition("login", api.url, "--key", "k2")[0] == 0
    profile = read_profile(tmp_path / "home")
    assert profile is not None
    assert (profile.url, profile.key) == (api.url, "k2")
    assert ignition("logout")[0] == 0
    assert read_profile(tmp_path / "home") is None


def test_login_that_fails_remembers_nothing(api: FakeApi, ignition: Ignition, tmp_path: Path) -> None:
    api.routes["GET /v1/me"] = ProblemError(401, "auth.required")
    assert ignition("login", api.url, "--key", "bad")[0] == 3
    assert read_profile(tmp_path / "home") is None


def test_down_says_so_when_nothing_runs(ignition: Ignition) -> None:
    code, out, _ = ignition("down", "--json")
    assert (code, json.loads(out)) == (0, {"outcome": "not running"})


def test_up_explains_when_the_hub_is_not_installed(
    ignition: Ignition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "find_spec", lambda _name: None)
    code, _, err = ignition("up")
    assert code == 1
    assert "ignition-hub" in err


FAKE_HUB = """
import fcntl, http.server, json, os, pathlib, signal, sys
home = pathlib.Path(os.environ["IGNITION_HOME"])
(home / "run").mkdir(parents=True, exist_ok=True)
if "{how}" == "crash":
    print("cannot start: the moon is wrong")
    sys.exit(7)
lock = open(home / "run" / "hub.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
if "{how}" == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps({{"status": "ok", "version": "0.1.0"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
url = f"http://127.0.0.1:{{server.server_address[1]}}"
(home / "run" / "hub.json").write_text(json.dumps({{"url": url, "pid": os.getpid()}}))
server.serve_forever()
"""


@pytest.mark.faults
@pytest.mark.parametrize(("how", "outcome"), [("well", "stopped"), ("stubborn", "killed")])
def test_up_detach_and_down(
    ignition: Ignition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, outcome: str
) -> None:
    fake_module(monkeypatch, tmp_path, how)
    monkeypatch.setattr(local, "STOP_TIMEOUT_S", 1.0)
    monkeypatch.setattr(local.stop_hub, "__kwdefaults__", {"timeout_s": 1.0})
    code, out, err = ignition("up", "--detach", "--json")
    assert code == 0, err
    first = json.loads(out)
    assert (tmp_path / "home" / "logs" / "up.log").stat().st_mode & 0o077 == 0, "it has the setup link"
    code, out, _ = ignition("up", "--detach", "--json")
    assert (code, json.loads(out)["pid"]) == (0, first["pid"]), "a second `up` finds the first"
    code, out, _ = ignition("down", "--json")
    assert json.loads(out) == {"outcome": outcome}
    os.waitpid(first["pid"], 0)  # the command was run in this process: the Hub is its child
    assert not local.hub_is_running(tmp_path / "home")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_takes_the_hub_along_when_it_alone_is_told_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    home = tmp_path / "home"
    fake_module(monkeypatch, tmp_path, "well")
    monkeypatch.setenv("IGNITION_HOME", str(home))
    command = [sys.executable, "-m", "ignition_client.cli", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        assert any(line == "Ctrl-C stops it.\n" for line in up.stderr)
        up.send_signal(number)
        assert up.wait(30) == 0
    assert not local.hub_is_running(home)


@pytest.mark.faults
def test_up_leaves_no_hub_behind_when_it_cannot_say_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_module(monkeypatch, tmp_path, "well")
    monkeypatch.setenv("IGNITION_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "ignition_client.cli", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as up:
        assert up.stdout is not None
        up.stdout.close()
        assert up.wait(30) == 1
    assert (tmp_path / "home" / "run" / "hub.lock").exists(), "it was started"
    assert not local.hub_is_running(tmp_path / "home")


@pytest.mark.faults
def test_up_shows_the_end_of_the_log_when_the_hub_does_not_start(
    ignition: Ignition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_module(monkeypatch, tmp_path, "crash")
    code, _, err = ignition("up", "--detach")
    assert code == 1
    assert "exit status 7" in err
    assert "the moon is wrong" in err


def fake_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    """A module `ignition_hub` that comes before the real one."""
    package = tmp_path / "modules" / "ignition_hub"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE_HUB.format(how=how))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(local, "find_spec", lambda _name: True)
