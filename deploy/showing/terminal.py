"""What a person sees while a run goes on: a live view in a terminal, plain lines elsewhere."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from broker.client import BrokerClient
from broker.protocol import Gauges, MemberStatus, Role, Status
from broker.transport import Link
from common.errors import BrokerUnavailable, ProtocolError
from common.logs import printable

logger = logging.getLogger(__name__)
_REFRESH_S = 1.0
_REQUEST_TIMEOUT_S = 5.0
PHASES = ("starting", "measuring before", "training", "measuring after", "done", "paused")


class View(Protocol):
    def update(self, status: Status, elapsed_s: float) -> None: ...


async def show_progress(
    address: Callable[[], Awaitable[str]], *others: View, link: Link | None = None
) -> None:
    """Follow a run until this task is cancelled, also through the broker's restarts.

    Args:
        address: waits until there is a broker; where it is.
        others: get every look at the status as well.
        link: needed for a broker with keys.
    """
    console = Console()
    began = time.monotonic()
    if not console.is_terminal:
        await _follow_all(address, (PlainView(), *others), began, link)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        await _follow_all(address, (LiveView(live), *others), began, link)


async def _follow_all(
    address: Callable[[], Awaitable[str]], views: Sequence[View], began: float, link: Link | None
) -> None:
    """One broker after the other."""
    while True:
        broker = BrokerClient(
            await address(),
            f"observer-{os.getpid()}",
            Role.OBSERVER,
            request_timeout_s=_REQUEST_TIMEOUT_S,
            link=link,
        )
        try:
            async with broker:
                await _follow(broker, views, began)
        except (BrokerUnavailable, ProtocolError):
            await asyncio.sleep(_REFRESH_S)  # the supervisor says what happened


async def _follow(broker: BrokerClient, views: Sequence[View], began: float) -> None:
    while True:
        status = await broker.status()
        for view in views:
            try:
                view.update(status, time.monotonic() - began)
            except Exception as error:  # a full disk, a terminal that is gone, odd figures: the
                # run goes on, and so do the other views
                logger.warning("%s: %s: %s", type(view).__name__, type(error).__name__, error)
        await asyncio.sleep(_REFRESH_S)  # the pace of the picture


class PlainView:
    """A line for each phase and each step, for logs and pipes."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", -1)

    def update(self, status: Status, elapsed_s: float) -> None:
        learner = _learner(status)
        state = (_phase(learner), status.version)
        if state == self._last:
            return
        self._last = state
        print(plain_line(status, elapsed_s), flush=True)


class LiveView:
    def __init__(self, live: Live) -> None:
        self._live = live

    def update(self, status: Status, elapsed_s: float) -> None:
        self._live.update(panel(status, elapsed_s), refresh=True)


def plain_line(status: Status, elapsed_s: float) -> str:
    """One line of what matters now."""
    learner = _learner(status)
    parts = [f"{_clock(elapsed_s)}  {_phase(learner)}"]
    if status.version or _phase(learner) == "training":
        parts.append(f"step {status.version}/{status.total_steps}")
    for name, key, form in (
        ("loss", "loss_nats", "{:.4f}"),
        ("full", "full_accuracy", "{:.1%}"),
        ("crop", "crop_accuracy", "{:.1%}"),
        ("staleness", "staleness_max", "{:.0f}"),
        ("tokens/s", "tokens_per_s", "{:.0f}"),
        ("idle", "idle_share", "{:.0%}"),
    ):
        if key in learner:
            parts.append(f"{name} {form.format(learner[key])}")
    if learner.get("eta_s", 0) > 0:
        parts.append(f"left {_clock(learner['eta_s'])}")
    return "  ".join(parts)


def panel(status: Status, elapsed_s: float) -> Panel:
    """The whole picture: progress, learning, the queue and who takes part."""
    learner = _learner(status)
    title = _plain(f"{status.run_id} - {_phase(learner)}")
    left = f", {_clock(learner['eta_s'])} left" if learner.get("eta_s", 0) > 0 else ""
    return Panel(
        Group(_progress(status), _learning(learner), _queue(status), _members(status)),
        title=title,
        subtitle=f"{_clock(elapsed_s)}{left} - Ctrl-C drains and ends",
        width=100,
    )


def _progress(status: Status) -> Table:
    grid = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, status.total_steps), completed=status.version, width=60)
    grid.add_row("step", f"{status.version}/{status.total_steps}", bar)
    return grid


def _learning(learner: Gauges) -> Table:
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    for name in ("loss", "grad norm", "lr", "full image", "evidence crop"):
        table.add_column(name, justify="right")
    table.add_row(
        _text(learner, "loss_nats", "{:.4f}"),
        _text(learner, "grad_norm", "{:.2f}"),
        _text(learner, "lr", "{:.1e}"),
        _change(learner, "full_accuracy"),
        _change(learner, "crop_accuracy"),
    )
    return table


def _queue(status: Status) -> Table:
    counts = status.counts
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    columns = {
        "staleness seen": str(status.max_staleness_seen),
        "slots": f"{status.slots_used}/{status.slots}",
        "in flight": str(counts.get("samples_in_flight", 0)),
        "waiting": str(counts.get("samples_waiting", 0)),
        "trained": str(counts.get("samples_trained", 0)),
        "expired": str(counts.get("samples_expired", 0)),
        "quarantined": str(counts.get("samples_quarantined", 0)),
    }
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*columns.values())
    return table


def _members(status: Status) -> Table:
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    for name in ("process", "version", "tokens/s", "idle", "last heard"):
        table.add_column(name, justify="left" if name == "process" else "right")
    for member in status.members:
        if member.role is Role.OBSERVER:
            continue
        table.add_row(
            _plain(member.member_id),
            _version(member, status),
            _text(member.gauges, "tokens_per_s", "{:.0f}"),
            _text(member.gauges, "idle_share", "{:.0%}"),
            f"{member.silent_s:.0f} s",
        )
    return table


def _version(member: MemberStatus, status: Status) -> str:
    if member.role is Role.LEARNER:
        return str(status.version)
    return "none yet" if member.acknowledged_version < 0 else str(member.acknowledged_version)


def _learner(status: Status) -> Gauges:
    for member in status.members:
        if member.role is Role.LEARNER:
            return member.gauges
    return {}


def _phase(learner: Gauges) -> str:
    number = learner.get("phase", 0.0)
    is_known = 0 <= number < len(PHASES)  # false for NaN
    return PHASES[int(number)] if is_known else PHASES[-1]


def _plain(text: str) -> Text:
    """What peers are called is shown as it is: it is neither markup nor commands."""
    return Text(printable(text))


def _text(gauges: Gauges, key: str, form: str) -> str:
    return form.format(gauges[key]) if key in gauges else "-"


def _change(learner: Gauges, key: str) -> str:
    if key not in learner:
        return "-"
    before = learner.get(f"{key}_before")
    return f"{before:.1%} > {learner[key]:.1%}" if before is not None else f"{learner[key]:.1%}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
