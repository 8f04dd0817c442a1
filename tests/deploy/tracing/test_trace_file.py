"""The file itself: well-formed whatever is drawn. Holds deploy/tracing/rollout_tracks.py."""

import io
import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from deploy.tracing.marks import Mark
from deploy.tracing.rollout_tracks import Lanes, inside
from deploy.tracing.trace_file import Part, TraceFile

seconds = st.floats(1.7e9, 1.7e9 + 1000)


def drawn(draw, **window) -> dict:
    out = io.StringIO()
    trace = TraceFile(out, origin=1.7e9, **window)
    trace.open()
    draw(trace)
    trace.close(notes=[])
    return json.loads(out.getvalue())


def of_phase(document: dict, *phases: str) -> list[dict]:
    return [event for event in document["traceEvents"] if event["ph"] in phases]


@given(st.lists(st.tuples(seconds, seconds, seconds, seconds).map(sorted), max_size=8))
def test_every_begin_of_a_life_has_its_end_and_lies_within_the_whole(lives):
    def draw(trace: TraceFile) -> None:
        for number, (begin, submitted, taken, end) in enumerate(lives):
            parts = [
                Part("group", begin, end, {"group": number}),
                Part("lease", begin, submitted, {}),
                Part("queue", submitted, taken, {}),
                Part("train", taken, end, {}),
            ]
            trace.life(trace.track("broker", "groups"), "group", f"{number}#0", parts)

    open_parts: dict[str, list[dict]] = defaultdict(list)
    last: dict[str, int] = defaultdict(int)
    for event in of_phase(drawn(draw), "b", "e"):
        key = event["id2"]["local"]
        assert event["ts"] >= last[key]
        last[key] = event["ts"]
        if event["ph"] == "b":
            open_parts[key].append(event)
            assert len(open_parts[key]) <= 2
        else:
            assert open_parts[key].pop()["name"] == event["name"]
    assert not any(open_parts.values())


@given(st.lists(st.tuples(seconds, st.floats(0.0, 9.0)), max_size=8), st.tuples(seconds, seconds))
def test_a_window_keeps_what_touches_it(pieces, window):
    begin, end = sorted(window)

    def draw(trace: TraceFile) -> None:
        for number, (since, lasted) in enumerate(pieces):
            trace.slice(trace.track("a", "b"), str(number), since, since + lasted)

    kept = {event["name"] for event in of_phase(drawn(draw, begin=begin, end=end), "X")}
    assert kept == {
        str(number)
        for number, (since, lasted) in enumerate(pieces)
        if since <= end and since + lasted >= begin
    }


def test_rows_have_ids_of_their_own_and_names():
    def draw(trace: TraceFile) -> None:
        for process in ("broker", "learner-0"):
            for row in ("a", "b", "a"):
                trace.moment(trace.track(process, row), 'a "name"\n', 1.7e9 + 1)

    document = drawn(draw)
    named = {(event["pid"], event["tid"]) for event in of_phase(document, "M")}
    tids = [tid for _, tid in named if tid]
    assert len(tids) == len(set(tids)) == 4
    assert {event["name"] for event in of_phase(document, "i")} == {'a "name"\n'}


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 10.0)), max_size=30))
def test_no_two_pieces_of_a_lane_overlap(pieces):
    lanes, until = Lanes(), defaultdict(float)
    for end, lasted in sorted(pieces):
        begin = max(0.0, end - lasted)
        lane = lanes.of("rollout-0", begin, end)
        assert until[lane] <= begin
        until[lane] = end


anything = st.one_of(st.none(), st.floats(-5.0, 20.0), st.text(max_size=2))


@given(anything, anything, anything, anything, anything, st.lists(st.floats(-5.0, 20.0)))
def test_the_inside_of_a_generation_lies_within_it(shown, sent, answered, queue, first, responses):
    facts = {
        "shown_s": shown, "sent_s": sent, "answered_s": answered,
        "queue_s": queue, "first_token_s": first, "response_s": responses,
    }  # fmt: skip
    open_until = [10.0]
    for _, begin, end in inside(Mark("generation", 0.0, 10.0, facts)):
        assert 0.0 <= begin <= end <= 10.0
        while begin >= open_until[-1] and len(open_until) > 1:
            open_until.pop()
        assert end <= open_until[-1] or begin == end
        open_until.append(end)


def test_an_engine_that_tells_its_times_has_prefill_decode_and_responses():
    facts = {
        "shown_s": 1.0, "sent_s": 2.0, "answered_s": 9.0,
        "queue_s": 0.5, "first_token_s": 1.5, "response_s": [4.0, 6.0],
    }  # fmt: skip
    assert list(inside(Mark("generation", 0.0, 9.5, facts)))[1:] == [
        ("wait_slot", 1.0, 2.0), ("generate", 2.0, 9.0), ("engine_queue", 3.0, 3.5),
        ("prefill", 3.5, 4.5), ("decode", 4.5, 9.0), ("response 1", 4.5, 9.0),
        ("response 0", 4.5, 7.0),
    ]  # fmt: skip
    whole = list(inside(Mark("generation", 0.0, 9.5, {**facts, "first_token_s": None})))
    assert [name for name, _, _ in whole] == ["picture", "wait_slot", "generate"]
