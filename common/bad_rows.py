"""What makes a row unusable: the column, its value, why it will not do, and the fix."""

from dataclasses import dataclass

from common.errors import DataError

_SHOWN = 200  # characters of a value


class BadField(DataError):
    """A field of one row that cannot be used; the message names field, value and fix."""

    def __init__(self, field: str, value: object, problem: str, fix: str) -> None:
        self.field = field
        self.value = shortened(value)
        self.problem = problem
        self.fix = fix
        super().__init__(f"{field} = {self.value}: {problem}. Fix: {fix}")

    @classmethod
    def of(cls, field: str, value: object, error: DataError, fix: str = "") -> "BadField":
        """The field that an error is about, with the error's own words.

        Args:
            fix: what to say of an error that names no fix.
        """
        problem, _, told = str(error).partition(". Fix: ")
        return cls(field, value, problem, told or fix)

    def in_row(self, row: int, sample_id: str | None) -> "BadRow":
        return BadRow(row, sample_id, self.field, self.value, self.problem, self.fix)


@dataclass(frozen=True)
class BadRow:
    """A row of a dataset that is left out."""

    row: int  # number in the file, from 0
    sample_id: str | None  # None means that the row has none that can be used
    field: str  # the column
    value: str  # its repr, shortened
    problem: str
    fix: str

    @property
    def reason(self) -> str:
        return f"{self.field} = {self.value}: {self.problem}. Fix: {self.fix}"

    def __str__(self) -> str:
        name = "" if self.sample_id is None else f", sample {self.sample_id!r}"
        return f"row {self.row}{name}: {self.reason}"


def shortened(value: object) -> str:
    """A value as Python writes it, in one line of at most 203 characters."""
    if isinstance(value, str | bytes):
        value = value[: _SHOWN + 1]  # a text may be long, and each character four when escaped
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
