"""The RayJob of a manifest for KubeRay: a group of pods for each pool, and the job in them."""

import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

from common.config import RunConfig
from common.errors import ConfigError
from deploy.cluster.environments import pool_section
from deploy.cluster.pools import Pool, PoolName, pools_of

VOLUME = PurePosixPath("/mnt/vision-opd")  # where pods see the volume
IMAGE_ROOT = PurePosixPath("/opt/vision-opd")  # where the code is in the images
CLAIM = "vision-opd"
_CONFIG_FOLDER = "/etc/vision-opd"
_USER = 1000  # of the images
_LAUNCHER_CPUS = 1.0
_SHM = "16Gi"  # of a worker pod's memory, at most
_RETRIES = 3  # new clusters, each of which goes on with the run
_KEEP_S = 600  # the cluster after its end, to look at
_AFTER_DRAIN_S = 60
_RUN_LABEL = "vision-opd/run"  # on every pod of a run
_DASHBOARD_PORT = 8265  # which the operator asks how the job is


@dataclass(frozen=True)
class _Group:
    """Pods of one kind."""

    pool: Pool
    image: str
    pods: int
    processes: int  # a pod

    @property
    def cpus(self) -> float:
        return self.processes * self.pool.cpus

    @property
    def gpus(self) -> int:
        return math.ceil(self.processes * self.pool.gpus - 1e-9)


def ray_job(name: str, config: RunConfig) -> dict[str, Any]:
    """The RayJob of a run.

    Args:
        name: of the job, and of the ConfigMap with the configuration, which names a run folder.

    Raises:
        ConfigError: a pool has no image.
    """
    groups = _groups(config)
    entrypoint = (
        f"{IMAGE_ROOT}/deploy/batch/start_or_resume.sh {config.run.folder} "
        f"{_CONFIG_FOLDER}/config.toml --address auto"
    )
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "entrypoint": entrypoint,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEEP_S,
            "backoffLimit": _RETRIES,
            "submitterPodTemplate": {
                "metadata": _metadata(name),
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "securityContext": _pod_security(),
                    "containers": [_container("ray-job-submitter", groups["broker"].image)],
                },
            },
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                # More pods for deploy.scale, and new ones for those that were taken away.
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {"version": "v2"},
                "headGroupSpec": _head(name, groups["broker"], config),
                "workerGroupSpecs": [
                    _workers(name, groups["rollout"], config, growth=2),
                    _workers(name, groups["learner"], config, growth=1),
                ],
            },
        },
    }


def network_policy(name: str) -> dict[str, Any]:
    """Let pods of the run reach one another, and every pod the dashboard, which asks for a token.

    gloo, NCCL and torch's rendezvous authenticate no peer.
    """
    own = {"matchLabels": {_RUN_LABEL: name}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": own}]},
                # KubeRay's operator may be in any namespace.
                {
                    "from": [{"namespaceSelector": {}}],
                    "ports": [{"protocol": "TCP", "port": _DASHBOARD_PORT}],
                },
            ],
        },
    }


def _metadata(name: str) -> dict[str, Any]:
    return {"labels": {_RUN_LABEL: name}}


def _head(name: str, group: _Group, config: RunConfig) -> dict[str, Any]:
    """The pod of broker and launcher."""
    container = _container("ray-head", group.image, group.cpus + _LAUNCHER_CPUS)
    stop_s = _grace_s(config)
    container["env"].append({"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(stop_s)})
    container["volumeMounts"] = [
        {"name": "shared", "mountPath": str(VOLUME)},
        {"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True},
    ]
    spec = _pod(container, config)
    spec["volumes"].append({"name": "config", "configMap": {"name": name}})
    return {
        "labels": dict(group.pool.labels),
        # Ray's count is for the broker alone, the launcher takes none.
        "rayStartParams": {"num-cpus": str(math.ceil(group.cpus)), "num-gpus": "0"},
        "template": {"metadata": _metadata(name), "spec": spec},
    }


def _workers(name: str, group: _Group, config: RunConfig, growth: int) -> dict[str, Any]:
    """A group of pods for one pool.

    Args:
        growth: pods that the group may come to have, as a multiple of those at first.
    """
    container = _container("ray-worker", group.image, group.cpus, group.gpus)
    container["volumeMounts"] = [
        {"name": "shared", "mountPath": str(VOLUME)},
        {"name": "memory", "mountPath": "/dev/shm"},
    ]
    spec = _pod(container, config)
    # A container's own has 64 MiB: NCCL's ranks and Ray's objects meet there.
    spec["volumes"].append({"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM}})
    # The head's stays: Ray's autoscaler, in its pod, asks Kubernetes for more pods.
    spec["automountServiceAccountToken"] = False
    return {
        "groupName": group.pool.name,
        "replicas": group.pods,
        "minReplicas": group.pods,
        "maxReplicas": group.pods * growth,
        "labels": dict(group.pool.labels),
        "rayStartParams": {"num-cpus": str(math.ceil(group.cpus)), "num-gpus": str(group.gpus)},
        "template": {"metadata": _metadata(name), "spec": spec},
    }


def _pod(container: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _grace_s(config),
        "securityContext": _pod_security(),
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }


def _container(name: str, image: str, cpus: float = 0.5, gpus: int = 0) -> dict[str, Any]:
    resources: dict[str, Any] = {"requests": {"cpu": f"{cpus:g}"}}
    if gpus:
        resources["limits"] = {"nvidia.com/gpu": gpus}
    return {
        "name": name,
        "image": image,
        "resources": resources,
        "env": [
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            {"name": "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "value": "0"},
            {"name": "HF_HOME", "value": str(VOLUME / "huggingface")},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _pod_security() -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _groups(config: RunConfig) -> dict[PoolName, _Group]:
    return {pool.name: _group(pool, config) for pool in pools_of(config)}


def _group(pool: Pool, config: RunConfig) -> _Group:
    image = pool_section(pool.name, config).image
    if image is None and pool.name == "broker":
        image = config.learner_pool.image  # it has all that broker and launcher need
    if image is None:
        raise ConfigError(
            f"{pool.name}_pool.image is not set. Fix: build deploy/docker/{pool.name}.Dockerfile, "
            f"and say --{pool.name}_pool.image NAME"
        )
    if pool.nodes is not None:
        return _Group(pool, image, pool.nodes, math.ceil(pool.processes / pool.nodes))
    # Pods of their own, so that one can go or come without the others; shares of a GPU together.
    processes = int(1 / pool.gpus + 1e-9) if 0 < pool.gpus < 1 else 1
    return _Group(pool, image, math.ceil(pool.processes / processes), processes)


def _grace_s(config: RunConfig) -> int:
    return math.ceil(config.cluster.drain_s) + _AFTER_DRAIN_S
