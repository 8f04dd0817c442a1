#!/usr/bin/env bash
# pyarrow 26.0.1: ParquetFile(buffer_size=...) bounds the memory of iter_batches only together with
# pre_buffer=False. Each of the two alone leaves it as if neither were given.
#
# A data set with its pictures inside one row group of Parquet is read a few rows at a time, with a read buffer
# of 1 MiB: iter_batches(8) still holds the column's whole chunk, because the default pre_buffer=True reads it
# ahead and the buffer is then never used. pre_buffer=False without a buffer size reads the chunk at once, too.
#
# Seen, for 256 MiB of pictures of 1 MiB, beyond the interpreter with pyarrow (MiB, peak):
#   defaults                                 about 290
#   buffer_size=1 MiB                        about 290
#   pre_buffer=False                         about 290
#   pre_buffer=False, buffer_size=1 MiB      about  35
#
# Exits with 1 when that has changed. Downloads about 50 MB; needs Linux, 300 MB of disk and 500 MB of memory.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import os

import pyarrow as pa
import pyarrow.parquet as pq

schema = pa.schema([("picture", pa.binary())])
options = {"compression": "none", "use_dictionary": False, "write_batch_size": 1}
with pq.ParquetWriter("pictures.parquet", schema, **options) as writer:
    writer.write_table(pa.table({"picture": [os.urandom(2**20) for _ in range(256)]}))
PYTHON
cat >read.py <<'PYTHON'
import json
import resource
import sys

import pyarrow.parquet as pq


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


before = peak_mib()
rows = 0
for batch in pq.ParquetFile("pictures.parquet", **json.loads(sys.argv[1])).iter_batches(8, use_threads=False):
    rows += batch.num_rows
assert rows == 256
print(peak_mib() - before)
PYTHON
defaults=$(venv/bin/python read.py '{}')
buffer=$(venv/bin/python read.py '{"buffer_size": 1048576}')
no_ahead=$(venv/bin/python read.py '{"pre_buffer": false}')
both=$(venv/bin/python read.py '{"pre_buffer": false, "buffer_size": 1048576}')
printf 'defaults %s, buffer_size %s, pre_buffer=False %s, both %s MiB\n' "$defaults" "$buffer" "$no_ahead" "$both"
[ "$defaults" -gt 200 ] && [ "$buffer" -gt 200 ] && [ "$no_ahead" -gt 200 ] && [ "$both" -lt 100 ]
