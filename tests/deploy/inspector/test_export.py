"""The page as one file, which opens without a server and without a network."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from deploy.inspector.answers import InspectorAnswers
from deploy.inspector.export import write_export
from deploy.inspector.inspected_run import InspectedRun
from tests.browser import chromium
from tests.deploy.inspector.whole_run import EVIL, write_run
from tests.recorded_page import recorded

expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    with (
        InspectedRun("a", write_run(folder / "first")) as first,
        InspectedRun("b", write_run(folder / "second", seed=7)) as second,
    ):
        return write_export(InspectorAnswers([first, second]), folder / "page.html")


@pytest.fixture
def page(browser: Browser, exported: Path) -> Iterator[Page]:
    """It; a test fails if it asks for anything, says an error, or runs what a text says."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        shown, errors, asked = context.new_page(), [], []
        shown.on("console", lambda message: errors.append(message.text))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        context.on("request", lambda request: asked.append(request.url))
        shown.goto(exported.as_uri())
        yield shown
        loaded = [url for url in asked if not url.startswith(("data:", exported.as_uri()))]
        assert (errors, loaded, shown.evaluate("window.hacked")) == ([], [], None)


def test_each_view_opens_from_the_file(page: Page) -> None:
    expect(page.locator("section.run").first).to_contain_text("52.7% \u2192 86.9%")
    expect(page.locator("#source")).to_contain_text("python -m deploy.inspect RUN")
    pictures = page.locator(".scenes img")
    expect(pictures).to_have_count(8)
    for shot in pictures.all():
        shot.scroll_into_view_if_needed()
        expect(shot).not_to_have_js_property("naturalWidth", 0)
    wanted = {
        "Curves": "Gradient norm",
        "Distributions": f"web {EVIL}",
        "Samples": "96 trajectories",
        "Held-out": "12 items",
        "Compare": "gap closed",
        "Explain": "Where the learner's time went",
        "Plan": "no plan was kept",
    }
    for name, text in wanted.items():
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.locator("#view")).to_contain_text(text)
        expect(page.locator("#view form, svg.picks")).to_have_count(0)  # what needs a server
    page.get_by_role("link", name="Held-out", exact=True).click()
    page.get_by_role("link", name="Gained").click()
    expect(page.locator(".item")).to_have_count(5)
    text = page.locator(".item > div").first  # has the place of the picture, which is not there
    assert text.evaluate("text => text.clientWidth > 0.9 * text.parentElement.clientWidth - 26")


def test_a_group_of_the_list_is_there_and_others_are_said_to_be_missing(page: Page) -> None:
    page.get_by_role("link", name="Samples", exact=True).click()
    expect(page.locator("#view")).to_contain_text("This file holds the first 50 of 96")
    expect(page.locator("form.filters")).to_have_count(0)
    assert 12 <= page.locator("tr.open").count() < 50  # the others' tokens are not in the file
    expect(page.locator(".list tbody a[href]")).to_have_count(page.locator("tr.open").count())
    page.locator("tr.open[data-href*='%7E']").first.click()
    expect(page.locator(".response")).to_have_count(3)
    for shot in page.locator(".about img").all():
        expect(shot).not_to_have_js_property("naturalWidth", 0)
    page.locator(".response .token").first.click()
    expect(page.locator(".panel")).to_contain_text("rollout")
    expect(page.locator(".compute, .links a[href^='#compare']")).to_have_count(0)
    links = page.locator(".links a, .crumbs a").evaluate_all("all => all.map((one) => one.href)")
    for link in links:
        page.goto(link)
        expect(page.locator(".response, .list").first).to_be_visible()
    page.goto(page.url.split("#")[0] + "#sample?run=a&step=1&group=none")
    expect(page.get_by_role("alert")).to_contain_text("python -m deploy.inspect RUN")


def test_the_file_holds_what_it_says_and_lets_no_text_out_of_its_place(exported: Path) -> None:
    text = exported.read_text(encoding="utf-8")
    assert EVIL not in text and "\\u003cimg src=x" in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "default-src 'none'; script-src 'sha256-" in text
    held = recorded(exported)
    for key in "ab":
        groups = [name for name in held["answers"] if name.startswith("group?group=")]
        assert sum(f"run={key}" in name for name in groups) == 12
        assert f"curves?run={key}" in held["answers"]
    assert all(url.startswith("data:image/") for url in held["pictures"].values())


def test_a_large_picture_is_made_smaller_and_one_run_is_not_compared(
    browser: Browser, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run")
    noise = Image.effect_noise((800, 700), 90).convert("RGB")
    noise.save(folder / "scenes" / "full.png")
    assert (folder / "scenes" / "full.png").stat().st_size > 1_000_000
    with InspectedRun("a", folder) as run:
        page = write_export(InspectorAnswers([run]), tmp_path / "page.html")
    shown = recorded(page)["pictures"]["picture?run=a&scene=0&view=full"]
    assert shown.startswith("data:image/jpeg;base64,") and len(shown) < 400_000
    with browser.new_page() as opened:
        opened.goto(page.as_uri())
        expect(opened.locator("#views a")).to_have_count(7)
        assert "Compare" not in opened.locator("#views").inner_text()


def test_whatever_is_damaged_costs_its_own_answer_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name, text in (
        ("groups.jsonl", '{"columns": {"source": "web"}}\n[]\n{"half'),
        ("scenes.json", '{"scenes": [{"question": 1}, 2]}'),
        ("quarantine.jsonl", "no JSON\n"),
        ("plan.json", "[1]"),
        ("summary.json", '{"gap_closed": NaN, "seconds": "long"}'),
        ("heldout/step-000004.jsonl", '{"sample_id": 3, "full": 4}\n'),
        ("observations.jsonl", "\0\0"),
    ):
        (folder / name).write_text(text)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    with InspectedRun("a", folder) as run:
        page = write_export(InspectorAnswers([run]), tmp_path / "page.html")
    answers = recorded(page)["answers"]
    assert answers["runs"]["runs"][0]["summary"] == {"gap_closed": None, "seconds": "long"}
    assert "curves?run=a" in answers and any(name.startswith("group?") for name in answers)
