"""Credentials, uploads, datasets and errors as a client meets them."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from conftest import OpenHub, RunningHub
from fakes import PUBLIC_KEY, digest_of, upload
from PIL import Image

from ignition_hub.accounts import service as accounts
from ignition_hub.datasets import thumbnails
from ignition_hub.foundry import templates

Scenario = Callable[[RunningHub, httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
def play(open_hub: OpenHub) -> Callable[..., None]:
    """Runs a scenario with an open Hub and its owner's client."""

    def run(scenario: Scenario, **settings: Any) -> None:
        async def opened() -> None:
            async with open_hub(**settings) as hub, hub.user() as user:
                await scenario(hub, user)

        asyncio.run(opened())

    return run


Play = Callable[..., None]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = dict(answer.json())
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


# ---------------------------------------------------------------------------------------- credentials


def test_health_needs_no_key_and_everything_else_does(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        async with hub.client() as stranger:
            assert (await stranger.get("/v1/health")).json()["status"] == "ok"
            problem(await stranger.get("/v1/runs"), 401, "auth.required")
            assert "ignition_hub_requests_total" in (await stranger.get("/metrics")).text
        async with hub.client("ign_wrong") as wrong:
            problem(await wrong.get("/v1/me"), 401, "auth.required")
        async with hub.client(Authorization="Basic xyz") as basic:
            problem(await basic.get("/v1/me"), 401, "auth.required")
        assert (await user.get("/v1/me")).json()["role"] == "owner"

    play(scenario)


def test_machines_tokens_reach_their_own_routes_only(play: Play) -> None:
    lease = {"agent": "a", "target": "cpu", "kinds": ["train"], "wait_s": 0, "public_key_pem": PUBLIC_KEY}

    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        async with hub.client(hub.secret("agent-token")) as agent:
            assert (await agent.post("/v1/leases", json=lease)).status_code == 204
            problem(await agent.get("/v1/runs"), 403, "auth.forbidden")
            problem(await agent.get("/v1/gateway/config"), 403, "auth.forbidden")
        async with hub.client(hub.secret("gateway-token")) as gateway:
            problem(await gateway.post("/v1/leases", json=lease), 403, "auth.forbidden")
            problem(await gateway.get("/v1/gateway/blobs/sha256:" + "0" * 64), 404, "not_found")
        problem(await user.post("/v1/leases", json=lease), 403, "auth.forbidden")
        problem(await user.get("/v1/gateway/config"), 403, "auth.forbidden")

    play(scenario)


def test_setup_link_makes_a_password_once(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        assert hub.hub.setup_url is not None
        token = hub.hub.setup_url.partition("token=")[2]

        def claim() -> str:
            with hub.hub.db.write() as session:
                return accounts.claim_setup(
                    session, token, "Me@Example.org", "correct horse", session_lifetime_s=60
                )

        session_token = await asyncio.to_thread(claim)
        with pytest.raises(accounts.NotAuthenticatedError):
            await asyncio.to_thread(claim)
        async with hub.client(Cookie=f"ignition_session={session_token}") as browser:
            assert (await browser.get("/v1/me")).json()["email"] == "me@example.org"
        async with hub.client() as stranger:
            login = {"email": "me@example.org", "password": "correct horse"}
            key = (await stranger.post("/v1/login", json=login)).json()["key"]
            wrong = await stranger.post("/v1/login", json={**login, "password": "battery staple"})
            problem(wrong, 401, "auth.required")
        async with hub.client(key) as again:
            assert (await again.get("/v1/me")).status_code == 200
        assert (await user.get("/v1/me")).json()["email"] == "me@example.org"

    play(scenario)


def test_login_is_limited_when_there_are_many_attempts(play: Play) -> None:
    async def scenario(hub: RunningHub, _: httpx.AsyncClient) -> None:
        async with hub.client() as stranger:
            guesses = [stranger.post("/v1/login", json={"email": "a@b", "password": "x"}) for _ in range(11)]
            statuses = [answer.status_code for answer in await asyncio.gather(*guesses)]
            assert sorted(set(statuses)) == [401, 429]
            limited = await stranger.post("/v1/login", json={"email": "a@b", "password": "x"})
            problem(limited, 429, "request.rate_limited")

    play(scenario)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 409),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://hub"}, 409),
        ({"Origin": "http://evil"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 409),
    ],
)
def test_cookie_is_refused_when_another_site_sends_it(
    play: Play, headers: dict[str, str], status: int
) -> None:
    async def scenario(hub: RunningHub, _: httpx.AsyncClient) -> None:
        with hub.hub.db.write() as session:
            token = accounts.open_session(session, "admin@localhost", session_lifetime_s=60)
        async with hub.client(Cookie=f"ignition_session={token}", **headers) as browser:
            body = {"name": "x", "files": [{"path": "a", "digest": "sha256:" + "0" * 64, "size_bytes": 1}]}
            assert (await browser.post("/v1/datasets", json=body)).status_code == status
            assert (await browser.get("/v1/me")).status_code == 200

    play(scenario)


def test_session_ends_when_it_is_closed_or_too_old(play: Play) -> None:
    async def scenario(hub: RunningHub, _: httpx.AsyncClient) -> None:
        with hub.hub.db.write() as session:
            old = accounts.open_session(session, "admin@localhost", session_lifetime_s=0)
            token = accounts.open_session(session, "admin@localhost", session_lifetime_s=60)
        async with hub.client(Cookie=f"ignition_session={old}") as browser:
            assert (await browser.get("/v1/me")).status_code == 401
        async with hub.client(Cookie=f"ignition_session={token}") as browser:
            assert (await browser.get("/v1/me")).status_code == 200
            with hub.hub.db.write() as session:
                accounts.close_session(session, token)
            assert (await browser.get("/v1/me")).status_code == 401

    play(scenario)


def test_viewer_reads_but_does_not_change(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        from ignition_hub.accounts.models import MemberRow

        with hub.hub.db.write() as session:
            session.query(MemberRow).update({"role": "viewer"})
        assert (await user.get("/v1/datasets")).status_code == 200
        problem(await user.put(f"/v1/blobs/{digest_of(b'x')}", content=b"x"), 403, "auth.forbidden")
        problem(await user.post("/v1/datasets", json={"name": "a", "files": []}), 403, "auth.forbidden")

    play(scenario)


def test_every_mutation_is_audited(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        from ignition_hub.audit.models import AuditRow

        await upload(user, {"ok/a.png": b"a"}, "stones")
        with hub.hub.db.read() as session:
            rows = session.query(AuditRow).filter(AuditRow.action == "dataset.commit").all()
        assert [(row.actor, row.object) for row in rows] == [("admin@localhost", "stones/1")]

    play(scenario)


# ---------------------------------------------------------------------------------------------- blobs


def test_blob_is_kept_only_when_it_has_its_digest(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        digest = digest_of(b"data")
        problem(await user.put(f"/v1/blobs/{digest}", content=b"other"), 400, "blob.digest_mismatch")
        assert (await user.post("/v1/blobs/missing", json={"digests": [digest]})).json()["missing"] == [
            digest
        ]
        problem(await user.get(f"/v1/blobs/{digest}"), 404, "not_found")
        assert [p for p in (hub.hub.home / "blobs").rglob("*") if p.is_file()] == []
        for _ in range(2):
            assert (await user.put(f"/v1/blobs/{digest}", content=b"data")).status_code == 204
        assert (await user.post("/v1/blobs/missing", json={"digests": [digest]})).json()["missing"] == []
        found = await user.get(f"/v1/blobs/{digest}")
        assert found.content == b"data"
        assert found.headers["x-content-type-options"] == "nosniff"

    play(scenario)


def test_blob_is_refused_when_it_is_too_large(play: Play) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        digest = digest_of(b"x" * 3000)
        problem(await user.put(f"/v1/blobs/{digest}", content=b"x" * 3000), 413, "request.too_large")
        problem(await user.put(f"/v1/blobs/{digest}", content=chunks()), 413, "request.too_large")
        assert [p for p in (hub.hub.home / "blobs").rglob("*") if p.is_file()] == []

    play(scenario, max_blob_bytes=1000)


def test_blob_is_seen_by_its_organisation_alone(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        from ignition_hub.accounts.models import MemberRow, OrganisationRow, UserRow
        from ignition_hub.db.engine import now

        await upload(user, {"ok/a.png": b"a"}, "stones")
        with hub.hub.db.write() as session:
            moment = now(session)
            session.add(OrganisationRow(id="other", name="other", created_at=moment))
            session.add(UserRow(id="u2", email="b@c", password_hash=None, created_at=moment))
            session.flush()
            session.add(MemberRow(organisation_id="other", user_id="u2", role="owner"))
            session.flush()
            key = accounts.new_key_by_email(session, "b@c", "k").key
        async with hub.client(key) as other:
            digest = digest_of(b"a")
            problem(await other.get(f"/v1/blobs/{digest}"), 404, "not_found")
            problem(await other.get("/v1/datasets/stones"), 404, "not_found")
            missing = await other.post("/v1/blobs/missing", json={"digests": [digest]})
            assert missing.json()["missing"] == [digest]
            [job] = (await user.get("/v1/jobs")).json()
            problem(await other.get(f"/v1/jobs/{job['id']}"), 404, "not_found")

    play(scenario)


# ------------------------------------------------------------------------------------------- datasets


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a", "a/../b", "a//b", "C:\\a", "a\\b", "con", "a\nb", "", "x" * 1001, "a/."]
)
def test_dataset_is_refused_when_a_path_is_unsafe(play: Play, path: str) -> None:
    async def scenario(_: RunningHub, user: httpx.AsyncClient) -> None:
        entry = {"path": path, "digest": digest_of(b"a"), "size_bytes": 1}
        answer = await user.post("/v1/datasets", json={"name": "x", "files": [entry]})
        assert answer.status_code in (400, 422)
        assert (await user.get("/v1/datasets")).json() == []

    play(scenario)


def test_dataset_is_refused_when_its_files_do_not_fit(play: Play) -> None:
    async def scenario(_: RunningHub, user: httpx.AsyncClient) -> None:
        await upload(user, {"ok/a.png": b"a"}, "stones")
        entry = {"path": "a", "digest": digest_of(b"a"), "size_bytes": 1}

        async def commit(*files: dict[str, Any]) -> httpx.Response:
            return await user.post("/v1/datasets", json={"name": "x", "files": list(files)})

        problem(await commit(), 400, "request.invalid")
        problem(await commit(entry, entry), 400, "request.invalid")
        problem(await commit(entry, {**entry, "path": "a/b"}), 400, "request.invalid")
        problem(await commit({**entry, "size_bytes": 2}), 400, "request.invalid")
        missing = {**entry, "digest": digest_of(b"never")}
        assert problem(await commit(missing), 409, "conflict")["value"] == [digest_of(b"never")]
        assert (await commit(entry)).status_code == 200

    play(scenario)


def test_dataset_has_versions_files_and_a_check(play: Play) -> None:
    async def scenario(_: RunningHub, user: httpx.AsyncClient) -> None:
        odd = "ok/größe #1?.png"
        first = await upload(user, {odd: b"a"}, "stones")
        second = await upload(user, {odd: b"b"}, "stones")
        assert (first["version"], second["version"]) == (1, 2)
        assert first["check_status"] == "pending"
        route = "/v1/datasets/stones"
        [listed] = (await user.get("/v1/datasets")).json()
        assert listed["version"] == 2
        assert (await user.get(route, params={"version": 1})).json()["digest"] == first["digest"]
        problem(await user.get(route, params={"version": 3}), 404, "not_found")
        from urllib.parse import quote

        file = await user.get(f"{route}/files/{quote(odd)}", params={"version": 1})
        assert (file.content, file.headers["content-type"]) == (b"a", "image/png")
        problem(await user.get(f"{route}/files/{quote('ok/none.png')}"), 404, "not_found")

    play(scenario)


def png_bomb(side: int) -> bytes:
    """A PNG that claims `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def image_bytes(mode: str, kind: str) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (600, 300)).save(out, kind)
    return out.getvalue()


def test_thumbnail_is_made_of_images_and_refused_for_anything_else(play: Play) -> None:
    good = {
        "rgb.jpg": image_bytes("RGB", "JPEG"),
        "cmyk.jpg": image_bytes("CMYK", "JPEG"),
        "alpha.png": image_bytes("RGBA", "PNG"),
        "palette.png": image_bytes("P", "PNG"),
        "deep.png": image_bytes("I;16", "PNG"),
    }
    bad = {
        "text.png": b"not an image",
        "empty.png": b"",
        "cut.jpg": good["rgb.jpg"][:200],
        "bomb.png": png_bomb(30_000),
        "huge.png": png_bomb(9_000),
        "ghost.eps": image_bytes("RGB", "EPS"),
    }

    async def scenario(_: RunningHub, user: httpx.AsyncClient) -> None:
        await upload(user, good | bad, "pictures")
        for name in good:
            for _ in range(2):  # made, then from the cache
                answer = await user.get(f"/v1/datasets/pictures/thumbnails/{name}")
                assert answer.status_code == 200, (name, answer.text)
                assert Image.open(io.BytesIO(answer.content)).size == (256, 128)
        for name in bad:
            answer = await user.get(f"/v1/datasets/pictures/thumbnails/{name}")
            problem(answer, 400, "request.invalid")

    play(scenario)


def test_thumbnail_is_refused_before_it_is_read_when_the_file_is_too_large(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "MAX_BYTES", 10)

    async def scenario(_: RunningHub, user: httpx.AsyncClient) -> None:
        await upload(user, {"a.png": image_bytes("RGB", "PNG")}, "pictures")
        body = problem(await user.get("/v1/datasets/pictures/thumbnails/a.png"), 400, "request.invalid")
        assert "10 bytes" in body["detail"]

    play(scenario)


def test_input_is_read_with_a_jobs_token_only_while_the_lease_lasts(play: Play) -> None:
    lease = {"agent": "a", "target": "cpu", "kinds": ["check"], "wait_s": 0, "public_key_pem": PUBLIC_KEY}

    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        await upload(user, {"ok/a.png": b"mine"}, "pictures")
        async with hub.client(hub.secret("agent-token")) as agent:
            given = (await agent.post("/v1/leases", json=lease)).json()
        route = f"/v1/jobs/{given['job_id']}"
        async with hub.client(given["token"]) as job:
            assert (await job.get(f"{route}/blobs/{digest_of(b'mine')}")).content == b"mine"
            problem(await job.get(f"/v1/jobs/other/blobs/{digest_of(b'mine')}"), 404, "not_found")
            problem(await job.get(f"{route}/blobs/{digest_of(b'other')}"), 404, "not_found")
            assert (await job.post(f"{route}/release", json={"epoch": given["epoch"]})).status_code == 204
            problem(await job.get(f"{route}/blobs/{digest_of(b'mine')}"), 409, "job.stale_epoch")

    play(scenario)


def test_blob_is_lost_not_unknown_when_the_store_has_it_no_more(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        digest = digest_of(b"gone")
        assert (await user.put(f"/v1/blobs/{digest}", content=b"gone")).status_code == 204
        [file] = (hub.hub.home / "blobs").rglob(digest.removeprefix("sha256:"))
        file.unlink()
        body = problem(await user.get(f"/v1/blobs/{digest}"), 410, "blob.lost")
        assert body["hint"]

    play(scenario)


# --------------------------------------------------------------------------------------------- errors


def test_body_is_refused_when_it_would_fill_the_memory(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignition_hub.app.MAX_BODY_BYTES", 1000)

    async def pieces(num: int) -> AsyncIterator[bytes]:
        for _ in range(num):
            yield b"x" * 100

    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        async with hub.client() as stranger:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            for route in ("/v1/login", "/login", "/setup"):
                answer = await stranger.post(route, content=pieces(11), headers=form)
                problem(answer, 413, "request.too_large")
            problem(await stranger.post("/v1/login", content=pieces(10)), 422, "request.invalid")
        digest = digest_of(b"x" * 1100)
        assert (await user.put(f"/v1/blobs/{digest}", content=pieces(11))).status_code == 204

    play(scenario)


def test_errors_are_problems_and_tell_nothing_of_the_inside(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        problem(await user.get("/v1/nothing"), 404, "not_found")
        problem(await user.delete("/v1/me"), 405, "request.method")
        problem(await user.post("/v1/runs", json={"nmae": "x"}), 422, "request.invalid")
        problem(await user.post("/v1/runs", content=b"{"), 422, "request.invalid")
        problem(await user.get("/v1/runs/a%00b"), 400, "request.invalid")

        def explode() -> None:
            raise RuntimeError("secret detail")

        hub.app.add_api_route("/v1/explode", explode)
        body = problem(await user.get("/v1/explode", headers={"X-Request-Id": "abc"}), 500, "hub.internal")
        assert "secret" not in json.dumps(body)
        assert body["request_id"] == "abc"

    play(scenario)


def test_run_is_refused_when_template_or_dataset_are_unknown(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    *known, last = templates.TEMPLATES
    planned = last.model_copy(update={"available": False})
    monkeypatch.setattr(templates, "TEMPLATES", (*known, planned))

    async def scenario(_: RunningHub, user: httpx.AsyncClient) -> None:
        await upload(user, {"ok/a.png": b"a"}, "stones")
        run = {"name": "r", "template": "visual-anomaly-detection", "dataset": "stones"}
        bad = problem(await user.post("/v1/runs", json={**run, "template": "none"}), 400, "request.invalid")
        assert "visual-anomaly-detection" in bad["hint"]
        assert planned.id not in bad["hint"]
        problem(await user.post("/v1/runs", json={**run, "template": planned.id}), 400, "request.invalid")
        problem(await user.post("/v1/runs", json={**run, "dataset": "none"}), 404, "not_found")
        problem(await user.post("/v1/runs", json={**run, "seed": 10**30}), 400, "request.invalid")
        problem(await user.post("/v1/runs", json={**run, "dataset_version": 10**30}), 404, "not_found")
        assert (await user.get("/v1/runs")).json() == []

    play(scenario)


def test_playground_says_so_when_the_gateway_is_away(play: Play) -> None:
    async def scenario(hub: RunningHub, user: httpx.AsyncClient) -> None:
        problem(await user.post("/v1/endpoints/none/predict", content=b"x"), 404, "not_found")
        playground = hub.hub.playground
        with pytest.raises(Exception, match="does not answer"):
            await playground.predict("none", _request(b"x"))
        with pytest.raises(Exception, match="at most"):
            await playground.predict("none", _request(b"x" * 200))

    play(scenario, gateway_port=1, max_predict_bytes=100)


def _request(body: bytes) -> Any:
    from fastapi import Request

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": [], "query_string": b""}, receive)
