"""``ignition train`` and ``runs watch``: what they send, what they print, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_api
import pytest
from cli_cases import Ignition, full_api
from fake_api import FakeApi, Sse

from ignition_client.cli.render import event_line
from ignition_client.wire import JobEvent

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


@pytest.mark.parametrize(
    ("message", "metrics", "line"),
    [
        ("", {}, "Training 25%"),
        ("120 of 300", {"loss": 0.21}, "Training 25% 120 of 300, loss 0.21"),
        ("epoch 3 of 40", {"epoch": 3.0, "loss": 0.5}, "Training 25% epoch 3 of 40, loss 0.5"),
        ("", {"epoch": 3.0}, "Training 25% epoch 3"),
    ],
)
def test_progress_says_nothing_twice(message: str, metrics: dict[str, float], line: str) -> None:
    event = JobEvent.model_validate(
        {
            "seq": 0,
            "at": "2026-01-01T00:00:00Z",
            "stage": "Training",
            "progress": 0.25,
            "message": message,
            "metrics": metrics,
        }
    )
    assert event_line(event) == line
