"""What the launcher's exit code says, and the tools' beside it. Scripts rely on these numbers."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from common.errors import FINAL_EXIT_CODE, FinalError


class ExitCode(IntEnum):
    TRAINED = 0  # to its end
    FAILED = 1
    REFUSED = FINAL_EXIT_CODE  # before anything was trained; the same start would end the same way
    DATA = 3  # nothing was trained, or more was refused than data.max_refused_share
    INTERRUPTED = 130  # in good order, as a shell has it of Ctrl-C; the run may be resumed


HELP = """\
Exit codes:
  0    trained to its end
  1    failed; what was kept is told, and how to go on
  2    refused before anything was trained: configuration, data, folder, room
  3    ended because of its data: nothing was trained, or too much of it was refused
  130  stopped in good order by Ctrl-C or SIGTERM; it may be resumed"""


def code_of_end(is_complete: bool, summary: Mapping[str, Any] | None) -> ExitCode:
    """The code of a run whose processes have all ended well.

    Args:
        is_complete: whether it ran to its end without being stopped.
        summary: as the learner wrote it; `data_fault` in it names what was wrong with the data.
    """
    if not is_complete:
        return ExitCode.INTERRUPTED
    return ExitCode.DATA if (summary or {}).get("data_fault") else ExitCode.TRAINED


def code_of_error(error: BaseException, has_trained: bool) -> ExitCode:
    """The code of a run that ended with an error.

    Args:
        has_trained: a step since this start; what is refused later is a failure.
    """
    is_refusal = isinstance(error, FinalError) and not has_trained
    return ExitCode.REFUSED if is_refusal else ExitCode.FAILED
