"""A real Chromium against a real Hub that has been through the whole way once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tests.conftest import LocalHub

ROOT = Path(__file__).parents[2]
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


# Of the module, not of the session: Playwright keeps an event loop running in this thread, and tests of other
# files that the same worker runs later need their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("IGNITION_CHROMIUM", "/usr/bin/chromium")
    if not Path(path).exists():
        pytest.skip(f"there is no Chromium at {path}; set IGNITION_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in ``ok/`` and ``defective/``."""
    folder = tmp_path_factory.mktemp("samples") / "paving"
    command = [sys.executable, str(ROOT / "examples" / "make_samples.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """One Hub for all browser tests."""
    hub = LocalHub(tmp_path_factory.mktemp("hub") / "home")
    hub.start()
    yield hub
    hub.stop()


class Watched:
    """A page whose console errors, exceptions and failed requests are kept."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda line: self._console(line.type, line.text))
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure))
        page.on("response", lambda answer: self._answered(answer.url, answer.status))

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(f"console {kind}: {text}")

    def _failed(self, url: str, failure: str | None) -> None:
        # Leaving a page ends its event stream and whatever it still loads.
        if failure != "net::ERR_ABORTED":
            self.problems.append(f"request failed: {url}: {failure}")

    def _answered(self, url: str, status: int) -> None:
        if status >= 400:
            self.problems.append(f"{status}: {url}")


@dataclass(frozen=True)
class Account:
    """Where the administrator's cookies are kept, for further windows."""

    email: str
    password: str
    storage: dict[str, Any]


@pytest.fixture(scope="module")
def account(browser: Browser, hub: LocalHub) -> Account:
    """Goes through the setup link of the first start."""
    email, password = "ada@example.com", "analytical engine"
    context = browser.new_context()
    watched = Watched(context.new_page())
    page = watched.page
    page.goto(hub.run_info["setup_url"])
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Create account").click()
    page.get_by_role("link", name="Start with a folder").wait_for()
    assert watched.problems == []
    storage = context.storage_state()
    context.close()
    return Account(email=email, password=password, storage=dict(storage))


@dataclass(frozen=True)
class Walk:
    """What the way from the folder to the endpoint came to."""

    dataset: str
    run_url: str
    key: str
    endpoint_url: str
    problems: list[str]


@pytest.fixture(scope="module")
def window(browser: Browser, hub: LocalHub, account: Account) -> Iterator[BrowserContext]:
    context = browser.new_context(
        base_url=hub.url, storage_state=account.storage, viewport={"width": 1440, "height": 900}
    )
    yield context
    context.close()


@pytest.fixture(scope="module")
def walk(window: BrowserContext, samples: Path) -> Walk:
    """Folder -> data check -> template -> *Train & Optimize* -> result -> key -> playground."""
    watched = Watched(window.new_page())
    page = watched.page
    page.goto("/")
    page.get_by_role("link", name="Start with a folder").click()
    page.locator('input[name="folder"]').set_input_files(str(samples))
    page.get_by_role("heading", name="Your data").wait_for()
    assert page.get_by_label("Name of the dataset").input_value() == samples.name
    page.get_by_role("button", name="Upload").click()

    page.get_by_role("link", name="Choose a template").click(timeout=60_000)
    page.get_by_label("1 minute").check()
    page.get_by_role("button", name="Train & Optimize").click()

    page.wait_for_url("**/runs/*")
    run_url = page.url
    page.locator("#run[data-status=succeeded], #run[data-status=failed]").wait_for(timeout=480_000)
    assert page.locator("#run").get_attribute("data-status") == "succeeded", page.locator("main").inner_text()

    # The finished run's page has just loaded itself anew: a click before its scripts ran would be lost.
    page.wait_for_load_state("load")
    page.get_by_role("button", name="Create key").click()
    key = page.locator("[data-new-key]").inner_text()
    endpoint_url = page.locator("#call .copy-line code").first.inner_text()
    return Walk(samples.name, run_url, key, endpoint_url, watched.problems)


@pytest.fixture
def watch() -> type[Watched]:
    return Watched
