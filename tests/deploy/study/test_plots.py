import re

from hypothesis import given
from hypothesis import strategies as st

from deploy.showing.charts import Series, line_chart
from deploy.study.dot_chart import DotRow, dot_chart

VALUES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_every_run_is_a_dot_inside_the_drawing(rows: list[list[float]]) -> None:
    drawn = dot_chart("t", [DotRow(f"v{i}", row, row[0]) for i, row in enumerate(rows)], False)
    height = float(re.findall(r'viewBox="0 0 640 ([\d.]+)"', drawn)[0])
    places = re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', drawn)
    assert len(places) == sum(map(len, rows))
    assert all(0 < float(x) < 640 and 0 < float(y) < height for x, y in places)


def test_a_dot_chart_escapes_and_orders_what_it_shows() -> None:
    drawn = dot_chart("<t>", [DotRow("a&b", [0.25, 0.5], 0.375)], True)
    assert "<b>&lt;t&gt;</b>" in drawn and "a&amp;b" in drawn
    assert ">20%</text>" in drawn and ">50%</text>" in drawn
    first, second = (float(x) for x in re.findall(r'cx="([\d.]+)"', drawn))
    (bar,) = re.findall(r'class="line c1" x1="([\d.]+)"', drawn)
    assert first < float(bar) < second


def test_without_rows_nothing_is_drawn() -> None:
    assert dot_chart("t", [], True) == ""


def test_a_line_chart_may_begin_above_zero_and_names_its_axis() -> None:
    series = [Series("s", [(0.001, 0.935), (0.003, 0.945)])]
    drawn = line_chart("t", "u", series, is_share=True, across_name="lr", from_zero=False)
    assert ">93.5%</text>" in drawn and ">0%</text>" not in drawn
    assert ">lr</text>" in drawn and ">0.002</text>" in drawn and "step" not in drawn
