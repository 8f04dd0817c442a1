"""The view of who takes part: rollout servers with their figures, processes and their restarts."""

import time
from collections.abc import Sequence

from rich.text import Text

from broker.protocol import MemberStatus, Role
from deploy.showing.live.facts import Facts
from deploy.showing.live.text import DIM, Column, elided, table, wrapped
from deploy.showing.picture import duration, figure_text

_COLUMNS = (
    Column("process", is_name=True),
    Column("version", rank=1),
    Column("tokens/s"),
    Column("idle"),
    Column("groups", rank=3),
    Column("last heard", rank=2),
)
_SILENT_S = 5.0  # from which a server counts as not heard


def summary(facts: Facts, width: int, rows: int) -> list[Text]:
    """One sentence on all servers together."""
    servers = facts.rollouts
    if not servers:
        return wrapped("No rollout server takes part now.", width, DIM)
    speed = sum(server.gauges.get("tokens_per_s", 0.0) for server in servers)
    idle = [server.gauges["idle_share"] for server in servers if "idle_share" in server.gauges]
    parts = [
        f"{len(servers)} rollout server{'' if len(servers) == 1 else 's'}",
        f"{speed:,.0f} tokens/s together",
        *([f"idle {sum(idle) / len(idle):.0%} on average"] if idle else []),
    ]
    behind = sum(map(facts.is_behind, servers))
    silent = sum(server.silent_s >= _SILENT_S for server in servers)
    parts += [f"{behind} without the newest weights"] if behind else []
    parts += [f"{silent} not heard for {_SILENT_S:.0f} s"] if silent else []
    lost = {} if facts.status is None else facts.status.lost
    parts += [f"{len(lost)} lost"] if lost else []
    return wrapped(", ".join(parts), width)


def table_of_servers(facts: Facts, width: int, rows: int) -> list[Text]:
    return members(facts, width, rows, has_learner=False)


def members(facts: Facts, width: int, rows: int, has_learner: bool) -> list[Text]:
    """A row a member; of more servers than rows the worst ones, and how many there are beside them.

    Args:
        rows: lines at most, the titles' included.
    """
    if facts.status is None:
        return []
    learners = [m for m in facts.status.members if m.role is Role.LEARNER] if has_learner else []
    servers = facts.rollouts
    room = max(1, rows - 1 - len(learners))
    shown = servers
    if len(servers) > room:
        shown = sorted(servers, key=lambda server: _badness(facts, server))[: max(1, room - 1)]
    lines = table(_COLUMNS, [_row(facts, member) for member in (*learners, *shown)], width)
    if len(shown) < len(servers):
        left = f"and {len(servers) - len(shown)} of {len(servers)} servers that do better"
        lines.append(Text(elided(left, width), DIM))
    return lines


def _badness(facts: Facts, server: MemberStatus) -> tuple[float, bool, float]:
    """Sorts the worst first: not heard, then without the newest weights, then idle."""
    silent_s = server.silent_s if server.silent_s >= _SILENT_S else 0.0
    return -silent_s, not facts.is_behind(server), -server.gauges.get("idle_share", 0.0)


def _row(facts: Facts, member: MemberStatus) -> Sequence[str]:
    version = "none yet" if member.acknowledged_version < 0 else str(member.acknowledged_version)
    return (
        member.member_id,
        str(facts.version) if member.role is Role.LEARNER else version,
        figure_text(member.gauges, "tokens_per_s", "{:.0f}"),
        figure_text(member.gauges, "idle_share", "{:.0%}"),
        figure_text(member.gauges, "groups_in_flight", "{:.0f}"),
        f"{member.silent_s:.0f} s",
    )


def processes(facts: Facts, width: int, rows: int) -> list[Text]:
    """What the launcher has written of its processes: those that are not well come first."""
    entries = facts.folder.processes
    if not entries:
        return []
    now = time.time()
    bad = sorted(entries, key=lambda entry: (entry.state == "up", -entry.restarts))
    columns = (
        Column("process", is_name=True), Column("state", is_name=True), Column("for"),
        Column("restarts", rank=1), Column("where", is_name=True, rank=2),
    )  # fmt: skip
    room = max(1, rows - 2)
    told = [
        (e.name, e.state, duration(now - e.since), str(e.restarts), e.node or "-")
        for e in bad[:room]
    ]
    lines = table(columns, told, width)
    if len(bad) > room:
        lines.append(Text(f"and {len(bad) - room} more", DIM))
    ends = sorted(((end.time, e.name, end.why) for e in entries for end in e.ends), reverse=True)
    for when, name, why in ends[: max(1, rows - len(lines))]:
        lines += wrapped(f"{name}: {why}, {duration(now - when)} ago", width, DIM)
    return lines


LEFT = (summary, table_of_servers)
RIGHT = (processes,)
