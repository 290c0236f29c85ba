"""The structure holds: imports point downwards, heavy ones are late, the README's tree is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "workbench"

README = (ROOT / "README.md").read_text()


def layers() -> list[tuple[str, set[str]]]:
    """The README's picture, from the bottom up.

    A module may import from its own layer and from those below it.
    """
    block = re.search(r"```text\n(?P<picture>composition .*?)```", README, re.DOTALL)
    assert block, "README.md has no picture of the layers"
    found: list[tuple[str, set[str]]] = []
    for line in block["picture"].splitlines():
        name, modules = line[:15].strip(), line[15:].split()
        if name:
            found.append((name, set()))
        found[-1][1].update(modules)
    return found[::-1]


LAYERS = layers()
RANK = {name: rank for rank, (_, names) in enumerate(LAYERS) for name in names}
# A face may not touch a runtime; only the router and what is below it know providers.
NO_PROVIDERS = {
    "observe",
    "ui",
    "api",
    "bench",
    "analysis",
    "client",
    "display",
    "terminal",
    "doctor",
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Top-level parts of the package that a module imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "workbench" and len(parts) > 1 and parts[1] in RANK:
                found.add(parts[1])
    return found


def test_every_module_has_one_layer_and_no_layer_names_another() -> None:
    assert {top(path) for path in modules()} == RANK.keys()
    assert sum(len(names) for _, names in LAYERS) == len(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = top(path)
    upward = {name for name in imports(path) if RANK[name] > RANK[own]}
    # The engine's builder is the one place that names providers; the package's __init__ resolves
    # its facade late.
    assert not upward, f"{path.name} imports {upward} from a higher layer"
    if own in NO_PROVIDERS:
        assert "providers" not in imports(path), "a face touches a provider"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import workbench",
        "from workbench import Workbench, analysis",
        "import workbench.cli",
        "from workbench.cli import app; import typer.testing as t; t.CliRunner().invoke(app, [])",
    ],
)
def test_heavy_packages_are_imported_late(code: str) -> None:
    imported = {line.rsplit("|", 1)[-1].strip() for line in run_python(code).splitlines()}
    heavy = {"torch", "transformers", "gradio", "duckdb", "pandas", "plotly", "scipy", "jupyterlab"}
    assert not heavy & imported


TREE_LINE = re.compile(r"^(?P<indent>(?:[│ ]   )*)(?:├── |└── )(?P<name>\S+)")


def test_tree_in_the_readme_matches_the_disk() -> None:
    """Every entry exists, and every module and folder of ours is named."""
    block = re.search(r"```text\n(?P<tree>\./\n.*?)```", README, re.DOTALL)
    assert block, "README.md has no annotated tree"
    stack: list[str] = []
    named: set[str] = set()
    for line in block["tree"].splitlines()[1:]:
        match = TREE_LINE.match(line)
        assert match, f"odd line in the tree: {line!r}"
        depth = len(match["indent"]) // 4
        stack[depth:] = [match["name"].rstrip("/")]
        named.add("/".join(stack))
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing, "named in the tree but not on disk"
    ours = {path for path in tracked if path.startswith("workbench/") and path.endswith(".py")}
    ours = {path for path in ours if not path.endswith("__init__.py")}
    assert not ours - named, "on disk but not in the tree"
