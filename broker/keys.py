"""CURVE keys for the broker's sockets: python -m broker.keys FOLDER makes them.

  server.json   the broker's secret, the members' public key     stays with the broker
  member.json   the members' secret, the broker's public key     on every machine with a member

All members share one key: whoever holds member.json may join. Keys are Z85 text, as ZeroMQ has it.
"""

import argparse
import json
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from common.errors import ConfigError
from common.output import ends_with_its_reader

SERVER_FILE, MEMBER_FILE = "server.json", "member.json"


@dataclass(frozen=True)
class ServerKeys:
    """What the broker needs: it proves who it is, and lets in whoever has the members' key."""

    server_secret: bytes = field(repr=False)
    member_public: bytes


@dataclass(frozen=True)
class MemberKeys:
    """What a member needs: it proves that it may join, and talks to this broker alone."""

    member_secret: bytes = field(repr=False)
    server_public: bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m broker.keys", description="Makes the keys that broker and members share."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the two files go")
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
        f"{folder / SERVER_FILE}   keep it on the broker's machine\n"
        f"{folder / MEMBER_FILE}   copy it to every other machine of the run (scp -p, mode 600); "
        "whoever holds it may join\n"
        f"broker:  --broker.keys {folder} --broker.address tcp://0.0.0.0:5570\n"
        f"others:  --broker.keys {folder} --broker.address tcp://HOST:5570"
    )


def make_keys(folder: Path, *, replace: bool = False) -> None:
    """Write both files for a new pair of key pairs.

    Raises:
        ConfigError: there are keys already and `replace` is false, or they cannot be written.
    """
    server_public, server_secret = zmq.curve_keypair()
    member_public, member_secret = zmq.curve_keypair()
    server = {"server_secret": server_secret, "member_public": member_public}
    member = {"member_secret": member_secret, "server_public": server_public}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (SERVER_FILE, MEMBER_FILE):
            if replace:
                (folder / name).unlink(missing_ok=True)
            elif (folder / name).exists():
                raise FileExistsError(f"there are keys already ({name})")
        _write(folder / SERVER_FILE, server)
        _write(folder / MEMBER_FILE, member)
    except FileExistsError as error:
        raise ConfigError(
            f"{folder}: {error}. Fix: use them, choose another folder, or --force to replace them "
            "on every machine"
        ) from error
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}. Fix: choose another folder") from error


def server_keys(folder: Path) -> ServerKeys:
    """
    Raises:
        ConfigError: server.json is missing, damaged, or others can read it.
    """
    keys = _read(folder, SERVER_FILE, ("server_secret", "member_public"))
    return ServerKeys(**keys)


def member_keys(folder: Path) -> MemberKeys:
    """
    Raises:
        ConfigError: member.json is missing, damaged, or others can read it.
    """
    keys = _read(folder, MEMBER_FILE, ("member_secret", "server_public"))
    return MemberKeys(**keys)


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
        with path.open(encoding="utf-8", errors="replace") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    f"broker.keys = {str(folder)!r}: others may use {name} (mode {mode:o}). "
                    f"Fix: chmod 600 {path}"
                )
            return file.read()
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
