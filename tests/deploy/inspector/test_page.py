"""The inspector's page in a real browser: every view, by its address, by keys, on a phone.

Holds deploy/inspector/answers.py, deploy/inspector/scenes.py, deploy/inspector/web_files.py.
"""

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from common.trained import record_batch
from tests.browser import chromium
from tests.deploy.inspector.served import inspecting
from tests.deploy.inspector.whole_run import EVIL, NUM_STEPS, step_of, write_run
from tests.waiting import wait_until

expect.set_options(timeout=30_000)
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
VIEWS = {  # what each one has when it is there
    "overview": "52.7% \u2192 86.9%",
    "curves": "Student against rollout",
    "distributions": "Staleness in steps",
    "samples": "1 to 50 of 96 trajectories",
    "heldout": "12 items, before: the weights of step 0, after: of step 8",
    "compare": "Where the teacher disagreed most",
    "explain": "Where the learner's time went",
    "plan": "no plan was kept",
}
SAMPLE = "sample?run=a&step=8&group=8%2F0&index=1"  # of s0, whose question tries to be HTML


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where two runs are shown."""
    folder = tmp_path_factory.mktemp("inspected")
    runs = write_run(folder / "first"), write_run(folder / "second", seed=7)
    with inspecting(*runs) as inspector:
        for key in "ab":
            wait_until(lambda key=key: inspector.ask("trajectories", run=key)["total"] == 96)
        yield inspector.url


class Watched:
    """Pages of one context: what their console says, and which requests leave the origin."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page = context.new_page()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self._url = url
        self.page.on("console", lambda message: self._say(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        context.on("request", lambda request: self._see(request.url))

    def _say(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def _see(self, url: str) -> None:
        if not url.startswith((self._url, "data:")):
            self.elsewhere.append(url)

    def open(self, address: str) -> Page:
        self.page.goto(f"{self._url}#{address}")
        return self.page


@pytest.fixture
def watched(browser: Browser, url: str) -> Iterator[Watched]:
    with browser.new_context(viewport=DESKTOP) as context:  # type: ignore[arg-type]
        found = Watched(context, url)
        yield found
        assert found.errors == [] and found.elsewhere == []
        assert found.page.evaluate("window.hacked") is None
        assert found.page.locator('img[src="x"]').count() == 0


def view(page: Page) -> str:
    return re.split(r"[#?]", page.url)[1]


def test_each_view_is_there_and_in_the_menu(watched: Watched) -> None:
    page = watched.open("overview")
    menu = page.locator("#views a")
    expect(menu).to_have_count(len(VIEWS))
    for number, (name, text) in enumerate(VIEWS.items()):
        menu.nth(number).click()
        expect(page.locator("#view")).to_contain_text(text)
        expect(menu.nth(number)).to_have_attribute("aria-current", "page")
        assert view(page) == name
    page.go_back()
    expect(page.locator("#view h1")).to_have_text("Explain")


def test_overview_tells_of_both_runs_and_of_what_was_left_out(watched: Watched) -> None:
    page = watched.open("overview")
    expect(page.locator("section.run")).to_have_count(2)
    first = page.locator("section.run").first
    expect(first).to_contain_text("step 8 of 8")
    expect(first).to_contain_text("cut at the length limit: 25.0% before, 0.0% after")
    expect(first).to_contain_text("of 16 rows 1 refused when they were read")
    expect(first.locator(".quarantined summary")).to_have_text("2 samples quarantined")
    scene = first.locator(".scenes article").first
    expect(scene).to_contain_text(f"Which <digit>? {EVIL}")
    expect(scene.locator(".evidence")).to_have_attribute("style", re.compile("left: 12.5"))
    assert scene.locator(".token").nth(1).get_attribute("title") == "0.500 nats"
    expect(scene).to_contain_text("not measured")
    assert page.evaluate("document.querySelector('.scenes img').complete")


def test_curves_of_both_runs_lie_over_each_other_and_lead_to_a_step(watched: Watched) -> None:
    page = watched.open("curves")
    loss = page.locator("figure.chart", has_text="Loss")
    expect(loss.locator("polyline")).to_have_count(2)
    expect(loss.locator("polyline.second")).to_have_count(1)
    loss.locator("svg").hover()
    for chart in (loss, page.locator("figure.chart", has_text="Gradient norm")):
        expect(chart.locator(".step")).to_have_text(re.compile(r"step [45]"))
    loss.locator("svg").focus()
    for key in ["ArrowLeft"] * 8 + ["ArrowRight"] * 5:
        page.keyboard.press(key)
    expect(loss.locator(".step")).to_have_text("step 6")
    accuracy = page.locator("figure.chart", has_text="Accuracy").locator(".legend b")
    expect(accuracy.first).to_have_text("70.0%")  # of step 4: it was not measured since
    page.route("**/api/*", lambda route: _fail(route))
    page.locator("#find-chart").press_sequentially("loss")
    expect(page.locator("figure.chart:visible")).to_have_count(1)
    expect(page.locator("#find-chart")).to_be_focused()
    expect(page.locator("#runs a").first).to_have_attribute("href", re.compile("q=loss"))
    page.unroute("**/api/*")
    page.get_by_role("switch", name="Logarithmic").click()
    expect(page.get_by_role("switch", name="Logarithmic")).to_have_attribute("aria-checked", "true")
    expect(page.locator("#find-chart")).to_have_value("loss")
    assert "q=loss" in page.url and "scale=log" in page.url
    loss.locator("details").click()
    expect(loss.locator("tbody tr")).to_have_count(8)
    loss.locator("svg").focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#view")).to_contain_text("12 trajectories")
    assert view(page) == "samples" and "step_from=2&step_to=2" in page.url


def test_distributions_and_kept_columns(watched: Watched) -> None:
    page = watched.open("distributions")
    expect(page.locator("figure.chart rect.bar.c0").first).to_be_attached()
    staleness = page.locator("figure.chart", has_text="Staleness")
    expect(staleness.locator("rect.bar")).to_have_count(4)  # 0 and 1, of two runs
    expect(staleness.locator(".legend")).to_contain_text("first 96 trajectories")
    expect(page.locator("#view")).to_contain_text(f"web {EVIL}")


def test_filters_sort_and_pages_are_in_the_address(watched: Watched) -> None:
    page = watched.open("samples?run=a")
    status = page.locator(".count")
    expect(status).to_have_text("1 to 50 of 96 trajectories")
    values = page.locator("tbody td[data-label=divergence]")
    shown = [float(text) for text in values.all_text_contents()]
    assert shown == sorted(shown, reverse=True) and len(shown) == 50
    page.get_by_role("link", name="Next").click()
    expect(status).to_have_text("51 to 96 of 96 trajectories")
    page.go_back()
    expect(status).to_have_text("1 to 50 of 96 trajectories")
    page.locator("#filter-finish").select_option("length")
    expect(status).to_have_text("32 trajectories")
    page.locator("#filter-text").fill("onerror")
    page.locator("#filter-step_from").fill("3")
    page.keyboard.press("Enter")
    expect(status).to_have_text("24 trajectories")
    assert "finish=length" in page.url and "text=onerror" in page.url
    expect(page.locator("tbody tr").first).to_contain_text(EVIL)
    again = page.url
    page.goto("about:blank")
    page.goto(again)
    expect(status).to_have_text("24 trajectories")
    page.get_by_role("link", name="sort by tokens").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("tokens \u2193")
    watched.open("samples?run=a&changed=3,7")
    expect(status).to_have_text("48 trajectories")  # of steps 3 and 7, and of 2 and 6
    watched.open("samples?run=a&list=quarantined")
    expect(page.locator("table.reasons")).to_contain_text(f"cannot be decoded {EVIL}")


def test_keys_go_from_list_to_sample_and_back(watched: Watched) -> None:
    page = watched.open("overview")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("4")
    expect(page.locator("tbody tr.open")).to_have_count(50)
    for key in ("j", "j", "k", "j"):
        page.keyboard.press(key)
    expect(page.locator("tr.picked")).to_have_count(1)
    page.get_by_role("link", name="sort by tokens").focus()
    page.keyboard.press("Enter")  # follows what has the focus, not the row
    expect(page.locator("th[aria-sort=descending]")).to_have_text("tokens \u2193")
    for key in ("j", "j"):
        page.keyboard.press(key)
    wanted = page.locator("tbody tr.open").nth(1).locator("small").inner_text().split(" #")
    page.keyboard.press("Enter")
    expect(page.locator("#view h1")).to_contain_text(wanted[0])
    expect(page.locator(".response.asked header b")).to_have_text(f"#{wanted[1]}")
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile("at=2"))
    page.keyboard.press("r")
    expect(page.locator("#color-drift")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("u")
    expect(page.locator(".count")).to_have_text("1 to 50 of 96 trajectories")
    page.keyboard.press("/")
    expect(page.locator("#filter-text")).to_be_focused()
    page.keyboard.type("4j")  # is text now
    expect(page.locator("#filter-text")).to_have_value("4j")


def test_a_sample_shows_pictures_and_tokens(watched: Watched) -> None:
    page = watched.open(SAMPLE)
    expect(page.locator(".about")).to_contain_text(f"Which {EVIL} digit?")
    expect(page.locator(".about img")).to_have_count(3)
    for shot in page.locator(".about img").all():
        expect(shot).to_have_js_property("complete", True)
        assert shot.evaluate("image => image.naturalWidth") > 0
    expect(page.locator(".about .evidence")).to_have_count(1)
    expect(page.locator(".response")).to_have_count(3)
    expect(page.locator("#response-2 .tokens")).to_contain_text(EVIL)
    panel = page.locator(".panel")
    page.locator("#response-1 .token").nth(3).hover()
    for text in ("token 3 of #1", "rollout", "learner", "teacher", "weight", "version"):
        expect(panel).to_contain_text(text)
    page.locator("#response-1 .token").nth(2).click()
    page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("token 3 of #1")
    assert "token=2" in page.url
    panel.get_by_role("button", name="Compute the top tokens").click()
    expect(panel.locator(".tops section").first).to_contain_text("61.0%")
    expect(panel.locator(".tops section").last).to_contain_text("97.0%")
    expect(panel.locator(".tops .sampled")).to_have_count(2)
    expect(panel).to_contain_text("by the nearest kept weights, of step 6")
    page.locator(".about .open").first.click()
    expect(page.locator("#large img")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator(".links a").first.click()
    expect(page).to_have_url(re.compile("step=2"))


def test_top_tokens_are_asked_for_as_long_as_their_response_is_shown(watched: Watched) -> None:
    asked = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(json={"state": "working"})

    page = watched.page
    page.clock.install()
    page.route("**/api/scores*", answer)
    watched.open(f"{SAMPLE}&token=1")
    page.get_by_role("button", name="Compute the top tokens").click()
    page.keyboard.press("r")  # other colours are another page, which goes on
    expect(page.locator("#color-drift")).to_have_attribute("aria-pressed", "true")

    def is_asked_again() -> bool:
        page.clock.run_for(1500)
        return len(asked) > 2

    wait_until(is_asked_again)
    page.keyboard.press("1")
    expect(page.locator("section.run")).to_have_count(1)
    so_far = len(asked)
    for _ in range(3):
        page.clock.run_for(1500)
        page.evaluate("fetch('api/runs').then((reply) => reply.text())")
    assert len(asked) == so_far


def test_what_is_damaged_costs_its_own_card_alone(watched: Watched) -> None:
    told = {"full": {"text": "It is 4", "is_correct": True}}
    odd = {"full": {"tokens": [{"text": None, "divergence_nats": None}]}}
    scenes = [{"before": {"full": {"tokens": 3}}}, {"question": 5, "before": told, "after": odd}]
    items = [{"sample_id": "s0", "answers": None}, {"sample_id": "s1", "answers": {"0": told}}]
    heldout = {"versions": [0], "sets": [], "total": 2, "items": items}
    watched.page.route("**/api/scenes*", lambda route: route.fulfill(json={"scenes": scenes}))
    watched.page.route("**/api/heldout*", lambda route: route.fulfill(json=heldout))
    for address, cards in (
        ("overview?run=a", ".scenes article"),
        ("heldout?run=a", ".items article"),
    ):
        page = watched.open(address)
        expect(page.locator(cards).first).to_contain_text("This one is damaged")
        expect(page.locator(cards).last).to_contain_text("It is 4")


def test_heldout_items_before_and_after(watched: Watched) -> None:
    page = watched.open("heldout")
    expect(page.locator(".item")).to_have_count(12)
    expect(page.locator(".item").first.locator("img")).to_have_count(1)
    page.get_by_role("link", name="Gained").click()
    expect(page.locator(".item")).to_have_count(5)
    first = page.locator(".item").first
    expect(first.locator("dd").nth(0)).to_contain_text("\u2717")
    expect(first.locator("dd").nth(1)).to_contain_text("\u2713")
    expect(first.locator(".course")).to_contain_text("4")
    page.get_by_role("link", name="Lost").click()
    expect(page.locator(".item")).to_have_count(1)
    page.locator("#heldout-set").select_option("hard")
    expect(page.locator("#view")).to_contain_text("No item is like that.")


def test_two_runs_side_by_side_on_one_sample(watched: Watched) -> None:
    page = watched.open("compare")
    expect(page.locator("#view table")).to_contain_text("gap closed")
    page.get_by_role("link", name="s0").click()
    expect(page.locator(".sides > section")).to_have_count(2)
    expect(page.locator("#side-left option:checked")).to_have_text("first, step 2")
    expect(page.locator("#side-right option:checked")).to_have_text("second, step 8")
    page.locator("#side-left").select_option("first, step 8")
    expect(page).to_have_url(re.compile("left=a%3A8"))

    def is_shown() -> bool:  # once the other step is there
        page.locator(".sides > section").last.locator(".token").first.hover()
        return "token 0 of #0" in page.locator(".panel").inner_text()

    wait_until(is_shown)


def test_what_goes_wrong_is_said_in_words(watched: Watched) -> None:
    page = watched.open("sample?run=a&step=99&group=none")
    expect(page.get_by_role("alert")).to_contain_text("step 99 has no group 'none'")
    page.keyboard.press("1")
    expect(page.locator("#view")).to_contain_text(VIEWS["overview"])
    page.route("**/api/curves*", lambda route: _fail(route))
    page.keyboard.press("2")
    expect(page.get_by_role("alert")).to_contain_text("the disk is gone")
    page.unroute("**/api/curves*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#view")).to_contain_text(VIEWS["curves"])
    refused = [text for text in watched.errors if "Failed to load resource" in text]
    assert len(refused) == 2  # the browser's own lines on these two answers
    watched.errors.clear()


def _fail(route: Route) -> None:
    route.fulfill(status=500, content_type="application/json", body='{"error": "the disk is gone"}')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_each_view_without_scrolling_sideways(
    browser: Browser, url: str, scheme: str
) -> None:
    with browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True) as context:  # type: ignore[arg-type]
        watched = Watched(context, url)
        for address, text in {**VIEWS, f"{SAMPLE}&token=1": "reference"}.items():
            page = watched.open(address)
            expect(page.locator("#view")).to_contain_text(text)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"], address
        expect(page.locator("#response-1 [data-at='1']")).to_be_in_viewport()
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(251, 250, 247)", "dark": "rgb(23, 25, 28)"}[scheme]
        page.locator("#response-0 .token").first.tap()
        expect(page.locator(".panel")).to_contain_text("token 0 of #0")
        assert watched.errors == [] and watched.elsewhere == []


def test_a_run_that_goes_on_is_shown_anew_without_losing_the_place(
    browser: Browser, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", is_over=False)
    launcher = {"host": socket.gethostname(), "pid": os.getpid()}
    (run / "launcher.json").write_text(json.dumps(launcher))
    with inspecting(run) as inspector, browser.new_context(viewport=PHONE) as context:  # type: ignore[arg-type]
        wait_until(lambda: inspector.ask("trajectories", run="a")["total"] == 96)
        page = context.new_page()
        page.clock.install()
        page.goto(f"{inspector.url}#samples")
        expect(page.locator(".count")).to_have_text("1 to 50 of 96 trajectories")
        expect(page.locator("#runs")).to_contain_text("training")
        page.locator("#filter-step_from").fill("3")
        page.locator("#filter-text").type("half a w")
        page.evaluate("scrollTo(0, 700)")
        with next((run / "trained").iterdir()).open("ab") as file:
            file.write(record_batch(*step_of(NUM_STEPS + 1, seed=0)).serialize())

        def is_shown() -> bool:
            page.clock.run_for(1000)
            return "of 108" in page.locator(".count").inner_text()

        wait_until(is_shown, report=lambda: page.locator("body").inner_text())
        expect(page.locator("#filter-text")).to_be_focused()
        expect(page.locator("#filter-text")).to_have_value("half a w")
        expect(page.locator("#filter-step_from")).to_have_value("3")
        assert page.evaluate("scrollY") == 700
