"""Writes down what a broker says of itself, a line of JSON ten times a second, until it is gone.

python -m tests.hosts.observer ADDRESS KEYS_FOLDER FILE
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from broker.client import BrokerClient
from broker.net.transport import zmq_link
from broker.protocol import Role
from common.config_cli import build
from common.errors import BrokerUnavailable

_PAUSE_S = 0.1


async def observe(address: str, keys: Path, file: Path) -> None:
    config = build({"broker": {"address": address, "keys": keys}})
    link = zmq_link(config.broker, Role.OBSERVER)
    with contextlib.suppress(BrokerUnavailable), file.open("w") as lines:
        async with BrokerClient(
            address, "observer", Role.OBSERVER, request_timeout_s=1.0, tries=60, link=link
        ) as broker:
            while True:
                status = await broker.status()
                members = {one.member_id: one.acknowledged_version for one in status.members}
                row = {"version": status.version, "members": members, "counts": status.counts}
                row["expired_by_reason"] = status.expired_by_reason
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    asyncio.run(observe(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
