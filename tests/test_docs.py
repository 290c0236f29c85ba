"""The documentation says what is: pages made from the code, commands that run, links that lead."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from tests.conftest import ROOT
from tests.live import LiveServer
from workbench import metrics
from workbench.cli import app

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = {path: path.read_text() for path in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]}
BLOCK = re.compile(
    r"(?P<note><!-- not executed[^\n]*-->\n)?```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_what_is_made_from_the_code_says_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr


def test_every_page_is_in_the_navigation() -> None:
    def leaves(item: object) -> Iterator[str]:
        if isinstance(item, str):
            yield item
        for part in item if isinstance(item, list) else getattr(item, "values", tuple)():
            yield from leaves(part)

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = list(leaves(navigation))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def anchors(text: str) -> set[str]:
    """Of its headings, as the site and forges make them of plain words."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in found)
    return {re.sub(r"\s+", "-", heading) for heading in plain}


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", TEXTS[path], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def commands(text: str) -> Iterator[list[str]]:
    """What is typed after ``workbench``, in every block of shell."""
    for block in BLOCK.finditer(text):
        if block["language"] not in ("bash", "sh"):
            continue
        for line in block["code"].replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and Path(words[0]).name == "workbench":
                yield words[1:]


def test_every_command_of_the_documentation_can_be_parsed() -> None:
    found = 0
    for path, text in TEXTS.items():
        for words in commands(text):
            command, context, rest = typer.main.get_command(app), None, list(words)
            while hasattr(command, "commands"):
                assert rest[0] in command.commands, (named(path), words)
                command = command.commands[rest.pop(0)]
            context = command.make_context(" ".join(words), rest)  # exits on what it does not know
            assert context is not None
            found += 1
    assert found > 30


def test_every_figure_is_explained() -> None:
    text = (DOCS / "explanation" / "metrics.md").read_text()
    for name in [*metrics.DEFINITIONS, *metrics.PHASES]:
        assert f"`{name}`" in text, name


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    text = TEXTS[DOCS / "tutorial.md"]
    blocks = [block for block in BLOCK.finditer(text) if not block["note"]]
    assert [block["language"] for block in blocks] == ["bash", "bash", "bash", "python", "bash"]
    printed = []
    with LiveServer(tmp_path) as server:
        environment = {
            **server.environment,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
        }
        for block in blocks:
            if block["language"] == "python":
                command = [sys.executable, "-c", block["code"]]
            else:
                code = block["code"].replace("workbench ", f"{sys.executable} -m workbench.cli ")
                command = ["bash", "-euc", code]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, (block["code"], done.stderr)
            printed.append(done.stdout)
        # What the text says of it.
        rows = server.query(
            "SELECT model, ttft_s, itl_p50_s, contended FROM latencies ORDER BY seq LIMIT 4"
        )
    alone, beside = rows[:2], rows[2:]
    assert {row[0] for row in alone} == {"scripted/steady", "scripted/chunks"}
    for _, ttft_s, gap_s, contended in alone:
        assert ttft_s >= 0.1  # later on a busy machine, sooner never
        assert gap_s >= 0.02
        assert not contended
    assert all(row[3] for row in beside)
    assert re.search(r"ttft_s +7 ", printed[3]), printed[3]
    assert (tmp_path / "my.toml").is_file()
