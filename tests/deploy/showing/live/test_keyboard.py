import sys
from pathlib import Path

import pytest

from tests.deploy.on_a_terminal import ROOT, on_a_terminal

SCRIPT = """
import asyncio, sys
from deploy.showing.live.keyboard import Keyboard

async def main():
    with Keyboard(lambda key: print("key", key, flush=True)) as keyboard:
        print("ready", keyboard.is_there, flush=True)
        for _ in range(int(sys.argv[1])):
            await asyncio.sleep(0.05)
            keyboard.look()
        if sys.argv[2:]:
            raise ValueError("a crash")
asyncio.run(main())
print("over", flush=True)
"""


def test_keys_come_one_by_one_and_a_crash_brings_the_mode_back() -> None:
    with on_a_terminal([sys.executable, "-c", SCRIPT, "40", "crash"]) as terminal:
        terminal.see("ready True")
        assert not terminal.is_line_mode()
        terminal.press("4?")
        terminal.see("key 4", "key ?")
        assert terminal.end() == 1 and terminal.is_line_mode()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_shares_the_terminal_is_not_made_non_blocking(loop: str) -> None:
    """Else a long picture is cut, and the shell's next program cannot read."""
    script = SCRIPT.replace("asyncio.run", f"{loop}.run").replace(
        "import asyncio,", "import os, asyncio, uvloop,"
    )
    script = script.replace(
        "keyboard.look()", "keyboard.look(); print(os.get_blocking(0), os.get_blocking(1))"
    )
    with on_a_terminal([sys.executable, "-c", script, "2"]) as terminal:
        terminal.press("4")
        assert "False" not in terminal.see("ready True", "over")
        assert terminal.end() == 0


def test_in_the_background_it_leaves_the_terminal_alone_and_is_not_stopped(
    tmp_path: Path,
) -> None:
    """A shell with job control gives its jobs groups of their own; & leaves them at the back."""
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{SCRIPT}")
    job = f"set -m; {sys.executable} {program} 10 & wait $!; echo code $?"
    with on_a_terminal(["bash", "-c", job]) as terminal:
        terminal.see("ready True")
        assert terminal.is_line_mode()
        terminal.press("4\n")
        shown = terminal.see("over", "code 0")
        assert terminal.is_line_mode() and "key" not in shown


def test_without_a_terminal_there_are_no_keys() -> None:
    command = f"{sys.executable} -c '{SCRIPT}' 0 < /dev/null"
    with on_a_terminal(["bash", "-c", command]) as terminal:
        terminal.see("ready False", "over")
        assert terminal.end() == 0
