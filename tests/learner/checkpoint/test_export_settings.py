"""What an export has beside its weights: templates, end tokens, dtypes, nothing local."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from common.errors import CheckpointError, ConfigError
from common.rendering import Renderer
from learner.checkpoint import Checkpointer, find_checkpoint, restore
from learner.checkpoint.config_dtype import with_dtype
from learner.checkpoint.export_dtypes import dtypes_of
from learner.checkpoint.generation_config import with_end_tokens
from learner.checkpoint.local_traces import without_local_traces
from learner.checkpoint.side_files import list_side_files
from learner.checkpoint.start import read_start
from learner.checkpoint.templates import change_templates, replace_default
from learner.checkpoint.tensor_files import Form
from learner.checkpoint.thinking_default import default_to, knows_thinking
from learner.export import export, main, verify
from tests.learner.small_training import SmallTraining, small_config
from tests.learner.support import UNCLOSED
from tests.tiny_model import TEMPLATE, make_tiny_checkpoint

pytestmark = UNCLOSED
# The generation prompt's end, as the templates of Qwen3.5-4B, of Qwen3.5-0.8B and others have it.
UNLESS_TOLD_NOT_TO = (
    TEMPLATE + "{% if enable_thinking is defined and enable_thinking is false %} EMPTY"
    "{% else %} OPEN{% endif %}"
)
IF_TOLD_TO = (
    TEMPLATE + "{% if enable_thinking is defined and enable_thinking is true %} OPEN"
    "{% else %} EMPTY{% endif %}"
)
NO_THINKING = TEMPLATE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start of the Qwen3.5 form, as the hub has them: bfloat16 beside float32, an MTP head, and
    files that transformers does not write."""
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "start", family="qwen3_5")
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        is_kept = name.endswith(("A_log", "linear_attn.norm.weight"))
        weights[name] = tensor if is_kept else tensor.to(torch.bfloat16)
    weights["mtp.fc.weight"] = torch.arange(8, dtype=torch.float16)
    weights["mtp.count"] = torch.tensor([3])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes(
        with_dtype((folder / "config.json").read_bytes(), "bfloat16")
    )
    settings = {"temperature": 0.1, "eos_token_id": 0, "_from_model_config": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text('{"is_local": 7}')
    (folder / "LICENSE").write_text("mine")
    (folder / "README.md").write_text("benchmarks of another model")
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(UNLESS_TOLD_NOT_TO)
    return folder


def copy_of(start: Path, folder: Path, template: str = NO_THINKING) -> Path:
    copy = folder / "start"
    shutil.copytree(start, copy)
    (copy / "chat_template.jinja").write_text(template)
    return copy


def checkpoint_of(start: Path, folder: Path, **sections: dict[str, object]) -> Path:
    config = small_config(folder, start, **sections)
    training = SmallTraining(config)
    renderer = Renderer(str(start), config.prompt)
    with Checkpointer(folder, training, renderer, config, lambda *_: None) as saver:
        training.step()
        saver.save()
    return folder / "step-000001"


def texts(folder: Path) -> dict[str, str]:
    """The end of a rendered prompt, for a request that says nothing, true or false."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    turn = {"role": "user", "content": [{"type": "text", "text": "which digit ?"}]}

    def end(**options: bool) -> str:
        text: str = processor.apply_chat_template(
            [turn], tokenize=False, add_generation_prompt=True, **options
        )
        return text.rpartition("assistant")[2]

    return {
        "": end(), "true": end(enable_thinking=True), "false": end(enable_thinking=False),
    }  # fmt: skip


# ---- chat templates ------------------------------------------------------------------------------
@pytest.mark.parametrize("thinking", [True, False, None])
@pytest.mark.parametrize("template", [UNLESS_TOLD_NOT_TO, IF_TOLD_TO])
def test_a_template_thinks_by_default_as_in_training(
    tiny: Path, tmp_path: Path, template: str, thinking: bool | None
) -> None:
    start = copy_of(tiny, tmp_path, template)
    prompt: dict[str, object] = {} if thinking is None else {"thinking": thinking}
    source = checkpoint_of(start, tmp_path / "run", prompt=prompt)
    assert (source / "chat_template.jinja").read_text() == template
    facts = export(source, tmp_path / "out", "student")
    assert facts["thinking_default"] is bool(thinking)
    assert verify(tmp_path / "out")["exported_from"] == facts
    default = " OPEN" if thinking else " EMPTY"
    assert texts(tmp_path / "out") == {"": default, "true": " OPEN", "false": " EMPTY"}
    value = "true" if thinking else "false"
    first, *_ = (tmp_path / "out" / "chat_template.jinja").read_text().splitlines()
    assert first.startswith("{#- ") and f"enable_thinking = {value}" in first
    other = (tmp_path / "out" / "additional_chat_templates" / "tool_use.jinja").read_text()
    assert other.startswith(first)


def test_a_template_that_knows_no_thinking_stays(tmp_path: Path) -> None:
    source = checkpoint_of(make_tiny_checkpoint(tmp_path / "start"), tmp_path / "run")
    facts = export(source, tmp_path / "out", "student")
    assert facts["thinking_default"] is None
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == NO_THINKING


def test_a_plain_folder_keeps_its_template(tiny: Path, tmp_path: Path) -> None:
    start = copy_of(tiny, tmp_path, UNLESS_TOLD_NOT_TO)
    assert export(start, tmp_path / "out", "student")["thinking_default"] is None
    for name in list_side_files(start):
        if name != "tokenizer_config.json":
            assert (tmp_path / "out" / name).read_bytes() == (start / name).read_bytes(), name


@pytest.mark.parametrize("thinking", [True, False])
def test_the_command_says_what_it_did_to_the_template(
    tiny: Path, tmp_path: Path, thinking: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    start = copy_of(tiny, tmp_path, UNLESS_TOLD_NOT_TO)
    source = checkpoint_of(start, tmp_path / "run", prompt={"thinking": thinking})
    main([str(source), str(tmp_path / "out")])
    value = "true" if thinking else "false"
    said = capsys.readouterr().out
    assert f"enable_thinking = {value} is now its default" in said
    assert "--hf-chat-template-name default" in said


def test_a_default_is_set_once_and_the_last_one_holds() -> None:
    once = default_to(UNLESS_TOLD_NOT_TO, False)
    assert default_to(once, False) == once
    assert default_to(once, True) == default_to(UNLESS_TOLD_NOT_TO, True) != once
    assert default_to(NO_THINKING, True) == NO_THINKING


@pytest.mark.parametrize(
    ("template", "knows"),
    [("{# enable_thinking #}", False), ("{{ enable_thinking }}", True),
     ("{% generation %}{% if not enable_thinking %}{% endif %}", True), ("enabled", False)],
)  # fmt: skip
def test_what_counts_as_knowing_thinking(template: str, knows: bool) -> None:
    assert knows_thinking({"chat_template.jinja": template.encode()}) is knows


def test_every_place_of_a_template_is_changed() -> None:
    files = {
        "chat_template.jinja": b"a",
        "chat_template.json": b'{"chat_template": "a"}',
        "processor_config.json": b'{"chat_template": {"default": "a", "rag": "b"}, "x": 1}',
        "tokenizer_config.json": json.dumps(
            {"chat_template": [{"name": "default", "template": "a"},
                               {"name": "tool_use", "template": "b"}]}
        ).encode(),
        "additional_chat_templates/rag.jinja": b"b",
        "preprocessor_config.json": b'{"chat_template":  "none of ours"}',
    }  # fmt: skip
    new = replace_default(files, "new")
    assert new["chat_template.jinja"] == b"new"
    assert json.loads(new["chat_template.json"]) == {"chat_template": "new"}
    assert json.loads(new["processor_config.json"]) == {
        "chat_template": {"default": "new", "rag": "b"}, "x": 1,
    }  # fmt: skip
    assert json.loads(new["tokenizer_config.json"])["chat_template"] == [
        {"name": "default", "template": "new"}, {"name": "tool_use", "template": "b"},
    ]  # fmt: skip
    for name in ("additional_chat_templates/rag.jinja", "preprocessor_config.json"):
        assert new[name] == files[name]
    assert change_templates(files, lambda _, text: text) == files
    assert replace_default({}, "new") == {"chat_template.jinja": b"new"}


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json"])
def test_no_reader_sees_the_template_that_a_run_did_not_use(
    tiny: Path, tmp_path: Path, place: str
) -> None:
    from transformers import AutoProcessor, AutoTokenizer

    start = copy_of(tiny, tmp_path)
    shutil.rmtree(start / "additional_chat_templates")  # transformers takes no chat_template.json
    old = json.loads((start / place).read_text()) if (start / place).exists() else {}
    (start / place).write_text(json.dumps({**old, "chat_template": TEMPLATE + " old"}))
    (tmp_path / "own.jinja").write_text(TEMPLATE + " own")
    prompt: dict[str, object] = {"chat_template": tmp_path / "own.jinja"}
    source = checkpoint_of(start, tmp_path / "run", prompt=prompt)
    export(source, tmp_path / "out", "student")
    for folder in (source, tmp_path / "out"):
        for reader in (AutoProcessor, AutoTokenizer):
            loaded = reader.from_pretrained(folder)
            assert loaded.chat_template == TEMPLATE + " own", (folder, reader)


# ---- what the start has --------------------------------------------------------------------------
def test_all_that_the_start_has_is_in_checkpoint_and_export(tiny: Path, tmp_path: Path) -> None:
    source = checkpoint_of(tiny, tmp_path / "run")
    export(source, tmp_path / "out", "student")
    for name in (
        "tokenizer.json", "vocab.json", "processor_config.json", "LICENSE", "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
    ):  # fmt: skip
        assert (source / name).read_bytes() == (tiny / name).read_bytes(), name
        assert (tmp_path / "out" / name).is_file()
    assert (tmp_path / "out" / "vocab.json").read_text() == '{"is_local": 7}'
    for folder in (source, tmp_path / "out"):
        assert not (folder / "README.md").exists() and not (folder / "pytorch_model.bin").exists()
    files = verify(tmp_path / "out")["files"]
    assert "additional_chat_templates/tool_use.jinja" in files
    (tmp_path / "out" / "additional_chat_templates" / "tool_use.jinja").write_text("other")
    with pytest.raises(CheckpointError, match=r"tool_use\.jinja: it has"):
        verify(tmp_path / "out")


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_each_tensor_is_as_in_the_start(tiny: Path, tmp_path: Path, model: str) -> None:
    source = checkpoint_of(tiny, tmp_path / "run")
    export(source, tmp_path / "out", model)
    start, ours = (load_file(f / "model.safetensors") for f in (tiny, tmp_path / "out"))
    assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {
        n: (t.dtype, t.shape) for n, t in start.items()
    }
    assert {torch.bfloat16, torch.float32, torch.float16, torch.int64} == {
        tensor.dtype for tensor in ours.values()
    }
    for name in ("mtp.fc.weight", "mtp.count"):
        assert torch.equal(ours[name], start[name])
    trained = load_file(source / "model.safetensors")
    assert not any(name.startswith("mtp.") for name in trained), "servers load all that is there"
    name = "model.language_model.layers.0.linear_attn.A_log"
    if model == "student":
        assert torch.equal(ours[name], trained[name])
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(
        (tiny / "config.json").read_text()
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_unknown_tensors_keep_their_dtype_whatever_is_asked(
    tiny: Path, tmp_path: Path, dtype: str
) -> None:
    export(checkpoint_of(tiny, tmp_path / "run"), tmp_path / "out", "student", dtype)
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(ours["mtp.fc.weight"], torch.arange(8, dtype=torch.float16))
    assert ours["model.language_model.layers.0.linear_attn.A_log"].dtype == torch.float32
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == dtype


def test_a_run_resumes_and_another_starts_from_such_a_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    source = checkpoint_of(tiny, tmp_path / "run")
    config = small_config(tmp_path / "run", tiny)
    checkpoint = find_checkpoint(tmp_path / "run", config)
    assert checkpoint is not None
    training = SmallTraining(config, version=checkpoint.version)
    restore(checkpoint, training)
    again = checkpoint_of(source, tmp_path / "second")
    assert not (again / "teacher" / "config.json").exists()
    export(again, tmp_path / "out", "student")
    start, ours = (load_file(f / "model.safetensors") for f in (tiny, tmp_path / "out"))
    assert {n: t.dtype for n, t in ours.items()} == {n: t.dtype for n, t in start.items()}
    assert torch.equal(ours["mtp.fc.weight"], start["mtp.fc.weight"])
    assert (again / "training/config.json").read_bytes() == (tiny / "config.json").read_bytes()


def test_an_older_checkpoint_is_exported_in_bfloat16(tiny: Path, tmp_path: Path) -> None:
    source = checkpoint_of(tiny, tmp_path / "run")
    state = json.loads((source / "state.json").read_text())
    state = {key: state[key] for key in ("version", "seed", "oldest", "names_in_files", "files")}
    (source / "state.json").write_text(json.dumps(state))
    export(source, tmp_path / "out", "student")
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        is_kept = name.endswith(("A_log", "linear_attn.norm.weight"))
        if not name.startswith("mtp."):
            assert tensor.dtype == (torch.float32 if is_kept else torch.bfloat16), name


def test_a_tensor_that_the_start_has_by_no_such_name_is_as_most_of_it() -> None:
    start = {"a": "bfloat16", "b": "bfloat16", "c": "float32", "d": "float16"}
    dtypes = dtypes_of("start", {"dtypes": start})
    expected = {"c": "float32", "joined": "bfloat16", "x.linear_attn.A_log": "float32"}
    for name, dtype in expected.items():
        form = dtypes.form(name, Form(torch.float32, (2, 3)))
        assert form == Form(getattr(torch, dtype), (2, 3)), name
    assert dtypes.form("a", Form(torch.int64, ())) == Form(torch.int64, ())


def test_what_has_other_names_in_the_start_is_not_taken_for_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = make_tiny_checkpoint(tmp_path / "start")
    config = small_config(tmp_path, start)
    training = SmallTraining(config)
    weights = load_file(start / "model.safetensors")
    renamed = {name.replace("language_model", "text"): tensor for name, tensor in weights.items()}
    save_file({**renamed, "mtp.x": torch.ones(2)}, start / "model.safetensors")
    assert read_start(config, training.model, [2]).unknown == ()
    assert "checkpoints go without them" in caplog.text
    save_file({**weights, "mtp.x": torch.ones(2)}, start / "model.safetensors")
    assert read_start(config, training.model, [2]).unknown == ("mtp.x",)


def test_an_old_head_beside_a_tied_one_is_not_copied(tmp_path: Path) -> None:
    start = make_tiny_checkpoint(tmp_path / "start")
    weights = load_file(start / "model.safetensors")
    weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"].clone()
    save_file(weights, start / "model.safetensors", {"format": "pt"})
    export(checkpoint_of(start, tmp_path / "run"), tmp_path / "out", "student")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_a_start_that_is_gone_is_said_before_the_first_step(tiny: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", tiny)
    training, renderer = SmallTraining(config), Renderer(str(tiny))
    gone = small_config(tmp_path / "run", tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"model.path = .*gone': no such folder.* Fix: "):
        Checkpointer(tmp_path / "run", training, renderer, gone, lambda *_: None)
    start = copy_of(tiny, tmp_path)
    config = small_config(tmp_path / "run", start)
    with Checkpointer(tmp_path / "run", training, renderer, config, lambda *_: None) as saver:
        shutil.rmtree(start)
        training.step()
        saver.save()
    export(tmp_path / "run" / "step-000001", tmp_path / "out", "student")
    assert "mtp.fc.weight" in load_file(tmp_path / "out" / "model.safetensors")


# ---- end tokens ----------------------------------------------------------------------------------
def test_the_export_names_every_token_that_ended_a_response(tiny: Path, tmp_path: Path) -> None:
    source = checkpoint_of(tiny, tmp_path / "run")
    old = json.loads((tiny / "generation_config.json").read_text())
    assert json.loads((source / "generation_config.json").read_text()) == old
    export(source, tmp_path / "out", "student")
    new = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert new == {**old, "eos_token_id": [0, 2]}, "<|endoftext|> and <|im_end|>"


@pytest.mark.parametrize(
    ("named", "ids", "expected"),
    [(2, [2], 2), ([2, 0], [0, 2], [2, 0]), (2, [0, 2], [2, 0]), (None, [2], 2),
     ([9, 2], [2], 2), (3, [], 3)],
)  # fmt: skip
def test_end_tokens_change_only_where_some_are_missing(
    named: Any, ids: list[int], expected: Any
) -> None:
    files = {"generation_config.json": json.dumps({"eos_token_id": named, "x": 1}).encode()}
    new = with_end_tokens(files, ids)
    assert json.loads(new["generation_config.json"]) == {"eos_token_id": expected, "x": 1}
    assert (new == files) is (expected == named)


def test_a_folder_without_a_generation_config_gets_one() -> None:
    assert json.loads(with_end_tokens({}, [0, 2])["generation_config.json"]) == {
        "eos_token_id": [0, 2]
    }
    assert with_end_tokens({}, []) == {}


# ---- nothing local -------------------------------------------------------------------------------
LOCAL = {
    "is_local": True, "local_files_only": False, "_name_or_path": "/data/models/mine",
    "name_or_path": "mine", "_commit_hash": "af00", "tokenizer_file": "/srv/cache/tokenizer.json",
    "special_tokens_map_file": "C:\\Users\\me\\map.json", "audio": "~/x", "url": "file:///etc/x",
}  # fmt: skip
KEPT = {
    "content": "/a/b", "think": "/think", "chat_template": "{{ x }}", "model_type": "qwen3_vl",
    "mean": [0.5], "id": "Qwen/Qwen3", "home": "https://huggingface.co/Qwen",
}  # fmt: skip


def test_nothing_local_leaks() -> None:
    document = {**LOCAL, **KEPT, "text_config": {**LOCAL, **KEPT}, "parts": [{**LOCAL, **KEPT}]}
    clean = without_local_traces("config.json", json.dumps(document).encode())
    assert json.loads(clean) == {**KEPT, "text_config": KEPT, "parts": [KEPT]}


def test_what_has_nothing_local_keeps_its_bytes() -> None:
    content = b'{ "x":1.00,"\\u00e9": [ ]}'
    assert without_local_traces("tokenizer_config.json", content) is content
    vocabulary = b'{"is_local": 7, "/a/b": 8}'
    assert without_local_traces("vocab.json", vocabulary) is vocabulary
    assert without_local_traces("merges.txt", b"/a/b c") == b"/a/b c"
    with pytest.raises(ValueError, match=r"broken\.json: "):
        without_local_traces("broken.json", b"{")


def test_an_export_of_any_source_has_nothing_local(tiny: Path, tmp_path: Path) -> None:
    start = copy_of(tiny, tmp_path)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        old = json.loads((start / name).read_text())
        (start / name).write_text(json.dumps({**old, **LOCAL}))
    (start / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2], **LOCAL}))
    for number, source in enumerate((start, checkpoint_of(tiny, tmp_path / "run"))):
        out = tmp_path / f"out{number}"
        export(source, out, "student")
        for path in out.rglob("*.json"):
            text = path.read_text()
            assert str(tmp_path) not in text and str(tiny) not in text
            if path.name not in ("vocab.json", "tokenizer.json"):
                assert not any(f'"{key}"' in text for key in LOCAL), path


# ---- dtype in config.json ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "float16"}, {"dtype": "float32"}),
        ({"torch_dtype": "float16"}, {"torch_dtype": "float32"}),
        ({"text_config": {"dtype": "float16"}}, {"text_config": {"dtype": "float32"}}),
        (
            {"torch_dtype": "float16", "vision_config": {"x": 1}},
            {"torch_dtype": "float32", "vision_config": {"x": 1}},
        ),
        ({}, {"dtype": "float32"}),
        ({"transformers_version": "4.57.0"},
         {"transformers_version": "4.57.0", "torch_dtype": "float32"}),
        (
            {"vision_config": {"torch_dtype": "float16"}},
            {"vision_config": {"torch_dtype": "float32"}, "torch_dtype": "float32"},
        ),
        (
            {"dtype": "float16", "quantization_config": {"dtype": "int4"}},
            {"dtype": "float32", "quantization_config": {"dtype": "int4"}},
        ),
    ],
)  # fmt: skip
def test_a_dtype_is_named_as_the_start_names_it(
    config: dict[str, Any], expected: dict[str, Any]
) -> None:
    new = with_dtype(json.dumps(config).encode(), "float32")
    assert json.loads(new) == expected
    assert with_dtype(new, "float32") is new


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), JSON))
def test_a_config_differs_in_its_dtype_alone(config: dict[str, Any]) -> None:
    new = json.loads(with_dtype(json.dumps(config).encode(), "bfloat16"))
    assert new == {**config, "dtype": "bfloat16"}
