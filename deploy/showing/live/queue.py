"""The view of the queue: where groups are, how old they were, what came to nothing and why."""

from rich.text import Text

from deploy.showing.live.facts import Facts
from deploy.showing.live.text import DIM, WARNING, Column, cells, curve, table, wrapped

_PLACES = ("in_flight", "waiting", "trained", "expired", "quarantined", "issued")
_UNITS = {"groups": "samples", "trajectories": "trajectories", "tokens": "tokens"}
_AGES = ("staleness/mean_steps", "staleness/max_steps")


def groups(facts: Facts, width: int, rows: int) -> list[Text]:
    """Groups, one a sample and epoch, by where they are; and the staleness of what was trained."""
    status = facts.status
    if status is None:
        return []
    counts = status.counts
    return cells(
        [
            ("slots", f"{status.slots_used}/{status.slots}"),
            ("in flight", str(counts.get("samples_in_flight", 0))),
            ("waiting", str(counts.get("samples_waiting", 0))),
            ("trained", str(counts.get("samples_trained", 0))),
            ("expired", str(counts.get("samples_expired", 0) - status.data.given_back_groups)),
            ("quarantined", str(counts.get("samples_quarantined", 0))),
            ("stale", f"{status.max_staleness_seen} seen"),
        ],
        width,
    )


def accounts(facts: Facts, width: int, rows: int) -> list[Text]:
    """Everything that was issued, by where it is: in exactly one place."""
    if facts.status is None:
        return wrapped("The queue is not known: the broker was not heard.", width, DIM)
    counts = facts.status.counts
    told = [
        (place.replace("_", " "), *(f"{counts.get(f'{u}_{place}', 0):,}" for u in _UNITS.values()))
        for place in _PLACES
    ]
    used = f"slots {facts.status.slots_used}/{facts.status.slots}"
    columns = (Column(used, is_name=True), *(Column(unit) for unit in _UNITS))
    return table(columns, told, width)


def staleness(facts: Facts, width: int, rows: int) -> list[Text]:
    """The ages of the last steps' trajectories, in steps."""
    found = facts.columns_of(*_AGES)
    lines = [Text("staleness of the last steps", "bold")] if found else []
    for name, values in found.items():
        label = "mean" if name == _AGES[0] else "highest"
        last = f"{values[-1]:.1f}"
        lines.append(Text(f"{label:<8}{curve(values, max(8, width - 16))} {last}"))
    return lines


def lengths(facts: Facts, width: int, rows: int) -> list[Text]:
    """Trajectories by their tokens, at most so many."""
    if facts.status is None or not facts.status.trained_lengths:
        return []
    told = facts.status.trained_lengths
    pairs = [(f"<= {size}", str(told[size])) for size in sorted(told, key=int)]
    return [Text("trained trajectories by tokens", "bold"), *cells(pairs, width)]


def expired(facts: Facts, width: int, rows: int) -> list[Text]:
    """Trajectories that came to nothing and were made again, by reason."""
    if facts.status is None:
        return []
    reasons = sorted(facts.status.expired_by_reason.items(), key=lambda one: -one[1])
    title = Text("expired trajectories by reason", "bold")
    told = [Text(f"{count:>8}  {reason.replace('_', ' ')}") for reason, count in reasons if count]
    return [title, *(told or [Text("none", DIM)])]


def quarantined(facts: Facts, width: int, rows: int) -> list[Text]:
    """Samples that no step will train, with the first reason; as many as there is room for."""
    found = facts.folder.quarantine
    first = () if facts.status is None else facts.status.data.first
    reasons = found.reasons or first
    title = Text(f"rows and samples that cannot be used: {max(found.total, len(reasons))}", "bold")
    if not reasons:
        return [Text("every row and sample can be used", DIM)]
    lines = [title]
    for told, reason in enumerate(reasons):
        more = wrapped(reason, width, WARNING)
        if told and len(lines) + len(more) > rows - 1:
            left = max(found.total, len(reasons)) - told
            lines.append(Text(f"and {left} more: quarantine.jsonl in the run folder", DIM))
            break
        lines += more
    return lines


LEFT = (accounts, staleness)
RIGHT = (expired, lengths, quarantined)
