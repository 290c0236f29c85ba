"""What the installed transformers can load, read from its files: importing it takes seconds.

Its tables are plain literals. Where one is not found as expected (another release), nothing is
known, nothing is refused, and a load says what is wrong.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from workbench.hf.found import Unusable

_FEWEST: Final = 20
"""Families that any release has; with fewer the tables were not understood."""
_NO_ARCHITECTURES: Final = frozenset({"general", "tokenizer"})
_NEWER: Final = "Choose a model that transformers supports, or install a newer transformers release"


@dataclass(frozen=True, slots=True)
class Supported:
    """The tables of one release.

    Attributes:
        version: of transformers.
        families: configuration class of each ``model_type``.
        texts: the classes of those that generate text by themselves.
        ggufs: architectures of GGUF files, as :func:`_bare` writes them.
        quantizations: methods of quantisation, by their name in ``config.json``.
    """

    version: str
    families: Mapping[str, str]
    texts: frozenset[str]
    ggufs: frozenset[str]
    quantizations: frozenset[str]


def is_known(model_type: str) -> bool:
    """Whether transformers has this family itself; False too where that cannot be told."""
    tables = supported()
    return tables is not None and model_type in tables.families


def check_family(config: Mapping[str, Any]) -> None:
    """Refuse a family that this release does not know, or does not run for text alone.

    Args:
        config: of the model, with ``model_type``.

    Raises:
        Unusable: with the family and the release.
    """
    tables = supported()
    if tables is None:
        return
    family = str(config["model_type"])
    if family not in tables.families:
        raise Unusable(
            f"is of the family {family!r}, which the installed transformers ({tables.version}) "
            "does not know",
            f"{_NEWER}.",
        )
    if tables.families[family] not in tables.texts:
        named = next(iter(config.get("architectures") or [family]), family)
        raise Unusable(
            f"is a {named}, which transformers does not run for text alone",
            "Choose a text-generation model.",
        )


def check_gguf(architecture: str) -> None:
    """Refuse a GGUF file of an architecture that this release cannot read.

    Raises:
        Unusable: with the architecture and the release.
    """
    tables = supported()
    if tables is not None and _bare(architecture) not in tables.ggufs:
        raise Unusable(
            f"is of the architecture {architecture!r}, which the installed transformers "
            f"({tables.version}) cannot read from a GGUF file",
            f"Use the model's safetensors, or the file with Ollama. {_NEWER}.",
        )


@lru_cache(maxsize=1)
def supported() -> Supported | None:
    """The tables of the installed release; None where they are not as expected."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    try:
        # The few families that are added in code are of pictures and sound.
        families = _table(root / "models/auto/auto_mappings.py", "CONFIG_MAPPING_NAMES")
        texts = _table(root / "models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
        old = _table(root / "integrations/ggml.py", "GGUF_CONFIG_MAPPING")
        new = _table(root / "integrations/gguf/gguf_config_mapping.py", "GGUF_CONFIG_ARCHS")
        methods = _table(root / "quantizers/auto.py", "AUTO_QUANTIZATION_CONFIG_MAPPING")
        version = metadata.version("transformers")
    except (OSError, ValueError, SyntaxError, metadata.PackageNotFoundError):
        return None
    if min(len(families), len(texts)) < _FEWEST or not old or not methods:
        return None
    families = {**dict.fromkeys(texts, ""), **families}
    classes = frozenset(families[name] for name in texts)
    silent = {_bare(name) for name, kind in families.items() if kind not in classes}
    ggufs = {_bare(name) for name in {**old, **new}.keys() - _NO_ARCHITECTURES}
    return Supported(version, families, classes, frozenset(ggufs - silent), frozenset(methods))


def _table(path: Path, name: str) -> dict[str, str]:
    """A table at the top level of a module, a dict or an ordered one of pairs.

    Raises:
        OSError: without the file.
        ValueError: without the table.
    """
    found = re.search(rf"^{name}\b[^=\n]*= .*?^[)}}\]]", path.read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{path.name} has no table {name}")
    (statement,) = ast.parse(found[0]).body
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Call) and value.args:
        (value,) = value.args
    if isinstance(value, ast.Dict):
        pairs = list(zip(value.keys, value.values, strict=True))
    elif isinstance(value, ast.List):
        pairs = [(pair.elts[0], pair.elts[1]) for pair in value.elts if isinstance(pair, ast.Tuple)]
    else:
        raise ValueError(f"{name} in {path.name} is no table")
    return {str(_text(key)): str(_text(entry)) for key, entry in pairs}


def _text(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else ""


def _bare(name: str) -> str:
    """Names of GGUF architectures and of families differ in their marks only."""
    return re.sub(r"[-_.]", "", name.lower())
