"""CURVE keys for the broker's sockets: python -m broker.keys FOLDER makes them.

  server.json     the broker's secret, the others' public keys     stays with the broker
  learner.json    the learner's secret, the broker's public key    where the learner runs
  member.json     the rollouts' secret, likewise                   where rollout servers run
  observer.json   the observers' secret, likewise                  where somebody only looks

A key is a role: a holder of member.json may join as a rollout server, and as nothing else. Keys
are Z85 text, as ZeroMQ has it.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from broker.protocol import Role
from common.errors import ConfigError
from common.files import NotPrivate, read_private
from common.full_disk import is_full
from common.output import ends_with_its_reader

SERVER_FILE, LEARNER_FILE, MEMBER_FILE = "server.json", "learner.json", "member.json"
OBSERVER_FILE = "observer.json"
FILE_OF = {
    Role.LEARNER: LEARNER_FILE,
    Role.ROLLOUT: MEMBER_FILE,
    Role.OBSERVER: OBSERVER_FILE,
}


@dataclass(frozen=True)
class ServerKeys:
    """What the broker needs: it proves who it is, and tells by its key what a client may be."""

    server_secret: bytes = field(repr=False)
    public: Mapping[Role, bytes]  # the clients', by what they may be


@dataclass(frozen=True)
class ClientKeys:
    """What a client needs: it proves what it may be, and talks to this broker alone."""

    secret: bytes = field(repr=False)
    server_public: bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m broker.keys", description="Makes the keys of a broker and its clients."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the four files go")
    parser.add_argument("--force", action="store_true", help="replace the keys that are there")
    arguments = parser.parse_args()
    try:
        make_keys(arguments.folder, replace=arguments.force)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(instructions(arguments.folder))


def instructions(folder: Path) -> str:
    """What to do with new keys."""
    return (
        f"{folder / SERVER_FILE}     keep it on the broker's machine\n"
        f"{folder / LEARNER_FILE}    copy it to the learner's machines (scp -p, mode 600); its "
        "holder decides what is trained\n"
        f"{folder / MEMBER_FILE}     copy it to the rollout machines; its holder may join\n"
        f"{folder / OBSERVER_FILE}   for those who only look\n"
        f"broker:  --broker.keys {folder} --broker.address tcp://0.0.0.0:5570\n"
        f"others:  --broker.keys {folder} --broker.address tcp://HOST:5570"
    )


def make_keys(folder: Path, *, replace: bool = False) -> None:
    """Write all files, for new pairs of keys. The server's comes last: then all are whole.

    Raises:
        ConfigError: there are keys already and `replace` is false, or they cannot be written.
    """
    server_public, server_secret = zmq.curve_keypair()
    server, files = {"server_secret": server_secret}, {}
    for role, name in FILE_OF.items():
        public, secret = zmq.curve_keypair()
        files[name] = {_secret_name(role): secret, "server_public": server_public}
        server[_public_name(role)] = public
    files[SERVER_FILE] = server
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in files:
            if replace:
                (folder / name).unlink(missing_ok=True)
            elif (folder / name).exists():
                raise FileExistsError(f"there are keys already ({name})")
        for name, keys in files.items():
            _write(folder / name, keys)
    except FileExistsError as error:
        raise ConfigError(
            f"{folder}: {error}. Fix: use them, choose another folder, or --force to replace them "
            "on every machine"
        ) from error
    except OSError as error:
        fix = "free space there" if is_full(error) else "choose another folder"
        raise ConfigError(f"{folder}: {error.strerror}. Fix: {fix}") from error


def server_keys(folder: Path) -> ServerKeys:
    """Read the keys that a broker's server needs.

    Raises:
        ConfigError: server.json is missing, damaged, or others can read it.
    """
    names = {role: _public_name(role) for role in FILE_OF}
    keys = _read(folder, SERVER_FILE, ("server_secret", *names.values()))
    return ServerKeys(keys["server_secret"], {role: keys[name] for role, name in names.items()})


def client_keys(folder: Path, role: Role) -> ClientKeys:
    """The keys of a member of this role.

    Raises:
        ConfigError: the role's file is missing, damaged, or others can read it.
    """
    secret = _secret_name(role)
    keys = _read(folder, FILE_OF[role], (secret, "server_public"))
    return ClientKeys(keys[secret], keys["server_public"])


def _public_name(role: Role) -> str:
    return f"{role.value}_public"


def _secret_name(role: Role) -> str:
    """A file that took another's place is noticed by it."""
    return f"{role.value}_secret"


def _write(path: Path, keys: dict[str, bytes]) -> None:
    """A new file for its owner alone: at no moment can others read it."""
    content = json.dumps({name: key.decode("ascii") for name, key in keys.items()}, indent=2)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(content + "\n")


def _read(folder: Path, name: str, keys: tuple[str, ...]) -> dict[str, bytes]:
    content = _private_text(folder, name)
    try:
        found = json.loads(content)
        return {key: _checked(found[key]) for key in keys}
    except (ValueError, KeyError, TypeError, AttributeError, zmq.ZMQError):
        raise ConfigError(
            f"broker.keys = {str(folder)!r}: {name} holds no {' and '.join(keys)}. "
            "Fix: copy the file again, or make new keys (python -m broker.keys FOLDER)"
        ) from None  # the cause would show what may be a secret


def _private_text(folder: Path, name: str) -> str:
    path = folder / name
    try:
        return read_private(path).decode(errors="replace")
    except NotPrivate as error:
        raise ConfigError(
            f"broker.keys = {str(folder)!r}: others may use {name} (mode {error.mode:o}). "
            f"Fix: chmod 600 {path}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"broker.keys = {str(folder)!r}: {name}: {error.strerror}. Fix: make keys "
            "(python -m broker.keys FOLDER), or copy the file from where they were made"
        ) from error


def _checked(key: str) -> bytes:
    """The key, if it is one. Raises what _read catches otherwise."""
    encoded = key.encode("ascii")
    zmq.curve_public(encoded)  # decodes it
    return encoded


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
