"""The SDK against answers over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_api
import pytest
from fake_api import FakeApi, ProblemError, Sse

import ignition_client
from ignition_client import Ignition, errors
from ignition_client.digests import digest_of_bytes
from ignition_client.events import parse_events


@pytest.fixture
def hub(api: FakeApi) -> Any:
    with Ignition() as hub:
        yield hub


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in (
        "ok/1.jpg",
        "ok/2.jpg",
        "defective/crack/3.jpg",
        "ok/copy of 1.jpg",
        ".hidden/x",
        "ok/Thumbs.db",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"first" if "1" in name else name.encode())
    return folder


def test_public_api_is_what_we_promise() -> None:
    assert sorted(ignition_client.__all__) == [
        "AgentError",
        "ClientError",
        "ConfigError",
        "ConflictError",
        "DigestMismatchError",
        "Heatmap",
        "HubError",
        "HubFailureError",
        "HubUnreachableError",
        "Ignition",
        "InputError",
        "InvalidRequestError",
        "NotFoundError",
        "NotLoggedInError",
        "PermissionDeniedError",
        "Prediction",
        "ProtocolError",
        "RateLimitedError",
        "UnsafePathError",
        "WaitTimeoutError",
        "WorkFailedError",
    ]
    with Ignition("http://hub", "key") as hub:
        public = {name for name in dir(hub) if not name.startswith("_")}
        resources = {
            name: sorted(n for n in dir(getattr(hub, name)) if not n.startswith("_"))
            for name in ("templates", "datasets", "runs", "jobs", "models", "engines", "endpoints", "inbox")
        }
    assert public == {*resources, "url", "http", "close", "health", "login", "me", "predict", "train"}
    assert resources == {
        "templates": ["list"],
        "datasets": ["list", "push", "show"],
        "runs": ["cancel", "list", "report", "report_file", "show", "stream", "wait"],
        "jobs": ["cancel", "events", "follow_log", "list", "log", "show"],
        "models": ["list", "show"],
        "engines": ["list", "pull", "show"],
        "endpoints": ["create_key", "delete", "list", "show"],
        "inbox": ["list", "read"],
    }


# ------------------------------------------------------------------------------------------------ push


def test_push_sends_each_content_once_and_commits(api: FakeApi, hub: Ignition, photos: Path) -> None:
    api.routes["POST /v1/datasets"] = fake_api.dataset()
    seen: list[tuple[str, int, int]] = []
    pushed = hub.datasets.push(photos, "bolts", progress=lambda *step: seen.append(step))
    assert pushed.version == 1
    (body,) = api.sent("POST /v1/datasets")
    paths = [entry["path"] for entry in json.loads(body)["files"]]
    assert paths == ["defective/crack/3.jpg", "ok/1.jpg", "ok/2.jpg", "ok/copy of 1.jpg"]
    assert len(api.blobs) == 3
    total = sum(len((photos / path).read_bytes()) for path in paths)
    assert seen[0] == ("hash", 0, total)
    assert ("hash", total, total) in seen
    assert seen[-1] == ("upload", total - len(b"first"), total - len(b"first"))


def test_push_resumes_with_what_is_missing(api: FakeApi, hub: Ignition, photos: Path) -> None:
    api.routes["POST /v1/datasets"] = fake_api.dataset()
    api.fail_puts = 1
    with pytest.raises(errors.PermissionDeniedError):
        hub.datasets.push(photos, "bolts")
    assert api.sent("POST /v1/datasets") == []
    before = len(api.blobs)
    hub.datasets.push(photos, "bolts")
    assert len(api.blobs) == 3
    puts = sum(method == "PUT" for method, *_ in api.requests)
    assert puts == 1 + before + (3 - before)


@pytest.mark.parametrize("name", ["", "Bolts", "a b", "-a", "a" * 64, "../x"])
def test_push_refuses_a_bad_name_before_anything_is_sent(
    api: FakeApi, hub: Ignition, photos: Path, name: str
) -> None:
    with pytest.raises(errors.InputError):
        hub.datasets.push(photos, name)
    assert api.requests == []


def test_push_refuses_an_empty_or_missing_folder(hub: Ignition, tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(errors.InputError):
            hub.datasets.push(folder, "bolts")


# ------------------------------------------------------------------------------------------------ runs


def test_train_pushes_a_folder_and_starts_with_that_version(
    api: FakeApi, hub: Ignition, photos: Path
) -> None:
    api.routes["POST /v1/datasets"] = fake_api.dataset(version=7)
    api.routes["POST /v1/runs"] = fake_api.run("running")
    assert hub.train("visual-anomaly-detection", data=photos, name="bolts", budget_s=60).id == "r1"
    (body,) = api.sent("POST /v1/runs")
    sent = json.loads(body)
    assert (sent["dataset"], sent["dataset_version"], sent["budget_s"]) == ("bolts", 7, 60)


def test_train_takes_a_dataset_by_name(api: FakeApi, hub: Ignition) -> None:
    api.routes["POST /v1/runs"] = fake_api.run("running")
    hub.train("visual-anomaly-detection", data="bolts", name="bolts")
    (body,) = api.sent("POST /v1/runs")
    assert json.loads(body)["dataset_version"] is None


@pytest.mark.parametrize(
    "changes", [{"data": "no/such/folder"}, {"name": "Not A Slug"}, {"budget_s": 0}, {"max_drop": 2}]
)
def test_train_refuses_what_cannot_work(api: FakeApi, hub: Ignition, changes: dict[str, Any]) -> None:
    with pytest.raises(errors.InputError):
        hub.train("t", **{"data": "bolts", "name": "bolts", **changes})
    assert api.requests == []


def test_stream_reconnects_until_the_run_is_over(api: FakeApi, hub: Ignition) -> None:
    running = {"run": fake_api.run("running"), "jobs": [fake_api.job()]}
    done = {"run": fake_api.run(), "jobs": []}
    api.routes["GET /v1/runs/r1/stream"] = [Sse([running, running]), Sse([]), Sse([running, done, running])]
    assert [s.run.status.value for s in hub.runs.stream("r1")] == ["running"] * 3 + ["succeeded"]


def test_wait_raises_the_runs_own_reason(api: FakeApi, hub: Ignition) -> None:
    error = {"code": "build.accuracy_budget", "message": "No candidate.", "hint": "Allow more."}
    api.routes["GET /v1/runs/r1/stream"] = Sse([{"run": fake_api.run("failed", error=error), "jobs": []}])
    with pytest.raises(errors.WorkFailedError) as caught:
        hub.runs.wait("r1")
    assert (caught.value.code, caught.value.message, caught.value.hint) == tuple(error.values())


def test_wait_gives_up_after_its_timeout(api: FakeApi, hub: Ignition) -> None:
    api.routes["GET /v1/runs/r1/stream"] = Sse([{"run": fake_api.run("running"), "jobs": []}] * 2)
    with pytest.raises(errors.WaitTimeoutError):
        hub.runs.wait("r1", timeout_s=0)


def test_unknown_run_is_not_found(hub: Ignition) -> None:
    with pytest.raises(errors.NotFoundError):
        next(iter(hub.runs.stream("r9")))


def test_log_is_followed_to_its_end(api: FakeApi, hub: Ignition) -> None:
    text = "one\ntwo\n"
    tails = [
        {"text": text[:4], "next_offset": 4, "final": False},
        {"text": text[4:], "next_offset": 8, "final": True},
        {"text": "", "next_offset": 8, "final": True},
    ]
    api.routes["GET /v1/jobs/j1/log"] = lambda _: tails.pop(0)
    assert "".join(hub.jobs.follow_log("j1")) == text
    assert [path for _, path, *_ in api.requests][1] == "/v1/jobs/j1/log?offset=4"


def test_events_are_parsed_as_the_standard_says() -> None:
    lines = [": comment", "event: a", "data: 1", "data:2", "", "data: x", "", "event: lost", "data: y"]
    assert [(event.name, event.data) for event in parse_events(lines)] == [("a", "1\n2"), ("message", "x")]


# ----------------------------------------------------------------------------- engines and predictions


def test_pull_writes_the_engine_under_a_speaking_name(api: FakeApi, hub: Ignition, tmp_path: Path) -> None:
    api.routes["GET /v1/engines/e1"] = fake_api.engine(digest_of_bytes(b"bytes"))
    api.routes["GET /v1/engines/e1/download"] = b"bytes"
    path = hub.engines.pull("e1", tmp_path)
    assert path.name == "bolts-v1-cpu-x86_64-avx512_vnni.engine"
    assert path.read_bytes() == b"bytes"


def test_pull_leaves_nothing_when_the_bytes_are_others(api: FakeApi, hub: Ignition, tmp_path: Path) -> None:
    api.routes["GET /v1/engines/e1"] = fake_api.engine(digest_of_bytes(b"bytes"))
    api.routes["GET /v1/engines/e1/download"] = b"other"
    with pytest.raises(errors.DigestMismatchError):
        hub.engines.pull("e1", tmp_path / "x.engine")
    assert list(tmp_path.glob("*engine*")) == []


def test_predict_asks_the_hub_without_an_endpoint_key(api: FakeApi, hub: Ignition, tmp_path: Path) -> None:
    api.routes["POST /v1/endpoints/bolts/predict"] = fake_api.prediction(heatmap=True)
    (tmp_path / "a.jpg").write_bytes(b"image")
    answer = hub.predict("bolts", tmp_path / "a.jpg", heatmap=True)
    assert answer.verdict == "defective"
    assert answer.heatmap is not None
    assert answer.heatmap.to_bytes() == b"PNG"
    method, path, body, headers = api.requests[-1]
    assert (method, path, body) == ("POST", "/v1/endpoints/bolts/predict?heatmap=png", b"image")
    assert headers["Authorization"] == "Bearer user-key"


def test_predict_asks_the_gateway_with_an_endpoint_key(api: FakeApi, hub: Ignition) -> None:
    api.routes["GET /v1/endpoints/bolts"] = fake_api.endpoint(f"{api.url}/gateway")
    api.routes["POST /gateway/v1/endpoints/bolts/predict"] = fake_api.prediction()
    hub.predict("bolts", b"image", key="endpoint-key")
    *_, headers = api.requests[-1]
    assert headers["Authorization"] == "Bearer endpoint-key"


def test_predict_asks_about_texts_and_series(api: FakeApi, hub: Ignition) -> None:
    base = {"model": "m", "version": 1, "engine": fake_api.DIGEST, "timing_ms": {}}
    api.routes["POST /v1/endpoints/bolts/predict"] = {
        **base,
        "task": "forecast",
        "horizon": 1,
        "quantiles": {"0.5": [7]},
    }
    answer = hub.predict("bolts", history=[1, None, 3])
    assert (answer.quantiles, answer.verdict, answer.label) == ({"0.5": [7]}, None, None)
    hub.predict("bolts", history=[[1, 2], [3]])
    hub.predict("bolts", text="where?")
    hub.predict("bolts", text=["a", "b"])
    assert [json.loads(body) for _, _, body, _ in api.requests] == [
        {"history": [1, None, 3]},
        {"histories": [[1, 2], [3]]},
        {"text": "where?"},
        {"texts": ["a", "b"]},
    ]


@pytest.mark.parametrize("given", [{}, {"image": b"x", "text": "y"}, {"text": "y", "history": [1]}])
def test_predict_is_about_one_thing(hub: Ignition, given: dict[str, Any]) -> None:
    with pytest.raises(errors.InputError):
        hub.predict("bolts", **given)


def test_predict_on_a_missing_file_is_an_input_error(hub: Ignition, tmp_path: Path) -> None:
    with pytest.raises(errors.InputError):
        hub.predict("bolts", tmp_path / "none.jpg")


def test_errors_of_the_hub_keep_code_hint_and_request_id(api: FakeApi, hub: Ignition) -> None:
    api.routes["GET /v1/me"] = ProblemError(401, "auth.required", "Who are you?", "Log in.")
    with pytest.raises(errors.NotLoggedInError) as caught:
        hub.me()
    error = caught.value
    assert (error.code, error.hint, error.request_id) == ("auth.required", "Log in.", "r-1")


@pytest.mark.parametrize("name", ["", "..", "."])
def test_empty_names_never_reach_the_hub(api: FakeApi, hub: Ignition, name: str) -> None:
    with pytest.raises(errors.InputError):
        hub.endpoints.delete(name)
    assert api.requests == []


def test_names_cannot_change_the_route(api: FakeApi, hub: Ignition) -> None:
    with pytest.raises(errors.NotFoundError):
        hub.endpoints.show("a/../../me?x=1")
    assert api.requests[-1][1] == "/v1/endpoints/a%2F..%2F..%2Fme%3Fx%3D1"
