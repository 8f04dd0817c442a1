"""python -m deploy.inspect as people start it, beside a run that goes on."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.trained import record_batch
from deploy.inspect import main
from tests.deploy.inspector.served import Inspector, inspecting
from tests.deploy.inspector.whole_run import NUM_STEPS, step_of, write_run
from tests.waiting import wait_until


def files_of(run: Path) -> dict[str, bytes]:
    """All files but the inspector's own, with what is in them."""
    paths = [path for path in run.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in paths
        if not path.is_relative_to(run / "inspector")
    }


def test_it_is_killed_and_started_again_while_a_run_goes_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", is_over=False)
    inspector = Inspector(run, "--port", "0")
    wait_until(lambda: inspector.ask("trajectories", run="a")["total"] == 96)
    inspector.process.kill()
    inspector.end()
    with next((run / "trained").iterdir()).open("ab") as file:  # the learner's next step
        file.write(record_batch(*step_of(NUM_STEPS + 1, seed=0)).serialize())
    before = files_of(run)
    with inspecting(run) as again:
        wait_until(lambda: again.ask("trajectories", run="a")["total"] == 108)
        rows = again.ask("trajectories", run="a", sort="step")["rows"]
        assert rows[0]["step"] == NUM_STEPS + 1
        again.ask("group", run="a", step=rows[0]["step"], group=rows[0]["group_id"])
        again.ask("curves", run="a")
    assert files_of(run) == before


@pytest.mark.parametrize(
    ("number", "options", "address"),
    [
        (signal.SIGTERM, (), r"http://127\.0\.0\.1:\d+/"),
        # Off loopback the address carries a token.
        (
            signal.SIGINT,
            ("--host", "0.0.0.0"),
            rf"http://{socket.gethostname()}:\d+/\?token=[\w-]{{30,}}",
        ),
    ],
)
def test_it_says_where_it_is_and_a_signal_ends_it_cleanly(
    tmp_path: Path, number: signal.Signals, options: tuple[str, ...], address: str
) -> None:
    inspector = Inspector(tmp_path, "--port", "0", *options)
    assert re.fullmatch(address, inspector.url)
    priority = os.getpriority(os.PRIO_PROCESS, inspector.process.pid)
    assert priority == os.getpriority(os.PRIO_PROCESS, 0) + 10  # a run goes first
    inspector.process.send_signal(number)
    assert inspector.end() == "" and inspector.process.returncode == 0


def test_what_the_first_page_does_not_need_is_not_loaded_at_the_start() -> None:
    """It would take half a second more of a processor that a run may need."""
    code = "import sys, deploy.inspect; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert "deploy.inspector.server" in loaded
    later = {
        "common.config_cli", "common.dataset_lookup", "deploy.explain", "deploy.inspector.export",
        "deploy.inspector.pictures", "pyarrow.compute", "tokenizers",
    }  # fmt: skip
    assert not loaded & later


def test_what_cannot_be_served_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = (
            ([tmp_path / "gone"], "gone': no such folder. Fix: name a run folder"),
            ([tmp_path, "--port", port], f"--port {port}: "),
            ([tmp_path, "--port", 99999], "--port 99999: no port. Fix: 0 (a free one) to 65535"),
            ([tmp_path, "--port", -1], "--port -1: no port"),
            ([tmp_path, "--export", tmp_path / "no" / "file"], "cannot be written"),
        )
        for arguments, words in cases:
            with pytest.raises(SystemExit, match="2"):
                main([str(argument) for argument in arguments])
            told = capsys.readouterr().err
            assert words in told and told.count("\n") == 1
