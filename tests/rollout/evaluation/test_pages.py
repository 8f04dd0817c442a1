"""Pages of a result and of two: what stands in them, and that nothing in them is obeyed."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.errors import DataError
from common.page import small_jpeg
from rollout.evaluation import item_cards
from rollout.evaluation.compare import compare
from rollout.evaluation.compare_pages import write_comparison
from rollout.evaluation.pages import write_pages
from rollout.evaluation.stored_result import StoredItem, picture_bytes, read_result
from rollout.evaluation.text_tables import TextTable, plain_markdown, shortened
from tests.browser import screenshot_of
from tests.rollout.evaluation.stored_results import items, write_result

HOSTILE = (
    "</div><script>alert(1)</script><img src=x onerror=alert(2)> | `a` [b](javascript:c)\x1b[2J"
)


class Tags(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self.links += [v or "" for k, v in attributes if k in ("src", "href", "action", "data")]


def assert_harmless(page: str) -> None:
    found = Tags(page)
    assert "script" not in found.tags and not any(a.startswith("on") for a in found.attributes)
    assert all(link.startswith("data:image/jpeg;base64,") for link in found.links)
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page


def hostile_items(outcomes: str) -> list[dict[str, Any]]:
    changes = {name: HOSTILE for name in ("answer", "said", "reply", "question", "error")}
    return items(outcomes, **changes, fields={HOSTILE: HOSTILE})


def test_a_result_is_shown_with_figures_items_and_pictures(tmp_path: Path) -> None:
    folder = write_result(tmp_path, {"vstar": items("++-?!"), "mine": items("-", cut=True)})
    write_pages(folder)
    text, page = (tmp_path / "result.md").read_text(), (tmp_path / "result.html").read_text()
    assert text.startswith("# Qwen/Qwen3.5-4B\n\nstarted 2026-11-30T01:00:00+00:00; prompt_style")
    assert "thinking no, min_pixels none" in text
    assert "| V\\* | accuracy | 50.00 (15.00 to 85.00) | 5 | 1 | 0 | 1 |" in text
    assert "| accuracy | 50.00 (15.00 to 85.00) | 2 of 4 |" in text
    assert "dataset lmms-lab/vstar-bench, revision d9ae62c, rows 191, limit 0" in text
    assert (
        "| Vision-OPD-4B | 92.15 |" in text and "| this result | 50.00 (15.00 to 85.00) |" in text
    )
    assert_harmless(page)
    assert page.count("<article") == 6 and page.count("data:image/jpeg;base64,") == 6
    for kind, count in {"right": 2, "wrong": 2, "undecided": 1, "failed": 1}.items():
        assert len(re.findall(f'<article class="is-{kind}[" ]', page)) == count
    assert page.count("is-wrong is-cut") == 1 and "error: HTTP 500" in page
    assert page.index('is-failed"') < page.index('is-undecided"') < page.index('is-right"')
    assert "Beside the paper" in page and "GPT-5.4" in page


def test_two_results_are_shown_with_what_changed(tmp_path: Path) -> None:
    a = write_result(tmp_path / "a", {"vstar": items("+++-?")})
    b = write_result(tmp_path / "b", {"vstar": items("++-++")}, model="mine")
    found = compare(read_result(a), read_result(b))
    write_comparison(found, tmp_path / "out", a, b)
    page = (tmp_path / "out/compare.html").read_text()
    assert_harmless(page)
    assert page.count('<article class="is-gained"') == 2
    assert page.count('<article class="is-lost"') == 1
    assert "60.00 \u2192 80.00" in page and page.count("data:image/jpeg;base64,") == 3
    assert "main:has(#show-lost:checked) article:not(.is-lost) { display: none; }" in page
    assert "Items that changed:" in (tmp_path / "out/compare.md").read_text()


def test_the_picture_is_that_of_the_result_that_has_it(tmp_path: Path) -> None:
    a = write_result(tmp_path / "a", {"vstar": items("-", picture=None)})
    b = write_result(tmp_path / "b", {"vstar": items("+")})
    write_comparison(compare(read_result(a), read_result(b)), tmp_path / "out", a, b)
    assert (tmp_path / "out/compare.html").read_text().count("data:image/jpeg;base64,") == 1


def test_hostile_texts_come_out_escaped(tmp_path: Path) -> None:
    sets = {HOSTILE: hostile_items("+-?!+-")}
    a = write_result(tmp_path / "a", sets, model=HOSTILE)
    b = write_result(tmp_path / "b", {HOSTILE: hostile_items("-+?!-+")}, model=HOSTILE)
    write_pages(a)
    write_comparison(compare(read_result(a), read_result(b)), tmp_path / "out", a, b)
    for path in (a / "result.html", tmp_path / "out/compare.html"):
        page = path.read_text()
        assert_harmless(page)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for path in (a / "result.md", tmp_path / "out/compare.md"):
        text = path.read_text()
        assert "\x1b" not in text and not re.search(r"(?<!\\)<", text)
        for line in text.splitlines():  # no cell of a table has a bar of its own
            if line.startswith("| ") and "alert" in line:
                assert len(re.findall(r"(?<!\\)\|", line)) in (4, 7, 8, 9)


def test_a_page_has_so_many_cards_and_pictures_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_result(tmp_path, {"vstar": items("-" * 100 + "+" * 10)})
    size = len((folder / "pictures/0.jpg").read_bytes())
    monkeypatch.setattr(item_cards, "_MOST_PICTURE_BYTES", 20 * size)
    write_pages(folder)
    page = (tmp_path / "result.html").read_text()
    assert page.count("<article") == 70 and "70 of 110 items" in page
    assert page.count("data:image/jpeg;base64,") == 20
    assert page.count("The picture is left out") == 50


def test_a_long_reply_is_folded(tmp_path: Path) -> None:
    folder = write_result(tmp_path, {"mine": items("+", reply="because " * 200)})
    write_pages(folder)
    page = (tmp_path / "result.html").read_text()
    assert "<details><summary>because " in page and "Beside the paper" not in page


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "no.jpg", "pictures", "a\0b"])
def test_a_picture_outside_the_folder_is_not_read(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"\xff\xd8\xffsecret")
    folder = write_result(tmp_path / "result", {"vstar": items("+", picture=path)})
    item = read_result(folder).sets["vstar"].items[0]
    assert isinstance(item, StoredItem) and picture_bytes(folder, item) is None


def test_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    folder = write_result(tmp_path, {"vstar": items("+")})
    (folder / "pictures/0.jpg").write_text("<svg onload=alert(1)>")
    write_pages(folder)
    assert "<svg" not in (folder / "result.html").read_text()
    assert "<img" not in (folder / "result.html").read_text()


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = write_result(tmp_path, {"vstar": items("+")})
    (folder / "result.md").mkdir()
    with pytest.raises(DataError, match=r"result\.md: .*Fix: see to the disk"):
        write_pages(folder)


def test_a_table_is_the_same_in_markdown_and_html() -> None:
    table = TextTable(("a", "b|c"), (("<x>", "1"), ("y", "2")))
    assert table.markdown() == "| a | b\\|c |\n| --- | ---: |\n| \\<x\\> | 1 |\n| y | 2 |"
    assert '<th scope="row">&lt;x&gt;</th><td>1</td>' in table.html()


def test_a_text_of_several_lines_is_one_of_markdown() -> None:
    assert plain_markdown("a\n- b\t&c") == "a - b &amp;c"
    assert shortened("abcdef", 3) == "abc ..." and shortened("abc", 3) == "abc"


def test_a_browser_shows_the_kind_that_is_chosen(tmp_path: Path) -> None:
    a = write_result(tmp_path / "a", {"vstar": items("+-")})
    b = write_result(
        tmp_path / "b", {"vstar": items("-+")}
    )  # the first is lost, with a red picture
    green = small_jpeg(Image.new("RGB", (32, 24), (0, 255, 0)))
    (a / "pictures/1.jpg").write_bytes(green)
    text = (a / "result.json").read_text().replace("pictures/0.jpg", "pictures/1.jpg")
    (a / "result.json").write_text(text.replace("pictures/1.jpg", "pictures/0.jpg", 1))
    write_comparison(compare(read_result(a), read_result(b)), tmp_path, a, b)
    page = (tmp_path / "compare.html").read_text()
    chosen = page.replace('name="show" checked', 'name="show"')
    chosen = chosen.replace('id="show-lost"', 'id="show-lost" checked')
    (tmp_path / "lost.html").write_text(chosen)
    assert _colors(tmp_path / "compare.html") == {"red", "green"}
    assert _colors(tmp_path / "lost.html") == {"red"}


def _colors(page: Path) -> set[str]:
    """The colours of the pictures in a page."""
    shown = screenshot_of(page, page.parent, (800, 1400)).resize((100, 175))
    pixels = set(shown.get_flattened_data())
    colors = {"red": (254, 0, 0), "green": (0, 255, 1)}  # as JPEG has them
    return {name for name, color in colors.items() if any(_is_near(p, color) for p in pixels)}


def _is_near(pixel: tuple[int, ...], color: tuple[int, ...]) -> bool:
    return max(abs(p - c) for p, c in zip(pixel, color, strict=True)) < 8
