"""Each end of a run has its exit code, and --help tells all of them."""

from typing import Any

import pytest

from common.errors import CheckpointError, ConfigError, VisionOpdError
from deploy.exit_codes import HELP, ExitCode, code_of_end, code_of_error
from deploy.supervision.placement import NoPlace
from deploy.supervision.restart_loop import ProcessFailed, ProcessRefused


@pytest.mark.parametrize(
    ("is_complete", "summary", "code"),
    [
        (True, {"steps": 3}, 0),
        (True, None, 0),
        (True, {"steps": 0, "data_fault": "nothing was trained"}, 3),
        (False, {"steps": 1}, 130),
        (False, {"steps": 1, "data_fault": "whatever"}, 130),
        (False, None, 130),
    ],
)
def test_ends(is_complete: bool, summary: dict[str, Any] | None, code: int) -> None:
    assert code_of_end(is_complete, summary) == code


@pytest.mark.parametrize(
    ("error", "has_trained", "code"),
    [
        (ConfigError("x"), False, 2),
        (ConfigError("x"), True, 1),
        (NoPlace("no machine"), False, 2),
        (ProcessRefused("it said so"), False, 2),
        (ProcessRefused("a gate of health"), True, 1),
        (ProcessFailed("it died"), False, 1),
        (CheckpointError("x"), False, 1),
        (VisionOpdError("x"), True, 1),
    ],
)
def test_errors(error: Exception, has_trained: bool, code: int) -> None:
    assert code_of_error(error, has_trained) == code


def test_help_names_every_code() -> None:
    told = [int(line.split()[0]) for line in HELP.splitlines()[1:]]
    assert told == [code.value for code in ExitCode]
