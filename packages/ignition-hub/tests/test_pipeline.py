"""From a folder to an endpoint through the real HTTP protocol, with a fake agent and a fake gateway."""

from __future__ import annotations

import asyncio
import email
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from conftest import OpenHub, RunningHub
from fakes import CHECK, FakeAgent, FakeGateway, until, upload

from ignition_hub.accounts import service as accounts
from ignition_hub.auth.http import COOKIE
from ignition_hub.endpoints.models import GatewayDeliveryRow
from ignition_hub.foundry.workflow import RunWorkflow
from ignition_hub.pipelines.engine import Steps

FILES = {"ok/a.png": b"good", "defective/b.png": b"bad"}
RUN = {"name": "gravel", "template": "visual-anomaly-detection", "dataset": "stones"}


@asynccontextmanager
async def at_work(hub: RunningHub, **agent: Any) -> AsyncIterator[tuple[FakeAgent, FakeGateway]]:
    """A fake agent and a fake gateway, working in the background."""
    async with hub.client(hub.secret("agent-token")) as a, hub.client(hub.secret("gateway-token")) as g:
        fake, gateway = FakeAgent(a, hub.client, **agent), FakeGateway(g)
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(fake.run()), tasks.create_task(gateway.run())]
            yield fake, gateway
            for worker in workers:
                worker.cancel()


async def start(client: httpx.AsyncClient, **changes: Any) -> str:
    answer = await client.post("/v1/runs", json={**RUN, **changes})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


class Mailbox(Message):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[email.message.Message] = []

    def handle_message(self, message: email.message.Message) -> None:
        self.messages.append(message)


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


def test_run_ends_with_one_endpoint_one_message_and_one_mail(
    open_hub: OpenHub, mailbox: tuple[Mailbox, int]
) -> None:
    box, port = mailbox
    mail = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_to": "team@example.org"}

    async def scenario() -> None:
        async with open_hub(**mail) as hub, hub.user() as user, at_work(hub) as (_, gateway):
            dataset = await upload(user, FILES, "stones")
            assert dataset["version"] == 1
            assert (await upload(user, FILES, "stones"))["version"] == 1
            run_id = await start(user, idempotency_key="once")
            assert await start(user, idempotency_key="once") == run_id
            run = await until(user, run_id)
            assert run["status"] == "succeeded", run["error"]
            assert [stage["status"] for stage in run["stages"]] == ["done"] * 6
            assert run["model"] == "default/gravel"
            assert (run["train"]["value"], run["build"]["backend"]) == (0.98, "openvino")

            [endpoint] = (await user.get("/v1/endpoints")).json()
            assert (endpoint["name"], endpoint["status"]) == ("gravel", "ready")
            assert endpoint["run_id"] == run_id
            assert endpoint["speedup"] == 7.5
            assert endpoint["key_prefix"] is None
            [engine] = (await user.get("/v1/engines")).json()
            assert (engine["id"], engine["current"]) == (run["engine_id"], True)
            detail = (await user.get(f"/v1/engines/{engine['id']}")).json()
            assert detail["receipt"]["comparison"]["speedup"] == 7.5
            download = await user.get(f"/v1/engines/{engine['id']}/download")
            assert len(download.content) == engine["size_bytes"]
            [model] = (await user.get("/v1/models")).json()
            assert (await user.get(f"/v1/models/{model['name']}")).json() == model

            assert (await user.get(f"/v1/runs/{run_id}/report")).json()["name"] == "gravel"
            picture = await user.get(f"/v1/runs/{run_id}/report/worst.png")
            assert (picture.content, picture.headers["content-type"]) == (b"\x89PNG", "image/png")
            jobs = (await user.get("/v1/jobs", params={"run": run_id})).json()
            assert [job["kind"] for job in jobs] == ["train", "build"]
            log = (await user.get(f"/v1/jobs/{jobs[0]['id']}/log")).json()
            assert log == {"text": "wörking\n", "next_offset": 9, "final": True}
            assert len((await user.get(f"/v1/jobs/{jobs[0]['id']}/events")).json()) == 1

            [message] = (await user.get("/v1/inbox")).json()
            assert (message["kind"], message["read"]) == ("run_succeeded", False)
            assert (await user.post(f"/v1/inbox/{message['id']}/read")).json()["read"] is True

            before = gateway.etag
            key = (await user.post("/v1/endpoints/gravel/keys")).json()
            assert key["key"].startswith("igne_")
            async with asyncio.timeout(10):
                while gateway.etag == before:
                    await asyncio.sleep(0.01)
            assert len(gateway.config["endpoints"][0]["key_sha256"]) == 2
            assert (await user.delete("/v1/endpoints/gravel")).status_code == 204
            assert (await user.get("/v1/endpoints")).json() == []

        # A restart must not send or make anything again.
        async with open_hub(**mail) as hub, hub.user() as user:
            assert len((await user.get("/v1/inbox")).json()) == 1
            assert len((await user.get("/v1/engines")).json()) == 1

    asyncio.run(scenario())
    [message] = box.messages
    assert message["To"] == "team@example.org"
    assert message["Subject"] == "gravel is live"
    assert message["Message-ID"].startswith("<run-")


@pytest.mark.parametrize("stop_after", ["check", "train", "build"])
def test_run_goes_on_when_the_hub_restarts_in_its_middle(open_hub: OpenHub, stop_after: str) -> None:
    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, hub.client(hub.secret("agent-token")) as a:
            agent = FakeAgent(a, hub.client)
            await upload(user, FILES, "stones")
            run_id = await start(user)
            for kind in ("check", "train", "build"):
                lease = await agent.lease()
                assert lease is not None
                assert lease["kind"] == kind
                if kind == stop_after:
                    break
                await agent.work(lease)
        async with open_hub() as hub, hub.user() as user:
            # The lease outlives the Hub: its agent goes on where it was.
            async with hub.client(hub.secret("agent-token")) as a:
                await FakeAgent(a, hub.client).work(lease)
            async with at_work(hub):
                run = await until(user, run_id)
            assert run["status"] == "succeeded", run["error"]
            assert len((await user.get("/v1/endpoints")).json()) == 1
            assert len((await user.get("/v1/inbox")).json()) == 1
            assert len((await user.get("/v1/jobs", params={"run": run_id})).json()) == 2

    asyncio.run(scenario())


def test_run_goes_on_when_a_job_ended_while_the_workflow_did_not_run(open_hub: OpenHub) -> None:
    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user:
            await upload(user, FILES, "stones")
            run_id = await start(user)
        async with open_hub() as hub, hub.user() as user, at_work(hub):
            assert (await until(user, run_id))["status"] == "succeeded"

    asyncio.run(scenario())


def test_run_fails_with_the_finding_when_the_data_check_blocks(open_hub: OpenHub) -> None:
    finding = {
        "code": "too_few",
        "severity": "error",
        "title": "Too few good images",
        "hint": "Add more.",
        "num": 1,
        "paths": [],
    }

    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, at_work(hub) as (agent, _):
            agent.check = {**CHECK, "findings": [finding]}
            await upload(user, FILES, "stones")
            run = await until(user, await start(user))
            assert run["status"] == "failed"
            assert run["error"]["code"] == "dataset.blocked"
            assert "Too few good images" in run["error"]["message"]
            assert run["error"]["hint"] == "Add more."
            assert [s["status"] for s in run["stages"]][1:5] == ["skipped"] * 4
            [message] = (await user.get("/v1/inbox")).json()
            assert message["kind"] == "run_failed"
            assert (await user.get("/v1/endpoints")).json() == []

    asyncio.run(scenario())


def test_run_fails_with_the_jobs_reason_when_training_fails(open_hub: OpenHub) -> None:
    error = {"code": "train.no_data", "message": "Nothing to learn from.", "hint": "Add images."}

    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, hub.client(hub.secret("agent-token")) as a:
            agent = FakeAgent(a, hub.client)
            await upload(user, FILES, "stones")
            run_id = await start(user)
            check = await agent.lease()
            assert check is not None
            await agent.work(check)
            train = await agent.lease()
            assert train is not None
            (await agent.end(train, status="failed", error=error)).raise_for_status()
            run = await until(user, run_id)
            assert (run["status"], run["error"]) == ("failed", error)
            assert [s["status"] for s in run["stages"]][:3] == ["done", "failed", "skipped"]

    asyncio.run(scenario())


def test_page_shows_the_trainings_report_when_the_build_fails(open_hub: OpenHub) -> None:
    error = {"code": "engine.budget", "message": "No candidate is as accurate.", "hint": "Allow more."}
    report = {"schema_version": 2, "name": "gravel", "protocol": "Measured <once>.", "held_out": []}

    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, hub.client(hub.secret("agent-token")) as a:
            agent = FakeAgent(a, hub.client)
            agent.reports[RUN["template"]] = (report, {})
            await upload(user, FILES, "stones")
            run_id = await start(user)
            for kind in ("check", "train", "build"):
                lease = await agent.lease()
                assert lease is not None
                assert lease["kind"] == kind
                if kind == "build":
                    (await agent.end(lease, status="failed", error=error)).raise_for_status()
                else:
                    await agent.work(lease)
            run = await until(user, run_id)
            assert (run["status"], run["error"]) == ("failed", error)
            with hub.hub.db.write() as session:
                token = hub.hub.setup_url.partition("token=")[2]
                cookie = accounts.claim_setup(
                    session, token, "ada@example.com", "analytical engine", session_lifetime_s=60
                )
            page = await user.get(f"/runs/{run_id}", headers={"Cookie": f"{COOKIE}={cookie}"})
            assert page.status_code == 200
            assert error["message"] in page.text
            assert "Measured &lt;once&gt;." in page.text

    asyncio.run(scenario())


def test_data_is_checked_again_when_its_check_was_another_templates(open_hub: OpenHub) -> None:
    finding = {"code": "x", "severity": "error", "title": "Too few boxes", "hint": "Draw more.", "num": 1}

    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, hub.client(hub.secret("agent-token")) as a:
            agent = FakeAgent(a, hub.client)
            await upload(user, FILES, "stones")
            run_id = await start(user, template="object-detection")
            first = await agent.lease()
            assert first is not None
            assert first["spec"]["template"] is None, "the dataset's own check finds out what it suits"
            await agent.work(first)
            second = await agent.lease()
            assert second is not None
            assert (second["kind"], second["spec"]["template"]) == ("check", "object-detection")
            assert [entry["path"] for entry in second["inputs"]] == [
                "dataset/defective/b.png",
                "dataset/ok/a.png",
            ]
            agent.check = {**CHECK, "template": "object-detection", "findings": [finding]}
            await agent.work(second)
            run = await until(user, run_id)
            assert (run["status"], run["error"]["code"]) == ("failed", "dataset.blocked")
            assert "Too few boxes" in run["error"]["message"]
            assert run["stages"][0]["job_id"] == second["job_id"]
            shown = (await user.get("/v1/datasets/stones")).json()
            assert shown["check"]["template"] == "visual-anomaly-detection", "the dataset's check stays"

    asyncio.run(scenario())


def test_settings_of_a_run_reach_the_training(open_hub: OpenHub) -> None:
    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, hub.client(hub.secret("agent-token")) as a:
            agent = FakeAgent(a, hub.client)
            await upload(user, FILES, "stones")
            settings = {"max_false_alarm_rate": 0.01, "candidates": ["memory"]}
            run_id = await start(user, settings=settings)
            assert (await user.get(f"/v1/runs/{run_id}")).json()["settings"] == settings
            check = await agent.lease()
            assert check is not None
            await agent.work(check)
            train = await agent.lease()
            assert train is not None
            assert (train["kind"], train["spec"]["settings"]) == ("train", settings)

    asyncio.run(scenario())


@pytest.mark.parametrize(("asked", "given"), [({}, 420), ({"budget_s": None}, 420), ({"budget_s": 30}, 30)])
def test_training_takes_the_time_that_was_asked_for_or_its_templates(
    open_hub: OpenHub, asked: dict[str, Any], given: float
) -> None:
    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, hub.client(hub.secret("agent-token")) as a:
            agent = FakeAgent(a, hub.client)
            await upload(user, FILES, "stones")
            templates = (await user.get("/v1/templates")).json()
            assert [each["budget_s"] for each in templates if each["id"] == "object-detection"] == [420]
            await start(user, template="object-detection", **asked)
            while (lease := await agent.lease()) is not None and lease["kind"] == "check":
                agent.check = {**CHECK, "template": lease["spec"]["template"] or CHECK["template"]}
                await agent.work(lease)
            assert lease is not None
            assert (lease["kind"], lease["spec"]["budget_s"]) == ("train", given)

    asyncio.run(scenario())


@pytest.mark.parametrize("horizon", [0, 10_000, 1.5, "7", True, None])
def test_run_with_a_setting_that_its_question_excludes_is_refused(open_hub: OpenHub, horizon: Any) -> None:
    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user:
            await upload(user, FILES, "stones")
            body = {**RUN, "template": "sales-forecasting", "settings": {"horizon": horizon}}
            answer = await user.post("/v1/runs", json=body)
            assert answer.status_code == 400, answer.text
            assert "horizon" in answer.json()["detail"]
            assert (await user.get("/v1/runs")).json() == []

    asyncio.run(scenario())


def test_run_is_cancelled_in_every_state_of_its_job(open_hub: OpenHub) -> None:
    async def scenario() -> None:
        async with open_hub() as hub, hub.user() as user, hub.client(hub.secret("agent-token")) as a:
            agent = FakeAgent(a, hub.client)
            await upload(user, FILES, "stones")
            waiting = await start(user)
            conflict = await user.post("/v1/runs", json=RUN)
            assert conflict.status_code == 409
            (await user.post(f"/v1/runs/{waiting}/cancel")).raise_for_status()
            assert (await until(user, waiting))["status"] == "cancelled"
            check = await agent.lease()
            assert check is not None
            assert check["kind"] == "check", "the check is the dataset's, not the run's"
            await agent.work(check)

            working = await start(user)
            train = await agent.lease()
            assert train is not None
            (await user.post(f"/v1/runs/{working}/cancel")).raise_for_status()
            async with hub.client(train["token"]) as job:
                route = f"/v1/jobs/{train['job_id']}/heartbeat"
                assert (await job.post(route, json={"epoch": train["epoch"]})).json()["cancel"] is True
            await agent.end(train, status="cancelled")
            run = await until(user, working)
            assert (run["status"], run["error"]["code"]) == ("cancelled", "run.cancelled")
            assert (await user.post(f"/v1/runs/{working}/cancel")).status_code == 409
            assert (await user.get("/v1/inbox")).json() == []

    asyncio.run(scenario())


def test_later_run_replaces_the_engine_and_a_failed_deployment_is_taken_back(open_hub: OpenHub) -> None:
    async def scenario() -> None:
        async with open_hub(deploy_timeout_s=20) as hub, hub.user() as user, at_work(hub) as (_, gateway):
            await upload(user, FILES, "stones")
            first = await until(user, await start(user))
            second = await until(user, await start(user))
            assert second["model_version"] == 2
            [endpoint] = (await user.get("/v1/endpoints")).json()
            assert endpoint["engine_id"] == second["engine_id"] != first["engine_id"]
            assert endpoint["model_version"] == 2
            current = {e["id"]: e["current"] for e in (await user.get("/v1/engines")).json()}
            assert current == {first["engine_id"]: False, second["engine_id"]: True}

            gateway.error = {"code": "engine.load", "message": "It does not load.", "hint": None}
            third = await until(user, await start(user))
            assert (third["status"], third["error"]["code"]) == ("failed", "engine.load")
            [endpoint] = (await user.get("/v1/endpoints")).json()
            assert endpoint["engine_id"] == second["engine_id"]

    asyncio.run(scenario())


def test_run_goes_on_after_a_restart_when_the_database_is_postgresql(
    open_hub: OpenHub, postgres_url: str
) -> None:
    name = "pipelines"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    url = postgres_url.rpartition("/")[0] + f"/{name}"

    async def scenario() -> None:
        async with open_hub(database_url=url) as hub, hub.user() as user:
            await upload(user, FILES, "stones")
            run_id = await start(user)
            async with hub.client(hub.secret("agent-token")) as a:
                agent = FakeAgent(a, hub.client)
                lease = await agent.lease()
                assert lease is not None
                await agent.work(lease)
        async with open_hub(database_url=url) as hub, hub.user() as user, at_work(hub):
            run = await until(user, run_id)
            assert run["status"] == "succeeded", run["error"]
            assert len((await user.get("/v1/endpoints")).json()) == 1
            assert len((await user.get("/v1/inbox")).json()) == 1

    asyncio.run(scenario())


def test_run_fails_when_no_gateway_reports(open_hub: OpenHub) -> None:
    async def scenario() -> None:
        async with open_hub(deploy_timeout_s=0.2) as hub, hub.user() as user:
            async with hub.client(hub.secret("agent-token")) as a:
                agent = FakeAgent(a, hub.client)
                await upload(user, FILES, "stones")
                run_id = await start(user)
                for _ in range(3):
                    lease = await agent.lease()
                    assert lease is not None
                    await agent.work(lease)
            run = await until(user, run_id)
            assert (run["status"], run["error"]["code"]) == ("failed", "endpoint.timeout")
            assert (await user.get("/v1/endpoints")).json() == []

    asyncio.run(scenario())


def test_run_ends_however_long_its_end_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Steps):
        """Repeats a failing step as DBOS does, without the pauses."""

        async def run(self, work: Any, *arguments: Any, attempts: int = 5) -> Any:
            for left in reversed(range(attempts)):
                try:
                    return work(*arguments)
                except OSError:
                    if not left:
                        raise

    full = iter([OSError("disk full")] * 50)
    ended: list[Any] = []

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    def finish(_: str, error: Any) -> None:
        if trouble := next(full, None):
            raise trouble
        ended.append(error["code"])

    nothing: Any = None
    workflow = RunWorkflow(db=nothing, blobs=nothing, jobs=nothing, endpoints=nothing, settings=nothing)
    monkeypatch.setattr(workflow, "_submit", fail)
    monkeypatch.setattr(workflow, "_finish", finish)
    monkeypatch.setattr(workflow, "_send_mail", lambda _: False)
    asyncio.run(workflow(Impatient(), "r1"))
    assert ended == ["run.internal"]


def test_every_configuration_that_the_gateway_is_given_is_remembered(
    open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignition_hub.endpoints.api.GATEWAY_WAIT_S", 0)

    async def scenario() -> None:
        async with open_hub() as hub, hub.client(hub.secret("gateway-token")) as gateway:

            def etags() -> tuple[str, str | None]:
                with hub.hub.db.read() as session:
                    delivered = session.get(GatewayDeliveryRow, 1)
                    return hub.hub.endpoints.config(session).etag, delivered and delivered.etag

            present, _ = etags()
            # Nothing new at the last look, and an answer all the same: it may have changed in between.
            answer = await gateway.get("/v1/gateway/config", params={"etag": present})
            assert (answer.json()["etag"], etags()[1]) == (present, present)

    asyncio.run(scenario())
