"""Gradio's built page: its files, and which of them a page needs before it can be used.

Gradio's script learns piece by piece what it needs: its entry names the next files, these name
others, four times over, and each time the browser waits. Told of them all in the head of the page,
it has them on the way before the script asks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Final

# As the bundler writes them: the entry in the page, a file's list of others, what is imported with
# which of the list beforehand, and the same of a kind of component.
_ENTRY: Final = re.compile(r'(?:src|href)="\./assets/([\w.-]+\.(?:js|css))"')
_LISTED: Final = re.compile(r"m\.f=(\[[^\]]*\])")
_IMPORTED: Final = re.compile(r"import\(`\./([\w.-]+)`\)[^\[\]`]*__vite__mapDeps\(\[([\d,]+)\]\)")
_KIND: Final = re.compile(
    r"[{,](\w+):\{[^{}]*?component:\(\)=>\w+\(\(\)=>import\(`[^`]+`\)"
    r"[^\[\]`]*__vite__mapDeps\(\[([\d,]+)\]\)"
)

# Gradio's script watches each value of what it is told of the page for changes, thousands that
# never change, and goes through all of them for each component: that was a second of a first look.
# It lets lists be that are not plain arrays.
_UNWATCHED: Final = """{
  class Unwatched extends Array {}
  let told;
  Object.defineProperty(window, "gradio_config", {
    get: () => told,
    set: (config) => {
      told = { ...config };
      for (const name of ["components", "dependencies"]) told[name] = Unwatched.from(config[name]);
    },
  });
}"""


def folder() -> Path:
    """Where gradio's page lies; gradio is not imported for it."""
    spec = find_spec("gradio")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "templates" / "frontend"


def kinds(config: Mapping[str, Any]) -> set[str]:
    """The kinds of components that a page shows first: of tabs, those in the first one.

    Args:
        config: what gradio tells the browser of the page.
    """
    known = {component["id"]: component for component in config["components"]}
    found: set[str] = set()

    def look(node: Mapping[str, Any]) -> None:
        component = known.get(node["id"])
        kind = component["type"] if component is not None else "column"
        if component is not None and component["props"].get("visible") is False:
            return
        found.add(kind)
        inside = node.get("children") or ()
        for child in inside[:1] if kind == "tabs" else inside:
            look(child)

    look(config["layout"])
    return found


def needed(built: Path, wanted: Collection[str]) -> list[str]:
    """Names of the files that a page with such components needs, in the order of their need.

    Of a page that is built in another way it may miss some: they come later, as they would without.

    Args:
        built: the folder of the page.
        wanted: kinds of components.
    """
    assets = built / "assets"
    entry = _ENTRY.findall((built / "index.html").read_text("utf-8"))
    files = dict.fromkeys(entry)
    for name in entry:
        files |= dict.fromkeys(chain.from_iterable(_imports(assets / name, _IMPORTED).values()))
    for name in [*files]:
        if name.startswith("Index-"):
            blocks = _imports(assets / name, _IMPORTED)
            files |= dict.fromkeys(
                part for one, parts in blocks.items() if one.startswith("Blocks-") for part in parts
            )
        elif name.startswith("core-"):
            components = _imports(assets / name, _KIND)
            files |= dict.fromkeys(
                part for kind, parts in components.items() if kind in wanted for part in parts
            )
    return [name for name in files if (assets / name).is_file()]


def _imports(file: Path, form: re.Pattern[str]) -> dict[str, Sequence[str]]:
    """What a script imports when it needs it, each with the files that this needs in turn."""
    if file.suffix != ".js":
        return {}
    text = file.read_text("utf-8")
    if (listed := _LISTED.search(text)) is None:
        return {}
    names = [str(name).removeprefix("./") for name in json.loads(listed[1])]
    return {one: [names[int(at)] for at in places.split(",")] for one, places in form.findall(text)}


def head(files: Sequence[str], theme: str) -> str:
    """What the head of the page says of them, as HTML, and the script that must run first.

    Args:
        files: names.
        theme: hash of the theme's sheet.
    """
    links = (
        f'<link rel="modulepreload" crossorigin href="./assets/{name}">'
        if name.endswith(".js")
        else f'<link rel="preload" as="style" crossorigin href="./assets/{name}">'
        for name in files
    )
    sheet = f'<link rel="preload" as="style" href="./theme.css?v={theme}">'
    return f"<script>{_UNWATCHED}</script>{''.join(links)}{sheet}"
