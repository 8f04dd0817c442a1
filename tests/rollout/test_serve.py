"""rollout.serve: what it takes and refuses; a real server of each engine, against transformers."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.engines.sglang import VENV
from common.errors import ConfigError
from rollout.serve import main, read_arguments, welcome
from rollout.serving_checkpoint import check_checkpoint, served_checkpoint, server_flags
from tests.rollout.support import (
    KEY,
    QUESTION,
    QUICKSTART,
    ROOT,
    Served,
    alive,
    ask,
    chat_body,
    reference,
)

PYTHON = ["--sglang.python", sys.executable]  # where nothing is started, SGLang may be missing
THINKS_BY_DEFAULT = r"""
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' -}}
{%- else -%}
{{- '<|im_start|>assistant\n<think>\n' -}}
{%- endif -%}
"""


def test_short_flags_stand_for_keys_of_the_configuration(tmp_path: Path) -> None:
    key = tmp_path / "key"
    config = read_arguments(
        [str(QUICKSTART), "--host=0.0.0.0", "--port", "4000", "--api-key-file", str(key),
         "--weights.dtype", "float32", *PYTHON]
    )  # fmt: skip
    assert (config.rollout.host, config.rollout.port) == ("0.0.0.0", 4000)
    assert config.sglang.api_key_file == key
    assert config.weights.dtype == "float32"
    assert config.model.path == str(QUICKSTART)


def test_it_listens_on_loopback_by_default_whatever_engine_the_run_had(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[rollout]\nengine = "embedded"\n[model]\npath = "elsewhere"\n')
    config = read_arguments([str(QUICKSTART), "--config", str(file), *PYTHON])
    assert (config.rollout.host, config.rollout.port) == ("127.0.0.1", 30000)
    assert (config.rollout.engine, config.model.path) == ("sglang", str(QUICKSTART))


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "*.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
        ("processor_config.json", "processor_config.json"),
        ("chat_template.jinja", "chat_template.jinja"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path, missing: str, named: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(QUICKSTART, folder)
    check_checkpoint(folder)
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=re.escape(named)) as error:
        check_checkpoint(folder)
    assert "Fix: " in str(error.value) and str(folder) in str(error.value)


def test_weights_that_do_not_belong_to_the_model_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(QUICKSTART, folder)
    shutil.copy(folder / "model.safetensors", folder / "teacher.safetensors")
    with pytest.raises(ConfigError, match="SGLang would load it over the model"):
        read_arguments([str(folder)])
    assert read_arguments([str(folder), "--engine", "embedded"]).rollout.engine == "embedded"


def test_without_sglangs_environment_the_other_engine_is_named(tmp_path: Path) -> None:
    missing = ["--sglang.python", str(tmp_path / "python")]
    with pytest.raises(ConfigError, match=r"no such program.*--engine embedded"):
        read_arguments([str(QUICKSTART), *missing])
    config = read_arguments([str(QUICKSTART), *missing, "--engine", "embedded"])
    assert config.rollout.engine == "embedded"


def test_the_embedded_engine_is_told_what_sglang_is_told(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(THINKS_BY_DEFAULT)
    options = ["--engine=embedded", "--prompt.chat_template", str(own)]
    for thinking in ("false", "true"):
        flags = server_flags(
            read_arguments([str(QUICKSTART), *options, "--prompt.thinking", thinking])
        )
        shared = ["--served-model-name", "checkpoint", "--no-commands", "--chat-template", str(own)]
        assert flags == [*shared, *(["--thinking"] if thinking == "true" else [])]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.engine"):
        read_arguments([str(QUICKSTART), "--engine", "steam"])


def test_no_folder_at_all_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["/nowhere", "--port", "1"])
    assert end.value.code == 2
    assert "no such folder. Fix: " in capsys.readouterr().err


def test_an_option_first_is_refused() -> None:
    with pytest.raises(ConfigError, match="where the checkpoint belongs"):
        read_arguments(["--port", "1"])


def test_the_model_is_called_like_its_folder_and_does_not_think() -> None:
    flags = server_flags(read_arguments([str(QUICKSTART), *PYTHON]))
    assert flags[flags.index("--served-model-name") + 1] == "checkpoint"
    assert "--default-chat-template-kwargs" not in flags  # this template knows no switch


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "own.jinja"])
def test_a_template_with_a_switch_is_given_the_configured_mode(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(QUICKSTART, folder)
    is_json = place.endswith("json")
    text = json.dumps({"chat_template": THINKS_BY_DEFAULT}) if is_json else THINKS_BY_DEFAULT
    (folder / place).write_text(text)
    own = ["--prompt.chat_template", str(folder / place)] if place == "own.jinja" else []
    for thinking in (False, True):
        mode = ["--prompt.thinking", str(thinking).lower()]
        flags = server_flags(read_arguments([str(folder), *own, *mode, *PYTHON]))
        assert json.loads(flags[-1]) == {"enable_thinking": thinking}


def test_of_several_templates_the_default_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(QUICKSTART, folder)
    assert "--hf-chat-template-name" not in server_flags(read_arguments([str(folder), *PYTHON]))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "a.jinja").write_text("another")
    flags = server_flags(read_arguments([str(folder), *PYTHON]))
    assert flags[flags.index("--hf-chat-template-name") + 1] == "default"
    (tmp_path / "own.jinja").write_text("own")
    own = ["--prompt.chat_template", str(tmp_path / "own.jinja")]
    assert "--hf-chat-template-name" not in server_flags(
        read_arguments([str(folder), *own, *PYTHON])
    )


def test_another_harness_is_given_url_name_and_the_keys_file(tmp_path: Path) -> None:
    key = tmp_path / "a key"
    url = "http://127.0.0.1:1/v1"
    text = welcome(url, "my model", key)
    (line,) = [line for line in text.splitlines() if "lmms-eval --model" in line]
    variable, *words = shlex.split(line)
    assert variable == f"OPENAI_API_KEY=$(cat '{key}')"
    assert words[:5] == [
        "lmms-eval", "--model", "async_openai", "--model_args", f"base_url={url},model=my model"
    ]  # fmt: skip
    assert "hrbench" not in line


def test_the_printed_evaluation_is_one_that_can_be_read(tmp_path: Path) -> None:
    from rollout.evaluate import _arguments

    text = welcome("http://127.0.0.1:1/v1", "m", tmp_path / "key")
    (line,) = [line for line in text.splitlines() if "-m rollout.evaluate" in line]
    options, further = _arguments(shlex.split(line)[3:])
    assert (options.endpoint, further) == ("http://127.0.0.1:1/v1", [])
    assert options.api_key_file == tmp_path / "key"


def test_the_printed_commands_show_the_files_name_only(tmp_path: Path) -> None:
    key = tmp_path / "a key"
    text = welcome("http://127.0.0.1:1/v1", "checkpoint", key)
    assert f"""OPENAI_BASE_URL=http://127.0.0.1:1/v1 OPENAI_API_KEY="$(cat '{key}')\"""" in text
    assert f"""-H @<(printf 'Authorization: Bearer %s' "$(cat '{key}')")""" in text


@pytest.fixture(scope="module")
def picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module", params=["embedded", "sglang"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A checkpoint whose template thinks unless it is told not to."""
    if request.param == "sglang" and not VENV.exists():
        pytest.fail("no .venv-sglang. Fix: run deploy/setup.sh sglang")
    folder = tmp_path_factory.mktemp("served")
    checkpoint = folder / "thinker"
    shutil.copytree(QUICKSTART, checkpoint)
    template = (checkpoint / "chat_template.jinja").read_text()
    head, _, _ = template.partition("{%- if add_generation_prompt -%}")
    (checkpoint / "chat_template.jinja").write_text(head + THINKS_BY_DEFAULT)
    server = Served(checkpoint, folder, request.param)
    try:
        server.wait(170)
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.slow
def test_logprobs_of_a_chat_with_an_image_are_those_of_transformers(
    served: Served, picture: bytes
) -> None:
    answer = ask(
        served, picture, logprobs=True, return_token_ids=True, temperature=1.0, seed=1, max_tokens=8
    )
    (choice,) = answer["choices"]
    response = choice["response_token_ids"]
    prompt, expected = reference(served.checkpoint, picture, response)
    assert choice["prompt_token_ids"] == prompt  # the template's short way, without thinking
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    np.testing.assert_allclose(logprobs, expected.numpy(), atol=1e-4, rtol=0)
    assert choice["message"]["content"] and answer["model"] == "thinker"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate", "/pause_generation"])
def test_the_key_is_demanded(served: Served, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer another"}):
        request = urllib.request.Request(
            served.url + path, b"{}", {"Content-Type": "application/json", **headers}
        )
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=30)
        assert refusal.value.code == 401
        refusal.value.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/pause_generation", "/update_weights_from_disk"])
def test_the_key_lets_nobody_command_the_server(served: Served, path: str) -> None:
    request = urllib.request.Request(
        served.url + path,
        b"{}",
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=30)
    assert refusal.value.code == 401
    refusal.value.close()


@pytest.mark.slow
def test_the_key_is_in_no_log_and_on_no_command_line(served: Served) -> None:
    assert KEY not in served.report()
    pids = [str(pid) for pid in [served.process.pid, *served.session()]]
    # Ours, the server, and SGLang's scheduler and detokenizer.
    assert len(pids) >= (4 if served.engine == "sglang" else 2)
    listed = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", ",".join(pids)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    program = "launch.py" if served.engine == "sglang" else "rollout.embedded"
    assert program in listed and KEY not in listed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_printed_command_works(served: Served, picture: bytes) -> None:
    command = "(printf" + served.output.read_text().partition("(printf")[2]
    (served.folder / "IMAGE.png").write_bytes(picture)
    answered = subprocess.run(
        ["bash", "-c", command], cwd=served.folder, capture_output=True, text=True, timeout=60
    )
    assert json.loads(answered.stdout)["choices"][0]["message"]["content"], answered


@pytest.mark.slow
def test_openais_client_is_served(served: Served, picture: bytes) -> None:
    python = VENV / "bin" / "python"  # which has it
    if not python.exists():
        pytest.skip("no .venv-sglang, which has the client")
    (served.folder / "IMAGE.png").write_bytes(picture)
    ask = ROOT / "tests" / "rehearsal" / "ask.py"
    words = [served.url, "key", "thinker", "IMAGE.png", QUESTION, "8"]
    answered = subprocess.run(
        [python, ask, *words], cwd=served.folder, capture_output=True, text=True, timeout=60
    )
    assert answered.returncode == 0, answered.stderr
    answer = json.loads(answered.stdout)
    assert answer["text"] and answer["reasoning"] is None and answer["model"] == "thinker"
    assert answer["completion_tokens"] <= 8


@pytest.mark.slow
def test_sigterm_ends_it_and_leaves_no_process(served: Served) -> None:
    assert len(served.session()) >= (3 if served.engine == "sglang" else 1)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    assert served.session() == []


@pytest.mark.slow
async def test_a_program_is_served_for_as_long_as_a_block_runs(
    picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = ["--weights.dtype", "float32", "--rollout.threads", "1"]
    async with served_checkpoint(QUICKSTART, "embedded", options=options) as endpoint:
        assert endpoint.model == "checkpoint" and endpoint.key is not None
        assert endpoint.key not in repr(endpoint)
        body = chat_body(picture, model=endpoint.model, temperature=0, max_tokens=8)
        headers = {"Authorization": f"Bearer {endpoint.key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{endpoint.url}/chat/completions", json=body) as response,
        ):
            answer = await response.json()
        assert answer["choices"][0]["message"]["content"].startswith("The red tag shows ")
        pid = endpoint.engine.pid
    assert not alive(pid)
    assert list(tmp_path.iterdir()) == []  # neither key nor log is left
