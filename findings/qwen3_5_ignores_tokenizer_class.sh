#!/usr/bin/env bash
# transformers 5.19.0 (and 5.24.0): in a folder of model type qwen3_5, AutoTokenizer passes over the tokenizer_class that
# tokenizer_config.json names and over most of tokenizer.json: words that the file knows are tokenised to nothing.
#
# For other Qwen types the class that is named counts: PreTrainedTokenizerFast takes tokenizer.json as it is. For
# qwen3_5 the type's own class is taken whatever is named, and it builds its own byte-level pre-tokenizer round the
# vocabulary. So a Qwen3.5 with a tokenizer of its own (another vocabulary or splitting, small test models) gets
# other token ids from AutoTokenizer and AutoProcessor than from the library `tokenizers`, without a word.
#
# Seen:
#   tokenizer.json itself: [3, 1, 2]
#   qwen3_vl: PreTrainedTokenizerFast? True, [3, 1, 2]
#   qwen3_5: PreTrainedTokenizerFast? False, []
#
# Exits with 1 when that has changed. Downloads about 40 MB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.19.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<unk>": 0, "red": 1, "car": 2, "the": 3}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
print(f"tokenizer.json itself: {words.encode('the red car').ids}")
found = {}
for model_type in ("qwen3_vl", "qwen3_5"):
    folder = Path(sys.argv[1]) / model_type
    folder.mkdir()
    words.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    named = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    is_named = type(tokenizer) is PreTrainedTokenizerFast
    found[model_type] = is_named, tokenizer("the red car")["input_ids"]
    print(f"{model_type}: PreTrainedTokenizerFast? {is_named}, {found[model_type][1]}")
sys.exit(found != {"qwen3_vl": (True, [3, 1, 2]), "qwen3_5": (False, [])})
PYTHON
