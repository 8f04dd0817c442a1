"""Who is let in: code, packages, and what becomes of a process that is not."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker import protocol as p
from broker.client import BrokerClient
from broker.service.membership import Member
from broker.service.service import BrokerService
from common.errors import ProtocolError, VersionMismatch
from common.versions import versions
from common.wire import decode, encode
from tests.broker.support import make_rules, make_service, make_source, running_broker

ROOT = Path(__file__).resolve().parents[3]
OURS = {"code": "aaaa", "python": "3.11.7", "numpy": "2.4.6", "transformers": "5.19.0"}
PACKAGES = OURS | {"tokenizers": "0.23.3", "pillow": "13.0.0", "torchvision": "0.28.0+cpu"}


def service_of(versions: dict[str, str] | None = OURS) -> BrokerService:
    return make_service(make_source(8), make_rules(), versions=versions)


def hello(
    service: BrokerService, name: str, versions: dict[str, str], incarnation: int = 1
) -> p.Welcome | p.Refused:
    role = p.Role.LEARNER if name.startswith("l") else p.Role.ROLLOUT
    request = p.Hello(
        member_id=name,
        role=role,
        incarnation=incarnation,
        details={"host": f"host-of-{name}"},
        versions=versions,
    )
    (outgoing,) = service.handle(b"peer", b"1", request, 0.0)
    assert isinstance(outgoing.message, p.Welcome | p.Refused)
    return outgoing.message


def member_of(service: BrokerService, name: str) -> Member:
    (found,) = [member for member in service.membership.all() if member.member_id == name]
    return found


def test_members_with_the_brokers_code_and_the_same_packages_are_let_in() -> None:
    service = service_of()
    for name in ("r0", "r1", "l0", "l1"):
        assert isinstance(hello(service, name, PACKAGES), p.Welcome)


def test_other_code_than_the_brokers_is_refused_with_both_digests() -> None:
    service = service_of()
    refused = hello(service, "r0", OURS | {"code": "bbbb"})
    assert isinstance(refused, p.Refused) and refused.code == "version_mismatch"
    assert refused.message.startswith("r0 on host-of-r0 runs other code than the broker")
    assert "digest bbbb there, aaaa here. Fix: run the same checkout or image" in refused.message
    assert not service.membership.all() and not service.ledger.members


@pytest.mark.parametrize("package", ["transformers", "tokenizers", "pillow", "torchvision"])
def test_a_package_that_changes_tokens_or_pixels_must_be_the_same(package: str) -> None:
    service = service_of()
    hello(service, "r0", PACKAGES)
    refused = hello(service, "l0", PACKAGES | {package: "9.9.9"})
    assert isinstance(refused, p.Refused) and refused.code == "version_mismatch"
    expected = f"l0 on host-of-l0 has {package} 9.9.9 (r0 on host-of-r0: {PACKAGES[package]})"
    assert refused.message.startswith(expected) and "Fix: deploy/setup.sh" in refused.message
    assert [member.member_id for member in service.membership.all()] == ["r0"]


def test_all_differing_packages_are_named_at_once() -> None:
    service = service_of()
    hello(service, "l0", PACKAGES)
    refused = hello(service, "r0", PACKAGES | {"transformers": "6.0", "pillow": "12.0"})
    assert isinstance(refused, p.Refused)
    assert "transformers 6.0 (l0" in refused.message and "pillow 12.0 (l0" in refused.message


def test_the_second_of_two_rollouts_is_told_not_the_learner_that_comes_later() -> None:
    service = service_of()
    assert isinstance(hello(service, "r0", PACKAGES), p.Welcome)
    assert isinstance(hello(service, "r1", PACKAGES | {"pillow": "12.0"}), p.Refused)
    assert isinstance(hello(service, "l0", PACKAGES), p.Welcome)


def test_another_build_of_the_same_release_and_a_missing_package_are_let_in() -> None:
    service = service_of()
    hello(service, "l0", PACKAGES | {"torchvision": "0.28.0+cu128"})
    without = {name: version for name, version in PACKAGES.items() if name != "tokenizers"}
    assert isinstance(hello(service, "r0", without), p.Welcome)


def test_another_numpy_or_python_is_only_told(caplog: pytest.LogCaptureFixture) -> None:
    service = service_of()
    hello(service, "l0", PACKAGES)
    assert not caplog.records
    assert isinstance(hello(service, "r0", PACKAGES | {"numpy": "2.0.0"}), p.Welcome)
    (warning,) = caplog.records
    assert warning.getMessage() == "r0 has numpy 2.0.0 (l0 on host-of-l0: 2.4.6)"
    assert member_of(service, "r0").details["differs"] == "numpy 2.0.0 (l0 on host-of-l0: 2.4.6)"


def test_members_that_could_not_meet_in_a_group_of_nccls_are_refused() -> None:
    service = service_of()
    hello(service, "l0", PACKAGES | {"nccl": "2.30.7"})
    refused = hello(service, "r0", PACKAGES | {"nccl": "2.29.7"})
    assert isinstance(refused, p.Refused) and refused.code == "version_mismatch"
    expected = "r0 on host-of-r0 has nccl 2.29.7 (l0 on host-of-l0: 2.30.7): no group"
    assert refused.message.startswith(expected) and "deploy/setup.sh sglang" in refused.message
    assert isinstance(hello(service, "r1", PACKAGES), p.Welcome)  # it takes weights from files


def test_members_that_tell_nothing_are_let_in() -> None:
    service = service_of()
    assert isinstance(hello(service, "r0", {}), p.Welcome)
    assert isinstance(hello(service, "l0", PACKAGES), p.Welcome)
    assert isinstance(hello(service_of(None), "r0", {"code": "bbbb"}), p.Welcome)


def test_a_process_that_comes_back_is_not_compared_with_its_own_earlier_life() -> None:
    service = service_of()
    hello(service, "r0", PACKAGES)
    newer = PACKAGES | {"pillow": "13.1.0"}
    assert isinstance(hello(service, "r0", newer, incarnation=2), p.Welcome)
    assert member_of(service, "r0").versions == newer


def test_a_restarted_broker_learns_the_versions_from_heartbeats() -> None:
    service = service_of()
    owner = ("l0", 1)
    service.change(0.0, service.ledger.join, owner, p.Role.LEARNER)
    service.membership.restore(owner, p.Role.LEARNER, 0.0)
    beat = p.Heartbeat(member_id="l0", incarnation=1, versions=PACKAGES)
    service.handle(b"peer", b"1", beat, 0.0)
    assert isinstance(hello(service, "r0", PACKAGES | {"pillow": "12.0"}), p.Refused)


@pytest.mark.parametrize(
    "versions",
    [{"x" * 41: "1"}, {"": "1"}, {"numpy": "1" * 81}, {str(i): "1" for i in range(33)}],
)
def test_versions_on_the_wire_are_bounded(versions: dict[str, str]) -> None:
    frame = encode(
        p.Hello.model_construct(
            member_id="r0", role=p.Role.ROLLOUT, incarnation=1, versions=versions
        )
    )
    with pytest.raises(ProtocolError, match=r"Hello\.versions"):
        decode(frame, p.REQUESTS)


async def test_a_refused_client_fails_for_good_and_at_once() -> None:
    async with running_broker(make_rules(), make_source(8), service=service_of()) as running:
        client = BrokerClient(
            running.address, "rollout-0", p.Role.ROLLOUT, versions={"code": "bbbb"}
        )
        async with asyncio.timeout(60):
            with pytest.raises(VersionMismatch, match=r"does not let this process in.*Fix: "):
                await client.__aenter__()


async def test_a_broker_that_cannot_read_the_hello_is_of_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker of before `versions` does so."""

    class NextHello(p.Hello):
        colour: str = "red"

    NextHello.__name__ = "Hello"
    monkeypatch.setattr(p, "Hello", NextHello)
    async with running_broker(make_rules(), make_source(8), service=service_of()) as running:
        client = BrokerClient(running.address, "rollout-0", p.Role.ROLLOUT)
        with pytest.raises(VersionMismatch, match=r"of another version.*colour.*Fix: run the same"):
            await client.__aenter__()


@pytest.mark.slow
async def test_learner_and_rollout_end_with_2_and_one_clear_line(tmp_path: Path) -> None:
    from common.config_cli import build, dump_toml  # here: the other tests need no torch
    from tests.rollout.support import run_config
    from tests.tiny_model import make_tiny_checkpoint
    from tests.tiny_world import make_dataset

    checkpoint = make_tiny_checkpoint(tmp_path / "model", seed=0)
    tree = run_config(checkpoint, trajectories_per_sample=3, max_response_tokens=6).model_dump()
    tree["data"]["train"] = str(make_dataset(tmp_path / "data", 8))
    tree["learner"]["groups_per_step"] = 2  # the learner reads its data before it says hello
    tree["run"]["folder"] = str(tmp_path / "run")
    config = tmp_path / "config.toml"
    config.write_text(dump_toml(build(tree)))
    service = service_of(versions() | {"code": "0123456789abcdef"})
    async with running_broker(make_rules(), make_source(8), service=service) as running:
        for package in ("rollout", "learner"):
            command = [sys.executable, "-m", f"{package}.main", "--config", str(config)]
            ended = await asyncio.to_thread(
                subprocess.run,
                [*command, "--broker.address", running.address],
                cwd=ROOT, capture_output=True, text=True, timeout=120,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            last = ended.stderr.splitlines()[-1]
            assert ended.returncode == 2, ended.stderr
            assert f"{package}-0 on " in last and "runs other code than the broker" in last
            assert "Traceback" not in ended.stderr
