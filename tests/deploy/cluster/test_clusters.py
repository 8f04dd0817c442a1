import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from common import gpus
from common.errors import ConfigError
from deploy.cluster.clusters import (
    nodes_from_ray,
    read_cluster,
    this_machine,
)
from deploy.cluster.nodes import Node

CLUSTERS = Path(__file__).resolve().parents[3] / "deploy" / "configs" / "clusters"


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_machines_alike_are_numbered_from_one_name_and_address(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[[node]]\nname = "gpu"\ncount = 2\ncpus = 8\ngpus = 1\ngpu = "H100"\ngpu_gib = 80\n'
        'host = "10.0.0.255"\nlabels = { pool = "rollout" }\n'
        '[[node]]\nname = "head"\ncpus = 2.5\nhost = "10.0.2.1"\n',
    )
    labels = {"ray.io/accelerator-type": "H100", "pool": "rollout"}
    assert read_cluster(path) == [
        Node("gpu-0", 8, 1, "H100", 80, "10.0.0.255", labels),
        Node("gpu-1", 8, 1, "H100", 80, "10.0.1.0", labels),
        Node("head", 2.5, host="10.0.2.1"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[node]]\ncpus = 4", r"node 1: name is not set\. Fix: give it\. Name of the machine"),
        ('[[node]]\nname = "a"\ncpus = 0', r"node 1: cpus = 0: .*greater than 0\. Fix: change it"),
        ('[[node]]\nname = "a"\ncpus = 4\ngpu_gb = 80', "node 1: gpu_gb: unknown key.*gpu_gib"),
        ('[[node]]\nname = "a"\ncpus = 4\nhost = "there"', "host = 'there'.*IP.*Fix: change it"),
        ('[[node]]\nname = "a"\ncpus = 4\nlabels = { pool = 1 }', r"labels\.pool = 1: .*string"),
        ('[[node]]\nname = "a"\ncpus = 4\n' * 2, "2 machines have name = 'a'. Fix: give each"),
        ('[[node]]\nname = "a"\ncpus = 4\n[[node]]\nname = "b"\ncpus = 4', "host = '127.0.0.1'"),
        ("", r"Fix: give one \[\[node\]\] or more"),
        ("[[nodes]]\ncpus = 4", r"Fix: give one \[\[node\]\] or more"),
        ("[[node", "Fix: correct the file"),
    ],
)
def test_a_file_with_a_mistake_names_file_key_value_and_mend(
    text: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_cluster(path)
    assert str(caught.value).startswith(f"--cluster {path}: ")


def test_a_file_that_is_not_there_is_told_where_there_are_some(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file\. Fix: see deploy/configs/clusters/"):
        read_cluster(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_cluster_that_we_ship_can_be_read(path: Path) -> None:
    assert read_cluster(path)


def fake_nvidia_smi(folder: Path, body: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


def test_this_machine_has_the_gpus_that_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "echo NVIDIA A100-SXM4-40GB, 40960 MiB"
    fake_nvidia_smi(tmp_path, "\n".join([line] * 4))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = this_machine()
    assert (here.gpus, here.gpu, here.gpu_gib, here.host) == (4, "A100", 40.0, "127.0.0.1")
    assert here.cpus >= 1 and here.labels == {"ray.io/accelerator-type": "A100"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert this_machine().gpus == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert this_machine().gpus == 0


def test_this_machine_has_no_gpu_where_there_is_no_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_machine().gpus == 0
    fake_nvidia_smi(tmp_path, "echo no devices; exit 9")
    assert this_machine().gpus == 0


def test_an_nvidia_smi_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_PATIENCE_S", 0.2)
    fake_nvidia_smi(tmp_path, f"exec {shutil.which('sleep')} 100")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_machine().gpus == 0
    assert caplog.messages == ["nvidia-smi does not answer within 0.2 s: no GPUs here"]


def test_machines_of_a_ray_are_those_alive() -> None:
    def info(host: str, address: str, **resources: float) -> dict[str, Any]:
        return {
            "NodeID": address,
            "Alive": True,
            "NodeManagerAddress": address,
            "NodeManagerHostname": host,
            "Resources": {"memory": 1e9, **resources},
            "Labels": {"ray.io/node-id": address},
        }

    gpu = info("gpu", "10.0.0.2", CPU=8, GPU=2)
    gpu["Labels"] = {"ray.io/accelerator-type": "H100", "pool": "rollout"}
    lost = {**info("lost", "10.0.0.4", CPU=8), "Alive": False}
    nodes = nodes_from_ray([info("one", "10.0.0.1", CPU=4), gpu, info("one", "10.0.0.3"), lost])
    assert [(node.name, node.host, node.cpus, node.gpus, node.gpu) for node in nodes] == [
        ("10.0.0.1", "10.0.0.1", 4, 0, ""),
        ("gpu", "10.0.0.2", 8, 2, "H100"),
        ("10.0.0.3", "10.0.0.3", 0, 0, ""),
    ]
    assert nodes[1].labels["pool"] == "rollout"
