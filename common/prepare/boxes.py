"""Boxes as people write them -> pixels; and which way of writing a whole set has. Pure.

Units: pixels; "unit", shares of the picture's sides (0 to 1); "thousand", thousandths of them (0 to
1000, as Qwen's and other models say boxes). Form: xyxy, corners; xywh, corner and size (COCO).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from common.bad_rows import BadField
from common.errors import ConfigError

UNITS = ("pixels", "unit", "thousand")
FORMS = ("xyxy", "xywh")
Numbers = tuple[float, float, float, float]
Size = tuple[int, int]  # width and height of the upright picture, in pixels
_ROUNDING = 1e-4  # pixels: what floats of shares are off by
_OVER = 0.5  # pixels that a box may reach over an edge: annotators round
_MANY = 20  # boxes of which some come near an edge of their pictures
_REACHED = 0.8  # share of a side that counts as near an edge
_MISFIT = 10.0  # log of how unlikely a box is that does not fit
_SURE = 4 * math.log(1000)  # 1000 to 1, from boxes that tell a quarter of what chance would


class BoxForm(NamedTuple):
    """How four numbers are meant."""

    units: str
    form: str

    def __str__(self) -> str:
        return f"--box-units {self.units} --box-form {self.form}"


PIXELS = BoxForm("pixels", "xyxy")


def corners(numbers: Numbers, how: BoxForm, size: Size) -> Numbers:
    """The corners x1, y1, x2, y2 of a box in pixels, not rounded."""
    sides = {"pixels": (1.0, 1.0), "unit": size, "thousand": (size[0] / 1000, size[1] / 1000)}
    x_scale, y_scale = sides[how.units]
    a, b, c, d = numbers
    if how.form == "xywh":
        c, d = a + c, b + d
    return a * x_scale, b * y_scale, c * x_scale, d * y_scale


def in_pixels(
    numbers: Numbers, how: BoxForm, size: Size, field: str = "box"
) -> tuple[int, int, int, int]:
    """The box in whole pixels, x2 and y2 exclusive, rounded outwards.

    Raises:
        BadField: no rectangle inside the picture.
    """
    if how.units != "unit" and max(numbers) <= 1:
        fix = f"give {how.units}, as in the rest of the set"
        raise BadField(field, list(numbers), "shares of the picture's sides, it seems", fix)
    x1, y1, x2, y2 = corners(numbers, how, size)
    if not (x1 < x2 and y1 < y2 and _is_inside((x1, y1, x2, y2), size)):
        raise BadField(
            field,
            list(numbers),
            f"no rectangle inside the upright picture of {size[0]} x {size[1]} pixels, as {how}",
            "give the box in the picture as viewers show it, x1 < x2 and y1 < y2 (xyxy) or width "
            "and height above 0 (xywh), in the units of the whole set",
        )
    left, right = _whole(x1, x2, size[0])
    upper, lower = _whole(y1, y2, size[1])
    return left, upper, right, lower


def fits(numbers: Numbers, how: BoxForm, size: Size) -> bool:
    """Whether a box can be meant so."""
    if how.units == "pixels" and max(numbers) <= 1:  # shares of the sides, it seems
        return False
    if how.units == "unit" and max(numbers) > 1:
        return False
    if how.units == "thousand" and (max(numbers) <= 1 or max(numbers) > 1000):
        return False
    x1, y1, x2, y2 = box = corners(numbers, how, size)
    return x1 < x2 and y1 < y2 and _is_inside(box, size)


def _whole(low: float, high: float, side: int) -> tuple[int, int]:
    start = min(max(0, math.floor(low + _ROUNDING)), side - 1)
    return start, max(start + 1, min(side, math.ceil(high - _ROUNDING)))


def _is_inside(box: Numbers, size: Size) -> bool:
    x1, y1, x2, y2 = box
    return min(x1, y1) >= -_OVER and x2 <= size[0] + _OVER and y2 <= size[1] + _OVER


@dataclass
class BoxTally:
    """What the boxes of a set tell of their units and form, in bounded memory."""

    units: str = "auto"  # said, or to be found out
    form: str = "auto"
    boxes: int = 0
    fitting: Counter[BoxForm] = field(default_factory=Counter)
    reach: dict[BoxForm, float] = field(default_factory=dict)  # largest share of a side
    room: dict[BoxForm, float] = field(default_factory=dict)  # log of the possible boxes

    def add(self, numbers: Numbers, size: Size) -> None:
        self.boxes += 1
        for how in self._possible():
            if fits(numbers, how, size):
                self.fitting[how] += 1
                _, _, x2, y2 = corners(numbers, how, size)
                far = max(x2 / size[0], y2 / size[1])
                self.reach[how] = max(self.reach.get(how, 0.0), far)
                self.room[how] = self.room.get(how, 0.0) + 2 * math.log(_frame(how, size))

    def decided(self) -> BoxForm:
        """The one way that nearly all boxes fit.

        Raises:
            ConfigError: none, or several.
        """
        left = self._left()
        if len(left) == 1:
            return left[0]
        if not left:
            raise ConfigError(
                f"box: fewer than half of {self.boxes} boxes fit {_words(self._possible())}. "
                "Fix: name the column of boxes with --column box=NAME, or correct them"
            )
        raise ConfigError(f"box: {self.boxes} boxes fit {_words(left)} alike. Fix: say which it is")

    def _possible(self) -> list[BoxForm]:
        units = UNITS if self.units == "auto" else (self.units,)
        forms = FORMS if self.form == "auto" else (self.form,)
        return [BoxForm(u, f) for u in units for f in forms]

    def _left(self) -> list[BoxForm]:
        fitting = [how for how in self._possible() if 2 * self.fitting[how] >= self.boxes > 0]
        if self.boxes >= _MANY and fitting:
            return self._likely(fitting)
        most = max((self.fitting[how] for how in fitting), default=0)
        return [how for how in fitting if self.fitting[how] == most]

    def _likely(self, fitting: list[BoxForm]) -> list[BoxForm]:
        """The ways that explain the set best: the least frame that nearly all boxes stay in.

        As if boxes were drawn by chance from all that fit into the frame of each way; they are not,
        so that much more than chance is asked for.
        """
        cost = {how: self._cost(how) for how in fitting}
        best = min(fitting, key=lambda how: cost[how])
        near = [how for how in fitting if cost[how] - cost[best] <= _SURE]
        others = [how for how in fitting if how.units != best.units]
        return near if not others or self.reach[best] >= _REACHED else [*near, *others]

    def _cost(self, how: BoxForm) -> float:
        """Minus the log of the likelihood of the boxes, if they are meant so."""
        fitting = self.fitting[how]
        return self.room[how] / fitting * self.boxes + _MISFIT * (self.boxes - fitting)


def _frame(how: BoxForm, size: Size) -> float:
    """Area of the picture in the units of the boxes."""
    return {"pixels": float(size[0] * size[1]), "unit": 1.0, "thousand": 1e6}[how.units]


def _words(ways: Iterable[BoxForm]) -> str:
    return "; ".join(map(str, ways))
