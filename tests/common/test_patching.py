"""8-bit pixels and a table of levels give what transformers' image processors give, to the bit."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.errors import ConfigError
from common.patching import Patching, patching_of
from common.picture_sizes import PictureSizes
from common.rendering import Renderer
from tests.tiny_model import FAMILIES, PROBLEM, make_tiny_checkpoint

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SIZE = {"size": {"shortest_edge": 64 * 64, "longest_edge": 128 * 128}}
QWEN2_5_VL = {"patch_size": 14, **CLIP, **SIZE}  # as their checkpoints say, but for the size
QWEN3_VL = {"patch_size": 16, **HALF, **SIZE}  # Qwen3.5, too
# Each is another arithmetic: nothing fused, no mean, more frames, another merge.
OTHERS = ({"do_normalize": False, **SIZE}, {"do_rescale": False, **SIZE},
          {"temporal_patch_size": 1, "merge_size": 1, **CLIP, **SIZE},
          {"temporal_patch_size": 3, "merge_size": 3, "patch_size": 6, **SIZE})  # fmt: skip
KINDS = [QWEN2_5_VL, QWEN3_VL, *OTHERS]
# torch has neither of the last two: there the processor itself fails.
RESAMPLINGS = [Resampling.NEAREST, Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS,
               Resampling.BOX, Resampling.HAMMING]  # fmt: skip


@functools.cache
def processor_of(backend: str, kind: int, resample: Resampling = Resampling.BICUBIC):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    make = {"torchvision": Qwen2VLImageProcessor, "pil": Qwen2VLImageProcessorPil}[backend]
    return make(resample=resample, **KINDS[kind])


def picture_of(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng([width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def expected(processor, pictures: list[Image.Image]) -> np.ndarray:
    return np.asarray(processor(images=pictures, return_tensors="np")["pixel_values"])


def found(processor, pictures: list[Image.Image]) -> np.ndarray:
    sizes = PictureSizes(processor)
    pixels = [torch.from_numpy(np.array(sizes.fitted(picture))) for picture in pictures]
    return patching_of(processor).patches(pixels, torch.float32).numpy()


@pytest.mark.parametrize(
    ("backend", "resample"),
    [*(("pil", r) for r in RESAMPLINGS), *(("torchvision", r) for r in RESAMPLINGS[:4])],
)
def test_odd_sizes_equal_the_processors_pixel_values_in_every_resampling(backend, resample):
    for kind in range(len(KINDS)):
        processor = processor_of(backend, kind, resample)
        pictures = [picture_of(*size) for size in ((31, 77), (301, 53), (64, 64), (7, 5))]
        assert np.array_equal(found(processor, pictures), expected(processor, pictures))


@settings(max_examples=40)
@given(
    backend=st.sampled_from(["torchvision", "pil"]),
    kind=st.integers(0, len(KINDS) - 1),
    sizes=st.lists(st.tuples(st.integers(1, 160), st.integers(1, 160)), min_size=1, max_size=3),
)
def test_any_size_equals_the_processors_pixel_values(backend, kind, sizes):
    processor = processor_of(backend, kind)
    pictures = [picture_of(*size) for size in sizes if max(size) <= 20 * min(size)]
    if pictures:
        assert np.array_equal(found(processor, pictures), expected(processor, pictures))


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_the_table_holds_each_level_rescaled_and_normalised(backend):
    levels_CL = torch.arange(256).double().expand(3, -1) / 255
    for kind in (QWEN2_5_VL, QWEN3_VL):
        mean, std = (torch.tensor(kind[name]).double() for name in ("image_mean", "image_std"))
        exact_CL = (levels_CL - mean[:, None]) / std[:, None]
        patching = patching_of(processor_of(backend, KINDS.index(kind)))
        torch.testing.assert_close(patching.values_CL.double(), exact_CL, rtol=0, atol=1e-6)


def test_patches_in_a_narrower_dtype_are_the_rounded_ones():
    patching = patching_of(processor_of("torchvision", 0))
    pixels = [torch.from_numpy(np.array(picture_of(84, 56)))]
    exact = patching.patches(pixels, torch.float32)
    assert torch.equal(patching.patches(pixels, torch.bfloat16), exact.bfloat16())
    assert exact.shape == (24, 3 * 2 * 14 * 14)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rendered_prompt_is_what_the_whole_processor_makes(family: str, tmp_path: Path):
    from transformers import AutoProcessor

    folder = make_tiny_checkpoint(tmp_path, family=family)
    renderer, processor = Renderer(str(folder)), AutoProcessor.from_pretrained(folder)
    problems = [PROBLEM, "<image> is on red ?", "the tag <image> is blue"]
    pictures = [picture_of(97, 64), picture_of(31, 33), picture_of(200, 55)]
    prompts = renderer.prompts(problems, pictures)
    whole = processor(
        text=[renderer.text(problem) for problem in problems], images=pictures, padding=True,
        return_tensors="np", add_special_tokens=False,
    )  # fmt: skip
    for row, prompt in enumerate(prompts):
        is_token = whole["attention_mask"][row].astype(bool)
        for name in ("input_ids", "mm_token_type_ids"):
            assert np.array_equal(getattr(prompt, name), whole[name][row][is_token])
            assert getattr(prompt, name).dtype == np.int64
        assert np.array_equal(prompt.image_grid_thw[0], whole["image_grid_thw"][row])
        assert prompt.pixels.dtype == np.uint8
    pixels = [torch.from_numpy(prompt.pixels) for prompt in prompts]
    patches = renderer.patching.patches(pixels, torch.float32)
    assert np.array_equal(patches.numpy(), whole["pixel_values"])


@pytest.mark.parametrize("change", ["transposed", "per place"])
def test_a_processor_that_makes_other_patches_is_refused(change: str):
    class Other(type(processor_of("pil", 1))):
        def patchify(self, image, *arguments, **options):
            if change == "transposed":
                patches, *grid = super().patchify(np.swapaxes(image, 1, 2), *arguments, **options)
                return patches, *reversed(grid)
            return super().patchify(
                image + np.linspace(0, 1, image.shape[-1]), *arguments, **options
            )

    with pytest.raises(ConfigError, match=r"Other makes other patches.*Fix: choose a model"):
        patching_of(Other(**QWEN3_VL))


def test_one_patch_size_for_another_is_refused():
    processor = processor_of("pil", 1)
    patching = patching_of(processor)
    assert isinstance(patching, Patching) and patching.side == 16 and patching.frames == 2

    class Hiding:
        patch_size, merge_size, temporal_patch_size = 16, 2, 1

        def __call__(self, **options):
            return processor(**options)

    with pytest.raises(ConfigError, match="Hiding makes other patches"):
        patching_of(Hiding())
