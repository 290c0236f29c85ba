"""The identity of weights, from samples of them, and whether they are still what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from workbench.hf.found import ModelFile
from workbench.hf.headers import GgufHeader, SafetensorsHeader

_CONFIGURATIONS: Final = ("config.json", "adapter_config.json", "model.safetensors.index.json")
_SAMPLES: Final = 32
_SAMPLE_BYTES: Final = 4096
_sampled: dict[Path, tuple[int, int, bytes]] = {}
"""What was read of files, with their size and time then."""


def digest_of(
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


def state_of(model: ModelFile) -> str | None:
    """Stands for a model's weights as they are now; None for files that are gone, or no model.

    The digest is of samples: size and time of each file say that it was not edited elsewhere. What
    the weights are taken for is part of it: another configuration makes another model of them.
    """
    if not model.info.digest:
        return None
    folders = [model.folder] if model.adapter is None else [model.folder, model.adapter]
    try:
        marks = [
            mark_of(path)
            for folder in folders
            for path in sorted(folder.iterdir())
            if path.name == model.gguf_file
            or path.suffix == ".safetensors"
            or path.name in _CONFIGURATIONS
        ]
    except OSError:
        return None
    return "\0".join([model.info.digest, *marks])


def mark_of(path: Path) -> str:
    """A file's name, size and time of its last change.

    Raises:
        OSError: if it is gone.
    """
    stat = path.stat()
    return f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}"


def _sample(path: Path, size: int, data_start: int) -> bytes:
    digest = hashlib.sha256()
    step = max((size - data_start) // _SAMPLES, _SAMPLE_BYTES)
    with path.open("rb") as file:
        digest.update(file.read(min(data_start, 2**20)))
        for at in range(data_start, size, step):
            file.seek(at)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()
