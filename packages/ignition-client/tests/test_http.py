from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ignition_client import errors
from ignition_client.http import USER_AGENT, HubHttp
from ignition_client.wire import Health

HEALTH = {"status": "ok", "version": "1", "protocol": 1, "new_field": "from a newer Hub"}


class Script:
    """Answers in order; an exception is raised, a status answered, anything else sent as JSON."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        if isinstance(answer, int):
            return httpx.Response(answer)
        return httpx.Response(200, json=answer)


@pytest.fixture
def connect() -> Callable[[Script], HubHttp]:
    def make(script: Script) -> HubHttp:
        return HubHttp("http://hub", "secret", transport=httpx.MockTransport(script), sleep=pauses.append)

    pauses: list[float] = []
    make.pauses = pauses  # type: ignore[attr-defined]
    return make


def test_request_sends_key_and_user_agent(connect: Any) -> None:
    script = Script(HEALTH)
    assert connect(script).read(Health, "GET", "/v1/health").version == "1"
    (request,) = script.requests
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["user-agent"] == USER_AGENT


@pytest.mark.parametrize(
    "fault", [502, 503, 504, 429, httpx.ConnectError("refused"), httpx.ReadTimeout("slow")]
)
def test_idempotent_request_is_repeated_when_the_fault_is_transient(connect: Any, fault: Any) -> None:
    script = Script(fault, fault, HEALTH)
    assert connect(script).read(Health, "GET", "/v1/health").status == "ok"
    assert len(script.requests) == 3
    assert len(connect.pauses) == 2


@pytest.mark.parametrize("fault", [502, httpx.ReadError("lost")])
def test_post_is_not_repeated_when_it_may_have_arrived(connect: Any, fault: Any) -> None:
    script = Script(fault, HEALTH)
    with pytest.raises((errors.HubFailureError, errors.HubUnreachableError)):
        connect(script).request("POST", "/v1/runs")
    assert len(script.requests) == 1


@pytest.mark.parametrize("fault", [429, httpx.ConnectError("refused")])
def test_post_is_repeated_when_it_surely_did_nothing(connect: Any, fault: Any) -> None:
    script = Script(fault, 204)
    assert connect(script).request("POST", "/v1/runs").status_code == 204


def test_retry_after_decides_the_pause(connect: Any) -> None:
    script = Script(httpx.Response(429, headers={"retry-after": "7"}), HEALTH)
    connect(script).request("GET", "/")
    assert connect.pauses == [7.0]


def test_request_gives_up_after_all_attempts(connect: Any) -> None:
    script = Script(*[httpx.ConnectError("refused")] * 5)
    with pytest.raises(errors.HubUnreachableError) as caught:
        connect(script).request("GET", "/")
    assert caught.value.code == "client.unreachable"
    assert len(connect.pauses) == 4


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, errors.InvalidRequestError), (401, errors.NotLoggedInError),
        (403, errors.PermissionDeniedError), (404, errors.NotFoundError),
        (409, errors.ConflictError), (413, errors.InvalidRequestError),
        (418, errors.HubError), (422, errors.InvalidRequestError), (500, errors.HubFailureError),
    ],
)  # fmt: skip
def test_problem_becomes_a_typed_error(connect: Any, status: int, cls: type[errors.HubError]) -> None:
    problem = {
        "type": "about:blank", "title": "No", "status": status, "detail": "Not like this.",
        "code": "some.code", "hint": "Like that.", "value": 7, "request_id": "r-1",
    }  # fmt: skip
    with pytest.raises(errors.HubError) as caught:
        connect(Script(httpx.Response(status, json=problem))).request("POST", "/")
    error = caught.value
    assert type(error) is cls
    assert (error.message, error.code, error.hint, error.value, error.request_id, error.status) == (
        "Not like this.", "some.code", "Like that.", 7, "r-1", status,
    )  # fmt: skip


def test_answer_that_is_no_problem_json_still_becomes_a_typed_error(connect: Any) -> None:
    answer = httpx.Response(404, text="<html>proxy</html>", headers={"x-request-id": "r-2"})
    with pytest.raises(errors.NotFoundError) as caught:
        connect(Script(answer)).request("GET", "/")
    assert caught.value.request_id == "r-2"


@pytest.mark.parametrize("answer", [{"status": "fine"}, [], httpx.Response(200, text="<html>")])
def test_answer_outside_the_protocol_is_refused(connect: Any, answer: Any) -> None:
    with pytest.raises(errors.ProtocolError):
        connect(Script(answer)).read(Health, "GET", "/v1/health")


def test_redirect_is_refused(connect: Any) -> None:
    answer = httpx.Response(302, headers={"location": "http://elsewhere"})
    with pytest.raises(errors.ProtocolError) as caught:
        connect(Script(answer)).request("GET", "/")
    assert caught.value.value == "http://elsewhere"


def test_file_content_is_sent_again_from_its_start(connect: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"content" * 1000)
    script = Script(503, 204)
    connect(script).request("PUT", "/v1/blobs/x", content=file)
    assert [request.content for request in script.requests] == [file.read_bytes()] * 2
    assert script.requests[1].headers["content-length"] == "7000"


@pytest.mark.parametrize("url", ["", "hub", "ftp://hub", "http://"])
def test_address_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigError):
        HubHttp(url)


def test_every_error_has_a_code_of_its_own_and_a_message() -> None:
    def tree(cls: type[errors.ClientError]) -> list[type[errors.ClientError]]:
        return [cls, *(found for sub in cls.__subclasses__() for found in tree(sub))]

    classes = [cls for cls in tree(errors.ClientError) if cls.__module__ == errors.__name__]
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes)
    assert all(cls().message for cls in classes)
    documented = errors.__doc__ or ""
    assert [cls.__name__ for cls in classes if cls.__name__ not in documented] == []
