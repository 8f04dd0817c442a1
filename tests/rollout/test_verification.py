"""What the checks after a push accept and refuse."""

import numpy as np
import pytest

from common.types import WeightChecksums, WeightFiles, WeightProbe
from rollout.engine import EngineInfo, Scores
from rollout.verification import VerificationFailed, check_checksums, check_probe
from rollout.weights import check_files

pytestmark = pytest.mark.smoke

CPU = EngineInfo("cpu", 1, None)
EXPECTED = WeightChecksums(kind="cpu", by_name={"a": "1", "b": "2"})


class Answers:
    """An engine that gives ready answers."""

    def __init__(self, checksums=None, logprobs=(), cached: int = 0) -> None:
        self._checksums = checksums
        self._scores = Scores(np.array(logprobs, dtype=np.float32), cached)

    async def checksums(self):
        assert self._checksums is not None, "not asked for"
        return self._checksums

    async def score(self, prompt_token_ids, image, response_token_ids):
        return self._scores


def probe(*logprobs: float) -> WeightProbe:
    return WeightProbe(
        prompt_token_ids=np.array([1], dtype=np.int32),
        image=b"",
        response_token_ids=np.arange(len(logprobs), dtype=np.int32),
        logprobs=np.array(logprobs, dtype=np.float32),
        tolerance=0.01,
    )


async def test_equal_checksums_pass_and_tensors_of_the_server_alone_do_not_matter():
    await check_checksums(Answers({"a": "1", "b": "2", "axis_map": "9"}), CPU, EXPECTED)


@pytest.mark.parametrize("found", [{"a": "1", "b": "3"}, {"a": "1"}])
async def test_a_tensor_that_differs_or_is_missing_is_named(found):
    with pytest.raises(VerificationFailed, match="1 of 2 tensors differ from what was pushed: b"):
        await check_checksums(Answers(found), CPU, EXPECTED)


@pytest.mark.parametrize("info", [EngineInfo("cuda", 1, None), EngineInfo("cpu", 2, None)])
async def test_checksums_that_cannot_agree_are_not_asked_for(info):
    await check_checksums(Answers(), info, EXPECTED)


async def test_a_probe_may_differ_by_its_tolerance():
    assert await check_probe(Answers(logprobs=[-1.0, -2.01]), probe(-1.0, -2.0)) < 0.01


@pytest.mark.parametrize("logprobs", [[-1.0, -2.03], [-1.0, float("nan")]])
async def test_a_probe_that_differs_more_says_by_how_much(logprobs):
    with pytest.raises(VerificationFailed, match="differ from the learner's by"):
        await check_probe(Answers(logprobs=logprobs), probe(-1.0, -2.0))


async def test_a_probe_out_of_an_old_prefix_cache_is_found_even_if_it_agrees():
    with pytest.raises(VerificationFailed, match="28 tokens of the probe's prompt came from"):
        await check_probe(Answers(logprobs=[-1.0], cached=28), probe(-1.0))


def test_files_are_compared_with_what_the_learner_wrote(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    check_files(WeightFiles(folder=str(tmp_path), sha256={"a": digest}), tmp_path)
    with pytest.raises(VerificationFailed, match="not the file that the learner wrote"):
        check_files(WeightFiles(folder=str(tmp_path), sha256={"a": "0" * 64}), tmp_path)
    with pytest.raises(VerificationFailed, match=r"weights\.folder must be a folder"):
        check_files(WeightFiles(folder=str(tmp_path), sha256={"b": digest}), tmp_path)


@pytest.mark.parametrize("place", ["elsewhere", "weights/../elsewhere", "weights/link", "weights2"])
def test_weights_come_from_the_run_s_own_folder_alone(tmp_path, place):
    """Whoever could announce others would choose what is served."""
    for name in ("weights", "elsewhere", "weights2"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights" / "link").symlink_to(tmp_path / "elsewhere")
    files = WeightFiles(folder=str(tmp_path / place), sha256={})
    with pytest.raises(VerificationFailed, match=r"are not in this run's weights\.folder"):
        check_files(files, tmp_path / "weights")
    with pytest.raises(VerificationFailed, match=r"\(None\)"):
        check_files(WeightFiles(folder=str(tmp_path), sha256={}), None)
    check_files(
        WeightFiles(folder=str(tmp_path / "weights" / "x"), sha256={}), tmp_path / "weights"
    )
