"""What is released: the wheel and what is in it, the packages it asks for, the version it names."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import workbench
from workbench.doctor.services import _TRIED_OLLAMA
from workbench.settings import Settings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED = {
    "data/datasets": "datasets",
    "data/passages": "passages",
    "data/prompts": "prompts",
    "benchmarks/specs": "specs",
}
# Imported by us and fixed to its carrier's version, which asks for it.
CARRIED = {
    "h11": "uvicorn",
    "httpx2": "openai",
    "starlette": "fastapi",
    "graphql-core": "strawberry-graphql",
    "cross-web": "strawberry-graphql",
    "numpy": "pandas",
    "safetensors": "transformers",
}
# Looked for where they would be used, and done without where they are not installed.
OPTIONAL = {"ipython", "opentelemetry-api", "opentelemetry-sdk"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.split())


def test_the_wheel_holds_the_package_and_what_comes_with_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert tracked("workbench") <= names
    for folder, name in SHIPPED.items():
        files = {f"workbench/shipped/{name}/{Path(path).name}" for path in tracked(folder)}
        assert files, folder
        assert files <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"workbench", f"llm_workbench-{workbench.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".duckdb")]


def test_an_installed_workbench_keeps_its_files_in_the_users_folders(
    wheel: Path, tmp_path: Path
) -> None:
    """The wheel's own files, run outside the repository with a home of its own."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    home = tmp_path / "home"
    (home / ".config" / "llm-workbench").mkdir(parents=True)
    (home / ".config" / "llm-workbench" / ".env").write_text("WORKBENCH_PORT=9123\n")
    (tmp_path / "data" / "datasets").mkdir(parents=True)  # of somebody else
    code = (
        "from workbench import settings\n"
        "from workbench.bench import datasets, library\n"
        "from workbench.insight.passages import read\n"
        "from workbench.library import starters\n"
        "found = settings.load_settings()\n"
        "print(found.workbench_db, found.hf_model_path, found.workbench_benchmarks, sep='\\n')\n"
        "print(found.workbench_port, sorted(datasets.builtin()), sorted(library.specs(found)))\n"
        "print(len(read()) > 0, len(starters()) > 0)\n"
    )
    ours = ("WORKBENCH_", "HF_", "OLLAMA_", "XDG_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    data = home / ".local" / "share" / "llm-workbench"
    datasets = sorted(f"builtin:{Path(path).stem}" for path in tracked("data/datasets"))
    specs = sorted(Path(path).stem for path in tracked("benchmarks/specs"))
    assert done.stdout.splitlines() == [
        str(data / "workbench.duckdb"),
        str(data / "models" / "huggingface"),
        str(data / "benchmarks"),
        f"9123 {datasets} {specs}",
        "True True",
    ]


def imported() -> set[str]:
    """Distributions that our modules import, also inside functions."""
    found: set[str] = set()
    providers = metadata.packages_distributions()
    for path in (ROOT / "workbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
            for top in tops - {"workbench", "opentelemetry"}:
                found |= {canonicalize_name(name) for name in providers[top]}
    return found


def test_what_is_imported_is_asked_for() -> None:
    asked = {canonicalize_name(Requirement(item).name) for item in PROJECT["dependencies"]}
    assert imported() - asked - OPTIONAL == CARRIED.keys()
    for name, carrier in CARRIED.items():
        assert carrier in asked
        carried = {canonicalize_name(Requirement(r).name) for r in metadata.requires(carrier) or ()}
        assert name in carried, f"{carrier} does not bring {name}"


def test_every_package_that_ci_installs_is_pinned_within_its_range() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    extras = PROJECT["optional-dependencies"]
    for item in [*PROJECT["dependencies"], *(item for extra in extras.values() for item in extra)]:
        wanted = Requirement(item)
        name = canonicalize_name(wanted.name)
        if name == PROJECT["name"]:
            assert wanted.extras <= extras.keys()
            continue
        assert wanted.specifier.contains(pinned[name].partition("+")[0]), item


def test_one_version_everywhere() -> None:
    version = workbench.__version__
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert newest is not None
    assert cited is not None
    assert (newest[1], cited[1]) == (version, version)


def test_the_containers_are_pinned_and_have_time_to_stop() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    tried = ".".join(str(part) for part in _TRIED_OLLAMA)
    assert f":-{tried}." in services["ollama"]["image"]
    ours = services["workbench"]
    assert ours["stop_grace_period"] == "1m"
    assert Settings.model_fields["workbench_cancel_grace_s"].default < 60
    assert ours["depends_on"]["ollama"] == {"condition": "service_healthy", "restart": True}
    assert ours["env_file"] == [{"path": "workbench.env", "required": False}]
    image = (ROOT / "Dockerfile").read_text()
    kept = re.findall(r"(?:WORKBENCH_DB|WORKBENCH_BENCHMARKS|HF_MODEL_PATH|HF_HOME)=(\S+)", image)
    assert len(kept) == 4
    assert all(place.startswith("/data/") for place in kept)
