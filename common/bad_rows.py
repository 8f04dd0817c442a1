"""What makes a row unusable: the column, what stands in it, why it will not do, and the mend."""

from dataclasses import dataclass

from common.errors import DataError

_SHOWN = 200  # characters of a value


class BadField(DataError):
    """A field of one row that cannot be used; the message names field, value and mend."""

    def __init__(self, field: str, value: object, problem: str, mend: str) -> None:
        self.field = field
        self.value = shortened(value)
        self.problem = problem
        self.mend = mend
        super().__init__(f"{field} = {self.value}: {problem}. Fix: {mend}")

    @classmethod
    def of(cls, field: str, value: object, error: DataError, mend: str = "") -> "BadField":
        """The field that an error is about, with the error's own words.

        Args:
            mend: where the error names none.
        """
        problem, _, told = str(error).partition(". Fix: ")
        return cls(field, value, problem, told or mend)

    def in_row(self, row: int, sample_id: str | None) -> "BadRow":
        return BadRow(row, sample_id, self.field, self.value, self.problem, self.mend)


@dataclass(frozen=True)
class BadRow:
    """A row of a dataset that is left out."""

    row: int  # from 0, in the order of the file
    sample_id: str | None  # none: it has none that can be used
    field: str  # the column
    value: str  # as Python writes it, shortened
    problem: str
    mend: str

    @property
    def reason(self) -> str:
        return f"{self.field} = {self.value}: {self.problem}. Fix: {self.mend}"

    def __str__(self) -> str:
        name = "" if self.sample_id is None else f", sample {self.sample_id!r}"
        return f"row {self.row}{name}: {self.reason}"


def shortened(value: object) -> str:
    """A value as Python writes it, in one line of at most 203 characters."""
    if isinstance(value, str | bytes):
        value = value[: _SHOWN + 1]  # a text may be long, and each character four when escaped
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
