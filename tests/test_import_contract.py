"""The house holds: levels, short files, own modules imported on top, a start without torch."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "src" / "fieldmark"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LATE = {*(PACKAGE / "cli").glob("*.py"), PACKAGE / "__init__.py"}  # may import inside functions
HEAVY = {"torch", "torchvision", "sklearn", "scipy", "matplotlib", "numpy", "PIL"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the `fieldmark` in `folder` (which comes first on the path) by its pyproject.toml."""
    command = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy_of_the_house(tmp_path: Path) -> Path:
    """The real package and the real contract, to be spoilt."""
    shutil.copytree(PACKAGE, tmp_path / "fieldmark", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_contract_holds(copy_of_the_house: Path) -> None:
    result = lint_imports(copy_of_the_house)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("errors.py", "import fieldmark.recipe", "fieldmark.errors -> fieldmark.recipe"),
        (
            "types.py",
            "def late() -> None:\n    from fieldmark.api import train",
            "fieldmark.types -> fieldmark.api",
        ),
        (
            "models/registry.py",
            "from fieldmark.data.pixels import store",
            "fieldmark.models.registry -> fieldmark.data.pixels.store",
        ),
        (
            "data/pixels/store.py",
            "import fieldmark.models.registry",
            "fieldmark.data.pixels.store -> fieldmark.models.registry",
        ),
        (
            "evaluation/metrics.py",
            "from fieldmark import runtime",
            "fieldmark.evaluation.metrics -> fieldmark.runtime",
        ),
        ("auto/settle.py", "import torch", "fieldmark.auto.settle -> torch"),
    ],
)
def test_the_contract_notices_a_wrong_import(
    copy_of_the_house: Path, module: str, line: str, broken: str
) -> None:
    with (copy_of_the_house / "fieldmark" / module).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    result = lint_imports(copy_of_the_house)
    assert result.returncode == 1, result.stdout + result.stderr
    assert broken in " ".join(result.stdout.split())


def test_the_contract_notices_a_module_without_a_level(copy_of_the_house: Path) -> None:
    (copy_of_the_house / "fieldmark" / "helpers.py").touch()
    result = lint_imports(copy_of_the_house)
    assert result.returncode == 1
    assert "helpers" in result.stdout


def find_late_imports(source: str) -> list[int]:
    """Lines on which a function imports one of our own modules."""
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    late = set()
    for node in (inner for function in functions for inner in ast.walk(function)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["fieldmark" if node.level else node.module or ""]
        if any(name.split(".")[0] == "fieldmark" for name in names):
            late.add(node.lineno)
    return sorted(late)


def test_late_imports_are_seen_in_every_form() -> None:
    source = """
from fieldmark import api
def one():
    import numpy, fieldmark.api
class Two:
    async def two(self):
        if True:
            from fieldmark.api import train
def three():
    from . import api
    import torch
"""
    assert find_late_imports(source) == [4, 8, 10]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_short_and_imports_its_own_kind_on_top(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    num_lines = len(source.splitlines())
    assert num_lines <= 400, f"{num_lines} lines: is there a wall missing?"
    # The command line imports late so that --help is instant; the package itself, so that
    # `import fieldmark` is.
    if path not in LATE:
        assert find_late_imports(source) == []


def find_shortcuts(source: str) -> list[str]:
    """Names taken from the package itself, which reach every level unseen by the linter."""
    submodules = {path.stem for path in PACKAGE.iterdir()}
    names = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="fieldmark"), attr=name):
                names.append(name)
            case ast.ImportFrom(module="fieldmark", level=0):
                names += [alias.name for alias in node.names]
    return [name for name in names if name not in submodules | {"__version__"}]


def test_nobody_takes_the_way_round_the_levels() -> None:
    assert find_shortcuts("import fieldmark\nfieldmark.train()") == ["train"]
    assert find_shortcuts("from fieldmark import data, train") == ["train"]
    below = [path for path in SOURCES if path not in LATE]
    assert {path: find_shortcuts(path.read_text(encoding="utf-8")) for path in below} == {
        path: [] for path in below
    }


def loaded_by(statement: str) -> tuple[int, set[str], str]:
    """Exit code, top-level modules loaded, and output of a fresh Python that runs `statement`."""
    command = f"""
import json, sys
code = 0
try:
    {statement}
except SystemExit as stop:
    code = stop.code or 0
print("\\n" + json.dumps(sorted(name for name in sys.modules if "." not in name)))
sys.exit(code)
"""
    result = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout, result.stderr
    output, _, modules = result.stdout.rstrip().rpartition("\n")
    return result.returncode, set(json.loads(modules)), output


def test_the_measure_below_would_notice_torch() -> None:
    _, modules, _ = loaded_by("import torch")
    assert "torch" in modules & HEAVY


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_answers_without_torch(words: list[str]) -> None:
    argv = ["fieldmark", *words]
    code, modules, output = loaded_by(
        f"sys.argv = {argv!r}; from fieldmark.cli import main; main()"
    )
    assert code == 0, output
    assert "Usage:" in output
    assert modules & HEAVY == set()


def test_importing_the_package_is_instant_too() -> None:
    code, modules, _ = loaded_by("import fieldmark; fieldmark.__version__")
    assert code == 0
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    "words", [["check", "photos"], ["split", "photos", "parts"]], ids=["check", "split"]
)
def test_looking_at_pictures_and_dividing_them_needs_no_torch(
    words: list[str], tmp_path: Path, make_pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path / "photos", {"cat": 5, "dog": 5})
    (tmp_path / "photos" / "cat" / "bad.jpg").write_text("no picture")  # left out, and named
    monkeypatch.chdir(tmp_path)
    code, modules, output = loaded_by(
        f"sys.argv = {['fieldmark', *words]!r}; from fieldmark.cli import main; main()"
    )
    assert code == 0, output
    assert "bad.jpg" in output
    assert not modules & {"torch", "torchvision", "sklearn", "matplotlib"}
