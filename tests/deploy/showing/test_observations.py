import json
from pathlib import Path

from broker.protocol import Status
from deploy.showing.observations import Observations
from tests.deploy.statuses import member
from tests.small_disk import small_disk


def status(version: int, slots_used: int, *idle_shares: float) -> Status:
    members = tuple(
        member(f"rollout-{i}", version=version, idle_share=share, tokens_per_s=100.0)
        for i, share in enumerate(idle_shares)
    )
    return Status(
        run_id="r",
        version=version,
        history=0,
        committed=0,
        total_steps=9,
        finished=False,
        counts={},
        expired_by_reason={},
        trained_lengths={},
        expired_lengths={},
        max_staleness_seen=0,
        slots_used=slots_used,
        slots=8,
        storage={},
        members=members,
    )


def test_observations_are_one_line_a_step_with_means(tmp_path: Path) -> None:
    path = tmp_path / "observations.jsonl"
    observations = Observations(path)
    looks = [
        status(0, 5, 0.9),  # before the first step: left out
        status(1, 4, 0.2, 0.4),
        status(1, 8, 0.6, 0.8),
        status(3, 0),  # one step went by between two looks
        status(4, 1, 0.0),
    ]
    for second, look in enumerate(looks):
        observations.update(look, float(second))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "step": 1,
        "time_s": 3.0,
        "broker/slots_used": 6.0,
        "broker/groups_ready": 0.0,
        "rollout/idle_share": 0.5,
        "rollout/tokens_per_s": 200.0,
    }
    assert second == {
        "step": 3,
        "time_s": 4.0,
        "broker/slots_used": 0.0,
        "broker/groups_ready": 0.0,
    }


def test_on_a_full_disk_lines_are_kept_for_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        path = disk.folder / "observations.jsonl"
        observations = Observations(path)
        disk.fill()
        for version in (1, 2, 3):
            observations.update(status(version, 10), float(version))
        assert path.read_bytes() == b""
        disk.free()
        observations.update(status(4, 10), 4.0)
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
