from pathlib import Path

from common.files import whole_lines


def test_lines_that_lie_whole_within_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    lines = ["one\n", "\n", "three " + chr(0x20AC) + "\n", "four\n"]
    text = "".join(lines)
    path.write_text(text + "half", encoding="utf-8")
    assert whole_lines(path) == lines
    size = path.stat().st_size
    for last_bytes in range(size + 3):
        found = whole_lines(path, last_bytes)
        assert found == lines[len(lines) - len(found) :]
        length = len(("".join(found) + "half").encode())
        assert length <= max(last_bytes, len("half"))
        missed = lines[len(lines) - len(found) - 1] if len(found) < len(lines) else ""
        assert not missed or length + len(missed.encode()) > last_bytes
    assert whole_lines(tmp_path / "none", 5) == []
