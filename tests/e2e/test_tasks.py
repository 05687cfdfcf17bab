"""Pages of every template in a browser: reports, and the answers of the gateway, are made."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from tests.conftest import free_port, wait_until
from tests.e2e.made_reports import Case, cases

from ignition_hub.accounts import service as accounts
from ignition_hub.app import create_app
from ignition_hub.auth.http import COOKIE
from ignition_hub.foundry.templates import TEMPLATES
from ignition_hub.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "ignition-hub" / "tests"))
from fakes import CHECK, FakeAgent, FakeGateway, until, upload

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

PAGE_CHECK = (Path(__file__).parent / "page_check.js").read_text()
AVAILABLE = {template.id for template in TEMPLATES if template.available}
CASES = {case.template: case for case in cases() if case.template in AVAILABLE}
COLOURED = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let coloured = 0;
  for (let i = 0; i < data.length; i += 4) {
    coloured += Math.max(data[i], data[i+1], data[i+2]) - Math.min(data[i], data[i+1], data[i+2]) > 60;
  }
  return coloured;
}"""


class MadeHub:
    """A Hub in a thread of this process, through which every case's run has gone with a fake agent."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.cookie = ""
        self.problem: BaseException | None = None
        self._home = home
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="made-hub")

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self.problem or len(self.runs) == len(CASES), timeout_s=600, what="made runs")
        if self.problem is not None:
            raise self.problem

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(timeout=60)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as problem:
            self.problem = problem

    async def _serve(self) -> None:
        settings = Settings.load(home=self._home, public_url=self.url, lease_s=600, deploy_timeout_s=300)
        app = create_app(settings)
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="warning"))
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.05)
        hub = app.state.hub
        token = hub.setup_url.partition("token=")[2]
        with hub.db.write() as session:
            self.cookie = accounts.claim_setup(
                session, token, "ada@example.com", "analytical engine", session_lifetime_s=3600
            )
        try:
            await self._walk()
        except BaseException:
            self._server.should_exit = True
            raise
        finally:
            await serving

    def _client(self, token: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)

    async def _walk(self) -> None:
        secret = lambda name: (self._home / "secrets" / name).read_text().strip()  # noqa: E731
        async with (
            self._client(secret("cli-key")) as user,
            self._client(secret("agent-token")) as a,
            self._client(secret("gateway-token")) as g,
        ):
            agent, gateway = FakeAgent(a, self._client), FakeGateway(g)
            agent.reports = {case.template: (case.report, case.pictures) for case in CASES.values()}
            async with asyncio.TaskGroup() as tasks:  # a worker that fails ends the walk
                workers = [tasks.create_task(agent.run()), tasks.create_task(gateway.run())]
                for case in CASES.values():
                    agent.check = {**CHECK, **case.check}
                    await upload(user, case.files, case.name)
                    body = {"name": case.name, "template": case.template, "dataset": case.name}
                    started = (await user.post("/v1/runs", json=body)).raise_for_status()
                    run = await until(user, started.json()["id"], timeout_s=300)
                    assert run["status"] == "succeeded", run
                    self.runs[case.template] = run
                for worker in workers:
                    worker.cancel()


@pytest.fixture(scope="module")
def made_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeHub]:
    hub = MadeHub(tmp_path_factory.mktemp("made") / "home")
    try:
        hub.start()
        yield hub
    finally:
        hub.stop()


def context_of(browser: Browser, hub: MadeHub, width: int, scheme: Any = "light") -> BrowserContext:
    context = browser.new_context(
        base_url=hub.url,
        viewport={"width": width, "height": 900 if width > 600 else 844},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    context.add_cookies([{"name": COOKIE, "value": hub.cookie, "url": hub.url}])
    return context


def answer_with(page: Page, case: Case) -> list[tuple[str, bytes]]:
    """The gateway's side; what it was asked, by content type and body."""
    asked: list[tuple[str, bytes]] = []
    shared = {
        "model": case.name,
        "version": 1,
        "engine": "sha256:0",
        "timing_ms": {"decode": 0.4, "inference": 2.1, "total": 3.0},
    }

    def answer(route: Route) -> None:
        request = route.request
        asked.append((request.headers.get("content-type", ""), request.post_data_buffer or b""))
        route.fulfill(json={**case.answer, **shared})

    page.route("**/v1/endpoints/*/predict*", answer)
    return asked


def screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("IGNITION_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("template", CASES)
def test_pages_of_every_template_are_sound(
    browser: Browser, made_hub: MadeHub, watch: Any, template: str
) -> None:
    """Wide and narrow, light and dark: no sideways scrolling, no errors; every chart is drawn."""
    case, run = CASES[template], made_hub.runs[template]
    found: dict[str, list[str]] = {}
    for width, scheme in ((1440, "light"), (390, "light"), (1440, "dark")):
        context = context_of(browser, made_hub, width, scheme)
        watched = watch(context.new_page())
        page = watched.page
        pages = {
            "check": f"/new?dataset={case.name}",
            "train": f"/new?dataset={case.name}&step=train",
            "run": f"/runs/{run['id']}",
        }
        for name, path in pages.items():
            page.goto(path)
            page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
            page.wait_for_load_state("networkidle")
            charts = (
                case.check["charts"] if name == "check" else case.report["charts"] if name == "run" else []
            )
            drawn = [chart for chart in charts if chart["kind"] != "bars"]
            expect(page.locator("[data-figure] canvas")).to_have_count(len(drawn))
            screenshot(page, f"{case.name}-{name}-{width}-{scheme}")
            if problems := page.evaluate(PAGE_CHECK):
                found[f"{name} {width} {scheme}"] = problems
        assert watched.problems == []
        context.close()
    assert found == {}


def test_report_shows_what_the_recipe_described(browser: Browser, made_hub: MadeHub) -> None:
    context = context_of(browser, made_hub, 1440)
    page = context.new_page()
    page.goto(f"/runs/{made_hub.runs['text-classification']['id']}")
    for words in (
        "Macro F1",
        "0.931",
        "Most frequent answer",
        "baseline",
        "Rows that may be labelled wrong",
        "is late, said address",
    ):
        expect(page.get_by_text(words).first).to_be_visible()
    assert page.locator(".tokens .for-5").first.inner_text().strip() == "address"
    assert page.locator(".confusion tbody td").count() == 9
    page.goto(f"/runs/{made_hub.runs['image-classification']['id']}")
    expect(page.get_by_role("heading", name="Most often mixed up")).to_be_visible()
    page.goto(f"/runs/{made_hub.runs['sales-forecasting']['id']}")
    expect(page.locator(".bar-chart tr")).to_have_count(15)
    context.close()


def test_questions_follow_the_template_and_reach_the_run(browser: Browser, made_hub: MadeHub) -> None:
    context = context_of(browser, made_hub, 1440)
    page = context.new_page()
    page.goto("/new?dataset=plates&step=train")
    expect(page.get_by_text("Which mistake costs more?").first).to_be_visible()
    expect(page.get_by_label("How far ahead?")).to_be_hidden()
    page.locator("label.template", has_text="Sales Forecasting").click()
    page.get_by_label("How far ahead?").fill("5000")
    page.locator("input[type=number]").evaluate("field => { field.max = '' }")  # the Hub must refuse it too
    page.get_by_label("Name", exact=True).fill("refused")
    page.get_by_role("button", name="Train & Optimize").click()
    expect(page.get_by_text("between 1 and 1000")).to_be_visible()
    assert page.get_by_label("How far ahead?").input_value() == "5000", "what was typed in stays"
    context.close()


@pytest.mark.parametrize(
    "template",
    sorted(CASES.keys() & {"visual-anomaly-detection", "object-detection", "image-segmentation"}),
)
def test_playground_draws_what_was_found_over_the_image(
    browser: Browser, made_hub: MadeHub, template: str
) -> None:
    case = CASES[template]
    for width in (1440, 390):
        context = context_of(browser, made_hub, width)
        page = context.new_page()
        answer_with(page, case)
        page.goto(f"/endpoints/{case.name}")
        grey = {
            "name": "grey.png",
            "mimeType": "image/png",
            "buffer": next(iter(CASES["image-classification"].files.values())),
        }
        page.locator("[data-file]").set_input_files(grey)
        canvas = page.locator('canvas[data-answer="1"]')
        canvas.wait_for()
        assert canvas.evaluate(COLOURED) > 20
        screenshot(page, f"{case.name}-endpoint-{width}")
        assert page.evaluate(PAGE_CHECK) == []
        if template == "object-detection":
            expect(page.locator("[data-verdict]")).to_contain_text("2 found")
            page.locator("[data-score]").fill("0.9")
            expect(page.locator("[data-verdict]")).to_contain_text("1 found")
            page.locator("[data-score]").fill("1")
            assert canvas.evaluate(COLOURED) == 0
        if template == "image-segmentation":
            expect(page.locator("[data-verdict]")).to_contain_text("background")
            page.locator("[data-mask-opacity]").fill("0")
            assert canvas.evaluate(COLOURED) == 0
        context.close()


def test_playground_shows_classes(browser: Browser, made_hub: MadeHub) -> None:
    case = CASES["image-classification"]
    context = context_of(browser, made_hub, 1440)
    page = context.new_page()
    asked = answer_with(page, case)
    page.goto(f"/endpoints/{case.name}")
    page.locator("[data-sample]").first.click()
    expect(page.locator("[data-verdict]")).to_contain_text("garment 03")
    expect(page.locator(".shares li")).to_have_count(3)
    assert asked[0][1] in case.files.values(), "the sample's own bytes were sent"
    screenshot(page, "clothing-endpoint-1440")
    context.close()


def test_playground_asks_about_texts(browser: Browser, made_hub: MadeHub) -> None:
    case = CASES["text-classification"]
    for width in (1440, 390):
        context = context_of(browser, made_hub, width)
        page = context.new_page()
        asked = answer_with(page, case)
        page.goto(f"/endpoints/{case.name}")
        page.get_by_label("Text").fill("Wo bleibt mein Päckchen?")
        page.get_by_role("button", name="Classify").click()
        expect(page.locator("[data-verdict]")).to_contain_text("late")
        expect(page.locator(".shares li")).to_have_count(3)
        assert asked == [("text/plain; charset=utf-8", "Wo bleibt mein Päckchen?".encode())]
        screenshot(page, f"tickets-endpoint-{width}")
        assert page.evaluate(PAGE_CHECK) == []
        page.get_by_role("button", name="4711").click()
        expect(page.get_by_label("Text")).to_have_value(case.report["held_out"][2]["text"])
        context.close()


def test_playground_draws_a_forecast(browser: Browser, made_hub: MadeHub) -> None:
    case = CASES["sales-forecasting"]
    for width in (1440, 390):
        context = context_of(browser, made_hub, width)
        page = context.new_page()
        asked = answer_with(page, case)
        page.goto(f"/endpoints/{case.name}")
        page.get_by_label("The past").fill("1, 2\n3 nan;5")
        page.get_by_role("button", name="Forecast", exact=True).click()
        expect(page.locator("[data-chart] canvas")).to_have_count(1)
        expect(page.locator("[data-verdict]")).to_contain_text("next: 100")
        assert json.loads(asked[0][1]) == {"history": [1, 2, 3, None, 5]}
        screenshot(page, f"sales-endpoint-{width}")
        assert page.evaluate(PAGE_CHECK) == []
        context.close()


@pytest.mark.parametrize("template", CASES)
def test_snippets_say_how_to_call_this_task(browser: Browser, made_hub: MadeHub, template: str) -> None:
    case = CASES[template]
    context = context_of(browser, made_hub, 1440)
    page = context.new_page()
    page.goto(f"/endpoints/{case.name}")
    snippet = page.locator("#panel-python").text_content() or ""
    compile(snippet, "snippet", "exec")
    field = next(
        word for word in ("verdict", "label", "detections", "shares", "quantiles") if word in case.answer
    )
    assert f'answer["{field}"]' in snippet or f'in answer["{field}"]' in snippet
    curl = page.locator("#panel-curl").text_content() or ""
    assert ("--data-binary" in curl) == ("image" in case.answer)
    context.close()
