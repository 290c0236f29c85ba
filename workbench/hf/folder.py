"""One folder or GGUF file: is it a model, is it whole, and what does it say of itself.

Where it may lie, and what its name is there, is the business of a :class:`Place`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from workbench.errors import ErrorCode
from workbench.hf import quantized, supported, vocabulary
from workbench.hf.digest import digest_of
from workbench.hf.found import ModelFile, Place, Unusable, broken_model, naming, unreadable
from workbench.hf.headers import (
    BadHeader,
    GgufHeader,
    SafetensorsHeader,
    read_gguf,
    read_safetensors,
)
from workbench.types import ModelInfo

SOURCE_FILE: Final = "workbench-source.json"
WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

_MAX_JSON_BYTES: Final = 64 * 2**20
_SHARD: Final = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_GENERATES: Final = re.compile(r"CausalLM|LMHead|ConditionalGeneration")
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONTEXT_NAMES: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def folder_model(
    place: Place, folder: Path, entries: Sequence[os.DirEntry[str]]
) -> Iterator[ModelFile]:
    """The model that this folder is, if it is one; an adapter's base is not looked for yet."""
    names = {entry.name for entry in entries}
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    pickles = sorted(name for name in names if name.endswith(_PICKLES) and _is_weights(name))
    ggufs = any(name.endswith(".gguf") for name in names)
    if not weights and not pickles and ("config.json" not in names or ggufs):
        return
    size = sum((folder / name).stat().st_size for name in weights if (folder / name).is_file())
    try:
        for entry in entries:
            if entry.is_symlink() and not place.holds(Path(entry.path)):
                raise Unusable(
                    f"has a file that links out of the model folder ({entry.name})",
                    "Copy the file itself into the folder.",
                    ErrorCode.FORBIDDEN_PATH,
                )
        if ADAPTER_CONFIG in names and set(weights) == {ADAPTER_WEIGHTS}:
            yield _adapter_model(place, folder)
        else:
            yield _safetensors_model(place, folder, names, weights, pickles)
    except Unusable as broken:
        yield broken_model(place, folder, "safetensors" if weights else None, broken, size or None)
    except OSError as error:
        yield broken_model(place, folder, "safetensors", unreadable(error), size or None)


def _is_weights(name: str) -> bool:
    """Tell pickled weights from other ``.bin`` files, such as a trainer's arguments."""
    return name not in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


# -- safetensors folders ---------------------------------------------------------------------------


def _safetensors_model(
    place: Place, folder: Path, names: set[str], weights: list[str], pickles: list[str]
) -> ModelFile:
    if not weights and pickles:
        raise Unusable(
            f"has only pickle weights ({pickles[0]}), which can run any code when loaded",
            "Convert them to safetensors (huggingface.co/spaces/safetensors/convert), or download "
            "a revision of the model that has safetensors files.",
            ErrorCode.UNSAFE_FILE,
        )
    if "config.json" not in names:
        if ADAPTER_CONFIG in names:
            raise Unusable(
                f"is a LoRA adapter without {ADAPTER_WEIGHTS}", f"Download {ADAPTER_WEIGHTS} too."
            )
        raise Unusable(
            "has no config.json",
            "Put the complete model into the folder (its own config.json too).",
        )
    config = read_json(folder / "config.json")
    check_config(config)
    headers = _weight_headers(folder, names, weights, config)
    quantized.check(config)
    vocabulary.check_files(folder, names, config)
    parameters = sum(header.parameters for header in headers.values())
    largest = max(headers.values(), key=lambda header: header.parameters)
    source = read_source(folder)
    digest = digest_of({name: folder / name for name in headers}, headers)
    info = ModelInfo(
        **naming(place, folder),
        size_bytes=sum((folder / name).stat().st_size for name in headers),
        format="safetensors",
        dtype=largest.dtype,
        quantization=quantized.name_of(config),
        parameters=parameters,
        context_length=_context_length(config),
        chat_template=_has_chat_template(folder, names),
        digest=digest,
        details={
            "architecture": next(iter(config.get("architectures") or []), None),
            "model_type": config.get("model_type"),
            "licence": source.get("licence") or _readme_licence(folder),
            "source": source.get("source"),
            "repo": source.get("repo") or source.get("original"),
            "files": len(headers),
            "location": place.location,
            # What the weights will take; an expectation for planning, not a measurement.
            "expected_bytes": sum(
                (folder / name).stat().st_size - header.data_start
                for name, header in headers.items()
            ),
        },
    )
    return ModelFile(info.name, folder, None, info, path=folder, place=place)


def _adapter_model(place: Place, folder: Path) -> ModelFile:
    """An adapter by itself: what its base adds is filled in once that is found."""
    config = read_json(folder / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip("/ "):
        raise Unusable(
            f"has an {ADAPTER_CONFIG} without base_model_name_or_path",
            f"Write the base's name into {ADAPTER_CONFIG}.",
        )
    if config.get("peft_type", "LORA") != "LORA":
        raise Unusable(
            f"is an adapter of the kind {config['peft_type']}", "Only LoRA adapters can be used."
        )
    weights = folder / ADAPTER_WEIGHTS
    try:
        header = read_safetensors(weights)
    except BadHeader as error:
        raise Unusable(
            f"has a broken file: {ADAPTER_WEIGHTS} {error}", f"Download {ADAPTER_WEIGHTS} again."
        ) from None
    source = read_source(folder)
    info = ModelInfo(
        **naming(place, folder),
        size_bytes=weights.stat().st_size,
        format="safetensors",
        dtype=header.dtype,
        parameters=header.parameters,
        chat_template=_has_chat_template(folder, {path.name for path in folder.iterdir()}),
        digest=digest_of({ADAPTER_WEIGHTS: weights}, {ADAPTER_WEIGHTS: header}),
        details={
            "adapter": {"base": base, "rank": config.get("r"), "parameters": header.parameters},
            "licence": source.get("licence") or _readme_licence(folder),
            "source": source.get("source"),
            "files": 1,
            "location": place.location,
            "expected_bytes": weights.stat().st_size - header.data_start,
        },
    )
    return ModelFile(info.name, folder, None, info, adapter=folder, path=folder, place=place)


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what transformers cannot run by itself.

    Raises:
        Unusable: with the reason and the fix.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise Unusable(
            "has a config.json without model_type",
            "Download config.json again, or use a model made for transformers.",
        )
    if "auto_map" in config and not supported.is_known(model_type):
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
    supported.check_family(config)


def weight_files(folder: Path) -> list[Path]:
    """The files in safetensors that a load of this folder reads, and no others that lie there.

    Raises:
        Unusable: they are not whole.
    """
    names = {path.name for path in folder.iterdir()}
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    headers = _weight_headers(folder, names, weights, read_json(folder / "config.json"))
    return [folder / name for name in headers]


def _weight_headers(
    folder: Path, names: set[str], weights: list[str], config: Mapping[str, Any]
) -> dict[str, SafetensorsHeader]:
    """The checked headers of the files that make up the model, as transformers chooses them."""
    # A file that is whole comes before an index: its weights would answer, and others would be
    # named in the row.
    main = config.get("transformers_weights") or next(
        (name for name in (WEIGHTS_FILE, INDEX_FILE) if name in names), None
    )
    if main is None:
        raise without_main_file(weights)
    _check_inside(main)
    if main not in names:
        raise Unusable(f"lacks the weight file {main}", f"Download {main} into the folder.")
    expected = _weight_map(folder / main) if main.endswith(".index.json") else {}
    headers = {}
    for name in sorted(set(expected.values())) or [main]:
        if name not in names:
            raise Unusable(f"lacks the weight file {name}", f"Download {name} into the folder.")
        try:
            headers[name] = read_safetensors(folder / name)
        except BadHeader as error:
            raise Unusable(
                f"has a broken file: {name} {error}", f"Download {name} again."
            ) from None
    for tensor, name in expected.items():
        if tensor not in headers[name].tensors:
            raise Unusable(
                f"has a {main} that does not fit: {name} lacks {tensor!r}",
                f"Download {name} and {main} again, from one revision.",
            )
    return headers


def without_main_file(weights: Sequence[str]) -> Unusable:
    """What is wrong with a folder of these weights, none of which transformers looks for."""
    if not weights:
        return Unusable("has no weights", "Download the safetensors files of the model.")
    if any(re.search(r"-\d{5}-of-\d{5}\.", name) for name in weights):
        return Unusable(
            f"has weights in several files but no {INDEX_FILE}", f"Download {INDEX_FILE} too."
        )
    return Unusable(
        f"has its weights in {weights[0]}, and transformers looks for {WEIGHTS_FILE}",
        f"If these are weights for transformers, rename the file to {WEIGHTS_FILE}.",
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Which file each tensor is in, by an index."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise Unusable(f"has an {index.name} without weight_map", f"Download {index.name} again.")
    for name in table.values():
        _check_inside(name)
    return table


def _check_inside(name: object) -> None:
    if not isinstance(name, str) or Path(name).name != name:
        raise Unusable(
            f"names a weight file outside its folder ({name!r})",
            "Do not use this model.",
            ErrorCode.FORBIDDEN_PATH,
        )


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
    return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))


# -- GGUF files ------------------------------------------------------------------------------------


def gguf_model(place: Place, path: Path) -> ModelFile:
    """The model that this GGUF file is."""
    try:
        header = read_gguf(path)
        return _usable_gguf(place, path, header)
    except BadHeader as error:
        broken = Unusable(str(error), f"Download {path.name} again.")
    except Unusable as error:
        broken = error
    except OSError as error:
        broken = unreadable(error)
    return broken_model(
        place, path, "gguf", broken, path.stat().st_size if path.is_file() else None
    )


def _usable_gguf(place: Place, path: Path, header: GgufHeader) -> ModelFile:
    if split := _SHARD.search(path.name):
        raise Unusable(
            f"is one of {int(split[1])} parts, which transformers cannot load",
            "Merge them with llama.cpp's `llama-gguf-split --merge`.",
        )
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture == "clip":
        raise Unusable("holds no language model", "Choose the model's main GGUF file.")
    supported.check_gguf(architecture)
    _check_tokenizer(path.parent, header)
    source = read_source(path.parent)
    context = header.metadata.get(f"{architecture}.context_length")
    info = ModelInfo(
        **naming(place, path),
        size_bytes=path.stat().st_size,
        format="gguf",
        quantization=header.quantization,
        parameters=header.parameters,
        context_length=context if isinstance(context, int) else None,
        chat_template="tokenizer.chat_template" in header.metadata,
        digest=digest_of({path.name: path}, {path.name: header}),
        details={
            "architecture": architecture,
            "licence": header.metadata.get("general.license") or source.get("licence"),
            "source": source.get("source"),
            "files": 1,
            "location": place.location,
            # Unpacked to float32, as the loader does for all but the largest.
            "expected_bytes": header.parameters * 4,
        },
    )
    return ModelFile(info.name, path.parent, path.name, info, path=path, place=place)


def _check_tokenizer(folder: Path, header: GgufHeader) -> None:
    """Files beside it are opened in place of the one inside, which takes seconds."""
    if (folder / "tokenizer.json").is_file():
        names = {path.name for path in folder.iterdir()}
        vocabulary.check_files(folder, names, {"vocab_size": header.vocabulary})
    elif header.vocabulary is None:
        raise Unusable(
            "has no tokenizer", "Choose a GGUF file with one, or put its files beside it."
        )


# -- shared ----------------------------------------------------------------------------------------


def read_source(folder: Path) -> Mapping[str, Any]:
    """Where the files came from, if the workbench brought them."""
    path = folder / SOURCE_FILE
    try:
        return read_json(path) if path.is_file() else {}
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


def read_json(path: Path) -> Mapping[str, Any]:
    """A table from a JSON file.

    Raises:
        Unusable: if it is too large or no table.
    """
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
