#!/usr/bin/env bash
# transformers 5.19.0: resizing twice, as Qwen's own tools do (qwen-vl-utils, then the processor), refuses a
# picture that resizing once takes.
#
# smart_resize allows a side ratio of up to 200 and then rounds each side to a multiple of patch x merge. A
# picture of 40 x 8000 pixels (200) becomes 32 x 8000 (250): the second call raises ValueError on what the
# first one made. Between a data set and a model there are often two such calls, so a picture at the edge
# passes a check of its own and fails later.
#
# Seen, with factor 32 (Qwen3-VL, Qwen3.5):
#   once:  32 x 8000
#   twice: ValueError: absolute aspect ratio must be smaller than 200, got 250.0
#
# Exits with 1 when that has changed. Downloads about 40 MB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.19.0 pillow==12.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

limits = {"factor": 32, "min_pixels": 65536, "max_pixels": 16777216}
once = smart_resize(8000, 40, **limits)
print(f"once:  {once[1]} x {once[0]}")
try:
    twice = smart_resize(*once, **limits)
except ValueError as error:
    print(f"twice: ValueError: {error}")
    sys.exit(0 if once == (8000, 32) else 1)
print(f"twice: {twice[1]} x {twice[0]}")
sys.exit(1)
PYTHON
