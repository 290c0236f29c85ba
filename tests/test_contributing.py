"""The worked example of CONTRIBUTING.md, executed as it stands there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from workbench.engine import Engine
from workbench.settings import Settings
from workbench.store import Store

BLOCKS = re.findall(
    r"^```python[^\n]*\n(.*?)^```$",
    (ROOT / "CONTRIBUTING.md").read_text(),
    re.DOTALL | re.MULTILINE,
)
PROVIDER, LINES, TEST = BLOCKS
BESIDE = (
    "    from workbench.providers.scripted import ScriptedProvider\n",
    '    router.register_provider(providers.get("scripted") or ScriptedProvider())\n',
)
REGISTRATION = "workbench/registration.py"
TESTS = re.findall(r"^async def (test_\w+)", TEST, re.MULTILINE)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that its test defines, with its provider where the text says that it is."""
    name = "workbench.providers.program"
    (tmp_path / "program.py").write_text(PROVIDER)
    spec = importlib.util.spec_from_file_location(name, tmp_path / "program.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    names: dict[str, Any] = {"__name__": "tests.providers.test_program"}
    exec(compile(TEST, "CONTRIBUTING.md", "exec"), names)
    return names


@pytest.mark.parametrize("name", TESTS)
async def test_the_example_passes_its_own_test(
    name: str, example: dict[str, Any], settings: Settings, store: Store
) -> None:
    await example[name](settings, store)


def registration() -> str:
    """The module that the text names, with the two lines where it says."""
    assert f'title="{REGISTRATION}"' in (ROOT / "CONTRIBUTING.md").read_text()
    source = (ROOT / REGISTRATION).read_text()
    for line, below in zip(LINES.split("\n\n"), BESIDE, strict=True):
        assert source.count(below) == 1
        source = source.replace(below, f"    {line.strip()}\n{below}")
    return source


async def test_its_lines_register_it(
    example: dict[str, Any], settings: Settings, store: Store
) -> None:
    names: dict[str, Any] = {"__name__": "workbench.registration"}
    exec(compile(registration(), REGISTRATION, "exec"), names)
    engine = Engine(settings, names["build_router"](settings), store)
    answered = await example["ask"](engine, "upper")
    assert answered.text == "THREE BLIND MICE\n"
    await engine.close()


@pytest.mark.parametrize(
    ("code", "path"),
    [
        (PROVIDER, "workbench/providers/program.py"),
        (registration(), REGISTRATION),
        (TEST, "tests/providers/test_program.py"),
    ],
)
def test_it_is_clean(code: str, path: str) -> None:
    ours = ["--config", 'lint.isort.known-first-party = ["workbench"]']  # it is not on disk
    for command in (["check", *ours], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", path, "-"],
            input=code,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
