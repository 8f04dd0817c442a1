"""An export of a start in the hub's form, loaded by other versions of transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.rendering import Renderer
from learner.checkpoint import Checkpointer
from learner.export import export
from tests.learner.small_training import SmallTraining, small_config
from tests.learner.versions.answer import answer
from tests.learner.versions.environment import PACKAGES, Environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
OLD = "4.57.6"  # the last of its line


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "start"
    Environment(OLD).run("make_start.py", folder, request.param)
    return folder


@pytest.fixture(scope="module")
def exported(start: Path) -> Path:
    config = small_config(start.parent, start)
    training = SmallTraining(config)
    renderer = Renderer(str(start), config.prompt)
    with Checkpointer(start.parent, training, renderer, config, lambda *_: None) as saver:
        training.step()
        training.step()
        saver.save()
    export(start.parent / "step-000002", start.parent / "exported", "student")
    return start.parent / "exported"


@pytest.mark.parametrize("version", PACKAGES)
def test_another_transformers_answers_as_ours(
    start: Path, exported: Path, version: str, tmp_path: Path
) -> None:
    Environment(version).run("answer.py", exported, tmp_path / "theirs.npz")
    theirs, ours = dict(np.load(tmp_path / "theirs.npz")), answer(exported)
    for name in ("words", "text", "input_ids", "ends"):
        assert theirs[name].tolist() == ours[name].tolist(), name
    np.testing.assert_allclose(theirs["pixels"], ours["pixels"], atol=1e-5)
    np.testing.assert_allclose(theirs["logits"], ours["logits"], atol=1e-4)
    shared = slice(0, 20)  # tokens before the templates differ
    change = ours["logits"][shared] - answer(start)["logits"][shared]
    assert np.abs(change).max() > 1e-2, "it could be the start"
    assert ours["text"].tobytes().endswith(b"<think>\n\n</think>\n\n")


def test_all_of_the_start_is_in_the_export(start: Path, exported: Path) -> None:
    there = {path.name for path in exported.iterdir()}
    assert {path.name for path in start.iterdir()} == there - {"MANIFEST.json"}
    assert {"vocab.json", "merges.txt", "chat_template.json", "preprocessor_config.json"} <= there
    assert {"video_preprocessor_config.json", "tokenizer.json"} <= there
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "preprocessor_config.json"):
        assert (exported / name).read_bytes() == (start / name).read_bytes()
    assert json.loads((exported / "config.json").read_text()) == json.loads(
        (start / "config.json").read_text()
    )
    ours, theirs = (load_file(f / "model.safetensors") for f in (exported, start))
    assert ours.keys() == theirs.keys() and {t.dtype for t in ours.values()} == {torch.bfloat16}
    assert torch.equal(ours["mtp.fc.weight"], theirs["mtp.fc.weight"])
