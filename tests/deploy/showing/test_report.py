"""The report in a real browser, and its parts.

Holds deploy/showing/column_tables.py.
"""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.showing.charts import Series, line_chart
from deploy.showing.outcome import outcome_text
from deploy.showing.report import write_report
from deploy.showing.scene_cards import scene_cards
from tests.browser import document_of, screenshot_of
from tests.deploy.showing.support import SUMMARY


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a <run> & more"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, side in (("full.png", 96), ("crop.png", 48)):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(folder / name)
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    rows = [{"step": 0, "evaluation/full_accuracy": 0.45, "evaluation/crop_accuracy": 0.95}]
    for step in range(1, 31):
        rows.append({"step": step, "learner/loss_nats": 0.1 / step, "learner/grad_norm": None})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "scenes.json").write_text(json.dumps({"scenes": [scene(folder)]}))
    return folder


def scene(folder: Path) -> dict[str, object]:
    tokens = [
        {"text": "It", "divergence_nats": 0.0},
        {"text": " <b>", "divergence_nats": 0.5},
        {"text": "\n", "divergence_nats": 0.1},
    ]
    answers = {
        "version": 0,
        "full": {"text": "It <b>", "is_correct": False, "tokens": tokens},
        "crop": {"text": "It is 3", "is_correct": True},
    }
    return {
        "sample_id": "s0",
        "question": "Which <digit>?",
        "reference_answer": "3",
        "image": str(folder / "full.png"),
        "image_size": [96, 96],
        "box": [16, 16, 48, 48],
        "crop_box": None,
        "crop": str(folder / "crop.png"),
        "before": answers,
        "after": None,
    }


class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [v or "" for k, v in attributes if k in ("src", "href", "action", "data")]


def test_the_page_is_self_contained_and_escapes_what_it_shows(run_folder: Path) -> None:
    text = write_report(run_folder).read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert len(links.loaded) == 2  # the two pictures
    assert all(link.startswith("data:image/png;base64,") for link in links.loaded)
    assert "script" not in links.tags and "url(" not in text and "@import" not in text
    assert "Which &lt;digit&gt;?" in text and "a &lt;run&gt; &amp; more" in text


def test_answers_that_were_cut_are_told_apart(run_folder: Path) -> None:
    assert "cut at the length limit" not in write_report(run_folder).read_text()
    cut = {"full_cut_share_before": 0.25, "full_cut_share_after": 0.0}
    cut |= {"crop_cut_share_before": 0.0, "crop_cut_share_after": 0.0}
    (run_folder / "summary.json").write_text(json.dumps(SUMMARY | cut))
    assert write_report(run_folder).read_text().count("cut at the length limit") == 1
    assert (
        "cut at the length limit: 25.0% before, 0.0% after" in write_report(run_folder).read_text()
    )
    told = outcome_text(SUMMARY | cut).splitlines()
    assert "full image, cut        25.0%    0.0%" in told
    assert not any(line.startswith("crop, cut") for line in told)
    assert "cut" not in outcome_text(SUMMARY)


def test_figures_are_told_by_the_values_of_kept_columns(run_folder: Path) -> None:
    assert "By source" not in write_report(run_folder).read_text()
    rows = [
        trained(1, "<web>", tokens=10, entropy=1.0),
        trained(1, "<web>", tokens=30, entropy=2.0),
        trained(2, "<web>", tokens=10, entropy=0.5),
        trained(2, None, tokens=10, entropy=0.25),
    ]
    (run_folder / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(run_folder).read_text()
    assert "<h2>By source</h2>" in text and "learner/entropy_nats (nats)" in text
    web, empty = text.split("<tbody>")[1].split("</tr>")[:2]
    assert "&lt;web&gt;</th><td>3</td>" in web and "<td>1.75 → 0.5</td>" in web
    assert "(empty)</th><td>1</td>" in empty and "<td>\N{EN DASH} → 0.25</td>" in empty


def trained(step: int, source: str | None, tokens: int, entropy: float) -> dict[str, object]:
    return {
        "step": step,
        "columns": {"source": source},
        "learner/trajectories": 2,
        "learner/tokens": tokens,
        "learner/entropy_nats": entropy,
    }


def test_a_line_that_is_half_written_is_left_out(run_folder: Path) -> None:
    """The launcher, or the learner, may have been killed while it wrote."""
    path = run_folder / "observations.jsonl"
    path.write_text('{"step": 1, "rollout/idle_share": 0.5}\n')
    whole = write_report(run_folder).read_text()
    path.write_text(path.read_text() + '{"step": 2, "rollo')
    assert write_report(run_folder).read_text() == whole


def test_of_a_step_that_was_undone_the_last_figures_count(run_folder: Path) -> None:
    looks = [(1, 0.2), (2, 0.4), (3, 0.9), (2, 0.5), (3, 0.6)]  # resumed after step 1
    rows = [json.dumps({"step": step, "rollout/idle_share": share}) for step, share in looks]
    lines = [f"{row}\n" for row in rows]
    path = run_folder / "observations.jsonl"
    path.write_text("".join(lines[:3]))
    straight = write_report(run_folder).read_text()
    path.write_text("".join(lines))
    resumed = write_report(run_folder).read_text()
    path.write_text("".join([lines[0], *lines[3:]]))
    assert resumed == write_report(run_folder).read_text() != straight


def test_drift_comes_first_also_of_a_run_that_gave_it_another_name(run_folder: Path) -> None:
    rows = [{"step": step, "learner/logprob_difference_mean_nats": 0.01} for step in (1, 2)]
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(run_folder).read_text()
    places = [text.index(title) for title in ("Drift of rollout against learner", "Accuracy")]
    assert places == sorted(places) and text.count("step 2: 0.01") == 1


def test_a_run_that_got_nowhere_has_a_page_too(tmp_path: Path) -> None:
    assert "<h1>" in write_report(tmp_path).read_text()


def test_what_is_no_picture_is_left_out_and_sizes_are_numbers(run_folder: Path) -> None:
    """scenes.json may be somebody else's: no other file goes into the page, nor any markup."""
    (run_folder / "crop.png").write_text("a secret")
    page = write_report(run_folder).read_text()
    assert "the evidence crop: gone" in page and base64.b64encode(b"a secret").decode() not in page
    with pytest.raises(ValueError, match="invalid literal for int"):
        scene_cards([{**scene(run_folder), "image_size": ['"><b>', 1]}])


def test_a_picture_that_is_gone_is_left_out(run_folder: Path) -> None:
    (run_folder / "full.png").unlink()
    (run_folder / "crop.png").unlink()
    assert "the evidence crop: gone" in write_report(run_folder).read_text()


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [-1.0, 2.0], [1e-9, 2e-9], [3e7] * 5])
def test_a_chart_keeps_every_point_inside(values: list[float]) -> None:
    chart = line_chart("t", "u", [Series("s", list(enumerate(values, start=1)))])
    points = chart.split('points="')[1].split('"')[0].split()
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= 420 and 0 <= y <= 220


def test_a_chart_without_points_is_left_out() -> None:
    assert line_chart("t", "u", [Series("s", [])]) == ""


def test_a_browser_draws_the_page(run_folder: Path, tmp_path: Path) -> None:
    report = write_report(run_folder)
    document = document_of(report, tmp_path)
    assert document.count("<figure>") == 2 and document.count("<polyline") == 3
    assert document.count("<article>") == 1 and "45.0% → 75.0%" in document
    picture = screenshot_of(report, tmp_path, (1240, 1400))
    assert picture.size == (1240, 1400)
    assert len(set(picture.resize((124, 140)).get_flattened_data())) > 50
