"""What the launcher tells Prometheus."""

from common.metrics import OBSERVED
from common.scrape.exported import EXPORTED
from deploy.supervision.launcher_figures import launcher_figures
from deploy.supervision.process_table import Entry


def test_the_last_look_and_the_processes_are_told() -> None:
    entries = [
        Entry(name="broker", state="up", since=1.0),
        Entry(name="rollout-0", state="up", since=1.0, restarts=2),
        Entry(name="rollout-1", state="silent", since=1.0),
    ]
    observed = {metric.name: 0.5 for metric in OBSERVED}
    figures = launcher_figures(observed, entries)
    assert figures["launcher/processes"] == {"up": 2, "silent": 1}
    assert figures["launcher/restarts"] == {"broker": 0, "rollout-0": 2, "rollout-1": 0}
    assert observed.items() <= figures.items()
    assert figures.keys() <= EXPORTED.keys()
