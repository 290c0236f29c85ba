"""The model folder: which models are there, are they whole, and where is one (no torch here).

A model is a folder with ``config.json`` and safetensors weights, possibly nested (``org/name``), or
a single ``.gguf`` file. What is there but cannot be used is listed too, with the reason and the way
to mend it. Pickle weights (``.bin``, ``.pt``) run code when they are loaded and are never opened.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.headers import (
    BadHeader,
    GgufHeader,
    SafetensorsHeader,
    read_gguf,
    read_safetensors,
)
from workbench.types import ModelInfo

PROVIDER: Final = "huggingface"
SOURCE_FILE: Final = "workbench-source.json"

_MAX_DEPTH: Final = 4
_MAX_JSON_BYTES: Final = 64 * 2**20
_SAMPLES: Final = 32
_SAMPLE_BYTES: Final = 4096
_NAME_PART: Final = re.compile(r"^[^\W_][\w .+@=,()\[\]-]{0,150}$")
_SHARD: Final = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_GENERATES: Final = re.compile(r"CausalLM|LMHead|ConditionalGeneration")
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONTEXT_NAMES: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


class Unusable(Exception):
    """Why a model cannot be used, and what to do about it."""

    def __init__(
        self, problem: str, fix: str, code: ErrorCode = ErrorCode.HF_MODEL_LOAD_FAILED
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix
        self.code = code


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Where a model lies: a folder, and the GGUF file in it if it is one; or what is wrong."""

    name: str
    folder: Path
    gguf_file: str | None
    info: ModelInfo
    broken: Unusable | None = None


# -- scanning ------------------------------------------------------------------------------------


def scan(root: Path) -> list[ModelInfo]:
    """All models below ``root`` by id, broken ones included. Never raises for a bad model.

    Headers are read once per file and remembered until the file changes.
    """
    return sorted((model.info for model in _models(root)), key=lambda info: info.id)


def resolve(root: Path, name: str) -> ModelFile:
    """The usable model of this name.

    Args:
        root: the model folder.
        name: as in the id, without the provider.

    Raises:
        WorkbenchError: ``FORBIDDEN_PATH`` if the name leads out of the model folder,
            ``HF_MODEL_NOT_FOUND`` with the names that exist, ``UNSAFE_FILE`` for pickle weights or
            custom code, ``HF_MODEL_LOAD_FAILED`` if files are missing or broken.
    """
    _check_name(name)
    path = root / name
    if not path.exists() and not path.is_symlink():
        raise _not_found(root, name)
    if not _inside(path, root):
        raise _forbidden(name, "leads out of the model folder through a symbolic link")
    model = next((found for found in _examine(root, path)), None)
    if model is None:
        raise _not_found(root, name)
    if model.broken is not None:
        raise WorkbenchError(
            model.broken.code,
            f"{name} {model.broken.problem}.",
            fix=model.broken.fix,
            operation="load",
            provider=PROVIDER,
        )
    return model


def model_id(name: str) -> str:
    """``huggingface/<name>``."""
    return f"{PROVIDER}/{name}"


def _models(root: Path) -> Iterator[ModelFile]:
    if not root.is_dir():
        return
    pending = [(root, 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield _broken(root, folder, None, _unreadable(error))
            continue
        if folder != root:
            yield from _folder_model(root, folder, entries)
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if not _inside(path, root):
                if folder == root or entry.name.endswith(".gguf"):
                    yield _broken(root, path, None, _LEADS_OUT)
            elif path.is_dir():
                if depth < _MAX_DEPTH:
                    pending.append((path, depth + 1))
            elif entry.name.endswith(".gguf"):
                yield _gguf_model(root, path)


_LEADS_OUT: Final = Unusable(
    "leads out of the model folder through a symbolic link",
    "Move or copy the model into the model folder, or set HF_MODEL_PATH to where it is.",
    ErrorCode.FORBIDDEN_PATH,
)


def _examine(root: Path, path: Path) -> Iterator[ModelFile]:
    """The model that this one path is, if it is one."""
    if path.is_dir():
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            yield _broken(root, path, None, _unreadable(error))
            return
        yield from _folder_model(root, path, entries)
    elif path.name.endswith(".gguf"):
        yield _gguf_model(root, path)


def _folder_model(
    root: Path, folder: Path, entries: Sequence[os.DirEntry[str]]
) -> Iterator[ModelFile]:
    names = {entry.name for entry in entries}
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    pickles = sorted(name for name in names if name.endswith(_PICKLES) and _is_weights(name))
    ggufs = any(name.endswith(".gguf") for name in names)
    if not weights and not pickles and ("config.json" not in names or ggufs):
        return
    size = sum((folder / name).stat().st_size for name in weights if (folder / name).is_file())
    try:
        for entry in entries:
            if entry.is_symlink() and not _inside(Path(entry.path), root):
                raise Unusable(
                    f"has a file that links out of the model folder ({entry.name})",
                    "Copy the file itself into the folder.",
                    ErrorCode.FORBIDDEN_PATH,
                )
        yield _safetensors_model(root, folder, names, weights, pickles)
    except Unusable as broken:
        yield _broken(root, folder, "safetensors" if weights else None, broken, size or None)
    except OSError as error:
        yield _broken(root, folder, "safetensors", _unreadable(error), size or None)


def _is_weights(name: str) -> bool:
    """Tell pickled weights from other ``.bin`` files, such as a trainer's arguments."""
    return name not in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


# -- safetensors folders ---------------------------------------------------------------------------


def _safetensors_model(
    root: Path, folder: Path, names: set[str], weights: list[str], pickles: list[str]
) -> ModelFile:
    if not weights and pickles:
        raise Unusable(
            f"has only pickle weights ({pickles[0]}), which can run any code when loaded",
            "Convert them to safetensors (huggingface.co/spaces/safetensors/convert), or download "
            "a revision of the model that has safetensors files.",
            ErrorCode.UNSAFE_FILE,
        )
    if "config.json" not in names:
        what = "is a LoRA adapter" if "adapter_config.json" in names else "has no config.json"
        raise Unusable(what, "Put the complete model into the folder (its own config.json too).")
    config = _json(folder / "config.json")
    _check_config(config)
    headers = _weight_headers(folder, names, weights)
    if not any(name in names for name in _TOKENIZERS):
        raise Unusable(
            "has no tokenizer (tokenizer.json)", "Download the tokenizer's files of the model too."
        )
    parameters = sum(header.parameters for header in headers.values())
    largest = max(headers.values(), key=lambda header: header.parameters)
    source = _source(folder)
    digest = _digest({name: folder / name for name in headers}, headers)
    quantization = config.get("quantization_config")
    info = ModelInfo(
        **_naming(root, folder),
        size_bytes=sum((folder / name).stat().st_size for name in headers),
        format="safetensors",
        dtype=largest.dtype,
        quantization=_quantization_name(quantization),
        parameters=parameters,
        context_length=_context_length(config),
        chat_template=_has_chat_template(folder, names),
        digest=digest,
        details={
            "architecture": next(iter(config.get("architectures") or []), None),
            "model_type": config.get("model_type"),
            "licence": source.get("licence") or _readme_licence(folder),
            "source": source.get("source"),
            "files": len(headers),
            # What the weights will take; an expectation for planning, not a measurement.
            "expected_bytes": sum(
                (folder / name).stat().st_size - header.data_start
                for name, header in headers.items()
            ),
        },
    )
    return ModelFile(info.name, folder, None, info)


def _check_config(config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise Unusable(
            "has a config.json without model_type",
            "Download config.json again, or use a model made for transformers.",
        )
    if "auto_map" in config and not _is_native(model_type):
        raise Unusable(
            f"needs its own Python code (auto_map in config.json; transformers does not know "
            f"{model_type!r} by itself), which is never run",
            "Choose a model that transformers supports itself, or a newer transformers release.",
            ErrorCode.UNSAFE_FILE,
        )
    architectures = config.get("architectures")
    if (
        isinstance(architectures, list)
        and architectures
        and not any(_GENERATES.search(str(name)) for name in architectures)
    ):
        raise Unusable(
            f"is a {architectures[0]}, which does not generate text",
            "Choose a text-generation model.",
        )


def _is_native(model_type: str) -> bool:
    """Whether transformers has this family itself, found without importing it."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return False
    return (Path(spec.origin).parent / "models" / model_type.replace("-", "_")).is_dir()


def _weight_headers(
    folder: Path, names: set[str], weights: list[str]
) -> dict[str, SafetensorsHeader]:
    """The checked headers of the files that make up the model."""
    index = "model.safetensors.index.json"
    expected: Mapping[str, Any] = {}
    if index in names:
        table = _json(folder / index).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise Unusable(f"has an {index} without weight_map", f"Download {index} again.")
        expected = table
        wanted = sorted({str(name) for name in table.values()})
        for name in wanted:
            if Path(name).name != name:
                raise Unusable(
                    f"names a weight file outside its folder ({name!r})",
                    "Do not use this model.",
                    ErrorCode.FORBIDDEN_PATH,
                )
    else:
        wanted = ["model.safetensors"] if "model.safetensors" in names else weights
        numbered = [name for name in wanted if re.search(r"-\d{5}-of-\d{5}\.", name)]
        if numbered:
            raise Unusable(f"has weights in several files but no {index}", f"Download {index} too.")
    if not wanted:
        raise Unusable("has no weights", "Download the safetensors files of the model.")
    headers = {}
    for name in wanted:
        if name not in names:
            raise Unusable(f"lacks the weight file {name}", f"Download {name} into the folder.")
        try:
            headers[name] = read_safetensors(folder / name)
        except BadHeader as error:
            raise Unusable(
                f"has a broken file: {name} {error}", f"Download {name} again."
            ) from None
    for tensor, name in expected.items():
        if tensor not in headers[str(name)].tensors:
            raise Unusable(
                f"has a {index} that does not fit: {name} lacks {tensor!r}",
                f"Download {name} and {index} again, from one revision.",
            )
    return headers


def _quantization_name(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return None
    bits = entry.get("bits") or (4 if entry.get("load_in_4bit") else None)
    method = str(entry.get("quant_method", "unknown"))
    return f"{method}-{bits}bit" if bits else method


def _context_length(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in _CONTEXT_NAMES:
            if isinstance(part.get(name), int):
                return int(part[name])
    return None


def _has_chat_template(folder: Path, names: set[str]) -> bool:
    if {"chat_template.jinja", "chat_template.json"} & names:
        return True
    if "tokenizer_config.json" not in names:
        return False
    return bool(_json(folder / "tokenizer_config.json").get("chat_template"))


# -- GGUF files ------------------------------------------------------------------------------------


def _gguf_model(root: Path, path: Path) -> ModelFile:
    try:
        header = read_gguf(path)
        return _usable_gguf(root, path, header)
    except BadHeader as error:
        broken = Unusable(str(error), f"Download {path.name} again.")
    except Unusable as error:
        broken = error
    except OSError as error:
        broken = _unreadable(error)
    return _broken(root, path, "gguf", broken, path.stat().st_size if path.is_file() else None)


def _usable_gguf(root: Path, path: Path, header: GgufHeader) -> ModelFile:
    if split := _SHARD.search(path.name):
        raise Unusable(
            f"is one of {int(split[1])} parts, which transformers cannot load",
            "Merge them with llama.cpp's `llama-gguf-split --merge`.",
        )
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture == "clip":
        raise Unusable("holds no language model", "Choose the model's main GGUF file.")
    source = _source(path.parent)
    context = header.metadata.get(f"{architecture}.context_length")
    info = ModelInfo(
        **_naming(root, path),
        size_bytes=path.stat().st_size,
        format="gguf",
        quantization=header.quantization,
        parameters=header.parameters,
        context_length=context if isinstance(context, int) else None,
        chat_template="tokenizer.chat_template" in header.metadata,
        digest=_digest({path.name: path}, {path.name: header}),
        details={
            "architecture": architecture,
            "licence": header.metadata.get("general.license") or source.get("licence"),
            "source": source.get("source"),
            "files": 1,
            # Unpacked to float32, as the loader does for all but the largest.
            "expected_bytes": header.parameters * 4,
        },
    )
    return ModelFile(info.name, path.parent, path.name, info)


# -- shared ----------------------------------------------------------------------------------------


def _digest(
    paths: Mapping[str, Path], headers: Mapping[str, SafetensorsHeader | GgufHeader]
) -> str:
    """Identity of the weights: SHA-256 over each file's name, size, head and samples of its data.

    Reading gigabytes at every scan is out of the question. Samples spread over the whole file tell
    apart two trainings of one architecture, whose headers and sizes are equal; that a single
    changed byte elsewhere goes unseen is why the prefix does not say ``sha256:``.
    """
    total = hashlib.sha256()
    for name in sorted(paths):
        size, mtime = paths[name].stat().st_size, paths[name].stat().st_mtime_ns
        known = _sampled.get(paths[name])
        if known is None or known[:2] != (size, mtime):
            known = (size, mtime, _sample(paths[name], size, headers[name].data_start))
            _sampled[paths[name]] = known
        total.update(f"{name}\0{size}\0".encode() + known[2])
    return f"sample-sha256:{total.hexdigest()}"


_sampled: dict[Path, tuple[int, int, bytes]] = {}


def _sample(path: Path, size: int, data_start: int) -> bytes:
    digest = hashlib.sha256()
    step = max((size - data_start) // _SAMPLES, _SAMPLE_BYTES)
    with path.open("rb") as file:
        digest.update(file.read(min(data_start, 2**20)))
        for at in range(data_start, size, step):
            file.seek(at)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def _source(folder: Path) -> Mapping[str, Any]:
    """Where the files came from, if the workbench brought them."""
    path = folder / SOURCE_FILE
    try:
        return _json(path) if path.is_file() else {}
    except Unusable:
        return {}


def _readme_licence(folder: Path) -> str | None:
    """The licence from the model card's head."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        match = re.search(r"^license:\s*['\"]?([\w.+-]+)", file.read(4096), re.MULTILINE)
    return match[1] if match else None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("it is too large")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no table")
    except (ValueError, RecursionError) as error:
        raise Unusable(
            f"has an unreadable {path.name} ({error})", f"Download {path.name} again."
        ) from None
    return value


def _naming(root: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    return {"id": model_id(name), "name": name, "provider": PROVIDER}


def _broken(
    root: Path,
    path: Path,
    format_: Literal["safetensors", "gguf"] | None,
    reason: Unusable,
    size: int | None = None,
) -> ModelFile:
    info = ModelInfo(
        **_naming(root, path),
        status="unusable",
        size_bytes=size,
        format=format_,
        problem=f"{path.name} {reason.problem}. {reason.fix}",
        details={"code": reason.code.value},
    )
    return ModelFile(info.name, path, None, info, reason)


def _unreadable(error: OSError) -> Unusable:
    return Unusable(f"cannot be read ({error.strerror or error})", "Check the rights of the files.")


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _check_name(name: str) -> None:
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise _forbidden(name, "is no path inside the model folder")
    if len(parts) > _MAX_DEPTH + 1 or not all(_NAME_PART.match(part) for part in parts):
        raise _forbidden(name, "has parts that no model name has")


def _forbidden(name: str, why: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.FORBIDDEN_PATH,
        f"The model name {name[:200]!r} {why}.",
        fix="Use a name as `workbench models list` shows it.",
        operation="load",
        provider=PROVIDER,
    )


def _not_found(root: Path, name: str) -> WorkbenchError:
    names = [info.name for info in scan(root) if info.status != "unusable"]
    known = ", ".join(names[:20]) or "none"
    return WorkbenchError(
        ErrorCode.HF_MODEL_NOT_FOUND,
        f"There is no Hugging Face model {name!r} in {root} (there are: {known}).",
        fix="Use one of these names, or bring a model with `workbench models pull`.",
        operation="load",
        provider=PROVIDER,
        details={"models": names},
    )
