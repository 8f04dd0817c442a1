"""What the launcher tells Prometheus: its last look at the run, and its processes."""

from collections import Counter
from collections.abc import Iterable, Mapping

from common.scrape.collector import Readings
from deploy.supervision.process_table import Entry


def launcher_figures(observed: Mapping[str, float], processes: Iterable[Entry]) -> Readings:
    """Figures by their names in `common.scrape.exported`.

    Args:
        observed: the figures of the last line of RUN/observations.jsonl.
    """
    entries = list(processes)
    return {
        **observed,
        "launcher/processes": Counter(entry.state for entry in entries),
        "launcher/restarts": {entry.name: entry.restarts for entry in entries},
    }
