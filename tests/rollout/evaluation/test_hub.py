"""Sets on the hub: the real client, with its cache and without a network."""

from pathlib import Path

import pytest

from rollout.evaluation.sets import SETS
from tests.common.hub import asked, serving_hub
from tests.rollout.evaluation.set_files import write_set

_READ = """
import sys
from rollout.evaluation.sets import SETS
loaded = SETS[sys.argv[1]].open(limit=2)
print(loaded.revision, *[item.id for item in loaded.items])
"""
_REFUSED = """
import sys
from common.errors import ConfigError
from rollout.evaluation.sets import SETS
try:
    SETS[sys.argv[1]].open()
except ConfigError as error:
    print(error)
"""


def in_cache(home: Path, name: str) -> list[str]:
    """Puts copies of a set's repositories where the client keeps them. Returns their commits."""
    commits = []
    for repository in SETS[name].repositories:
        storage = home / "hub" / f"datasets--{repository.name.replace('/', '--')}"
        commit = repository.revision or "c" * 40
        (storage / "refs").mkdir(parents=True)
        (storage / "refs" / "main").write_text(commit)
        (storage / "snapshots").mkdir()
        copy = write_set(name, home / "copies", 6) if not commits else home / "copies"
        (storage / "snapshots" / commit).symlink_to(copy / repository.folder)
        commits.append(commit)
    return commits


def test_a_set_is_taken_from_the_cache_at_its_pinned_commit(tmp_path):
    (commit,) = in_cache(tmp_path, "hrbench-4k")
    done = asked(tmp_path, _READ, "hrbench-4k", HF_HUB_OFFLINE="1")
    assert done.stdout == f"{commit} 0 1\n", done.stderr


def test_a_set_without_a_pinned_commit_names_the_one_that_it_got(tmp_path):
    in_cache(tmp_path, "mmvp")
    done = asked(tmp_path, _READ, "mmvp", HF_HUB_OFFLINE="1")
    assert done.stdout == f"{'c' * 40} 1 2\n", done.stderr


def test_a_set_of_several_repositories_names_all_commits(tmp_path):
    commits = in_cache(tmp_path, "visualprobe")
    done = asked(tmp_path, _READ, "visualprobe", HF_HUB_OFFLINE="1")
    assert done.stdout == f"{', '.join(commits)} Easy/0 Easy/1\n", done.stderr


def test_a_copy_in_the_cache_is_enough_where_no_hub_answers(tmp_path):
    (commit,) = in_cache(tmp_path, "hrbench-4k")
    done = asked(tmp_path, _READ, "hrbench-4k", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.stdout == f"{commit} 0 1\n", done.stderr


@pytest.mark.parametrize("how", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_no_network_and_no_copy_is_one_line_that_says_what_to_do(how, tmp_path):
    done = asked(tmp_path, _REFUSED, "vstar", **how)
    assert done.stderr == ""  # it does not knock again and again
    told = done.stdout.strip()
    assert told.startswith("set vstar: lmms-lab-encoder/vstar-bench cannot be downloaded (")
    command = "hf download --repo-type dataset lmms-lab-encoder/vstar-bench --revision b44023b4"
    assert f"Fix: run {command}" in told and "\n" not in told


def test_a_hub_that_refuses_is_told(tmp_path):
    with serving_hub(tmp_path) as hub:  # it has no data sets
        told = asked(tmp_path, _REFUSED, "mmvp", HF_ENDPOINT=hub.url).stdout
    assert "set mmvp: MMVP/MMVP cannot be downloaded (RepositoryNotFoundError: " in told
