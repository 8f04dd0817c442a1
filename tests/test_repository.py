"""Rules that hold for the repository as a whole."""

import ast
import functools
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"broker", "common", "deploy", "learner", "rollout", "tests", "pyproject.toml"}
TOP_LEVEL |= {"LICENSE", "README.md", "findings"}
FORBIDDEN = {
    "pickle": r"^\s*(import|from) (pickle|cloudpickle|dill|shelve)\b",
    "pickled tensors": r"weights_only\s*=\s*False",
    "pickled messages": r"\b(send|recv)_pyobj\b",
    "code from a model hub": r"trust_remote_code\s*=\s*True",
    "a path of one machine": r"(?<![\w.$}/])/(root|home|work|Users)/",
    "a package index": r"https?://[^\s\"']*(pypi\.|/simple\b|/whl\b)",
}


@functools.cache
def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@functools.cache
def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked_files():
        try:
            found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_nothing_forbidden_is_in_the_repository(reason: str) -> None:
    pattern = re.compile(FORBIDDEN[reason], re.MULTILINE)
    offenders = [
        f"{path}: {match.group().strip()}"
        for path, text in texts()
        if path != Path(__file__).relative_to(ROOT)
        for match in pattern.finditer(text)
    ]
    assert offenders == []


def test_the_top_level_is_the_agreed_one() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_no_file_is_large() -> None:
    assert [str(p) for p in tracked_files() if p.stat().st_size > 3_000_000] == []
    assert sum(p.stat().st_size for p in (ROOT / "deploy/quickstart/checkpoint").iterdir()) < 5e6


def test_our_packages_come_from_this_checkout() -> None:
    import broker
    import common
    import deploy
    import learner
    import rollout

    for package in (broker, common, deploy, learner, rollout):
        assert package.__file__ is not None
        assert Path(package.__file__).parent.parent == ROOT


# ---- documents where the code is -----------------------------------------------------------------
PACKAGES = ("common", "broker", "rollout", "learner", "deploy")
# A line of a package's docstring: one module or several, then at least two spaces, then what it is;
# or, indented, modules alone, with what they are in the next line.
NAMES = r"([a-z_]\w*/?(?:, [a-z_]\w*/?)*)"
LISTED = re.compile(rf"^(?: {{4}})?{NAMES} {{2,}}\S|^ {{4}}{NAMES}$", re.MULTILINE)
README_LINES = 220
# Lines of Python without tests and without the docstrings of packages. A change that needs more
# raises it in a commit that says what for.
MAX_LINES = 68_889


def package_folders() -> list[Path]:
    inits = {path for path in tracked_files() if path.name == "__init__.py"}
    return sorted(p.parent for p in inits if p.relative_to(ROOT).parts[0] in PACKAGES)


def package_docstring(folder: Path) -> str:
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""


@pytest.mark.smoke
@pytest.mark.parametrize("folder", package_folders(), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_package_names_each_of_its_modules_once_and_no_other(folder: Path) -> None:
    lines = LISTED.finditer(package_docstring(folder))
    named = Counter(name for line in lines for name in (line[1] or line[2]).split(", "))
    there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    there |= {f"{p.name}/" for p in folder.iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert named == Counter(there)


def python_sources() -> list[tuple[Path, str]]:
    return [(path, text) for path, text in texts() if path.suffix == ".py"]


NO_TARGET = re.compile(r"\bspec (?:section )?\d|\bspecification, section|\bdesign, |\brule \d")


def test_no_docstring_refers_to_a_document_that_is_not_here() -> None:
    offenders = [
        f"{path}:{number}: {line.strip()}"
        for path, text in python_sources()
        if path != Path(__file__).relative_to(ROOT)
        for number, line in enumerate(text.splitlines(), 1)
        if NO_TARGET.search(line)
    ]
    assert offenders == []


BEGINNINGS = ("Of", "As", "That", "Args", "Raises", "Returns")


def badly_begun(text: str) -> int:
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(ast.parse(text)) if isinstance(node, nodes)]
    words = [(ast.get_docstring(node) or "").split() for node in documented]
    return sum(bool(found) and found[0].rstrip(":,") in BEGINNINGS for found in words)


def test_a_docstring_says_first_what_a_thing_is_or_does() -> None:
    found = {str(path): badly_begun(text) for path, text in python_sources()}
    assert {path: number for path, number in found.items() if number} == {}


PATH_OF_A_TEST = re.compile(r"(?<![\w/.])tests/[\w/]*\w(?:\.(?:py|sh|md|txt))?(?![\w/{])")
DOTTED = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`")


def test_paths_of_tests_in_the_code_lead_somewhere() -> None:
    named = {
        f"{path}: {found[0]}"
        for path, text in python_sources()
        if path.parts[0] in PACKAGES
        for found in PATH_OF_A_TEST.finditer(text)
        if not (ROOT / found[0]).exists()
    }
    assert named == set()


def leads_somewhere(dotted: str, keys: str) -> bool:
    """A module, a name in one, a name anywhere in a package, or a key of the configuration."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        files = [base.with_suffix(".py")] if base.with_suffix(".py").exists() else base.glob("*.py")
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        if text:
            text = f"{keys}\n{text}" if length == 1 else text
            return all(re.search(rf"\b{part}\b", text) for part in parts[length:])
    return False


def test_dotted_names_in_the_code_lead_somewhere() -> None:
    config = [text for path, text in python_sources() if str(path).startswith("common/config")]
    keys = "\n".join(config)
    named = {
        f"{path}: {found[1]}"
        for path, text in python_sources()
        if path.parts[0] in PACKAGES
        for found in DOTTED.finditer(text)
        if not leads_somewhere(found[1], keys)
    }
    assert named == set()


def test_references_to_equations_have_a_target() -> None:
    equations = package_docstring(ROOT / "learner/objective")
    numbers = set(re.findall(r"^ {4}\((\d+)\) ", equations, re.MULTILINE))
    for path, text in python_sources():
        if path.is_relative_to("learner/objective"):
            assert set(re.findall(r"\bequation (\d+)", text)) <= numbers, path


def test_the_readme_is_read_in_one_go() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < README_LINES
    assert "## How it works" in lines[:100]


def test_the_code_does_not_grow() -> None:
    """Documents where the code is are not held against it."""
    lines = sum(text.count("\n") for path, text in python_sources() if path.parts[0] in PACKAGES)
    documents = sum(len(package_docstring(folder).splitlines()) for folder in package_folders())
    assert lines - documents <= MAX_LINES


# ---- words ---------------------------------------------------------------------------------------
# Words that a reader would have to learn: metaphors, and words of no component in particular.
STRANGE = re.compile(
    r"(?<![a-z])(?:mend(?:s|ed|ing)?|whoever|whomever|nobody|doorkeepers?|desks?|shel(?:f|ves)"
    r"|crews?|heralds?|butlers?|order ?books?|flat_?home)(?![a-z])"
)
# What files and the wire call something, and must go on to.
FIXED_WORDS = {("common/kept_reading.py", "mend"), ("broker/protocol/rollout.py", "nobody")}


def in_words(text: str) -> str:
    """Source text with CamelCase names taken apart, in lower case; constants are left out."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)
    return re.sub(r"\b[A-Z_]{3,}\b", "", apart).lower()


def test_no_code_is_written_in_strange_words() -> None:
    found = {
        (str(path), match[0])
        for path, text in python_sources()
        if path.parts[0] in PACKAGES
        for match in STRANGE.finditer(in_words(text))
    }
    assert found == FIXED_WORDS


def test_strange_words_are_found_in_names_and_prose() -> None:
    for text in ("class PortDoorkeeper:", "mend = 1", "# Nobody asks", "def flat_home():"):
        assert STRANGE.search(in_words(text)), text
    for text in ("recommend", "Blame.NOBODY", "amended", "desktop"):
        assert not STRANGE.search(in_words(text)), text


# Public classes of two packages with one name. No name may be added.
SHARED_NAMES = {
    "Account", "Assignment", "Batch", "Entry", "Layout", "Lengths", "Line", "Outcome", "Part",
    "Plan", "Reading", "Record", "State", "Step", "Verdict", "View",
}  # fmt: skip


def test_a_public_class_has_a_name_of_its_own() -> None:
    packages: dict[str, set[str]] = {}
    for path, text in python_sources():
        if path.parts[0] in PACKAGES:
            classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
            for node in classes:
                packages.setdefault(node.name, set()).add(path.parts[0])
    shared = {name for name, found in packages.items() if len(found) > 1}
    assert {name for name in shared if not name.startswith("_")} <= SHARED_NAMES


# ---- tests where the code is ---------------------------------------------------------------------
def files_of_tests() -> list[tuple[Path, str]]:
    found = python_sources()
    return [pair for pair in found if pair[0].parts[0] == "tests" and pair[0].match("test_*.py")]


def imported(text: str) -> set[str]:
    """Dotted names of the modules that a file imports, and of names in them."""
    nodes = list(ast.walk(ast.parse(text)))
    modules = {name.name for n in nodes if isinstance(n, ast.Import) for name in n.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    modules |= {node.module or "" for node in froms}
    return modules | {f"{node.module}.{name.name}" for node in froms for name in node.names}


def test_no_test_file_imports_another() -> None:
    """What two share is in the folder's support.py, or is a fixture in its conftest.py."""
    tests = {".".join(path.with_suffix("").parts) for path, _ in files_of_tests()}
    found = {str(path): imported(text) & tests for path, text in python_sources()}
    assert {path: names for path, names in found.items() if names} == {}


HOLDS = re.compile(r"^Holds ((?:[\w/]+/(?:\w+\.py)?,\s+)*[\w/]+/(?:\w+\.py)?)\.$", re.MULTILINE)
# Modules that no test file is found for by name. No module may be added.
HELD_BY_NO_NAME = {
    "common/image_text_model.py",
    "deploy/check_push.py",
}


def said_to_be_held() -> set[str]:
    """Modules and folders (with "/" at the end) in the docstrings of test files."""
    docstrings = [ast.get_docstring(ast.parse(text)) or "" for _, text in files_of_tests()]
    lines = [line for text in docstrings for line in HOLDS.findall(text)]
    return {name for line in lines for name in re.split(r",\s+", line)}


def without_a_holder() -> set[str]:
    """Modules that no test file is named after, imports or, in its docstring, says that it holds.

    A test file is named after a module or after its package, and imports it from the folder that
    mirrors the package, or from one above.
    """
    named = {(path.parts[1], path.stem.removeprefix("test_")) for path, _ in files_of_tests()}
    importing = {(path.parent, name) for path, text in files_of_tests() for name in imported(text)}
    held = said_to_be_held()
    missing = set()
    for path, _ in python_sources():
        folders = [Path("tests", *path.parts[:n]) for n in range(1, len(path.parts))]
        dotted = ".".join(path.with_suffix("").parts)
        names = [(path.parts[0], name) for name in (path.stem, path.parent.name)]
        is_held = not held.isdisjoint({str(path), f"{path.parent}/"})
        is_held |= not named.isdisjoint(names)
        is_held |= any((folder, dotted) in importing for folder in folders)
        is_module = path.parts[0] in PACKAGES and not path.stem.startswith("__")
        missing |= {str(path)} if is_module and not is_held else set()
    return missing


def test_a_module_s_tests_are_found_by_its_name() -> None:
    """A line "Holds common/files.py, common/look/." in a test file's docstring makes it so."""
    assert without_a_holder() == HELD_BY_NO_NAME


def test_a_module_that_a_test_file_says_it_holds_exists() -> None:
    assert {name for name in said_to_be_held() if not (ROOT / name).exists()} == set()
