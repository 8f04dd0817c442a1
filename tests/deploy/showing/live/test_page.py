"""Holds deploy/showing/live/."""

import re

import pytest

from broker.protocol import Role
from common.logs import printable
from deploy.showing.live.facts import Facts, FolderFacts
from deploy.showing.live.page import VIEWS, Keys, picture
from deploy.showing.picture import learner_of
from deploy.showing.situation import DRAINING
from tests.deploy.showing.live.moments import REASON, SENTENCE, moment
from tests.deploy.showing.support import drawn_picture
from tests.deploy.statuses import member

SHOWN = {  # titles and figures that a view must have at every width
    "overview": (
        "40/60", "loss", "0.0421", "grad norm", "1.50", "3.0e-04", "full image", "45.0% > 61.0%",
        "evidence crop", "95.0%", "of step", "30", "slots", "90/96", "in flight", "34", "waiting",
        "trained", "576", "expired", "quarantined", "stale", "1 seen", "tokens/s", "idle",
        "version", "rollout-0", "rollout-1", "learner-0", "900", "901", "12%", "812", "20%",
        "training", "2:05", "1:35 left", "1 row refused, 2 samples quarantined",
    ),
    "servers": (
        "2 rollout servers", "1,801 tokens/s together", "restarts",
        "version", "last heard", "0 s", "groups", "restarting", "was killed by SIGKILL", "39", "40",
    ),
    "queue": (
        "groups", "trajectories", "tokens", "slots 90/96", "in flight", "34", "136", "4,197,538",
        "waiting", "24", "trained", "576", "2,304", "71,111,232", "expired", "quarantined", "8",
        "issued", "623", "lease lapsed", "16", "rewound", "<= 4", "<= 1024", "2292",
        "that cannot be used: 2", "mean", "highest", "1.0",
    ),
    "learner": (
        "seconds of", "step 40", "mean of 20", "share", "waiting", "0.500", "20%", "vision",
        "0.125", "backward", "1.250", "50%", "other", "0.625", "a step", "2.500", "100%", "loss",
        "0.0100 (0.0100 to 0.0490) nats", "drift", "0.0100", "drift, p99", "0.090", "staleness",
        "tokens/s", "full image", "61.0%", "the last 40 steps",
    ),
    "logs": ("rollout-0 | 12:00:01 WARNING", "broker | 12:00:02 ERROR"),
}  # fmt: skip
SENTENCES = {"overview": (SENTENCE, REASON, "waiting for the batch of step 41, since 9 s"),
             "servers": ("1 without the newest weights",),
             "queue": (REASON, "s-18 (rollout): HTTP 500")}  # fmt: skip


def shown(facts: Facts, width: int, height: int | None = None, keys: Keys | None = None) -> str:
    return drawn_picture(picture(facts, keys or Keys(), width, height), width)


def unfolded(text: str) -> str:
    """The words of a picture in their order, as if no line had an end."""
    return " ".join(re.sub("[^!-~]+", " ", text).split())


def a_half(text: str, width: int, number: int) -> str:
    """One of two columns of a wide picture."""
    middle = 2 + (width - 4 - 3) // 2 + 1
    return "\n".join((line[:middle], line[middle:])[number] for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("key", VIEWS)
def test_no_title_and_no_figure_is_cut(key: str, width: int) -> None:
    text = shown(moment(), width, 44, Keys(key))
    assert {len(line) for line in text.splitlines()} == {width}
    assert chr(0x2026) not in text  # what rich puts where it cuts
    for part in SHOWN[VIEWS[key].name]:
        assert re.search(rf"(?<![\w.,]){re.escape(part)}(?!\w|[.,]\d)", text), part
    halves = [unfolded(a_half(text, width, n)) for n in (0, 1)] if width > 120 else []
    for sentence in SENTENCES.get(VIEWS[key].name, ()):
        assert any(sentence in part for part in (unfolded(text), *halves)), sentence


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("key", VIEWS)
def test_the_keys_are_shown_in_every_view(key: str, width: int) -> None:
    last = shown(moment(), width, 30, Keys(key)).splitlines()[-1]
    words = [f"{number} {view.name}" for number, view in VIEWS.items()]
    for word in (*words, "?", "q"):
        assert word in last, word


def test_a_wide_terminal_has_two_columns_and_more_in_them() -> None:
    wide, narrow = shown(moment(), 160, 40), shown(moment(), 80, 40)
    assert re.search("step 40/60.*process", wide) and not re.search("step 40/60.*process", narrow)
    assert "drift" in wide and "drift" not in narrow


@pytest.mark.parametrize("key", VIEWS)
@pytest.mark.parametrize("height", [8, 12, 24])
def test_a_picture_is_no_higher_than_the_terminal(key: str, height: int) -> None:
    for width in (40, 60, 80, 160):
        assert len(shown(moment(100), width, height, Keys(key)).splitlines()) <= height


@pytest.mark.parametrize("key", ["1", "2"])
def test_of_many_servers_the_worst_are_shown_and_the_others_counted(key: str) -> None:
    facts = moment(100)
    assert facts.status is not None
    silent = member("rollout-63", Role.ROLLOUT, 40, 31.0, tokens_per_s=0.0, idle_share=1.0)
    members = tuple(silent if m.member_id == "rollout-63" else m for m in facts.status.members)
    status = facts.status.model_copy(update={"members": members})
    text = shown(moment(100, status=status), 80, 30, Keys(key))
    first = re.findall(r"rollout-\d+ +\d+.*", text)[0]
    assert first.startswith("rollout-63") and "31 s" in first
    counted = re.search(r"and (\d+) of 100 servers that do better", text)
    rows = len(set(re.findall(r"(rollout-\d+) +\d+ ", text)))
    assert counted is not None and int(counted[1]) + rows == 100
    if key == "2":
        assert "100 rollout servers" in text and "1 not heard for 5 s" in text


def test_a_long_name_gives_way_in_its_middle_and_figures_do_not() -> None:
    facts = moment()
    assert facts.status is not None
    long = "rollout-on-a-machine-with-quite-a-name-0123456789.cluster.example.org-7"
    first = member(long, Role.ROLLOUT, 39, 0.4, tokens_per_s=1234567.0, idle_share=0.125)
    learner = next(m for m in facts.status.members if m.role is Role.LEARNER)
    update = {"members": (learner, first), "run_id": long}
    facts = moment(status=facts.status.model_copy(update=update))
    for width in (60, 80):
        text = shown(facts, width, 30)
        (row,) = re.findall(r"(rollout-\S*) +39 +1234567 +12%", text)
        assert ".." in row and row.endswith("org-7") and "training - 2:05, 1:35 left" in text


@pytest.mark.parametrize("name", ["x[/b]", "[link=http://x]y", "\x1b]0;t\x07", "\x9b2J", "[bold]z"])
@pytest.mark.parametrize("key", VIEWS)
def test_foreign_text_is_neither_markup_nor_a_command(key: str, name: str) -> None:
    facts = moment()
    assert facts.status is not None
    first, *others = facts.rollouts
    members = (first.model_copy(update={"member_id": name}), *others)
    data = facts.status.data.model_copy(update={"first": (name,)})
    status = facts.status.model_copy(update={"members": members, "data": data, "run_id": name})
    folder = FolderFacts(sentence=name, problem=name, log_lines=((name, name),))
    changed = moment(status=status, folder=folder, waits={name: name}, mark=name)
    text = shown(changed, 100, 40, Keys(key))
    assert printable(name) in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_what_is_waited_for_and_a_failing_store_are_told() -> None:
    facts = moment()
    assert facts.status is not None
    full = facts.status.model_copy(update={"store_failure": "No space left on device"})
    text = unfolded(shown(moment(status=full), 60, 40))
    assert "nothing is leased: No space left on device" in text


def test_the_launcher_says_how_to_end_it_until_it_drains() -> None:
    keys = Keys(ending="Ctrl-C drains and ends", has_views=False)
    assert "Ctrl-C drains and ends" in shown(moment(), 80, 30, keys)
    assert "1 overview" not in shown(moment(), 80, 30, keys)
    draining = moment(waits={DRAINING: "draining: 3 groups under way"})
    text = shown(draining, 80, 30, keys)
    assert "- draining -" in text and "Ctrl-C drains" not in text and " left" not in text


def test_keys_change_the_view_and_a_question_mark_comes_and_goes() -> None:
    keys = Keys().pressed("4")
    assert keys.view == "4" and keys.pressed("x") == keys
    asked = keys.pressed("?")
    assert "restarts and why" in shown(moment(), 80, 30, asked)
    assert asked.pressed("?") == keys and asked.pressed("3") == keys.pressed("3")


def test_without_a_broker_the_folder_tells_what_it_knows() -> None:
    facts = moment(status=None, elapsed_s=0.0, mark="the run has ended\nkept: no checkpoint yet")
    text = shown(facts, 80, 40)
    for part in ("the run has ended", "kept: no", "step 40", "0.0100", "61.0%", "not running",
                 "2:00"):  # fmt: skip
        assert part in text, part
    for key in VIEWS:
        assert shown(Facts(None, 0.0), 60, 20, Keys(key))


def test_a_run_without_any_figure_has_views_too() -> None:
    assert learner_of(moment().status) == moment().learner  # type: ignore[arg-type]
    assert "starting" in shown(Facts(None, 3.0), 80)
