"""How SGLang names a model's weights, and the checksum that it gives them.

SGLang fuses some tensors of a transformers model: q, k and v become one, gate and up become one.
`/weights_checker` answers with a checksum of each of SGLang's own tensors. A family's `ServedNames`
say which bytes stand behind each, so that a learner can tell whether a server holds the learner's
weights. They are those of SGLang 0.5.23 where one rank holds the whole model (tensor-parallel
size 1).

Not in the mapping: what SGLang derives or keeps beside the weights (`gemma_weight`, `axis_map`),
and what a family leaves out.
"""

import hashlib
import re
from collections.abc import Iterable

from common.families import FAMILIES
from common.families.family import Family, ServedNames

VOCABULARY_MULTIPLE = 64  # SGLang pads vocabularies with rows of zeros to a multiple of this

_PUSHED = (
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^model\.visual\."), "visual."),
)
_VOCABULARIES = {name for family in FAMILIES.values() for name in family.served.vocabularies}


def served_tensors(
    names: Iterable[str], family: Family, *, has_tied_head: bool = False
) -> dict[str, tuple[str, ...]]:
    """SGLang's name of each tensor -> the state_dict names whose bytes, one after the other, it is.

    A vocabulary has `padding_rows` behind them.

    Args:
        names: all names of a transformers state_dict.
        has_tied_head: the head is the embedding; SGLang then serves one tensor for both.
    """
    rules = family.served
    wholes = {
        part: (whole, n) for whole, parts in rules.fused.items() for n, part in enumerate(parts)
    }
    part = re.compile(rf"\.({'|'.join(wholes)})(?=\.)")
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if has_tied_head and name == "lm_head.weight":
            continue
        renamed = _renamed(pushed_name(name), rules)
        match = part.search(renamed)
        whole, number = wholes[match[1]] if match else ("", 0)
        served = part.sub(f".{whole}", renamed)
        if rules.left_out is None or not re.match(rules.left_out, served):
            found.setdefault(served, []).append((number, name))
    return {served: tuple(name for _, name in sorted(parts)) for served, parts in found.items()}


def _renamed(name: str, rules: ServedNames) -> str:
    for pattern, replacement in rules.renamed:
        name = re.sub(pattern, replacement, name)
    return name


def pushed_name(name: str) -> str:
    """The name under which SGLang takes a tensor of a state_dict in a weight update.

    Every family takes this one; Qwen2.5-VL refuses transformers' own, or passes over it.
    """
    for pattern, replacement in _PUSHED:
        name = pattern.sub(replacement, name)
    return name


def padding_rows(served: str, num_rows: int) -> int:
    """Rows of zeros that SGLang puts behind a tensor of `num_rows` rows, by the served name."""
    return -num_rows % VOCABULARY_MULTIPLE if served in _VOCABULARIES else 0


def checksum(parts: Iterable[bytes | memoryview]) -> str:
    """What SGLang on a CPU answers for a tensor with these bytes: 16 hex digits.

    It is the beginning of their sha256. On a GPU SGLang hashes otherwise.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
