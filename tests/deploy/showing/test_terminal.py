import asyncio
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

import deploy.showing.terminal
from broker.protocol import Status
from common.logs import printable
from deploy.showing.picture import plain_line
from deploy.showing.terminal import LiveView, PlainView, show_progress
from tests.broker.support import make_rules, make_source, running_broker
from tests.deploy.on_a_terminal import ROOT, on_a_terminal
from tests.deploy.showing.support import GAUGES, drawn, status
from tests.waiting import until


def test_the_live_view_shows_what_matters() -> None:
    text = drawn(status(GAUGES))
    for part in (
        *("12/60", "0.0421", "45.0% > 61.0%", "95.0%", "90/96", "576", "2:05", "1:35 left"),
        *("rollout-0", "none yet", "20%", "812", "Ctrl-C", "training"),
    ):
        assert part in text, part
    assert "observer" not in text


def test_80_columns_cut_nothing() -> None:
    text = drawn(
        status(GAUGES), {"a": "rollout-0: silent (it is replaced at 30 s), since 21 s"}, 80
    )
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    for part in ("in flight", "quarantined", "evidence crop", "last heard", "since 21 s"):
        assert part in text, part


def test_a_run_that_drains_says_so_and_offers_no_first_ctrl_c() -> None:
    line = "draining: 3 groups under way; Ctrl-C again ends at once, since 4 s"
    text = drawn(status(GAUGES), {"draining": line}, 80)
    assert "quickstart-1 - draining" in text and line in text
    assert "Ctrl-C drains" not in text and "left" not in text
    assert "starting" in drawn(None) and line in drawn(None, {"draining": line})


def test_plain_lines_tell_long_waits_and_repeat_them_ever_less(
    capsys: pytest.CaptureFixture[str],
) -> None:
    age = 0.0

    def waits(at_least_s: float) -> dict[str, str]:
        found = {"engine": f"waiting, since {age:.0f} s", "silent a": "a: silent"}
        return found if age >= at_least_s else {}

    view = PlainView(waits)
    for second in range(100):
        age = float(second)
        view.draw(age)
    assert capsys.readouterr().out.splitlines() == [
        "0:00  a: silent",
        "0:10  waiting, since 10 s",
        "0:20  waiting, since 20 s",
        "0:20  a: silent",
        "0:40  waiting, since 40 s",
        "0:40  a: silent",
        "1:20  waiting, since 80 s",
        "1:20  a: silent",
    ]


def test_the_views_work_before_there_is_a_learner() -> None:
    assert "starting" in drawn(status(None, version=0))
    assert plain_line(status(None, version=0), 3.0) == "0:03  starting"
    assert plain_line(status(None, version=0), 4321.0) == "1:12:01  starting"


@pytest.mark.parametrize("name", ["x[/b]", "[link=http://x]y", "\x1b]0;title\x07", "[bold]z"])
def test_names_are_shown_as_they_are(name: str) -> None:
    state = status(GAUGES)
    first, *others = state.members
    members = (first.model_copy(update={"member_id": name}), *others)
    text = drawn(state.model_copy(update={"run_id": name, "members": members}))
    assert text.count(printable(name)) == 2 and "\x1b]" not in text


@pytest.mark.parametrize("phase", [-9.0, 1e300])  # NaN and infinities are in no message
def test_an_odd_phase_is_a_phase(phase: float) -> None:
    assert "12/60" in drawn(status({**GAUGES, "phase": phase}))
    assert plain_line(status({**GAUGES, "phase": phase}), 1.0)


def test_plain_lines_come_once_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    for version in (1, 1, 2):
        view.update(status(GAUGES, version), elapsed_s=9.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for part in ("training", "step 2/60", "loss 0.0421", "full 61.0%", "staleness 1", "left 1:35"):
        assert part in lines[1], part


async def test_the_view_ends_quietly_when_the_run_never_began() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    view = asyncio.create_task(show_progress(never))
    await asyncio.sleep(0)
    view.cancel()
    with pytest.raises(asyncio.CancelledError):
        await view


class Looks:
    """A view that keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Status] = []

    def update(self, status: Status, elapsed_s: float) -> None:
        self.seen.append(status)

    async def more(self) -> None:
        count = len(self.seen)
        await until(lambda: len(self.seen) > count)


class FullDisk:
    def update(self, status: Status, elapsed_s: float) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("is_same_address", [True, False])
async def test_the_view_follows_a_broker_that_comes_back(
    monkeypatch: pytest.MonkeyPatch, is_same_address: bool
) -> None:
    monkeypatch.setattr(deploy.showing.terminal, "_REFRESH_S", 0.05)
    monkeypatch.setattr(deploy.showing.terminal, "_REQUEST_TIMEOUT_S", 0.2)
    rules, source, looks = make_rules(), make_source(8), Looks()
    known: list[str] = []

    async def address() -> str:
        while not known:
            await asyncio.sleep(0.01)
        return known[0]

    view = asyncio.create_task(show_progress(address, FullDisk(), looks))
    async with running_broker(rules, source) as first:
        known.append(first.address)
        await looks.more()
    if not is_same_address:
        known.clear()
    await asyncio.sleep(0.5)  # so long there is none: two of its requests and more
    where = first.address if is_same_address else "tcp://127.0.0.1:0"
    async with running_broker(rules, source, address=where) as second:
        known[:] = [second.address]
        await looks.more()
        view.cancel()
        with pytest.raises(asyncio.CancelledError):
            await view


LAUNCHER = """
import asyncio, sys
from pathlib import Path
from common import lifecycle
from deploy.showing.terminal import show_progress
from tests.broker.support import make_rules, make_source, running_broker

async def main(stop):
    async with running_broker(make_rules(), make_source(8)) as broker:
        async def address():
            return broker.address
        view = asyncio.create_task(show_progress(address, folder=Path(sys.argv[1])))
        await stop.wait()
        print("drains", flush=True)
        if sys.argv[2:]:
            await asyncio.Event().wait()
        view.cancel()
        await asyncio.gather(view, return_exceptions=True)

lifecycle.run(main)
print("over", flush=True)
"""


@pytest.mark.parametrize("how", ["in good order", "at once"])
def test_the_launcher_s_terminal_has_the_same_views_and_comes_back(
    tmp_path: Path, how: str
) -> None:
    hangs = ["hangs"] if how == "at once" else []
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), *hangs]
    with on_a_terminal(command, 80, 30) as terminal:
        terminal.see("step 0/4", "5 logs", "Ctrl-C drains")
        assert not terminal.is_line_mode()
        terminal.press("q3")  # it is no key here: the run goes on
        terminal.see("trajectories")
        terminal.press("\x03")
        terminal.see("drains")
        if hangs:
            terminal.press("\x03")
        assert terminal.end() == (130 if hangs else 0)
        assert terminal.is_line_mode()


def test_ctrl_z_gives_the_launcher_s_terminal_back_and_fg_takes_it_again(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{LAUNCHER}")
    job = f"set -m; {sys.executable} {program} {tmp_path}; echo stopped $?; read; fg; echo over $?"
    with on_a_terminal(["bash", "-c", job], 80, 30) as terminal:
        terminal.see("step 0/4", "Ctrl-C drains")
        terminal.press("\x1a")
        terminal.see("stopped 148")
        assert terminal.is_line_mode()
        assert "\x1b[?25h" in terminal.seen.partition("stopped 148")[0]  # the cursor
        terminal.press("\n")
        terminal.see("step 0/4", "Ctrl-C drains")
        back = terminal.seen.partition("step 0/4")[0]
        assert not terminal.is_line_mode() and "\x1b[1A" not in back  # the shell's lines stay
        terminal.press("\x03")
        terminal.see("drains", "over 0")
        assert terminal.is_line_mode()


class Kept(io.StringIO):
    def fileno(self) -> int:
        return 0


def test_after_ctrl_z_and_bg_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Kept()
    with LiveView(Console(file=file, force_terminal=True, width=80, height=20)) as view:
        view.update(status(GAUGES, 12), 1.0)
        view.draw(1.0)
        view.leave()
        monkeypatch.setattr(deploy.showing.terminal, "is_in_front", lambda number: False)
        before = file.getvalue()
        view.draw(2.0)
        assert file.getvalue() == before and "step 12" in before
        monkeypatch.setattr(deploy.showing.terminal, "is_in_front", lambda number: True)
        view.draw(3.0)
        assert "step 12" in file.getvalue()[len(before) :]
    assert file.getvalue().rfind("\x1b[?25h") > file.getvalue().rfind("\x1b[?25l")  # the cursor
