#!/usr/bin/env bash
# transformers 5.19.0: with chat_template.json and chat_template.jinja in one folder, the processor renders by the
# one and the tokenizer by the other, without a word.
#
# chat_template.json is the older place, which only processors read; where it is there, they pass over
# chat_template.jinja. Tokenizers read chat_template.jinja and never the other. So a folder of an older model
# (Qwen2.5-VL and Qwen3-VL have the .json) whose template was saved anew or corrected as .jinja gives two
# different prompts, by which of the two a program loads: servers and trainers differ in that.
#
# Seen:
#   processor: from chat_template.json
#   tokenizer: from chat_template.jinja
#
# Exits with 1 when that has changed. Downloads about 40 MB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.19.0
"$folder/venv/bin/python" - "$folder/model" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, ProcessorMixin

folder = Path(sys.argv[1])
words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
(folder / "processor_config.json").write_text("{}")
(folder / "chat_template.jinja").write_text("from chat_template.jinja")
(folder / "chat_template.json").write_text(json.dumps({"chat_template": "from chat_template.json"}))
settings, _ = ProcessorMixin.get_processor_dict(folder)
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
found = settings["chat_template"], tokenizer.chat_template
print(f"processor: {found[0]}\ntokenizer: {found[1]}")
sys.exit(found != ("from chat_template.json", "from chat_template.jinja"))
PYTHON
