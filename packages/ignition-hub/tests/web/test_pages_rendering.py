"""What pages make of values that come from outside: file names, reports, addresses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from jinja2 import Undefined
from starlette.exceptions import HTTPException

from ignition_hub import problems
from ignition_hub.web.errors import wrap_error_handlers
from ignition_hub.web.format import count, duration, embedded_json, fixed, inline_code, percent, size, times
from ignition_hub.web.render import FOLDER, dataset_file, environment, local_path, thumbnail


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (fixed(0.98765, 3), "0.988"),
        (fixed(None, 3), "–"),
        (fixed(Undefined(), 3), "–"),
        (fixed("<b>", 3), "–"),
        (percent(0.025), "2.5 %"),
        (percent(0.25), "25 %"),
        (percent(0), "0 %"),
        (count(12345.6), "12,346"),
        (times(11.84), "11.8×"),
        (size(999), "999 B"),
        (size(1_400_000), "1.4 MB"),
        (duration(7.26), "7.3 s"),
        (duration(59.9), "60 s"),
        (duration(185), "3 min 5 s"),
        (duration(7260), "2 h 1 min"),
    ],
)
def test_filter_shows_value_as_people_read_it(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.parametrize(
    ("target", "safe"),
    [
        ("/runs/1?x=y", "/runs/1?x=y"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("javascript:alert(1)", "/"),
        (None, "/"),
        ("", "/"),
    ],
)
def test_local_path_keeps_paths_of_this_hub_only(target: str | None, safe: str) -> None:
    assert local_path(target) == safe


def test_embedded_json_cannot_end_the_script_when_text_tries() -> None:
    value = {"name": "</script><script>alert(1)</script><!-- & 'ü'"}
    text = str(embedded_json(value))
    assert "<" not in text
    assert json.loads(text) == value


def test_addresses_hold_odd_file_names_as_one_path() -> None:
    for address in (thumbnail, dataset_file):
        url = address("bolts", "ok/50% #1?.jpg", 2)
        assert "#" not in url
        assert url.count("?") == 1
        assert "50%25%20%231%3F.jpg" in url


def test_templates_have_no_inline_code_when_policy_forbids_it() -> None:
    """The Content-Security-Policy has no 'unsafe-inline': such code would not run."""
    for path in (FOLDER / "templates").glob("*.html"):
        text = path.read_text()
        environment.parse(text)
        assert not re.search(r"\son[a-z]+=|\sstyle=|<style", text), path.name
        for attributes in re.findall(r"<script([^>]*)>", text):
            assert "src=" in attributes or 'type="application/json"' in attributes, path.name


def test_vendored_files_have_version_and_licence() -> None:
    vendor = FOLDER / "static" / "vendor"
    listed = (vendor / "VENDOR.md").read_text()
    for folder in (path for path in vendor.iterdir() if path.is_dir()):
        assert f"| {folder.name} |" in listed
        assert (folder / "LICENSE").stat().st_size > 0
        for file in folder.iterdir():
            assert file.name == "LICENSE" or file.name in listed, file


def test_static_references_exist() -> None:
    names = set()
    for path in (FOLDER / "templates").glob("*.html"):
        names |= set(re.findall(r"static\('([^']+)'\)", path.read_text()))
        names |= set(re.findall(r'"/static/([^"]+)"', path.read_text()))
    assert names
    assert [name for name in names if not (FOLDER / "static" / name).is_file()] == []
    for script in (FOLDER / "static" / "js").glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', script.read_text()):
            assert (script.parent / name).is_file(), f"{script.name} imports {name}"


Get = Callable[[str, str], httpx.Response]


@pytest.fixture
def get() -> Get:
    """Asks for a path that fails with the status it ends in, as a client that accepts a media type."""
    app = FastAPI()

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("a secret of the inside")

    @app.get("/{path:path}")
    def fail(path: str) -> None:
        raise HTTPException(int(path.split("/")[-1]), "<script>alert(1)</script>")

    problems.install(app)
    wrap_error_handlers(app)

    async def ask(path: str, accept: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
            return await client.get(path, headers={"accept": accept})

    return lambda path, accept: asyncio.run(ask(path, accept))


@pytest.mark.parametrize("status", [403, 404, 418, 503])
def test_error_is_a_page_when_a_browser_asks(get: Get, status: int) -> None:
    answer = get(f"/{status}", "text/html")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "<script>alert" not in answer.text
    assert answer.headers["x-request-id"] in answer.text


def test_unexpected_failure_is_a_page_without_details_of_the_inside(get: Get) -> None:
    answer = get("/boom", "text/html")
    assert answer.status_code == 500
    assert "Something broke inside the Hub" in answer.text
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.text


def test_error_is_problem_json_when_a_program_asks(get: Get) -> None:
    for path, accept in (("/404", "*/*"), ("/v1/404", "text/html")):
        answer = get(path, accept)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 404


def test_browser_is_sent_to_sign_in_when_it_is_not_signed_in(get: Get) -> None:
    answer = get("/datasets/401?x=1&y=2", "text/html")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fdatasets%2F401%3Fx%3D1%26y%3D2"


def test_inline_code_escapes_what_is_around_and_inside_the_backticks() -> None:
    assert inline_code("a `<b>` & c") == "a <code>&lt;b&gt;</code> &amp; c"


def test_style_sheet_is_one_file_of_layers() -> None:
    css = (Path(FOLDER) / "static" / "style.css").read_text()
    assert css.count("{") == css.count("}")
    for layer in ("tokens", "base", "components", "pages"):
        assert f"@layer {layer} {{" in css
