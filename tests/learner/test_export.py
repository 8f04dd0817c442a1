"""learner.export: what transformers and the real SGLang make of it, and that its source stays."""

import json
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from common.errors import CheckpointError, ConfigError
from common.files import sha256_of_file
from common.rendering import Renderer
from learner.checkpoint import Checkpointer
from learner.export import DTYPES, export, main, verify
from learner.model.lora import iterate_merged
from tests.learner.small_training import SmallTraining, small_config
from tests.learner.support import UNCLOSED
from tests.rollout.support import QUICKSTART, Served, ask, reference
from tests.tiny_model import FAMILIES, PROBLEM, make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RESPONSE = [7, 11, 12, 13]
# transformers 5.19's Glm4vProcessor makes an array of a tensor.
ARRAYS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make_checkpoint(folder: Path, family: str = "qwen3_vl", tie_head: bool = True) -> Path:
    """Three steps: student and teacher differ."""
    model = make_tiny_checkpoint(folder / "model", family=family, tie_head=tie_head)
    config = small_config(folder, model)
    training = SmallTraining(config)
    renderer = Renderer(str(model))
    with Checkpointer(folder, training, renderer, config, lambda *_: None) as saver:
        for _ in range(3):
            training.step()
        saver.save()
    return folder / "step-000003"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("exported"))


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in files}


def logprobs(folder: Path, weights: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """[R]: of RESPONSE, by transformers, in float32 arithmetic; `weights` replace the folder's."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    if weights is not None:
        unknown = model.load_state_dict(weights, strict=False).unexpected_keys
        assert unknown == []
        model.tie_weights()
    processor = AutoProcessor.from_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    text = Renderer(str(folder)).text(PROBLEM)
    inputs = processor(text=[text], images=[Image.fromarray(pixels)], return_tensors="pt")
    count = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([RESPONSE])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    types = inputs["mm_token_type_ids"]
    inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(RESPONSE))], dim=1)
    with torch.no_grad():
        logits = model(**inputs).logits[0, count - 1 : -1]
    chosen = torch.tensor(RESPONSE)[:, None]
    return torch.log_softmax(logits.float(), dim=-1).gather(1, chosen)[:, 0]


# ---- what comes out ------------------------------------------------------------------------------
@ARRAYS
@pytest.mark.parametrize("tie_head", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_what_training_had(tmp_path: Path, family: str, tie_head: bool) -> None:
    source = make_checkpoint(tmp_path, family, tie_head)
    before = hashes(source)
    names = json.loads((source / "state.json").read_text())["names_in_files"]
    teacher = load_file(source / "teacher/weights.safetensors")
    expected = {"student": logprobs(source), "teacher": logprobs(source, teacher)}
    assert not torch.equal(expected["student"], expected["teacher"])
    weights = {
        "student": load_file(source / "model.safetensors"),
        "teacher": {names.get(name, name): tensor for name, tensor in teacher.items()},
    }
    for model, dtype in ((m, d) for m in ("student", "teacher") for d in DTYPES):
        out = tmp_path / f"{model}-{dtype}"
        export(source, out, model, dtype)
        ours = load_file(out / "model.safetensors")
        assert ours.keys() == weights[model].keys()
        for name, tensor in weights[model].items():
            assert torch.equal(ours[name], tensor.to(dtype_of(name, dtype))), name
        assert ("lm_head.weight" in ours) is not tie_head
        if dtype == "float32":
            assert torch.equal(logprobs(out), expected[model])
        else:
            rounded = {
                name: tensor.to(dtype_of(name, dtype)).float()
                for name, tensor in (teacher if model == "teacher" else own_names(source)).items()
            }
            assert torch.equal(logprobs(out), logprobs(source, rounded))
        assert verify(out)["exported_from"] == {
            "checkpoint": "step-000003", "version": 3, "model": model, "dtype": dtype,
            "thinking_default": None,
        }  # fmt: skip
    assert hashes(source) == before


def dtype_of(name: str, dtype: str) -> torch.dtype:
    """What the published files of Qwen3.5 hold in float32 stays so."""
    is_kept = name.endswith(("linear_attn.A_log", "linear_attn.norm.weight"))
    return torch.float32 if is_kept else DTYPES[dtype]


def own_names(source: Path) -> dict[str, torch.Tensor]:
    """The student by parameter name."""
    names = json.loads((source / "state.json").read_text())["names_in_files"]
    ours = {stored: name for name, stored in names.items()}
    weights = load_file(source / "model.safetensors")
    return {ours.get(name, name): tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_configuration_tells_the_dtype(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    from transformers import AutoModelForImageTextToText

    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    (source / "state.json").unlink()
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["dtype"] = "float16"
    config["vision_config"]["torch_dtype"] = "float32"
    config["torch_dtype"] = "float16"
    config.pop("dtype", None), config["vision_config"].pop("dtype", None)
    (source / "config.json").write_text(json.dumps(config))
    export(source, tmp_path / "out", "student", dtype)
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported["torch_dtype"] == exported["text_config"]["dtype"] == dtype
    assert exported["vision_config"]["torch_dtype"] == dtype
    for part in (exported, exported["text_config"], exported["vision_config"]):
        assert ("dtype" in part) + ("torch_dtype" in part) == 1, "no key of another version"
    for part in (exported, config):
        for inner in (part, part["text_config"], part["vision_config"]):
            inner.pop("dtype", None), inner.pop("torch_dtype", None)
    assert exported == config
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == DTYPES[dtype]


def test_all_that_serving_needs_is_there_and_nothing_of_training(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    export(checkpoint, out, "teacher", "bfloat16")
    assert {path.name for path in out.iterdir()} == {
        "MANIFEST.json", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert Renderer(str(out)).text(PROBLEM) == Renderer(str(checkpoint)).text(PROBLEM)


def test_large_weights_are_in_parts(checkpoint: Path, tmp_path: Path) -> None:
    limit = 40_000
    export(checkpoint, tmp_path / "parts", "student", "float32", limit)
    export(checkpoint, tmp_path / "one", "student", "float32")
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 2 and not (tmp_path / "parts" / "model.safetensors").exists()
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    whole = load_file(tmp_path / "one" / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    assert set(index["weight_map"].values()) == {path.name for path in files}
    for path in files:
        with safe_open(path, "pt") as part:
            sizes = {name: part.get_tensor(name).nbytes for name in part.keys()}  # noqa: SIM118
            assert part.metadata() == {"format": "pt"}
        assert sum(sizes.values()) <= limit or len(sizes) == 1
        assert all(index["weight_map"][name] == path.name for name in sizes)
    assert torch.equal(logprobs(tmp_path / "parts"), logprobs(tmp_path / "one"))
    export(tmp_path / "parts", tmp_path / "again", "student", "float32")
    assert sha256_of_file(tmp_path / "again" / "model.safetensors") == sha256_of_file(
        tmp_path / "one" / "model.safetensors"
    )


MEASURED_EXPORT = """
import sys, threading
from pathlib import Path
import torch
from learner.export import export
from learner.checkpoint.tensor_files import Form, write_model

def anonymous_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

def sample():
    while not done.wait(0.002):
        peaks.append(anonymous_mib())

source, out = map(Path, sys.argv[1:])
forms = {str(n): Form(torch.float32, (2**20,)) for n in range(64)}  # of 4 MiB
write_model(source, forms, lambda name: torch.full((2**20,), float(name)), 2**40)
export(source, out.with_name("warm"), "student", "bfloat16")
before, peaks, done = anonymous_mib(), [], threading.Event()
sampler = threading.Thread(target=sample)
sampler.start()
export(source, out, "student", "bfloat16")
done.set()
sampler.join()
print(len(peaks), max(peaks) - before)
"""


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "config.json").write_text("{}")
    command = [sys.executable, "-c", MEASURED_EXPORT, str(source), str(out)]
    measured = subprocess.run(
        command, check=True, timeout=100, cwd=ROOT, capture_output=True, text=True
    )
    num_samples, grown_mib = measured.stdout.split()
    assert int(num_samples) > 10 and float(grown_mib) < 32, "256 MiB went through"
    with safe_open(out / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("63").eq(63).all()


# ---- what is refused -----------------------------------------------------------------------------
def test_a_folder_in_use_is_not_touched(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(checkpoint, out, "student", "bfloat16")  # an empty one will do
    before = hashes(out)
    with pytest.raises(ConfigError, match=r"out: it exists. Fix: "):
        export(checkpoint, out, "teacher", "float32")
    assert hashes(out) == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match=r"file: it exists. Fix: "):
        export(checkpoint, file, "student", "float32")
    assert file.read_text() == "mine"


def test_adapters_of_a_teacher_are_merged(tmp_path: Path) -> None:
    model = make_tiny_checkpoint(tmp_path / "model")
    adapted = {"path": str(model), "dtype": "float32", "lora_rank": 4, "lora_alpha": 8.0}
    config = small_config(tmp_path, model, model=adapted)
    training = SmallTraining(config)
    with Checkpointer(tmp_path, training, Renderer(str(model)), config, lambda *_: None) as saver:
        training.step()
        training.step()
        saver.save()
    export(tmp_path / "step-000002", tmp_path / "out", "teacher", "float32")
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = dict(iterate_merged(training.teacher.model))
    assert found.keys() == expected.keys()
    start = load_file(model / "model.safetensors")
    changed = [name for name, tensor in found.items() if not torch.equal(tensor, start[name])]
    assert any("language_model.layers" in name for name in changed)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("inside", [".", "out", "teacher/../new/out"])
def test_nothing_is_written_into_the_checkpoint(checkpoint: Path, inside: str) -> None:
    before = hashes(checkpoint)
    with pytest.raises(ConfigError, match=r"Fix: name (a new folder|another place)"):
        export(checkpoint, checkpoint / inside, "student", "float32")
    assert hashes(checkpoint) == before


def test_no_checkpoint_and_no_teacher_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no config.json is there. Fix: "):
        export(tmp_path / "nowhere", tmp_path / "out", "student", "float32")
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    shutil.rmtree(source / "teacher")
    with pytest.raises(ConfigError, match=r"no teacher .* Fix: --model student"):
        export(source, tmp_path / "out", "teacher", "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("name", "model"),
    [("model.safetensors", "student"), ("teacher/weights.safetensors", "teacher"),
     ("config.json", "student"), ("tokenizer.json", "teacher")],
)  # fmt: skip
def test_a_damaged_checkpoint_is_not_exported(
    checkpoint: Path, tmp_path: Path, name: str, model: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    content = bytearray((source / name).read_bytes())
    content[len(content) // 2] ^= 1
    (source / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: it is damaged"):
        export(source, tmp_path / "out", model, "bfloat16")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_export_that_fails_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / ".out.part").mkdir()  # of one that was killed
    monkeypatch.setattr("learner.export.sync_tree", full)
    with pytest.raises(CheckpointError, match=r"out: cannot be written: .*No space.* Fix: "):
        export(checkpoint, tmp_path / "out", "student", "bfloat16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "added", "manifest"])
def test_verify_names_what_is_not_as_it_was(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    export(checkpoint, out, "student", "bfloat16")
    path = out / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "flipped":
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "missing":
        path.unlink()
    elif damage == "added":
        path = out / "model-2.safetensors"
        path.write_bytes(content)
    else:
        path = out / "MANIFEST.json"
        path.write_text('{"files": {"config.json": {}}}')
    with pytest.raises(CheckpointError, match=f"{path.name}: it.* Fix: "):
        verify(out)


# ---- command line --------------------------------------------------------------------------------
def test_the_command_exports_and_verifies(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--model", "teacher", "--dtype", "float32", "--max-shard-gib", "0.00005"]
    main([str(checkpoint), str(out), *options])
    assert verify(out)["exported_from"]["model"] == "teacher"
    assert len(list(out.glob("model-*.safetensors"))) > 1
    main(["--verify", str(out)])
    assert "are as they were exported" in capsys.readouterr().out
    for arguments, code in (
        ([str(checkpoint), str(out)], 2), (["--verify", str(tmp_path)], 2),
        ([str(checkpoint)], 2), ([], 2),
        ([str(checkpoint), str(tmp_path / "x"), "--max-shard-gib", "0"], 2),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == code
    (out / "config.json").unlink()
    with pytest.raises(SystemExit) as end:
        main(["--verify", str(out)])
    assert end.value.code == 1
    assert "config.json: it is missing. Fix: " in capsys.readouterr().err


# ---- SGLang --------------------------------------------------------------------------------------
@pytest.mark.sglang
@UNCLOSED
def test_sglang_serves_an_exported_teacher(tmp_path: Path) -> None:
    source, start = tmp_path / "checkpoints", tmp_path / "start"
    shutil.copytree(QUICKSTART, start)
    (start / "additional_chat_templates").mkdir()
    (start / "additional_chat_templates" / "another.jinja").write_text("not this one")
    config = small_config(tmp_path, start, optimizer={"lr": 5e-2})
    training, renderer = SmallTraining(config), Renderer(str(start))
    with Checkpointer(source, training, renderer, config, lambda *_: None) as saver:
        training.step()
        training.step()
        saver.save()
    export(source / "step-000002", tmp_path / "teacher", "teacher", "float32")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    picture = BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    server = Served(tmp_path / "teacher", tmp_path, "sglang")
    try:
        server.wait(120)
        options = {"temperature": 1.0, "seed": 1, "max_tokens": 8}
        answer = ask(
            server, picture.getvalue(), model="teacher", logprobs=True, return_token_ids=True,
            **options,
        )  # fmt: skip
    finally:
        server.process.terminate()
        server.process.wait(30)
    (choice,) = answer["choices"]
    response = choice["response_token_ids"]
    prompt, expected = reference(tmp_path / "teacher", picture.getvalue(), response)
    assert choice["prompt_token_ids"] == prompt
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    np.testing.assert_allclose(logprobs, expected.numpy(), atol=1e-4, rtol=0)
    _, of_start = reference(QUICKSTART, picture.getvalue(), response)
    assert (expected - of_start).abs().max() > 1e-3, "it could be the start that was served"
