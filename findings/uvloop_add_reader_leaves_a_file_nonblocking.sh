#!/usr/bin/env bash
# uvloop 0.23.0: loop.add_reader(fd, ...) makes the open file non-blocking, and it stays so after
# loop.remove_reader(fd) and after the loop is closed. asyncio's own loop leaves the flag alone.
#
# The flag belongs to the open file, not to the descriptor: a terminal that standard input, output and the shell
# behind them share is non-blocking for all of them. A program that reads single keys in this way then fails to
# write a long screen ("Resource temporarily unavailable"), and so does a shell command after it. A descriptor of
# one's own (open("/dev/tty") for a terminal) keeps the flag from the others.
#
# Seen, for the reading end of a pipe and a copy of it (os.dup):
#             before   while read   after remove_reader, loop closed
#   asyncio   blocking   blocking   blocking
#   uvloop    blocking   not        not
#
# Exits with 1 when that has changed. Downloads 5 MB; needs Linux.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvloop==0.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import os

import uvloop


def blocking_with(new_loop):
    reading, writing = os.pipe()
    copy = os.dup(reading)  # as standard output is one of standard input in a terminal
    seen = [os.get_blocking(copy)]
    loop = new_loop()
    loop.add_reader(reading, lambda: None)
    seen.append(os.get_blocking(copy))
    loop.remove_reader(reading)
    loop.close()
    seen.append(os.get_blocking(copy))
    for descriptor in (reading, writing, copy):
        os.close(descriptor)
    return seen


plain, quick = blocking_with(asyncio.new_event_loop), blocking_with(uvloop.new_event_loop)
print(f"blocking before, while read, after: asyncio {plain}, uvloop {quick}")
assert plain == [True, True, True] and quick == [True, False, False]
PYTHON
