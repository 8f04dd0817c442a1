from pathlib import Path

from deploy.showing.kept import kept_text


def test_the_end_says_what_was_kept_and_how_to_go_on(tmp_path: Path) -> None:
    go_on = f"to go on: deploy/launch_cluster.sh --config {tmp_path}/config.toml --run.resume true"
    assert kept_text(tmp_path, is_complete=False) == f"kept: no checkpoint yet\n{go_on}"
    for name in ("step-000002", "step-000010", ".step-000011.part", "step-12"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    kept = f"kept: the checkpoint of step 10, {tmp_path}/checkpoints/step-000010"
    assert kept_text(tmp_path, is_complete=False) == f"{kept}\n{go_on}"
    assert kept_text(tmp_path, is_complete=True) == kept


def test_an_odd_path_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    assert f"--config '{folder}/config.toml' --run" in kept_text(folder, is_complete=False)
