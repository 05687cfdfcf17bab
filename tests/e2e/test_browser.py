"""The product as people use it: in a browser."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from tests.conftest import LocalHub

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

PAGE_CHECK = (Path(__file__).parent / "page_check.js").read_text()

# How many pixels of the canvas are coloured: the samples are grey, only a heat map brings colour.
COLOURED_PIXELS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let coloured = 0;
  for (let i = 0; i < data.length; i += 4) {
    coloured += Math.max(data[i], data[i+1], data[i+2]) - Math.min(data[i], data[i+1], data[i+2]) > 40;
  }
  return coloured;
}"""


def test_folder_becomes_endpoint_when_walked_through_in_browser(walk: Any, samples: Path) -> None:
    assert walk.problems == []
    image = next((samples / "defective").rglob("*.jpg")).read_bytes()
    answer = httpx.post(walk.endpoint_url, content=image, headers={"Authorization": f"Bearer {walk.key}"})
    assert answer.status_code == 200
    assert answer.json()["verdict"] in ("ok", "defective")


def test_snippets_hold_the_key_when_it_was_just_made(walk: Any, window: BrowserContext) -> None:
    page = window.new_page()
    page.goto("/endpoints/" + walk.dataset)
    page.get_by_role("button", name="Replace the key").first.click()
    page.locator("#rotate-dialog").get_by_role("button", name="Replace the key").click()
    key = page.locator("[data-new-key]").inner_text()
    assert key != walk.key
    for language in ("curl", "Python", "JavaScript"):
        page.get_by_role("tab", name=language).click()
        assert key in page.locator('#call [role="tabpanel"]:visible').inner_text()
    page.reload()
    assert key not in page.content()
    page.close()


def test_playground_shows_verdict_and_heat_map_when_image_is_given(
    walk: Any, window: BrowserContext, samples: Path
) -> None:
    page = window.new_page()
    page.goto(walk.run_url)
    canvas = page.locator("canvas[data-canvas]")
    # A model may miss a faint defect; of the held-out samples, which alternate in label, some must light up.
    hottest = []
    for index in range(page.locator("[data-sample]").count()):
        page.locator("[data-sample]").nth(index).click()
        page.locator(f'canvas[data-answer="{index + 1}"]').wait_for(timeout=60_000)
        hottest.append(canvas.evaluate(COLOURED_PIXELS))
        if hottest[-1] > 50:
            break
    assert max(hottest) > 50, hottest
    page.locator("[data-opacity]").fill("0")
    assert canvas.evaluate(COLOURED_PIXELS) == 0

    page.locator("[data-opacity]").fill("1")
    page.locator("[data-file]").set_input_files(str(next((samples / "ok").glob("*.jpg"))))
    page.locator(f'canvas[data-answer="{len(hottest) + 1}"]').wait_for(timeout=60_000)
    verdict = page.locator("[data-verdict] strong")
    threshold = page.locator("[data-threshold]")
    threshold.fill(threshold.get_attribute("min") or "0")
    assert verdict.inner_text().lower() == "defective", "every score reaches the lowest threshold"
    threshold.fill(threshold.get_attribute("max") or "1")
    assert re.search(r"moved by you", page.locator("[data-verdict]").inner_text())
    page.close()


def test_playground_explains_when_file_is_no_image(walk: Any, window: BrowserContext) -> None:
    page = window.new_page()
    page.goto("/endpoints/" + walk.dataset)
    text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not an image"}
    page.locator("[data-file]").set_input_files(text)
    assert page.locator("[data-problem] h3").inner_text()
    page.close()


def test_upload_sends_nothing_when_folder_is_dropped_again(
    walk: Any, window: BrowserContext, samples: Path
) -> None:
    page = window.new_page()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    page.goto("/new")
    page.locator('input[name="folder"]').set_input_files(str(samples))
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("link", name="Choose a template").wait_for(timeout=60_000)
    assert sent == []
    assert "version=1" in page.url, "the same files are the same version"
    page.close()


def test_run_shows_progress_and_ends_when_cancelled_in_browser(walk: Any, window: BrowserContext) -> None:
    page = window.new_page()
    page.goto(f"/new?dataset={walk.dataset}&step=train")
    page.get_by_label("Name", exact=True).fill("cancelled-run")
    page.get_by_role("button", name="Train & Optimize").click()
    page.locator("[data-stage=train].is-running").wait_for(timeout=60_000)
    # Not `wait_for_function`: the pages' security policy forbids evaluating strings.
    expect(page.locator("[data-percent]")).to_have_text(re.compile(r"^([6-9]|\d\d) %$"), timeout=120_000)
    expect(page.locator("[data-log-text]")).not_to_be_empty(timeout=30_000)
    page.get_by_role("button", name="Cancel run").click()
    page.locator("#cancel-dialog").get_by_role("button", name="Cancel run").click()
    page.get_by_text("The run was cancelled").wait_for(timeout=60_000)
    page.close()


def test_endpoint_stays_when_deletion_is_not_confirmed(walk: Any, window: BrowserContext) -> None:
    page = window.new_page()
    page.goto("/endpoints/" + walk.dataset)
    page.get_by_role("button", name="Delete").click()
    page.locator("#delete-dialog").get_by_role("button", name="Keep it").click()
    page.reload()
    assert page.get_by_role("heading", name=walk.dataset).is_visible()
    page.close()


def test_odd_file_names_are_shown_as_they_are_when_uploaded(
    window: BrowserContext, samples: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd names"
    (folder / "ok").mkdir(parents=True)
    odd = "a<img src=x onerror=alert(1)> & 50% #1 'ü'.jpg"
    (folder / "ok" / odd).write_bytes(next((samples / "ok").glob("*.jpg")).read_bytes())
    page = window.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a file name ran as a script: {dialog.message}"))
    page.goto("/new")
    page.locator('input[name="folder"]').set_input_files(str(folder))
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("link", name="Drop the corrected folder").wait_for(timeout=60_000)
    image = page.locator(f'img[alt="ok/{odd}"]')
    image.wait_for()
    image.evaluate("image => image.decode()")
    page.close()


def test_sign_in_leads_back_when_session_is_missing(browser: Browser, hub: LocalHub, account: Any) -> None:
    context = browser.new_context(base_url=hub.url)
    page = context.new_page()
    page.goto("/datasets?x=1")
    assert "/login?next=" in page.url
    page.get_by_label("E-mail").fill(account.email)
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="could not sign").or_(page.locator(".notice-bad h3")).first.wait_for()
    page.get_by_label("E-mail").fill(account.email)
    page.get_by_label("Password").fill(account.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/datasets?x=1")
    page.get_by_label("Account").click()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/")
    assert page.url.endswith("/login")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_pages_are_sound_when_rendered(
    browser: Browser, hub: LocalHub, account: Any, walk: Any, watch: Any, width: int, scheme: Any
) -> None:
    """No sideways scrolling, console errors or failed requests; labels, alternative texts, contrast."""
    context = browser.new_context(
        base_url=hub.url,
        storage_state=account.storage,
        viewport={"width": width, "height": 900 if width > 600 else 844},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    watched = watch(context.new_page())
    page = watched.page
    run = walk.run_url.removeprefix(hub.url)
    pages = {
        "home": "/",
        "new-data": "/new",
        "new-check": f"/new?dataset={walk.dataset}",
        "new-train": f"/new?dataset={walk.dataset}&step=train",
        "runs": "/runs",
        "run": run,
        "datasets": "/datasets",
        "dataset": f"/datasets/{walk.dataset}",
        "models": "/models",
        "endpoints": "/endpoints",
        "endpoint": f"/endpoints/{walk.dataset}",
        "inbox": "/inbox",
    }
    page.goto(run)
    pages["engine"] = page.locator("a[href^='/engines/']").first.get_attribute("href") or ""
    found = {}
    for name, path in pages.items():
        page.goto(path)
        if name == "endpoint":
            page.locator("[data-sample]").first.click()
            page.locator("canvas[data-canvas]").wait_for()
        page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
        page.wait_for_load_state("networkidle")
        screenshot(page, f"{name}-{width}-{scheme}")
        if problems := page.evaluate(PAGE_CHECK):
            found[name] = problems
    assert watched.problems == []

    # These pages are errors or for strangers: their status is theirs.
    page.goto("/no-such-page")
    screenshot(page, f"error-404-{width}-{scheme}")
    found |= {"404": problems} if (problems := page.evaluate(PAGE_CHECK)) else {}
    context.clear_cookies()
    for name, path in {"login": "/login", "setup": "/setup?token=used"}.items():
        page.goto(path)
        screenshot(page, f"{name}-{width}-{scheme}")
        found |= {name: problems} if (problems := page.evaluate(PAGE_CHECK)) else {}
    context.close()
    assert found == {}


def test_endpoint_is_gone_when_deleted(walk: Any, window: BrowserContext) -> None:
    """The last test of this file: it takes away what the others look at."""
    page = window.new_page()
    page.goto("/endpoints/" + walk.dataset)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete endpoint").click()
    page.get_by_role("heading", name="No endpoints yet").wait_for()
    assert page.get_by_text("Endpoint deleted").is_visible()
    page.goto(walk.run_url)
    assert page.get_by_role("heading", name="Quality").is_visible(), "the run's result stays"
    page.close()


def screenshot(page: Any, name: str) -> None:
    if folder := os.environ.get("IGNITION_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
