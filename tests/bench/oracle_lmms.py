"""lmms-eval's side of `oracle.py`, run by the Python of its own environment: JSON in, JSON out.

Only the modules of single tasks are imported: the package of all tasks would import torch and more,
so a bare package stands in its place.
"""

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path

_TASKS = {  # module, functions' prefix, file of the prompt's words, metric and field of the points
    "vstar": ("vstar_bench", "vstar", "_default_template_yaml", "vstar_overall_acc", "score"),
    "mmvp": ("mmvp", "mmvp", "_default_template_yaml", "mmvp_accuracy", "is_correct"),
    "cv-bench": ("cv_bench", "cv_bench", "_default_template_yaml", "cv_bench_acc", "is_correct"),
    "mmstar": ("mmstar", "mmstar", "_default_template_yaml", "average", "score"),
    "pope": ("pope", "pope", "pope.yaml", "pope_accuracy", "score"),
    "hrbench-4k": ("hrbench", "hrbench", None, "average", "gpt_score"),
    "mme-realworld": ("mme_realworld", "mme_realworld", None, "mme_realworld_score", None),
    "mme-realworld-cn": ("mme_realworld", "mme_realworld", None, "mme_realworld_score", None),
    "mme-realworld-lite": ("mme_realworld", "mme_realworld", None, "mme_realworld_score", None),
}


def main() -> None:
    asked = json.load(sys.stdin)
    root = _bare_package()
    points = [_points(question) for question in asked["questions"]]
    prompts = {name: _prompt(name, doc, root) for name, doc in asked["docs"].items()}
    json.dump({"points": points, "prompts": prompts}, sys.stdout)


def _bare_package() -> Path:
    spec = importlib.util.find_spec("lmms_eval")
    root = Path(spec.submodule_search_locations[0]) / "tasks"
    package = types.ModuleType("lmms_eval.tasks")
    package.__path__ = [str(root)]
    sys.modules["lmms_eval.tasks"] = package
    return root


def _module(name: str) -> types.ModuleType:
    return importlib.import_module(f"lmms_eval.tasks.{_TASKS[name][0]}.utils")


def _points(question: dict) -> float | str:
    """1.0 or 0.0, or the name of what its scoring raised."""
    _, prefix, _, metric, field = _TASKS[question["set"]]
    module = _module(question["set"])
    try:
        score = getattr(module, f"{prefix}_process_results")
        result = score(question["doc"], [_without_thought(question["reply"])])[metric]
        return float(result[field] if field else module.mme_realworld_aggregate_results([result]))
    except Exception as error:  # that it fails is what is asked
        return type(error).__name__


def _without_thought(reply: str) -> str:
    """The text that its evaluator judges by default."""
    reasoning = importlib.import_module("lmms_eval.api.reasoning")
    return reasoning.strip_reasoning_tags(reply, [["<think>", "</think>"]])


def _prompt(name: str, doc: dict, root: Path) -> str:
    folder, prefix, words, *_ = _TASKS[name]
    prefix += "_cn" if name.endswith("-cn") else ""
    doc_to_text = getattr(_module(name), f"{prefix}_doc_to_text")
    return doc_to_text(doc, _words(root / folder / words) if words else None)


def _words(path: Path) -> dict:
    """The prompt's words in a task's YAML, whose tags name functions."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda *_: None)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader
    return content["lmms_eval_specific_kwargs"]["default"]


if __name__ == "__main__":
    main()
