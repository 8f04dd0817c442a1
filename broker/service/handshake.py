"""Admission of members: one of another version would be misunderstood, or mean something else.

Pure. Members that tell nothing about themselves (simulators, players of tests) are let in.
"""

from collections.abc import Iterable, Mapping

from broker.ledger.refusal import Refusal
from broker.protocol import Hello
from broker.service.membership import Member
from common.versions import CODE, COLLECTIVES, MEANING, NUMBERS
from common.wire import PROTOCOL_VERSION

_MISMATCH = "version_mismatch"
_SAME_CODE = "Fix: run the same checkout or image on every node"
_HARMS = (  # packages that members must have in one version, and what two would do
    (
        MEANING,
        "the same text or picture would become other tokens or pixels there. Fix: deploy/setup.sh "
        "from the same commit on that node, or the same image on every node",
    ),
    (
        COLLECTIVES,
        "no group of them comes about, and no push would arrive. Fix: deploy/setup.sh (and "
        "deploy/setup.sh sglang) from the same commit on that node, or "
        'weights.transport = "files"',
    ),
)


def check_hello(hello: Hello, ours: Mapping[str, str], members: Iterable[Member]) -> str:
    """Compare a member that says hello with the broker and with those that are in already.

    Args:
        ours: versions of the broker's process.

    Returns:
        Differences that do no harm, in words; empty if there are none.

    Raises:
        Refusal: version_mismatch.
    """
    _check_protocol(hello)
    _check_code(hello, ours)
    others = [member for member in members if member.member_id != hello.member_id]
    for other in others:
        for packages, harm in _HARMS:
            if found := _differences(hello.versions, other, packages):
                who = _named(hello.member_id, hello.details)
                raise Refusal(_MISMATCH, f"{who} has {found}: {harm}")
    remarks = (_differences(hello.versions, other, NUMBERS) for other in others)
    return next(filter(None, remarks), "")


def _check_protocol(hello: Hello) -> None:
    if hello.protocol_version != PROTOCOL_VERSION:
        raise Refusal(
            _MISMATCH,
            f"{_named(hello.member_id, hello.details)} speaks protocol {hello.protocol_version}, "
            f"the broker {PROTOCOL_VERSION}. {_SAME_CODE}",
        )


def _check_code(hello: Hello, ours: Mapping[str, str]) -> None:
    theirs, own = hello.versions.get(CODE), ours.get(CODE)
    if theirs is not None and own is not None and theirs != own:
        raise Refusal(
            _MISMATCH,
            f"{_named(hello.member_id, hello.details)} runs other code than the broker: common/ "
            f"and broker/ have digest {theirs} there, {own} here. {_SAME_CODE}. If the code was "
            "changed while the run went on: start the run again with run.resume = true",
        )


def _differences(theirs: Mapping[str, str], other: Member, packages: Iterable[str]) -> str:
    """Packages of both in other versions: "numpy 2.1.0 (learner-0 on gpu-1: 2.2.0)"."""
    return ", ".join(
        f"{package} {theirs[package]} ({_named(other.member_id, other.details)}: "
        f"{other.versions[package]})"
        for package in packages
        if package in theirs
        and package in other.versions
        and _release(theirs[package]) != _release(other.versions[package])
    )


def _release(version: str) -> str:
    """The version without the name of the build: 0.24.0+cpu and 0.24.0+cu128 hold the same."""
    return version.partition("+")[0]


def _named(member_id: str, details: Mapping[str, str]) -> str:
    host = details.get("host")
    return f"{member_id} on {host}" if host else member_id
