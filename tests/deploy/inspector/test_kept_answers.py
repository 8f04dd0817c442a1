"""Answers that cost seconds are computed again only for another state, and not at once."""

from pathlib import Path

from deploy.inspector.kept_answers import KeptAnswer


def test_a_kept_answer_is_computed_again_when_the_run_has_gone_on_for_a_minute(
    tmp_path: Path,
) -> None:
    now_s, computed = [0.0], []

    def compute() -> dict[str, int]:
        computed.append(now_s[0])
        return {"number": len(computed)}

    kept = KeptAnswer(tmp_path, compute, clock=lambda: now_s[0])
    assert kept() == kept() == {"number": 1}
    now_s[0] = 1000.0
    assert kept() == {"number": 1}  # nothing has changed
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert kept() == {"number": 2}
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    now_s[0] += 59.0
    assert kept() == {"number": 2}
    now_s[0] += 1.0
    assert kept() == {"number": 3}
    (tmp_path / "summary.json").write_text("{}")
    now_s[0] += 60.0
    assert kept() == {"number": 4} and computed == [0.0, 1000.0, 1060.0, 1120.0]
