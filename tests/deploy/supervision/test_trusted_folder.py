import grp
import os
import pwd
import stat
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy import launch
from deploy.supervision import trusted_folder
from deploy.supervision.trusted_folder import check_trusted, make_private

NOBODY = 65534


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    make_private(folder)
    folder.chmod(0o755)
    for name in ("config.toml", "launcher.lock", "keys/server.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch(mode=0o600)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        check_trusted(folder)
    assert "decides what this run starts as you. Fix: if you trust what is in it, " in str(
        refused.value
    )
    return str(refused.value)


def test_a_new_folder_is_its_owners_alone_and_an_old_one_is_left_as_it_is(tmp_path: Path) -> None:
    new, old = tmp_path / "in" / "new", tmp_path / "old"
    old.mkdir(mode=0o750)
    for folder in (new, old):
        make_private(folder)
        check_trusted(folder)
    assert [stat.S_IMODE(f.stat().st_mode) for f in (new, old)] == [0o700, 0o750]
    check_trusted(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [".", "config.toml", "launcher.lock", "keys", "keys/server.json"])
def test_what_everybody_can_write_is_refused(name: str, run: Path) -> None:
    check_trusted(run)
    (run / name).chmod(0o777)
    assert f"{run / name} can be written by everybody (mode 777)" in refusal(run)
    assert refusal(run).endswith(f"chmod go-w {run / name}")
    (run / name).chmod(0o755)
    check_trusted(run)


def test_files_that_nobody_else_can_reach_may_have_any_mode(run: Path) -> None:
    """A umask of 002 leaves them so in a folder of a project."""
    for name in ("config.toml", "keys/server.json"):
        (run / name).chmod(0o666)
    refusal(run)
    run.chmod(0o700)
    check_trusted(run)


def test_a_group_may_write_only_if_it_is_the_users_own(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    groups = {1: (user, []), 2: (user, [user]), 3: (user, ["other"]), 4: ("staff", [])}

    def group(gid: int) -> grp.struct_group:
        name, members = groups[gid]
        return grp.struct_group((name, "x", gid, members))

    monkeypatch.setattr(grp, "getgrgid", group)
    assert [trusted_folder._is_own_group(gid) for gid in groups] == [True, True, False, False]
    monkeypatch.undo()
    monkeypatch.setattr(trusted_folder, "_is_own_group", lambda gid: False)
    (run / "config.toml").chmod(0o660)
    assert "config.toml can be written by the group " in refusal(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [".", "config.toml"])
def test_what_belongs_to_somebody_else_is_refused(name: str, run: Path) -> None:
    os.chown(run / name, NOBODY, NOBODY)
    assert f"{run / name} belongs to " in refusal(run)
    assert refusal(run).endswith("--broker.keys COPY/keys, or run as its owner")


def test_a_link_to_what_others_can_write_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "elsewhere").chmod(0o666)
    (run / "config.toml").unlink()
    (run / "config.toml").symlink_to(tmp_path / "elsewhere")
    assert "config.toml can be written by everybody (mode 666)" in refusal(run)


def test_a_resume_from_such_a_folder_starts_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "config.toml").write_text(f'[run]\nfolder = "{run}"\n')
    (run / "config.toml").chmod(0o666)
    before = sorted(run.rglob("*"))
    arguments = ["--config", str(run / "config.toml"), "--run.resume", "true"]
    monkeypatch.setattr(sys, "argv", ["launch"])
    with pytest.raises(SystemExit) as left:
        launch.main(arguments)
    assert left.value.code == 2
    assert "can be written by everybody" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before
