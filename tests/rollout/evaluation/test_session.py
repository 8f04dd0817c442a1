"""Whole evaluations against a real server that answers, refuses, cuts, hangs and goes away.

Holds rollout/evaluation/identity.py, rollout/evaluation/pictures.py, rollout/evaluation/replies.py,
rollout/evaluation/results.py, rollout/evaluation/run.py.
"""

import asyncio
import base64
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import ConfigError, EngineError
from rollout.evaluation.questions import PixelLimits
from rollout.evaluation.session import evaluate_into
from rollout.evaluation.settings import EvaluationPlan, EvaluationSettings, JudgeSettings, Target
from tests.rollout.evaluation.chat_server import MODEL, Answering, ChatServer, Fault, Said
from tests.rollout.evaluation.tiny_set import items, number_in, png, right, tiny_set
from tests.waiting import until

COUNT = 12


def plan_for(count: int = COUNT, **changes: Any) -> EvaluationPlan:
    plan = EvaluationPlan(
        (tiny_set(items(count)),),
        EvaluationSettings(16, concurrency=4),
        tries=2,
        first_pause_s=0.001,
    )
    return replace(plan, **changes)


def with_settings(plan: EvaluationPlan, **changes: Any) -> EvaluationPlan:
    return replace(plan, settings=replace(plan.settings, **changes))


async def evaluated(
    folder: Path, answering: Answering, plan: EvaluationPlan | None = None, **options: Any
) -> tuple[dict[str, Any], ChatServer]:
    """A result, and the server that answered."""
    async with ChatServer(answering).running() as server:
        target = Target(server.url, MODEL)
        document = await evaluate_into(
            folder, plan or plan_for(), target, asyncio.Event(), **options
        )
    assert document is not None
    return document, server


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on the clock."""
    return {key: value for key, value in document.items() if key not in ("started", "seconds")}


def mixed(text: str, earlier: int) -> Said | Fault:
    """In turn: a right one, a wrong one that is cut, one that says nothing, one refused."""
    kind = number_in(text) % 4
    if kind == 3:
        return Fault("status", 400)
    return (right(text), Said("(E) maybe, or (D)", "length"), Said("Hm."))[kind]


async def test_right_cut_undecided_and_failed_are_counted_apart(tmp_path: Path) -> None:
    document, _ = await evaluated(tmp_path, mixed)
    found = document["sets"]["tiny"]
    counts = Counter(item["outcome"] for item in found["items"])
    assert counts == {"right": 3, "undecided": 6, "failed": 3}
    assert {name: found[name] for name in ("answered", "failed", "cut", "undecided")} == {
        "answered": 9, "failed": 3, "cut": 3, "undecided": 6,
    }  # fmt: skip
    accuracy = found["figures"]["accuracy"]
    assert (accuracy["right"], accuracy["of"], accuracy["value"]) == (3, 9, 3 / 9)
    assert found["items"][3] == {
        "id": "q3",
        "outcome": "failed",
        "cut": False,
        "judged": False,
        "answer": "A",
        "said": None,
        "reply": "",
        "error": found["items"][3]["error"],
        "question": "Which colour has car 3?",
        "fields": {"category": "odd"},
        "picture": found["items"][3]["picture"],
    }
    assert "HTTP 400: fault 400" in found["items"][3]["error"]


async def test_items_stand_in_the_order_of_the_set_with_a_small_picture(tmp_path: Path) -> None:
    document, _ = await evaluated(tmp_path, right, plan_for(20))
    found = document["sets"]["tiny"]["items"]
    assert [item["id"] for item in found] == [f"q{number}" for number in range(20)]
    with Image.open(tmp_path / found[7]["picture"]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (24, 24))
    assert document == json.loads((tmp_path / "result.json").read_text())


async def test_no_more_are_asked_at_once_than_is_allowed(tmp_path: Path) -> None:
    _, server = await evaluated(tmp_path, right, plan_for(40))
    assert server.most_at_once <= 4
    assert len(server.bodies) == 40


async def test_what_was_answered_is_not_asked_again_and_what_failed_is(tmp_path: Path) -> None:
    await evaluated(tmp_path, mixed)
    document, server = await evaluated(tmp_path, right)
    assert sorted(map(number_in, server.texts)) == [3, 7, 11]
    assert document["sets"]["tiny"]["failed"] == 0


@given(share=st.floats(0, 1))
@settings(max_examples=25)
def test_any_beginning_of_the_replies_leads_to_the_same_result(share: float) -> None:
    async def ends_alike(whole: Path, part: Path) -> None:
        expected, _ = await evaluated(whole, mixed)
        (part / "identity.json").write_bytes((whole / "identity.json").read_bytes())
        content = (whole / "replies.jsonl").read_bytes()
        kept = content[: round(share * len(content))]
        (part / "replies.jsonl").write_bytes(kept)
        answered = [json.loads(line) for line in kept.split(b"\n")[:-1]]
        num_kept = sum(line["error"] is None for line in answered)
        document, server = await evaluated(part, mixed)
        assert len(server.bodies) == COUNT - num_kept
        assert without_ports(document) == without_ports(expected)

    with TemporaryDirectory() as whole, TemporaryDirectory() as part:
        asyncio.run(ends_alike(Path(whole), Path(part)))


def without_ports(document: dict[str, Any]) -> dict[str, Any]:
    """The error of a failed request names the server, which is another one each time."""
    found = lasting(document)
    for one in found["sets"]["tiny"]["items"]:
        one["error"] = one["error"] and one["error"].rpartition("completions: ")[2]
    return found


async def test_a_stop_keeps_what_is_there_and_the_next_call_ends_it(tmp_path: Path) -> None:
    stop = asyncio.Event()

    def hangs_after_five(text: str, earlier: int) -> Said | Fault:
        if number_in(text) < 5:
            return right(text)
        stop.set()
        return Fault("hang")

    async with ChatServer(hangs_after_five).running() as server:
        target = Target(server.url, MODEL)
        assert await evaluate_into(tmp_path, plan_for(), target, stop) is None
    assert not (tmp_path / "result.json").exists()
    document, server = await evaluated(tmp_path, right)
    assert sorted(map(number_in, server.texts)) == list(range(5, COUNT))
    assert document["sets"]["tiny"]["figures"]["accuracy"]["right"] == COUNT


async def test_an_endpoint_that_fails_whatever_is_asked_ends_the_run(tmp_path: Path) -> None:
    def dies(text: str, earlier: int) -> Said | Fault:
        return right(text) if number_in(text) < 3 else Fault("status", 503)

    with pytest.raises(EngineError, match=r"16 times in a row.*HTTP 503.*Fix: "):
        await evaluated(tmp_path, dies, plan_for(200))
    _, server = await evaluated(tmp_path, right, plan_for(200))
    assert 0 not in map(number_in, server.texts)


async def test_items_that_are_refused_one_by_one_do_not(tmp_path: Path) -> None:
    document, _ = await evaluated(
        tmp_path, lambda text, earlier: Fault("status", 413), plan_for(40)
    )
    assert document["sets"]["tiny"]["failed"] == 40
    assert document["sets"]["tiny"]["figures"]["accuracy"]["of"] == 0


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"max_tokens": 17}, "max_tokens is 16 there, 17 here"),
        ({"prompt": "lmms"}, "prompt_style is 'paper' there, 'lmms' here"),
        ({"view": "crop"}, "view is 'full' there, 'crop' here"),
        ({"thinking": True}, "thinking is None there, True here"),
        ({"limits": PixelLimits(most=99)}, "max_pixels is None there, 99 here"),
    ],
)
async def test_replies_to_other_questions_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    await evaluated(tmp_path, right)
    with pytest.raises(ConfigError) as error:
        await evaluated(tmp_path, right, with_settings(plan_for(), **changes))
    assert difference in str(error.value) and "Fix: " in str(error.value)


async def test_another_model_or_other_sets_are_refused_too(tmp_path: Path) -> None:
    await evaluated(tmp_path, right)
    with pytest.raises(ConfigError, match="model is 'the-model' there, 'another' here"):
        await evaluate_into(tmp_path, plan_for(), Target("", "another"), asyncio.Event())
    more = plan_for(sets=(tiny_set(items(3)), tiny_set(items(3), "more")))
    with pytest.raises(ConfigError, match=r"sets\.more\.dataset is None there, 'more' here"):
        await evaluated(tmp_path, right, more)


async def test_a_limit_may_be_lifted_and_only_the_rest_is_asked(tmp_path: Path) -> None:
    first, _ = await evaluated(tmp_path, right, plan_for(limit=5))
    assert first["identity"]["sets"]["tiny"]["limit"] == 5
    whole, server = await evaluated(tmp_path, right)
    assert len(server.bodies) == COUNT - 5
    other_items = (one["identity"]["sets"]["tiny"]["sha256"] for one in (first, whole))
    assert len(set(other_items)) == 2


async def test_other_labels_judge_the_same_replies_without_a_request(tmp_path: Path) -> None:
    before, _ = await evaluated(tmp_path, right)
    corrected = with_settings(plan_for(), labels="corrected")  # q0 is C, not A
    after = await evaluate_into(
        tmp_path, corrected, Target("", MODEL), asyncio.Event(), is_asking=False
    )
    assert after is not None and after["identity"]["labels"] == "corrected"
    rights = [one["sets"]["tiny"]["figures"]["accuracy"]["right"] for one in (before, after)]
    assert rights == [COUNT, COUNT - 1]
    assert after["sets"]["tiny"]["items"][0]["answer"] == "C"


async def test_rescoring_an_unfinished_result_counts_the_rest_as_failed(tmp_path: Path) -> None:
    await evaluated(tmp_path, right, plan_for(limit=5))
    again = await evaluate_into(
        tmp_path, plan_for(), Target("", MODEL), asyncio.Event(), is_asking=False
    )
    assert again is not None
    assert again["sets"]["tiny"]["failed"] == COUNT - 5
    assert again["sets"]["tiny"]["items"][-1]["error"] == "not asked yet"


async def test_a_judge_decides_what_the_rules_do_not_and_is_asked_once(tmp_path: Path) -> None:
    def judge(text: str, earlier: int) -> Said:
        return Said("<think>no no</think>**Yes.**" if "car 2?" in text else "No, it does not.")

    async with ChatServer(judge).running() as judging:
        plan = plan_for(judge=JudgeSettings(MODEL, judging.url))
        document, _ = await evaluated(tmp_path, mixed, plan)
        assert len(judging.bodies) == 6
        assert "Reference answer:\nC\n\nReply:\nHm.\n" in judging.texts[0] + judging.texts[1]
        await evaluated(tmp_path, mixed, plan)
        assert len(judging.bodies) == 6
    found = document["sets"]["tiny"]
    assert found["undecided"] == 0
    assert [one["id"] for one in found["items"] if one["judged"] and one["outcome"] == "right"] == [
        "q2"
    ]
    assert document["identity"]["judge"]["model"] == MODEL


async def test_stored_verdicts_count_when_nobody_is_asked(tmp_path: Path) -> None:
    async with ChatServer(lambda text, earlier: Said("yes")).running() as judging:
        plan = plan_for(judge=JudgeSettings(MODEL, judging.url))
        asked, _ = await evaluated(tmp_path, mixed, plan)
    again = await evaluate_into(tmp_path, plan, Target("", MODEL), asyncio.Event(), is_asking=False)
    assert again is not None and lasting(again) == lasting(asked)
    without = await evaluate_into(
        tmp_path, plan_for(), Target("", MODEL), asyncio.Event(), is_asking=False
    )
    assert without is not None and without["sets"]["tiny"]["undecided"] == 6


@pytest.mark.parametrize("said", [Said("Perhaps."), Fault("status", 400), Fault("nonsense")])
async def test_a_judge_that_does_not_decide_leaves_it_undecided(
    tmp_path: Path, said: Said | Fault
) -> None:
    async with ChatServer(lambda text, earlier: said).running() as judging:
        plan = plan_for(judge=JudgeSettings(MODEL, judging.url))
        document, _ = await evaluated(tmp_path, mixed, plan)
    assert document["sets"]["tiny"]["undecided"] == 6


async def test_a_picture_is_sent_as_it_is_unless_limits_are_set(tmp_path: Path) -> None:
    _, server = await evaluated(tmp_path / "a", right, plan_for(1))
    assert sent(server) == png(0)
    limits = PixelLimits(most=100)
    _, server = await evaluated(tmp_path / "b", right, with_settings(plan_for(1), limits=limits))
    with Image.open(io.BytesIO(sent(server))) as picture:
        assert (picture.format, picture.size) == ("PNG", (10, 10))
    _, server = await evaluated(tmp_path / "c", right, with_settings(plan_for(1), view="crop"))
    assert sent(server) == png(0, 8)


def sent(server: ChatServer) -> bytes:
    """The picture of the first request."""
    url = server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    return base64.b64decode(url.partition(",")[2])


async def test_a_picture_that_cannot_be_decoded_fails_its_item_alone(tmp_path: Path) -> None:
    broken = [replace(one, picture=b"no picture") if one.id == "q1" else one for one in items(3)]
    plan = with_settings(plan_for(sets=(tiny_set(broken),)), limits=PixelLimits(most=100))
    document, _ = await evaluated(tmp_path, right, plan)
    found = document["sets"]["tiny"]["items"]
    assert [one["outcome"] for one in found] == ["right", "failed", "right"]
    assert found[1]["picture"] is None


async def test_a_set_without_crops_is_refused_where_they_are_asked_about(tmp_path: Path) -> None:
    bare = tiny_set([replace(one, crop=None) for one in items(3)])
    with pytest.raises(ConfigError, match="set tiny: no item has a crop"):
        await evaluated(tmp_path, right, with_settings(plan_for(sets=(bare,)), view="crop"))


async def test_two_processes_do_not_write_into_one_result(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with ChatServer(lambda text, earlier: Fault("hang")).running() as server:
        target = Target(server.url, MODEL)
        first = asyncio.ensure_future(evaluate_into(tmp_path, plan_for(), target, stop))
        await until(lambda: bool(server.bodies))
        with pytest.raises(ConfigError, match="another process writes"):
            await evaluate_into(tmp_path, plan_for(), target, asyncio.Event())
        stop.set()
        assert await first is None
