"""A model's tokenizer: are its files whole, can it be opened, and has the model all of its tokens.

:func:`check_files` looks without the library that reads them, at every scan; :func:`prove` opens
them as a load does (imports transformers).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.found import Unusable
from workbench.hf.headers import read_gguf

TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_BESIDE: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_READ_WHOLE: Final = 4 * 2**20
"""Bytes of a file up to which it is parsed at a scan: some 0.1 s. Of larger ones only the ends
are looked at, which finds what broke off or never was JSON."""
_ENDS: Final = 64
_AGAIN: Final = "Download the tokenizer's files again (tokenizer.json, tokenizer_config.json)."
_TOGETHER: Final = "Download config.json and the tokenizer's files again, from one revision."


def check_files(folder: Path, names: Collection[str], config: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that cannot be opened, as far as its files say so by themselves.

    Args:
        folder: of the model.
        names: of the files in it.
        config: of the model; its ``vocab_size`` is compared, if it has one.

    Raises:
        Unusable: with the file that is missing or broken.
    """
    if not any(name in names for name in TOKENIZERS):
        raise Unusable(
            "has no tokenizer (tokenizer.json)", "Download the tokenizer's files of the model too."
        )
    for name in ("tokenizer.json", *_BESIDE):
        if name in names:
            problem, highest = _looked_at(folder / name)
            if problem:
                raise Unusable(f"has an unreadable {name} ({problem})", f"Download {name} again.")
            size = vocabulary_of(config)
            if highest is not None and size is not None and highest >= size:
                raise Unusable(_too_few(highest, size), _TOGETHER)


def vocabulary_of(config: Mapping[str, Any]) -> int | None:
    """Tokens that the model has numbers for, by its ``config.json``."""
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        if type(part.get("vocab_size")) is int:
            return int(part["vocab_size"])
    return None


def _looked_at(path: Path) -> tuple[str, int | None]:
    stat = path.stat()
    return _look(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=512)
def _look(path: Path, mtime_ns: int, size: int) -> tuple[str, int | None]:
    """What is wrong with a file of the tokenizer, and the highest id of its own vocabulary."""
    with path.open("rb") as file:
        if size > _READ_WHOLE:
            start = file.read(_ENDS).lstrip()
            file.seek(-_ENDS, 2)
            whole = start[:1] == b"{" and file.read().rstrip()[-1:] == b"}"
            return ("" if whole else "it is cut short, or no JSON"), None
        try:
            table = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            return str(error), None
    if not isinstance(table, dict):
        return "it holds no table", None
    if path.name != "tokenizer.json":
        return "", None
    if not isinstance(table.get("model"), dict):
        return "it has no model", None
    return "", _highest(table)


def _highest(table: Mapping[str, Any]) -> int | None:
    """The highest id that a text can come to without special tokens, which may have none."""
    words = table["model"].get("vocab")
    if isinstance(words, list):
        ids = set(range(len(words)))
    elif isinstance(words, dict):
        ids = {number for number in words.values() if type(number) is int}
    else:
        return None
    added = table.get("added_tokens")
    ids -= {one.get("id") for one in added or [] if isinstance(one, dict)}
    return max(ids, default=None)


# -- as a load opens it ----------------------------------------------------------------------------


def open_tokenizer(folder: Path, gguf_file: str | None) -> Any:
    """The tokenizer of a model: from the files beside a GGUF if there are any, else from inside it.

    Raises:
        Exception: whatever transformers and the tokenizers library raise.
    """
    from transformers import AutoTokenizer

    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if gguf_file is not None and not (folder / "tokenizer.json").is_file():
        common["gguf_file"] = gguf_file
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **common)
    if gguf_file is not None and not tokenizer.chat_template:
        header = read_gguf(folder / gguf_file)
        tokenizer.chat_template = header.metadata.get("tokenizer.chat_template")
    return tokenizer


def check_ids(name: str, tokenizer: Any, size: int) -> None:
    """Refuse a tokenizer with tokens that the model has no numbers for.

    Special tokens beyond the vocabulary are no obstacle while no prompt has them: a text model may
    come with its family's tokens for pictures.

    Args:
        name: of the model, for the message.
        tokenizer: of transformers.
        size: tokens of the model's vocabulary.

    Raises:
        WorkbenchError: ``HF_MODEL_LOAD_FAILED`` with the highest id and the size.
    """
    added = tokenizer.added_tokens_decoder
    ids = {number for number in tokenizer.get_vocab().values() if number not in added}
    ids |= {one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None}
    highest = max(ids | _of_a_prompt(tokenizer), default=0)
    if highest >= size:
        raise _failed(f"{name} {_too_few(highest, size)}.", _TOGETHER)


def prove(folder: Path, gguf_file: str | None, size: int | None) -> None:
    """Open a model's tokenizer as a load does, read and write with it, and compare its ids.

    Args:
        folder: of the model.
        gguf_file: in it, if the model is one.
        size: tokens of the vocabulary, None to ask the configuration.

    Raises:
        WorkbenchError: ``HF_MODEL_LOAD_FAILED``, or ``HF_INVALID_CONFIG`` if a package is missing.
    """
    name = gguf_file or folder.name
    try:
        tokenizer = open_tokenizer(folder, gguf_file)
        ids = tokenizer("Is it whole? 1, 2, 3.")["input_ids"]
        tokenizer.decode(ids)
    except Exception as error:  # whatever transformers and the tokenizers library raise
        raise unreadable_tokenizer(name, error) from error
    if not ids:
        raise _failed(f"The tokenizer of {name} makes nothing of a text.", _AGAIN)
    if size is None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        size = int(config.get_text_config(decoder=True).vocab_size)
    check_ids(name, tokenizer, size)


def unreadable_tokenizer(name: str, error: Exception, **details: Any) -> WorkbenchError:
    """What went wrong while a tokenizer was opened, in our words."""
    cause = next((line for line in str(error).splitlines() if line.strip()), "")[:500]
    package = isinstance(error, ImportError)
    return WorkbenchError(
        ErrorCode.HF_INVALID_CONFIG if package else ErrorCode.HF_MODEL_LOAD_FAILED,
        f"The tokenizer of {name} cannot be read: {type(error).__name__}: {cause}",
        fix="Install the package that is named." if package else _AGAIN,
        operation="load",
        provider="huggingface",
        details={"transient": isinstance(error, OSError) and bool(error.errno), **details},
    )


def _of_a_prompt(tokenizer: Any) -> set[int]:
    """What the chat template puts around a message; nothing if it refuses this one."""
    if not tokenizer.chat_template:
        return set()
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
        )
    except Exception:  # whatever the model's own template raises; a prompt will say so
        return set()
    return set(tokenizer(text, add_special_tokens=False)["input_ids"])


def _too_few(highest: int, size: int) -> str:
    return (
        f"has a tokenizer whose ids go up to {highest}, but a vocabulary of {size} tokens "
        "(vocab_size)"
    )


def _failed(message: str, fix: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_MODEL_LOAD_FAILED, message, fix=fix, operation="load", provider="huggingface"
    )
