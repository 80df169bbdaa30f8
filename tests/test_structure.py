"""The house: imports point one way, modules say what they are, and nothing points outside."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill import config

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "distill"
MODULES = sorted(PACKAGE.rglob("*.py"))

ORDER = [
    *(
        "types",
        "errors",
        "disk",
        "progress",
        "chat",
        "schemas",
        "validation",
        "mentions",
        "config",
        "runs",
    ),
    *("render", "history", "environment", "store", "traces", "sample", "dataset", "endpoint"),
    *("routers", "policy", "training", "evaluation", "workflow", "serving", "integrations"),
    *("hub", "pipeline", "display", "cli"),
]
"""A module imports only from its left. `types` and `errors` stand side by side."""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part(path: Path) -> str:
    """Which part of the house a file belongs to; the package's own `__init__` to none."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of everything imported anywhere in a module, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_place_in_the_order():
    assert {part(path) for path in MODULES} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_left(path: Path):
    here = part(path)
    if here == "__init__":
        return
    for name in imported(parse(path)):
        root, _, rest = name.partition(".")
        if root != "distill":
            continue
        there = rest.partition(".")[0]
        assert there in ORDER, f"{name}: import the module, not the package's door"
        assert there == here or ORDER.index(there) < ORDER.index(here), f"{here} imports {there}"
        assert (here, there) != ("errors", "types"), "types and errors do not know each other"


def test_configs_are_imported_from_their_packages_door():
    """So that a config may move between the package's modules."""
    users = [path for path in MODULES if part(path) != "config"]
    for path in [*users, *(ROOT / "scripts").rglob("*.py")]:
        for name in imported(parse(path)):
            inside = name.removeprefix("distill.config.")
            assert inside == name or inside in config.__all__, f"{path}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_for(path: Path):
    text = ast.get_docstring(parse(path))
    assert text is not None
    assert text.splitlines()[0].endswith((".", ":", "?")) or "\n\n" not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_unpickles_or_trusts_remote_code(path: Path):
    tree = parse(path)
    roots = {name.partition(".")[0] for name in imported(tree)}
    assert not roots & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            passed = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            # Left out, transformers asks on standard input whether to run a model's own code.
            loads = called.startswith("Auto") and called.endswith(".from_pretrained")
            default = None if loads else "False"
            assert passed.get("trust_remote_code", default) == "False", called
            assert called not in ("torch.load", "yaml.unsafe_load", "eval", "exec"), called


def texts() -> Iterator[tuple[Path, str]]:
    """The repository's own text files."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    folders = ("distill", "tests", "configs", "scripts", "model_cards", "docs", ".ci", ".github")
    inside = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    for path in sorted(top + inside):
        if "__pycache__" not in path.parts:
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


# Tests that paths are kept out of what is published need paths: nobody's are allowed.
_HOME = re.compile(r"(?:/home/|/Users/|[A-Z]:\\+Users\\+)(?!ann\b)\w+")


def test_no_file_names_somebodys_home():
    home = str(Path.home())
    for path, text in texts():
        if path == Path(__file__):
            continue
        found = _HOME.search(text)
        assert found is None, f"{path}: {found}"
        assert len(home) < 7 or home not in text, path


def test_every_config_that_a_text_names_is_shipped():
    """Examples in help and documentation must work when they are copied."""
    named = {
        (path.relative_to(ROOT), name)
        for path, text in texts()
        for name in re.findall(r"configs/\w+/[\w-]+\.yaml", text)
    }
    assert any(name == "configs/run/quickstart.yaml" for _, name in named)
    assert [(path, name) for path, name in named if not (ROOT / name).is_file()] == []
