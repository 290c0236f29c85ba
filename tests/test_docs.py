"""The documentation says what is: pages made from the code, commands that run, links that lead."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from tests.conftest import ROOT
from workbench import metrics
from workbench.cli import app
from workbench.store import Store

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
    generate = runpy.run_path(str(DOCS / "generate.py"))
    for name, make in generate["PAGES"].items():
        made = make() + generate["NOTE"]
        assert (DOCS / "reference" / name).read_text() == made, "run: python docs/generate.py"


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
            if re.match(r"([A-Z_]+=\S* )*workbench ", line):
                words = shlex.split(line, comments=True)
                yield words[words.index("workbench") + 1 :]


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


# One process for all of it: starting a command takes longer than what most of them do.
RUN = """
import json, shlex, sys
from workbench.cli import app
from workbench.store import Store
for language, code in json.load(sys.stdin):
    if language == "python":
        exec(code, {})
        continue
    for line in code.splitlines():
        words = shlex.split(line)
        assert words[0] == "workbench", line
        app(words[1:], standalone_mode=False)
"""


BOTH = """
SELECT NOT bool_or(ttft_spoilt) AS ttft, NOT bool_or(speed_spoilt) AS tpot
FROM latencies JOIN session_prompts USING (session_id, created_at)
WHERE NOT contended AND model IN ('scripted/steady', 'scripted/reasoning')
GROUP BY prompt_untagged HAVING count(DISTINCT model) = 2
"""


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    blocks = [block for block in BLOCK.finditer(TEXTS[DOCS / "tutorial.md"]) if not block["note"]]
    wanted = [(block["language"], block["code"]) for block in blocks]
    assert [language for language, _ in wanted] == ["bash", "bash", "bash", "python", "bash"]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(wanted),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    with Store.open_readonly(os.environ["WORKBENCH_DB"]) as store:
        rows = store.rows("SELECT model, ttft_s, itl_p50_s, contended FROM latencies ORDER BY seq")
        asked = store.rows(BOTH)
    # What the text says of it; later on a busy machine, sooner never.
    alone, beside = rows[:2], rows[2:4]
    assert {row["model"] for row in alone} == {"scripted/steady", "scripted/chunks"}
    assert all(row["ttft_s"] >= 0.1 and row["itl_p50_s"] >= 0.02 for row in alone)
    assert not any(row["contended"] for row in alone)
    assert all(row["contended"] for row in beside)
    # The text says six; a busy machine spoils some of them, and may spoil all.
    assert len(asked) == 6
    for metric in ("ttft", "tpot"):
        if sound := sum(row[metric] for row in asked):
            assert re.search(rf"{metric}_s +{sound} ", done.stdout), done.stdout
    assert (tmp_path / "my.toml").is_file()
