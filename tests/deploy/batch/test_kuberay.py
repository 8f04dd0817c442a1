"""deploy/batch/kuberay.py: what holds together in a manifest. KubeRay itself is not run here."""

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import RunConfig
from common.config_cli import build, load
from common.errors import ConfigError
from deploy.batch.kuberay import manifest
from deploy.cluster.pools import pools_of

ROOT = Path(__file__).resolve().parents[3]
TREE: dict[str, dict[str, Any]] = {
    "run": {"name": "My Run 1"},
    "data": {"train": "/mnt/vision-opd/data/train.parquet"},
    "learner": {"ranks": 16},
    "learner_pool": {"nodes": 2, "gpus": 1, "cpus": 8, "image": "us/learner:1"},
    "rollout": {"servers": 5},
    "rollout_pool": {"gpus": 2, "cpus": 4, "image": "us/rollout:1"},
    "sglang": {"tensor_parallel": 2},
}


def config_with(**sections: dict[str, Any]) -> RunConfig:
    tree = copy.deepcopy(TREE)
    for section, values in sections.items():
        tree.setdefault(section, {}).update(values)
    return build(tree)


def documents(config: RunConfig, *arguments: str) -> dict[str, dict]:
    return {one["kind"]: one for one in yaml.safe_load_all(manifest(config, arguments))}


def cluster(config: RunConfig) -> dict[str, Any]:
    return documents(config)["RayJob"]["spec"]["rayClusterSpec"]


def groups(config: RunConfig) -> dict[str, dict]:
    spec = cluster(config)
    workers = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {"broker": spec["headGroupSpec"], **workers}


def pod_specs(config: RunConfig) -> Iterator[dict]:
    for group in groups(config).values():
        yield group["template"]["spec"]
    yield documents(config)["RayJob"]["spec"]["submitterPodTemplate"]["spec"]


def config_of_pods(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration that the launcher in the head pod reads."""
    file = folder / "config.toml"
    file.write_text(documents(config)["ConfigMap"]["data"]["config.toml"])
    return load(["--config", str(file)])


def test_workers_have_memory_to_share_between_processes() -> None:
    """A container's 64 MiB at /dev/shm end NCCL with "unhandled system error"."""
    for name in ("rollout", "learner"):
        spec = groups(config_with())[name]["template"]["spec"]
        (mount,) = (
            m for m in spec["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"
        )
        (volume,) = (one for one in spec["volumes"] if one["name"] == mount["name"])
        assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}


def test_each_pool_finds_the_pods_that_have_its_image(tmp_path: Path) -> None:
    config = config_with(rollout_pool={"labels": ["pool=fast", "ray.io/accelerator-type=H100"]})
    found = groups(config)
    for pool in pools_of(config_of_pods(config, tmp_path)):
        assert dict(pool.labels) == found[pool.name]["labels"]
        others = [group["labels"] for name, group in found.items() if name != pool.name]
        assert not any(pool.labels.items() <= other.items() for other in others)
    images = {
        name: group["template"]["spec"]["containers"][0]["image"] for name, group in found.items()
    }
    assert images == {
        "broker": "us/learner:1", "learner": "us/learner:1", "rollout": "us/rollout:1",
    }  # fmt: skip


def test_pods_have_room_for_the_processes_of_their_pool() -> None:
    found = groups(config_with())
    sizes = {
        name: (
            group.get("replicas"),
            group["template"]["spec"]["containers"][0]["resources"],
            group["rayStartParams"],
        )
        for name, group in found.items()
    }
    assert sizes == {
        "broker": (
            None,
            {"requests": {"cpu": "2"}},  # broker and launcher
            {"num-cpus": "1", "num-gpus": "0"},
        ),
        "learner": (
            2,
            {"requests": {"cpu": "64"}, "limits": {"nvidia.com/gpu": 8}},
            {"num-cpus": "64", "num-gpus": "8"},
        ),
        "rollout": (
            5,
            {"requests": {"cpu": "4"}, "limits": {"nvidia.com/gpu": 2}},
            {"num-cpus": "4", "num-gpus": "2"},
        ),
    }


@pytest.mark.parametrize(
    ("pool", "pods", "gpus"),
    [
        ({"gpus": 0.5}, 3, 1),  # two servers share a GPU, the fifth has one of its own
        ({"gpus": 1, "nodes": 2}, 2, 3),
        ({"gpus": 0.4, "nodes": 1}, 1, 2),
        ({"gpus": 0}, 5, 0),
    ],
)
def test_rollout_pods_are_as_many_as_the_servers_need(pool: dict, pods: int, gpus: int) -> None:
    group = groups(config_with(rollout_pool=pool, sglang={"tensor_parallel": 1}))["rollout"]
    limits = group["template"]["spec"]["containers"][0]["resources"].get("limits", {})
    assert (group["replicas"], limits.get("nvidia.com/gpu", 0)) == (pods, gpus)
    assert group["minReplicas"] == pods <= group["maxReplicas"]


def test_learner_pods_stay_as_many_as_they_are() -> None:
    group = groups(config_with())["learner"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] == 2


def test_every_mount_has_its_volume_and_every_name_leads_somewhere() -> None:
    config = config_with()
    found = documents(config)
    known = {
        "persistentVolumeClaim": ("claimName", found["PersistentVolumeClaim"]["metadata"]["name"]),
        "configMap": ("name", found["ConfigMap"]["metadata"]["name"]),
        "emptyDir": ("medium", "Memory"),
    }
    for spec in pod_specs(config):
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounts = [
            mount["name"] for one in spec["containers"] for mount in one.get("volumeMounts", [])
        ]
        assert sorted(mounts) == sorted(volumes)
        for volume in volumes.values():
            ((kind, source),) = [item for item in volume.items() if item[0] != "name"]
            field, name = known[kind]
            assert source[field] == name


def test_ray_asks_for_a_token_and_tells_nobody() -> None:
    config = config_with()
    assert cluster(config)["authOptions"] == {"mode": "token"}
    assert "Secret" not in documents(config)  # KubeRay makes it: no token is in the manifest
    for spec in pod_specs(config):
        variables = {one["name"]: one["value"] for one in spec["containers"][0]["env"]}
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"


def test_no_pod_runs_as_root() -> None:
    for spec in pod_specs(config_with()):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_pod_that_must_go_has_time_to_drain() -> None:
    for group in groups(config_with(cluster={"drain_s": 33})).values():
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] == 33 + 60


def test_the_job_starts_the_launcher_with_the_whole_configuration(tmp_path: Path) -> None:
    config = config_with(optimizer={"lr": 0.125}, broker={"max_staleness": 3})
    spec = documents(config)["RayJob"]["spec"]
    script, folder, file, *rest = spec["entrypoint"].split()
    assert script == "/opt/vision-opd/deploy/batch/start_or_resume.sh"
    assert rest == ["--address", "auto"]
    assert (ROOT / "deploy" / "batch" / "start_or_resume.sh").stat().st_mode & 0o111
    mounts = groups(config)["broker"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert str(Path(file).parent) in [mount["mountPath"] for mount in mounts]
    assert folder == "/mnt/vision-opd/runs/my-run-1"
    read = config_of_pods(config, tmp_path)
    assert read.run.folder == Path(folder)
    assert (read.optimizer, read.broker, read.data) == (
        config.optimizer,
        config.broker,
        config.data,
    )


def test_the_quickstarts_checkpoint_is_the_one_in_the_image(tmp_path: Path) -> None:
    path = str(ROOT / "deploy" / "quickstart" / "checkpoint")
    read = config_of_pods(config_with(model={"path": path}), tmp_path)
    assert read.model.path == "/opt/vision-opd/deploy/quickstart/checkpoint"


def test_the_manifest_tells_how_it_was_made() -> None:
    first, *_ = manifest(config_with(), ["--config", "a b.toml", "--run.name", "x\ny"]).splitlines()
    assert first == "# Made by: deploy/launch_cluster.sh --config 'a b.toml' --run.name 'x y'"


@pytest.mark.parametrize(
    ("name", "resource"),
    [("Größe_4", "gr-e-4"), ("2026", "run-2026"), ("a" * 60, "a" * 47), ("--", "run")],
)
def test_any_name_of_a_run_gives_one_for_kubernetes(name: str, resource: str) -> None:
    found = documents(config_with(run={"name": name}))
    assert found["RayJob"]["metadata"]["name"] == resource


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        (
            {"learner_pool": {"image": None}},
            r"^learner_pool\.image is not set\. Fix: .*learner\.Dock",
        ),
        ({"rollout_pool": {"image": None}}, r"^rollout_pool\.image is not set\. Fix: "),
        (
            {"data": {"train": "/data/a.parquet"}},
            r"^data\.train = '/data/a.parquet' is not on the v",
        ),
        ({"run": {"folder": "/tmp/x"}}, r"^run\.folder = '/tmp/x' is not on the volume"),
        ({"model": {"path": "/models/a"}}, r"^model\.path = '/models/a' is not on the volume"),
        ({"run": {"folder": "/mnt/vision-opd/a b"}}, r"^run\.folder = .*entrypoint takes letters"),
        (
            {"data": {"train": "/mnt/vision-opd/../../etc/a.parquet"}},
            r"^data\.train = .*\.\./etc/a\.parquet' is not on the volume",
        ),
        ({"run": {"folder": "/mnt/vision-opd/../x"}}, r"^run\.folder = .*is not on the volume"),
        ({"model": {"path": "/opt/vision-opd/../m"}}, r"^model\.path = .*is not on the volume"),
    ],
)
def test_what_kubernetes_could_not_run_is_refused(sections: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        manifest(config_with(**sections), [])


def test_start_or_resume_goes_on_with_a_run_that_has_begun(tmp_path: Path) -> None:
    checkout, run = tmp_path / "a checkout", tmp_path / "a run"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / "deploy" / "batch").mkdir(parents=True)
    run.mkdir()
    shutil.copy(ROOT / "deploy" / "batch" / "start_or_resume.sh", checkout / "deploy" / "batch")
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; print(sys.argv[1:])" "$@"\n'
    )
    python.chmod(0o755)

    def said() -> list[str]:
        script = checkout / "deploy" / "batch" / "start_or_resume.sh"
        command = [script, run, "new.toml", "--address", "auto"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        words: list[str] = yaml.safe_load(shown.stdout)
        return words

    launcher = ["-m", "deploy.launch", "--config"]
    assert said() == [*launcher, "new.toml", "--address", "auto"]
    (run / "config.toml").touch()
    going_on = ["--address", "auto", "--run.resume", "true"]
    assert said() == [*launcher, str(run / "config.toml"), *going_on]


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\x0c"])
def test_nothing_that_ends_a_line_ends_the_comment(end: str) -> None:
    text = manifest(config_with(), ["--run.name", f"a{end}injected: true"])
    first, *others = text.splitlines()
    assert first.startswith("# Made by: ") and "injected: true" in first
    assert not any("injected" in line for line in others)
    assert not any("injected" in one for one in yaml.safe_load_all(text))


def test_only_pods_of_the_run_reach_one_another() -> None:
    """And only the head's pod has a token for Kubernetes, which Ray's autoscaler needs."""
    found = documents(config_with())
    policy, job = found["NetworkPolicy"]["spec"], found["RayJob"]["spec"]
    cluster = job["rayClusterSpec"]
    own = {"vision-opd/run": "my-run-1"}
    assert policy["podSelector"] == {"matchLabels": own}
    among_them, dashboard = policy["ingress"]
    assert among_them == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert dashboard["ports"] == [{"protocol": "TCP", "port": 8265}]
    head = cluster["headGroupSpec"]["template"]
    others = [group["template"] for group in cluster["workerGroupSpecs"]]
    others.append(job["submitterPodTemplate"])
    assert all(pod["metadata"]["labels"] == own for pod in (head, *others))
    assert [pod["spec"]["automountServiceAccountToken"] for pod in others] == [False] * 3
    assert "automountServiceAccountToken" not in head["spec"]
