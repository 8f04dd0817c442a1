"""The view of the logs: the last warnings and errors of all processes."""

from rich.text import Text

from deploy.showing.live.facts import Facts
from deploy.showing.live.text import DIM, WARNING, wrapped


def warnings(facts: Facts, width: int, rows: int) -> list[Text]:
    """The latest at the bottom, whole; as many as there is room for."""
    lines: list[Text] = []
    for name, text in reversed(facts.folder.log_lines):
        more = wrapped(f"{name} | {text}", width, "red" if " ERROR " in text else WARNING)
        if lines and len(lines) + len(more) > rows:
            break
        lines = [*more, *lines]
    return lines or [Text("no process has warned of anything", DIM)]


LEFT = (warnings,)
RIGHT = ()
