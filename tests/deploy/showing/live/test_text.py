from rich.cells import cell_len

from deploy.showing.live.text import Column, cells, curve, elided, table, wrapped


def test_a_name_keeps_its_beginning_and_its_end() -> None:
    assert elided("rollout-7", 12) == "rollout-7"
    assert elided("rollout-on-machine-7", 12) == "rollo..ine-7"
    assert cell_len(elided(chr(0x4E00) * 30, 15)) <= 15
    assert elided("a\x1b[2Jb", 20) == "a\\x1b[2Jb"


def test_cells_go_to_the_next_band_and_the_bands_are_even() -> None:
    pairs = [("loss", "0.1"), ("grad norm", "2"), ("lr", "3"), ("accuracy", "4")]
    assert [line.plain for line in cells(pairs, 80)] == [
        "loss  grad norm  lr  accuracy",
        " 0.1          2   3         4",
    ]
    assert [line.plain for line in cells(pairs, 22)] == [
        "loss  grad norm", " 0.1          2", "lr  accuracy", " 3         4",
    ]  # fmt: skip
    assert cells([], 10) == []


def test_a_table_leaves_out_columns_by_their_rank_before_it_cuts_a_figure() -> None:
    columns = (Column("name", is_name=True), Column("first", rank=1), Column("last"))
    rows = [("a-very-long-name-of-a-process", "12345", "6")]
    assert [line.plain for line in table(columns, rows, 60)][1].startswith(rows[0][0] + "  12345")
    assert [line.plain for line in table(columns, rows, 26)][1] == "a-very..ocess  12345     6"
    assert [line.plain for line in table(columns, rows, 22)][1] == "a-very-..process     6"


def test_a_curve_goes_from_the_lowest_to_the_highest_value() -> None:
    low, high = chr(0x2581), chr(0x2588)
    assert curve([0.0, 1.0], 10) == low + high
    assert curve([5.0] * 3, 10) == low * 3
    assert curve([0.09] * 40, 13) == low * 13  # their means differ by rounding
    assert curve([0, 0, 8, 8], 2) == low + high and len(curve(list(range(1000)), 40)) == 40
    assert curve([], 10) == ""


def test_long_text_is_folded_and_nothing_of_it_is_lost() -> None:
    lines = [line.plain for line in wrapped("word " * 5 + "/a/" + "b" * 30, 12)]
    assert max(map(len, lines)) <= 12 and "".join(lines).count("b") == 30
    assert wrapped("", 12) == []
