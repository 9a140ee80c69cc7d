"""The page as people see it, in a real headless Chromium; pictures of it are left in tests/artefacts/."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from broker.identities import enroll
from tests.brokers import Brokers
from tests.conftest import wait_until
from tests.edge_agent.agents import NOWHERE
from tests.edge_agent.conftest import Device
from tests.edge_agent.local.agents import Serve, Served
from tests.edge_agent.server import Server

ARTEFACTS = Path(__file__).parents[2] / "artefacts"
TOKEN = "correct-horse-battery-staple"

Browser = webdriver.Chrome


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    browser.set_page_load_timeout(60)
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """A browser that knows nothing of earlier tests, as wide as a desk's."""
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    look(chromium, 1280, 900)
    chromium.get_log("browser")  # type: ignore[no-untyped-call]  # what earlier tests left there
    return chromium


def look(browser: Browser, width: int, height: int, scheme: str = "light") -> None:
    """Be a screen of that size, in light or in dark."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def text(browser: Browser, selector: str) -> str:
    found = browser.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
    return str(found)


def count(browser: Browser, selector: str) -> int:
    return int(browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector))


def ask_for_images(browser: Browser, **fields: object) -> None:
    for name, value in fields.items():
        field = browser.find_element(By.ID, name)
        field.clear()
        field.send_keys(str(value))
    browser.find_element(By.ID, "make-button").click()


def shown_pictures(browser: Browser, kind: str) -> list[str]:
    """Addresses of the pictures of the gallery that have been loaded and have pixels."""
    script = (
        "return [...document.querySelectorAll(`.tile img[data-kind=${arguments[0]}]`)]"
        ".filter((image) => image.complete && image.naturalWidth > 0).map((image) => image.src)"
    )
    return list(browser.execute_script(script, kind))


def picture(browser: Browser, name: str) -> None:
    """A picture of the whole page, for people."""
    ARTEFACTS.mkdir(exist_ok=True)
    browser.save_screenshot(str(ARTEFACTS / f"{name}.png"))


def complaints(browser: Browser) -> list[dict[str, Any]]:
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]


def with_steps(page: Served, job_id: str) -> None:
    """Put the steps of a job beside its images: fades from the cut to the finished image."""
    folder = page.results / job_id
    if (folder / "steps.npy").exists():
        return
    finished, cut = np.load(folder / "images.npy"), np.load(folder / "latents.npy")
    shares = np.linspace(0, 1, 5)[None, :, None, None, None]
    frames = (1 - shares) * cut[:, None] + shares * finished[:, None]
    np.save(folder / "steps.npy", np.clip((frames[:, :, 0] + 1) * 127.5, 0, 255).astype(np.uint8))


def test_images_are_made_through_the_form_and_seen_at_the_cut_and_finished(
    device: Device, server: Server, head_bundle: Path, serve: Serve, browser: Browser
) -> None:
    page = serve(device.url, "--head", head_bundle)
    browser.get(page.url)
    wait_until(lambda: text(browser, "#link") == "Connected", "the page says that it is connected")
    assert "the server begins each image" in text(browser, "#sentence")
    assert device.user in text(browser, "#device")

    ask_for_images(browser, count=3, label=1, seed=42, steps=4, budget_ms=90)

    wait_until(lambda: len(shown_pictures(browser, "finished")) == 3, "three finished images are seen")
    wait_until(lambda: len(shown_pictures(browser, "cut")) == 3, "and each of them at the cut")
    (job,) = page.http.get("/v1/jobs").json()["jobs"]
    assert (job["count"], job["label"], job["seed"], job["steps"]) == (3, 1, 42, 4)
    assert job["budget_ms"] == 90
    assert not set(shown_pictures(browser, "cut")) & set(shown_pictures(browser, "finished"))
    wait_until(lambda: "done" in text(browser, "#ended-list"), "the job is listed as done")

    names = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert len(names) > 5
    assert [name for name in names if not name.startswith(page.url)] == [], "nothing from elsewhere"
    assert complaints(browser) == []


def test_an_image_is_seen_step_by_step(
    device: Device, server: Server, head_bundle: Path, serve: Serve, browser: Browser
) -> None:
    page = serve(device.url, "--head", head_bundle)
    job_id = page.make(count=6, label=2)
    page.wait(job_id)
    with_steps(page, job_id)
    browser.get(page.url)
    wait_until(lambda: len(shown_pictures(browser, "finished")) == 6, "the images are seen")
    picture(browser, "page-desk")

    browser.find_element(By.CSS_SELECTOR, ".tile").click()

    wait_until(lambda: count(browser, "#viewer[open]") == 1, "the image is shown large")
    assert text(browser, "#viewer-caption") == "Finished"
    assert count(browser, "#viewer-strip .cell") == 5
    browser.find_element(By.ID, "viewer-step").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert text(browser, "#viewer-caption") == "After step 2 of 4"
    assert count(browser, ".film:not([hidden])") == 1
    picture(browser, "page-viewer")
    for address in ("viewer-png", "viewer-cut-png", "viewer-npy"):
        link = browser.find_element(By.ID, address).get_attribute("href") or ""
        assert page.http.get(link.removeprefix(page.url)).status_code == 200
    browser.find_element(By.ID, "viewer-next").click()
    assert text(browser, "#viewer-title").startswith("Image 2 of 6")
    browser.find_element(By.ID, "viewer-close").click()
    assert count(browser, "#viewer[open]") == 0
    look(browser, 1280, 900, "dark")
    picture(browser, "page-desk-dark")
    assert complaints(browser) == []


def test_on_a_phone_nothing_has_to_be_scrolled_sideways(
    device: Device, server: Server, head_bundle: Path, serve: Serve, browser: Browser
) -> None:
    page = serve(device.url, "--head", head_bundle)
    page.wait(page.make(count=2))
    look(browser, 390, 844)
    browser.get(page.url)
    wait_until(lambda: count(browser, ".tile") == 2, "the images are there")
    widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
    content, screen = browser.execute_script(widths)
    assert (content, screen) == (390, 390)
    picture(browser, "page-phone")
    browser.execute_script("document.querySelector('.tile').scrollIntoView({block: 'center'})")
    wait_until(
        lambda: len(shown_pictures(browser, "finished")) == 2, "they are loaded when they come into sight"
    )
    browser.find_element(By.CSS_SELECTOR, ".tile").click()
    content, screen = browser.execute_script(widths)
    assert (content, screen) == (390, 390)
    small = browser.execute_script(
        "return [...document.querySelectorAll('main button.main, main input')]"
        ".filter((one) => one.getBoundingClientRect().height < 40).map((one) => one.id)"
    )
    assert small == [], "everything is large enough for a finger"


def test_offline_the_page_says_so_and_the_job_waits(
    head_bundle: Path, serve: Serve, browser: Browser
) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    browser.get(page.url)
    wait_until(lambda: text(browser, "#link") == "Offline", "the page says that it is offline")
    wait_until(
        lambda: text(browser, "#sentence").startswith("Offline: new images wait"), "and what that means"
    )

    ask_for_images(browser, count=2, seed=5)

    wait_until(
        lambda: "waits until the server can be reached" in text(browser, "#going-list"), "the job waits"
    )
    picture(browser, "page-offline")
    browser.find_element(By.CSS_SELECTOR, "#going-list button").click()
    wait_until(lambda: "cancelled" in text(browser, "#ended-list"), "it can be cancelled")
    assert count(browser, "#going-list li") == 0

    page.process.stop()
    wait_until(lambda: text(browser, "#link") == "No answer", "and the page says when its agent is gone")


def test_offline_images_are_made_from_the_stock_and_the_page_says_so(
    tmp_path: Path, head_bundle: Path, serve: Serve, browser: Browser
) -> None:
    stock = ("--head", head_bundle, "--pool-images", 6, "--pool-labels", "1")
    with Brokers(tmp_path / "broker") as brokers:
        with brokers.management as management:
            url = enroll(management, "ward", "one", address=brokers.settings).amqp_url
        page = serve(url, *stock)
        browser.get(page.url)
        with Server(brokers.settings):
            wait_until(lambda: "6 of 6" in text(browser, "#stock"), "the page shows a full stock")
        brokers.kill(0)
        sentence = "Offline: images are made from the stock of 6."
        wait_until(lambda: text(browser, "#sentence") == sentence, "the page says what is still possible")

        ask_for_images(browser, count=4, label=1)

        wait_until(lambda: len(shown_pictures(browser, "finished")) == 4, "four finished images are seen")
        wait_until(lambda: len(shown_pictures(browser, "cut")) == 4, "and each of them at the cut")
        wait_until(lambda: "from the stock" in text(browser, "#ended-list"), "the page says whence they came")
        wait_until(lambda: "2 of 6" in text(browser, "#stock"), "and what is left")
        assert "from the stock" in text(browser, ".batch-head")
        assert "seed" not in text(browser, ".batch-head"), "a seed of the job says nothing of these images"
        (job,) = page.http.get("/v1/jobs").json()["jobs"]
        assert (job["source"], job["count"], job["label"]) == ("pool", 4, 1)
        picture(browser, "page-offline-stock")
        assert complaints(browser) == []


def test_stock_ledger_and_update_are_shown_when_the_device_tells_of_them(
    head_bundle: Path, serve: Serve, browser: Browser
) -> None:
    page = serve(NOWHERE, "--head", head_bundle)
    told = page.http.get("/v1/status").json() | {
        "link": {"connected": False, "user": "ward_one", "closed_until": "2031-01-01T02:00:00"},
        "pool": [
            {"label": 0, "images": 8, "wanted": 8, "backbone_version": 3},
            {"label": 1, "images": 4, "wanted": 8, "backbone_version": 3},
        ],
        "ledger": {"images": 1200, "releases": 1200, "epsilon_max": 8.771, "delta": 1e-5},
        "update": {
            "state": "rolled_back",
            "name": "ward",
            "version": 7,
            "reason": "its golden outputs differ",
        },
        "plan": {"step_ms": 3.21, "head_steps": 6, "why": "the most steps within 20 ms"},
        "head": {
            "identity": "ward-6-0123456789ab",
            "provider": "cpu",
            "t_cut": 60,
            "error": None,
            "key_revoked": True,
        },
    }
    browser.get(page.url)
    browser.execute_async_script(
        "const done = arguments[1];"
        "import('/page/device.js').then((page) => { window.fetch = () => new Promise(() => {});"
        " setTimeout(() => { page.showDevice(JSON.parse(arguments[0])); done(); }, 500); });",
        json.dumps(told),
    )
    assert text(browser, "#sentence") == "Resting until 02:00: images are made from the stock of 12."
    assert text(browser, "#link") == "Closed until 02:00"
    for words in ("8 of 8", "4 of 8", "Label 1"):
        assert words in text(browser, "#stock")
    for words in (
        "ward",
        "6",
        "3.2 ms",
        "rolled back: ward 7",
        "its golden outputs differ",
        "within 20 ms",
        "trusted no longer",
    ):
        assert words in text(browser, "#model")
    for words in ("1,200", "8.77"):
        assert words in text(browser, "#ledger")
    picture(browser, "page-stocked")


def test_a_wish_that_makes_no_sense_is_explained_beside_the_form(
    offline_page: Served, browser: Browser
) -> None:
    browser.get(offline_page.url)
    ask_for_images(browser, count=5000)
    assert "1 to 1024 images" in text(browser, "#make-problem")
    invalid = browser.find_element(By.ID, "count").get_attribute("aria-invalid")
    assert invalid == "true"


def test_with_a_token_the_page_asks_for_it_first(serve: Serve, browser: Browser) -> None:
    page = serve(NOWHERE, token=TOKEN)
    browser.get(page.url)
    assert browser.current_url == f"{page.url}/login"
    browser.find_element(By.NAME, "token").send_keys("wrong", Keys.ENTER)
    wait_until(lambda: "not the token" in text(browser, "main"), "a wrong token is refused")
    picture(browser, "page-login")
    browser.find_element(By.NAME, "token").send_keys(TOKEN, Keys.ENTER)
    wait_until(lambda: "no model yet" in text(browser, "#sentence"), "the page opens")
    browser.find_element(By.XPATH, "//button[text()='Log out']").click()
    wait_until(lambda: browser.current_url == f"{page.url}/login", "and closes again")
