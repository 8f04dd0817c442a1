"""Run by SGLang's Python, which has the `openai` client: one question with a picture, as anybody
would ask it.

    PYTHON ask.py URL KEY_FILE MODEL PICTURE QUESTION MAX_TOKENS

Nothing is set but the length: the server's defaults decide on thinking and sampling. Prints JSON.
"""

import base64
import json
import mimetypes
import sys
from pathlib import Path


def ask(
    url: str, key: str, model: str, picture: Path, question: str, max_tokens: int
) -> dict[str, object]:
    from openai import OpenAI

    kind = mimetypes.guess_type(picture.name)[0] or "image/jpeg"
    content = base64.b64encode(picture.read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{content}"}},
        {"type": "text", "text": question},
    ]
    client = OpenAI(base_url=f"{url}/v1", api_key=key, timeout=300.0, max_retries=0)
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": parts}], max_tokens=max_tokens
    )
    message = answer.choices[0].message
    assert answer.usage is not None
    return {
        "text": message.content,
        "reasoning": getattr(message, "reasoning_content", None),
        "finish_reason": answer.choices[0].finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "model": answer.model,
    }


if __name__ == "__main__":
    url, key_file, model, picture, question, max_tokens = sys.argv[1:]
    key = Path(key_file).read_text().strip()
    print(json.dumps(ask(url, key, model, Path(picture), question, int(max_tokens))))
