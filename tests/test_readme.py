"""Every command in a README's bash blocks is run here, made small where it would take minutes."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "deploy/README.md", "tests/bench/README.md")
TIMEOUT_S = 300
pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)
SMALL = (
    "--learner.max_steps 2 --learner.groups_per_step 4 --evaluation.samples 8 "
    "--evaluation.interim_samples 4 --evaluation.shown 1"
)
LAUNCH = "deploy/launch_cluster.sh"
PYTHON = ".venv/bin/python"
EXPORT = f"{PYTHON} -m learner.export"
PLAN = f"{PYTHON} -m deploy.plan"
CONFIGS = "deploy/configs"
DESCRIBED = (
    f"{LAUNCH} --config {CONFIGS}/two_nodes.toml --dry-run --cluster "
    f"{CONFIGS}/clusters/2x8_h100.toml"
)
SLURM = f"{LAUNCH} --config {CONFIGS}/eight_gpus.toml --slurm --dry-run"
KUBERAY = (
    f"{LAUNCH} --config {CONFIGS}/two_nodes.toml --rollout_pool.image A --learner_pool.image B "
    "--data.train /mnt/vision-opd/train.parquet --kuberay"
)
PREPARE = f"{PYTHON} -m common.prepare vision-opd-6k --from {{}} --out {{}}"
CUSTOM = (
    f"{PYTHON} -m common.prepare custom --input {{}} --images {{}} --box-units pixels "
    "--box-form xyxy"
)
ASKED = (
    "--checkpoint deploy/quickstart/checkpoint --engine embedded "
    "--sets custom:.cache/quickstart/heldout.parquet --limit 4 --max-tokens 12"
)
STUDY = f"{PYTHON} -m deploy.study {CONFIGS}/studies"
EIGHT_GPUS = f"{LAUNCH} --config {CONFIGS}/eight_gpus.toml --data.train data/train.parquet"
REHEARSAL = "tests/rehearsal/run.sh"
# a README's command -> what is run instead; {folder} is an empty one
RUNS = {
    LAUNCH: f"{LAUNCH} {SMALL} --run.folder {{folder}}/run",
    f"{LAUNCH} --help": f"{LAUNCH} --help",
    f"{LAUNCH} --config deploy/configs/quickstart_sync.toml": (
        f"{LAUNCH} --config deploy/configs/quickstart_sync.toml {SMALL} --run.folder {{folder}}/run"
    ),
    f"{LAUNCH} --config deploy/configs/quickstart_random_crop.toml --run.seed 3": (
        f"{LAUNCH} --config deploy/configs/quickstart_random_crop.toml --run.seed 3 {SMALL} "
        "--run.folder {folder}/run"
    ),
    f"{LAUNCH} --rollout.servers 2 --broker.max_staleness 2 --run.folder runs/mine": (
        f"{LAUNCH} --rollout.servers 2 --broker.max_staleness 2 --run.folder {{folder}}/run {SMALL}"
    ),
    f"{LAUNCH} --config runs/mine/config.toml --run.resume true": (
        f'bash -c "{LAUNCH} {SMALL} --run.folder {{folder}}/run'
        f" && {LAUNCH} --config {{folder}}/run/config.toml --run.resume true --learner.max_steps 3"
        ' && .venv/bin/python -m broker.journal {folder}/run replay"'
    ),
    # tests/deploy/test_inspect.py serves
    f"{PYTHON} -m deploy.inspect runs/mine": f"{PYTHON} -m deploy.inspect --help",
    f"{PYTHON} -m deploy.inspect runs/mine runs/other --export both.html": (
        f"{PYTHON} -m deploy.inspect {{folder}} {{folder}} --export {{folder}}/both.html"
    ),
    # tests/learner/figures/test_trackers.py writes to W&B
    f"{LAUNCH} --run.trackers tensorboard,wandb": f"{LAUNCH} --help",
    ".venv/bin/python -m broker.journal runs/mine": ".venv/bin/python -m broker.journal --help",
    # test_the_row_of_the_readme_can_be_trained_on
    f"{LAUNCH} --data.train data/train.parquet --learner.groups_per_step 1": f"{LAUNCH} --help",
    # tests/common/prepare/test_download.py runs it against a hub on loopback
    f"{PYTHON} -m common.prepare vision-opd-6k --out data": (
        f"{PYTHON} -m common.prepare vision-opd-6k --help"
    ),
    f"{CUSTOM.format('mine/rows.jsonl', 'mine')} --check": (
        f'bash -c "{PYTHON} -m tests.rehearsal.photographs {{folder}}/published'
        f" && {CUSTOM.format('{folder}/published/train.jsonl', '{folder}/published')} --check"
        ' --column picture=original_images"'
    ),
    f"{CUSTOM.format('mine/rows.jsonl', 'mine')} --out data": (
        f'bash -c "{PYTHON} -m tests.rehearsal.photographs {{folder}}/published'
        f" && {CUSTOM.format('{folder}/published/train.jsonl', '{folder}/published')}"
        ' --column picture=original_images --out {folder}/data"'
    ),
    f"{PYTHON} -m common.prepare look data": (
        f'bash -c "{PYTHON} -m tests.rehearsal.photographs {{folder}}/published'
        f" && {PREPARE.format('{folder}/published', '{folder}/data')}"
        f' && {PYTHON} -m common.prepare look {{folder}}/data"'
    ),
    # tests/rollout/test_evaluate_quickstart.py measures it whole, by both engines
    f"{PYTHON} -m rollout.gap --checkpoint MODEL --sets custom:data/train.parquet --out gap": (
        f"{PYTHON} -m rollout.gap {ASKED} --out {{folder}}/gap"
    ),
    f"{PYTHON} -m rollout.evaluate --checkpoint exported --sets vstar,zoombench --out after": (
        f"{PYTHON} -m rollout.evaluate --help"
    ),
    f"{PYTHON} -m rollout.evaluate --rescore --out after": (
        f'bash -c "{PYTHON} -m rollout.evaluate {ASKED} --out {{folder}}/after'
        f' && {PYTHON} -m rollout.evaluate --rescore --out {{folder}}/after"'
    ),
    # tests/rollout/evaluation/test_compare.py compares two
    f"{PYTHON} -m rollout.compare before after --out compared": (
        f"{PYTHON} -m rollout.compare --help"
    ),
    # tests/deploy/study runs studies whole
    f"{STUDY}/views.toml": f"{STUDY}/views.toml --dry-run",
    f"{STUDY}/staleness.toml --seeds 1 --only 'jsd+*'": (
        f"{STUDY}/staleness.toml --seeds 1 --only 'jsd+max_staleness=[08]' {SMALL}"
        " --out {folder}/study"
    ),
    "tests/run.sh": "tests/run.sh -q tests/common --collect-only",
    "tests/run.sh -q -m smoke": "tests/run.sh -q -m smoke --collect-only",
    "tests/run.sh -q -m slow tests/pipeline": (
        "tests/run.sh -q -m slow tests/pipeline --collect-only"
    ),
    f"{PYTHON} -m pydoc broker learner learner.push": (
        f"{PYTHON} -m pydoc broker learner learner.push"
    ),
    "tests/run.sh -q -m proof": "tests/run.sh -q -m proof --collect-only",
    ".venv/bin/python tests/bench/broker.py --json broker.json": (
        ".venv/bin/python tests/bench/broker.py --smoke --json {folder}/broker.json"
    ),
    f"{LAUNCH} --rollout.engine sglang": (
        f"{LAUNCH} --rollout.engine sglang {SMALL} --run.folder {{folder}}/run"
    ),
    ".venv/bin/python -m rollout.serve deploy/quickstart/checkpoint": (
        ".venv/bin/python -m rollout.serve --help"  # tests/rollout/test_serve.py serves
    ),
    ".venv/bin/python -m rollout.serve exported": ".venv/bin/python -m rollout.serve --help",
    ".venv/bin/python -m rollout.serve deploy/quickstart/checkpoint --engine embedded": (
        ".venv/bin/python -m rollout.serve --help"
    ),
    ".venv/bin/python tests/bench/prepare.py --json prepare.json": (
        ".venv/bin/python tests/bench/prepare.py --pictures 16 --repeats 1 --rows 100 "
        "--json {folder}/prepare.json"
    ),
    # tests/bench/test_oracle_bench.py compares without a network
    ".venv/bin/python tests/bench/oracle.py --json oracle.json": (
        ".venv/bin/python tests/bench/oracle.py --help"
    ),
    ".venv/bin/python tests/bench/evaluation.py --json evaluation.json": (
        ".venv/bin/python tests/bench/evaluation.py --help"  # tests/bench/test_evaluation_bench.py
    ),
    ".venv/bin/python tests/bench/inspector.py --json inspector.json": (
        ".venv/bin/python tests/bench/inspector.py --trajectories 600 --repeats 1 --runs 0 "
        "--json {folder}/inspector.json"
    ),
    PREPARE.format("DOWNLOADED", "data"): (
        f'bash -c "{PYTHON} -m tests.rehearsal.photographs {{folder}}/published'
        f' && {PREPARE.format("{folder}/published", "{folder}/data")}"'
    ),
    EIGHT_GPUS: f"{EIGHT_GPUS} --dry-run --cluster {CONFIGS}/clusters/8x_h100.toml",
    # tests/rehearsal/test_rehearsal.py runs it whole
    REHEARSAL: f"{PYTHON} -m tests.rehearsal.run --help",
    f"{REHEARSAL} --model Qwen/Qwen3.5-4B --data DOWNLOADED --learner.ranks 1": (
        f"{PYTHON} -m tests.rehearsal.run --help"
    ),
    "tests/run.sh -q -m sglang": "tests/run.sh -q -m sglang --collect-only",
    "tests/run.sh -q -m kernels": "tests/run.sh -q -m kernels --collect-only",
    ".venv/bin/python tests/bench/push.py --json push.json": (
        ".venv/bin/python tests/bench/push.py --sizes 2 --servers 1 --repeats 1 "
        "--json {folder}/push.json"
    ),
    ".venv/bin/python tests/bench/rollout.py --json rollout.json": (
        ".venv/bin/python tests/bench/rollout.py --engine embedded --groups 4 --repeats 1 "
        "--tokens 4 --json {folder}/rollout.json"
    ),
    f"{LAUNCH} --learner.ranks 2": (
        f"{LAUNCH} --learner.ranks 2 {SMALL} --run.folder {{folder}}/run"
    ),
    f"{LAUNCH} --model.lora_rank 8 --optimizer.lr 3e-3": (
        f"{LAUNCH} --model.lora_rank 8 --optimizer.lr 3e-3 {SMALL} --run.folder {{folder}}/run"
    ),
    f"{EXPORT} runs/mine/checkpoints/step-000040 exported --model student": (
        f"{EXPORT} deploy/quickstart/checkpoint {{folder}}/exported --model student"
    ),
    f"{EXPORT} --verify exported": (
        f'bash -c "{EXPORT} deploy/quickstart/checkpoint {{folder}}/exported'
        f' && {EXPORT} --verify {{folder}}/exported"'
    ),
    ".venv/bin/python tests/bench/objective.py --json objective.json": (
        ".venv/bin/python tests/bench/objective.py --tokens 8 --vocabulary 512 --repeats 1 "
        "--json {folder}/objective.json"
    ),
    ".venv/bin/python tests/bench/step.py --json step.json": (
        ".venv/bin/python tests/bench/step.py --scale 64 --groups 1 --layers 4 --repeats 1 "
        "--warmups 0 --json {folder}/step.json"
    ),
    ".venv/bin/python tests/bench/loading.py --json loading.json": (
        ".venv/bin/python tests/bench/loading.py --megabytes 10 --ranks 2 --base HEAD "
        "--json {folder}/loading.json"
    ),
    f"{LAUNCH} --dry-run": f"{LAUNCH} --dry-run",
    DESCRIBED: DESCRIBED,
    SLURM: SLURM,
    KUBERAY: KUBERAY,
    # tests/deploy/test_top.py watches a run
    f"{PYTHON} -m deploy.top runs/mine": f"{PYTHON} -m deploy.top --help",
    f"{PYTHON} -m deploy.status runs/mine": f"{PYTHON} -m deploy.status --help",
    f"{PYTHON} -m deploy.logs runs/mine --follow": f"{PYTHON} -m deploy.logs --help",
    # tests/deploy/quickstart/test_quickstart.py does these three with a run
    f"{PYTHON} -m deploy.scale runs/mine rollout=6": f"{PYTHON} -m deploy.scale --help",
    f"{PLAN} --config deploy/configs/vision_opd_qwen3_5_4b.toml --gpus 8": (
        f"{PLAN} --config deploy/configs/vision_opd_qwen3_5_4b.toml --gpus 8"
    ),
    f"{PLAN} --calibrate --json plan.json": (
        f"{PLAN} --calibrate --steps 3 --learner.groups_per_step 4 --json {{folder}}/plan.json"
    ),
    f"{PYTHON} -m deploy.explain runs/mine --plan plan.json": (
        f'bash -c "{LAUNCH} {SMALL} --run.folder {{folder}}/run'
        f' && {PYTHON} -m deploy.explain {{folder}}/run"'
    ),
    f"{PYTHON} -m deploy.check_gpu": (
        f"{PYTHON} -m deploy.check_gpu --only versions push faults --threads 1 --out {{folder}}"
    ),
    "tests/run.sh -q tests/broker": "tests/run.sh -q tests/broker --collect-only",
    ".ci/run": "bash -n .ci/run",  # it is what runs this
    "tests/bench/effect.py --seeds 5 --controls": (
        f"tests/bench/effect.py --seeds 1 {SMALL} --json {{folder}}/effect.json"
    ),
    ".venv/bin/python -m deploy.quickstart.pretrain .cache/checkpoint --seed 0": (
        ".venv/bin/python -m deploy.quickstart.pretrain --help"  # whole: minutes on two cores
    ),
}
QUICK = ("pydoc", "--help", "--collect-only", "bash -n", "--dry-run", "--kuberay", "--gpus")


def commands(readme: str) -> set[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)
    return {line for block in blocks for line in block.strip().splitlines()}


def test_every_command_of_a_readme_is_run_here() -> None:
    found = {command for readme in READMES for command in commands(readme)}
    assert found == set(RUNS)


def run(command: str, folder: Path) -> None:
    done = subprocess.run(
        shlex.split(command.format(folder=folder)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout


def is_quick(command: str) -> bool:
    """One of the collections is enough there: each takes ten seconds."""
    is_collection_again = "--collect-only" in command and " -m " in command
    return any(part in command for part in QUICK) and not is_collection_again


@pytest.mark.parametrize("command", [c for c in RUNS.values() if is_quick(c)])
def test_a_quick_command_works(command: str, tmp_path: Path) -> None:
    run(command, tmp_path)


def with_marks(command: str) -> Any:
    marks = pytest.mark.sglang if "sglang" in command else pytest.mark.slow
    return pytest.param(command, marks=marks)


@pytest.mark.parametrize("command", [with_marks(c) for c in RUNS.values() if not is_quick(c)])
def test_a_long_command_works(command: str, tmp_path: Path) -> None:
    run(command, tmp_path)


@pytest.mark.parametrize("readme", READMES)
def test_files_and_folders_that_a_readme_names_exist(readme: str) -> None:
    text = (ROOT / readme).read_text()
    named = re.findall(
        r"(?<![\w/.])((?:common|broker|rollout|learner|deploy|tests)/[\w./-]*)", text
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("readme", READMES)
def test_links_of_a_readme_lead_somewhere(readme: str) -> None:
    text = (ROOT / readme).read_text()
    links = [link for link in re.findall(r"\]\(([^)]*)\)", text) if "://" not in link]
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
    for link in links:
        if link.startswith("#"):
            assert link.removeprefix("#") in anchors, link
        else:
            assert ((ROOT / readme).parent / link).exists(), link


@pytest.mark.slow
def test_the_row_of_the_readme_can_be_trained_on(tmp_path: Path) -> None:
    (row,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "rows.jsonl").write_text(row)
    Image.new("RGB", (320, 240), "gray").save(mine / "street.jpg")
    run(f"{CUSTOM.format(mine / 'rows.jsonl', mine)} --out {{folder}}/data", tmp_path)
    train = f"--data.train {tmp_path}/data/train.parquet --learner.groups_per_step 1"
    run(f"{LAUNCH} {train} --run.folder {{folder}}/run", tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 1 and summary["trajectories_trained"] == 4
