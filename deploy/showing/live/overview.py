"""The view to begin with: how far, what limits it, what it learns, the queue, who takes part."""

from rich.text import Text

from deploy.showing.data_notes import counts_text, retry_text
from deploy.showing.live.facts import Facts
from deploy.showing.live.queue import groups
from deploy.showing.live.servers import members
from deploy.showing.live.text import WARNING, cells, curve, wrapped
from deploy.showing.picture import change_text, figure_text

_CURVE_COLUMNS = 24
_FEW_ROWS = 12  # of servers beside all the rest


def progress(facts: Facts, width: int, rows: int) -> list[Text]:
    """A bar where the number of steps is known, and what stands in the way."""
    total = 0 if facts.status is None else facts.status.total_steps
    label = f"step {facts.version}/{total}" if total else f"step {facts.version}"
    line = Text(label)
    if total:
        columns = max(4, width - len(label) - 2)
        done = round(columns * min(1.0, facts.version / total))
        line.append("  ")
        line.append(chr(0x2501) * done, "green")
        line.append(chr(0x2501) * (columns - done), "dim")
    return [line]


def limits(facts: Facts, width: int, rows: int) -> list[Text]:
    """The sentence on what limits it, what it waits for, what is wrong with its data."""
    lines = wrapped(facts.folder.problem, width, "red") + wrapped(facts.folder.sentence, width)
    for wait in facts.waits.values():
        lines += wrapped(wait, width, WARNING)
    if facts.status is not None:
        data = facts.status.data
        for told in (counts_text(data), *data.first[:1], retry_text(data), data.ended_because):
            lines += wrapped(told, width, WARNING)
    if facts.status is not None and facts.status.store_failure:
        lines += wrapped(f"nothing is leased: {facts.status.store_failure}", width, WARNING)
    return lines


def learning(facts: Facts, width: int, rows: int) -> list[Text]:
    learner = facts.learner
    pairs = [
        ("loss", figure_text(learner, "loss_nats", "{:.4f}")),
        ("grad norm", figure_text(learner, "grad_norm", "{:.2f}")),
        ("lr", figure_text(learner, "lr", "{:.1e}")),
        ("full image", change_text(learner, "full_accuracy")),
        ("evidence crop", change_text(learner, "crop_accuracy")),
    ]
    if "accuracy_version" in learner:
        pairs.append(("of step", figure_text(learner, "accuracy_version", "{:.0f}")))
    lines = cells(pairs, width)
    losses = facts.columns_of("learner/loss_nats").get("learner/loss_nats", [])
    if len(losses) > 1:
        shown = curve(losses, min(_CURVE_COLUMNS, width - 20))
        lines.append(Text(f"loss {shown} {losses[0]:.4f} > {losses[-1]:.4f}"))
    return lines


def servers(facts: Facts, width: int, rows: int) -> list[Text]:
    return members(facts, width, min(rows, _FEW_ROWS), has_learner=True)


LEFT = (progress, limits, learning, groups)
RIGHT = (servers,)
