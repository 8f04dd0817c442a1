import asyncio
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, VisionOpdError
from deploy.scale import main, scale_supervisor, wanted
from deploy.supervision.launcher_api import listening


class Servers:
    """A supervisor, as far as it is asked."""

    def __init__(self) -> None:
        self.servers = 2

    def scale(self, servers: int) -> None:
        if servers < 1:
            raise ConfigError("a run needs one")
        self.servers = servers


@pytest.mark.parametrize(("wish", "number"), [("rollout=6", 6), ("rollout=0", 0)])
def test_a_number_is_wished(tmp_path: Path, wish: str, number: int) -> None:
    assert wanted(wish, tmp_path) == number


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("learner=2", "nothing that can be scaled: the learner's ranks share one model"),
        ("rollout", "nothing that can be scaled"),
        ("6", "nothing that can be scaled"),
        ("rollout=", "names no number. Fix: rollout=6, or rollout=advised"),
        ("rollout=-1", "names no number"),
        ("rollout=2.5", "names no number"),
        ("rollout=²", "names no number"),
        ("rollout=many", "names no number"),
    ],
)
def test_another_wish_is_a_clear_error(tmp_path: Path, wish: str, told: str) -> None:
    with pytest.raises(VisionOpdError) as caught:
        wanted(wish, tmp_path)
    assert told in str(caught.value)


def test_what_comes_over_the_wire_is_carried_out() -> None:
    supervisor = Servers()
    assert scale_supervisor(supervisor, {"rollout": 5}) == {"before": 2, "rollout": 5}
    assert supervisor.servers == 5
    with pytest.raises(ConfigError, match="a run needs one"):
        scale_supervisor(supervisor, {"rollout": 0})


@pytest.mark.parametrize(
    "wish",
    [{}, {"rollout": "5"}, {"rollout": True}, {"rollout": 5.0}, {"rollout": 5, "learner": 2}],
)
def test_what_is_not_understood_changes_nothing(wish: dict[str, Any]) -> None:
    supervisor = Servers()
    with pytest.raises(VisionOpdError, match=r'not understood\. Fix: {"rollout": N}'):
        scale_supervisor(supervisor, wish)
    assert supervisor.servers == 2


def test_the_command_says_what_has_changed_or_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Servers()

    async def through_the_ear(wish: str) -> None:
        monkeypatch.setattr("sys.argv", ["scale", str(tmp_path), wish])
        async with listening(tmp_path, dict, lambda wish: scale_supervisor(supervisor, wish)):
            await asyncio.to_thread(main)

    asyncio.run(through_the_ear("rollout=4"))
    assert capsys.readouterr().out == "rollout servers: 2 > 4\n" and supervisor.servers == 4
    with pytest.raises(SystemExit) as caught:
        asyncio.run(through_the_ear("rollout=0"))
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a run needs one\n"


def test_a_run_that_nobody_runs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scale", str(tmp_path), "rollout=4"])
    with pytest.raises(SystemExit):
        main()
    assert "error: no launcher runs" in capsys.readouterr().err
