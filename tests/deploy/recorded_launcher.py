"""A launcher's API without a run: it answers with what FOLDER/answer.json holds.

It is a process of its own, as a launcher is: python tests/deploy/recorded_launcher.py FOLDER
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import lifecycle
from deploy.supervision.launcher_api import listening


async def main(stop: asyncio.Event) -> None:
    folder = Path(sys.argv[1])

    def answer() -> dict[str, object]:
        told: dict[str, object] = json.loads((folder / "answer.json").read_text())
        return told

    async with listening(folder, answer, lambda wish: wish):
        print("listens", flush=True)
        await stop.wait()


if __name__ == "__main__":
    lifecycle.run(main)
