"""What the hub has of a model, and which of its files are wanted (huggingface_hub comes in late).

Only files that cannot run code are ever chosen: safetensors weights, their index, tokenizer and
configuration, a chat template, the card and the licence; a GGUF when it is asked for by name.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any, Final, TypeVar

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.hf.files import check_name
from workbench.hf.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX_FILE
from workbench.hf.found import PROVIDER, model_id
from workbench.settings import Settings

T = TypeVar("T")

_REPO: Final = re.compile(r"^[\w.-]{1,96}/[\w.-]{1,96}$")
_REVISION: Final = re.compile(r"^[\w][\w./-]{0,199}$")
_COMPANIONS: Final = re.compile(
    r"^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|tekken|chat_template|preprocessor_config|processor_config|adapter_config)\.json$"
    r"|^(vocab|merges)\.txt$|^chat_template\.jinja$"
    r"|^(tokenizer|spiece|sentencepiece\.bpe)\.model$"
    r"|^(README|LICEN[CS]E|NOTICE|USE_POLICY)(\.md|\.txt)?$",
    re.IGNORECASE,
)
_MAIN_WEIGHTS: Final = re.compile(r"^model(-\d{5}-of-\d{5})?\.safetensors$")
_SPLIT_GGUF: Final = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model on the hub.

    Args:
        repo: ``org/name``.
        revision: branch, tag or commit; None for ``main``.
        gguf_file: this one file of the repository.
    """

    repo: str
    revision: str | None = None
    gguf_file: str | None = None

    @classmethod
    def parse(cls, text: str, revision: str | None, gguf_file: str | None) -> Wanted:
        """From ``org/name`` or ``org/name/file.gguf``, with or without ``huggingface/`` before it.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` or ``FORBIDDEN_PATH`` for what is no such name.
        """
        name = text.strip().strip("/")
        parts = name.split("/")
        if len(parts) > 2 and parts[0] == PROVIDER:
            parts = parts[1:]
        if len(parts) > 2 and name.endswith(".gguf") and gguf_file is None:
            gguf_file = "/".join(parts[2:])
            parts = parts[:2]
        repo = "/".join(parts)
        if not name:
            raise invalid(
                "The name of the model is empty.", fix="Give ORG/NAME of the hub, or ollama/NAME."
            )
        if parts[0] == "ollama" or len(parts) == 1:
            bare = parts[-1]
            raise invalid(
                f"{text!r} is no name of a Hugging Face model, which has the form ORG/NAME.",
                fix=f"For an Ollama model: ollama pull {bare}, or ollama/{bare} here. For Hugging "
                f"Face: workbench models pull ORG/{bare.partition(':')[0]}.",
            )
        if not _REPO.match(repo) or ".." in repo:
            raise invalid(
                f"{text[:200]!r} is no name of a Hugging Face model.",
                fix="Give ORG/NAME as in the address of its page on the hub.",
            )
        if revision is not None and (not _REVISION.match(revision) or ".." in revision):
            raise invalid(
                f"{revision[:200]!r} is no revision.", fix="Give a branch, a tag or a commit."
            )
        if gguf_file is not None and not gguf_file.endswith(".gguf"):
            raise invalid(f"{gguf_file[:200]!r} is no GGUF file.", fix="Give a name ending .gguf.")
        if gguf_file is not None and not {"", ".", ".."}.isdisjoint(gguf_file.split("/")):
            raise invalid(
                f"{gguf_file[:200]!r} is no file of a repository.",
                fix="Give its name as the model's page on the hub lists it.",
            )
        wanted = cls(repo, revision, gguf_file)
        check_name(wanted.name)
        return wanted

    @property
    def name(self) -> str:
        """The model's name once it is here."""
        return f"{self.repo}/{self.gguf_file}" if self.gguf_file else self.repo

    @property
    def id(self) -> str:
        """The model's id once it is here."""
        return model_id(self.name)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub: ``sha256`` for large ones, git's own hash for all others."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def key(self) -> str:
        """Identity of the content, fit for a file name."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    licence: str | None
    files: Mapping[str, RemoteFile]


def ask(settings: Settings, wanted: Wanted, cancelled: threading.Event) -> Listing:
    """Ask the hub what the repository holds, its revision resolved to a commit.

    Raises:
        WorkbenchError: ``HF_HUB_UNREACHABLE``, ``HF_HUB_FORBIDDEN``, ``HF_MODEL_NOT_FOUND``,
            ``CANCELLED``.
    """
    check_online(settings)

    def call() -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=_endpoint(settings)).model_info(
            wanted.repo,
            revision=wanted.revision,
            files_metadata=True,
            timeout=settings.workbench_hub_timeout_s,
        )

    try:
        info = _bounded(call, settings.workbench_hub_timeout_s, cancelled)
    except WorkbenchError:
        raise
    except Exception as error:  # the client raises many kinds; all mean that the hub gave nothing
        raise explained(error, wanted) from None
    files = {}
    for entry in info.siblings or []:
        lfs = entry.lfs
        files[entry.rfilename] = RemoteFile(
            name=entry.rfilename,
            size=int(lfs.size if lfs is not None else entry.size or 0),
            sha256=lfs.sha256 if lfs is not None else None,
            git_sha1=entry.blob_id,
        )
    return Listing(wanted.repo, str(info.sha), _licence(info), files)


def check_online(settings: Settings) -> None:
    """Refuse in offline mode (``HF_HUB_UNREACHABLE``)."""
    if settings.workbench_offline:
        raise WorkbenchError(
            ErrorCode.HF_HUB_UNREACHABLE,
            "WORKBENCH_OFFLINE is set, so the hub is not asked.",
            fix="Unset it to download, or copy the model's folder into HF_MODEL_PATH.",
            operation="download",
            provider=PROVIDER,
        )


def file_url(settings: Settings, listing: Listing, file: RemoteFile) -> str:
    """Where the hub serves a file."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(
        listing.repo, file.name, revision=listing.commit, endpoint=_endpoint(settings)
    )


def _endpoint(settings: Settings) -> str | None:
    return settings.hf_endpoint.rstrip("/") if settings.hf_endpoint else None


def _licence(info: Any) -> str | None:
    card = info.card_data
    named = card.get("license") if card is not None else None
    if isinstance(named, list):
        named = ", ".join(str(item) for item in named)
    if named:
        return str(named)
    tags = (str(tag) for tag in info.tags or [])
    return next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None)


def _bounded(call: Callable[[], T], limit_s: float, cancelled: threading.Event) -> T:
    """Run a call in a thread that is left alone when it takes too long or nobody waits any more.

    A name lookup in a network that drops packets has no limit that a client could set.
    """
    answer: list[T] = []
    failure: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # handed to the waiting thread
            failure.append(error)
        ended.set()

    threading.Thread(target=run, daemon=True, name="hub-question").start()
    waited, step = 0.0, 0.1
    while not ended.wait(step):
        waited += step
        if cancelled.is_set():
            raise stopped()
        if waited > limit_s:
            raise TimeoutError(f"no answer within {limit_s:g} s")
    if failure:
        raise failure[0]
    return answer[0]


def is_companion(name: str) -> bool:
    """Whether a file belongs beside weights: tokenizer, configuration, card, licence."""
    return _COMPANIONS.match(name) is not None


# -- choosing --------------------------------------------------------------------------------------


def choose(listing: Listing, wanted: Wanted) -> list[RemoteFile]:
    """The files that make up the model, small ones first.

    Raises:
        WorkbenchError: ``UNSAFE_FILE`` if its weights are pickles only, ``HF_MODEL_NOT_FOUND`` for
            a GGUF that is not there, ``INVALID_REQUEST`` if a GGUF has to be named,
            ``HF_MODEL_LOAD_FAILED`` if it is no model for transformers.
    """
    companions = [file for name, file in listing.files.items() if is_companion(name)]
    if wanted.gguf_file is not None:
        weights = [_gguf(listing, wanted.gguf_file)]
    else:
        weights = _safetensors(listing)
        _check_complete(listing)
        if INDEX_FILE in listing.files:
            companions.append(listing.files[INDEX_FILE])
    chosen = [*companions, *weights]
    nameless = next((file.name for file in chosen if not re.match(r"^[0-9a-f]+$", file.key)), None)
    if nameless is not None:
        raise WorkbenchError(
            ErrorCode.HF_DOWNLOAD_FAILED,
            f"The hub gives no hash of {nameless}, so it could not be checked.",
            fix="If HF_ENDPOINT is set, check that it is a complete mirror.",
            operation="download",
            provider=PROVIDER,
            details={"repo": listing.repo},
        )
    return sorted(chosen, key=lambda file: (file.sha256 is not None, file.size))


def _safetensors(listing: Listing) -> list[RemoteFile]:
    names = [name for name in listing.files if "/" not in name and name.endswith(".safetensors")]
    # Some repositories hold the same weights again in another layout (consolidated.safetensors).
    chosen = [name for name in names if _MAIN_WEIGHTS.match(name)]
    if INDEX_FILE in listing.files and len(chosen) > 1:
        chosen = [name for name in chosen if name != "model.safetensors"]
    if not chosen and ADAPTER_WEIGHTS in names:
        chosen = [ADAPTER_WEIGHTS]
    chosen = chosen or names
    if chosen:
        return [listing.files[name] for name in chosen]
    ggufs = _ggufs(listing)
    if ggufs:
        raise invalid(
            f"{listing.repo} holds GGUF files only: {_some(ggufs)}.",
            fix=f"Name the one you want: workbench models pull {listing.repo} --gguf "
            f"{quote(ggufs[0])}.",
            repo=listing.repo,
            gguf_files=ggufs,
        )
    pickles = [name for name in listing.files if name.endswith(_PICKLES)]
    if pickles:
        raise WorkbenchError(
            ErrorCode.UNSAFE_FILE,
            f"{listing.repo} has only pickle weights ({_some(pickles)}), which can run any code "
            "when loaded.",
            fix="Choose a repository with safetensors, or convert this one "
            "(huggingface.co/spaces/safetensors/convert) and pull the result with --revision "
            "refs/pr/N.",
            operation="download",
            provider=PROVIDER,
            details={"repo": listing.repo},
        )
    raise _unfit(listing, "has no weights.", "Choose a text-generation model.")


def _check_complete(listing: Listing) -> None:
    """Refuse before gigabytes are downloaded what could not be loaded afterwards."""
    if ADAPTER_CONFIG in listing.files:
        return
    if "config.json" not in listing.files:
        raise _unfit(
            listing,
            "has no config.json, so it is no model for transformers.",
            "Choose a repository made for transformers, or a GGUF of the model.",
        )


def _gguf(listing: Listing, name: str) -> RemoteFile:
    if name not in listing.files:
        ggufs = _ggufs(listing)
        raise WorkbenchError(
            ErrorCode.HF_MODEL_NOT_FOUND,
            f"{listing.repo} has no file {name} (GGUF files there: {_some(ggufs) or 'none'}).",
            fix="Use one of these names." if ggufs else "Pull the model without --gguf.",
            operation="download",
            provider=PROVIDER,
            details={"repo": listing.repo, "gguf_files": ggufs},
        )
    if _SPLIT_GGUF.search(name):
        raise invalid(
            f"{name} is one part of a split GGUF, which transformers cannot load.",
            fix="Choose a GGUF that is one file.",
            repo=listing.repo,
        )
    return listing.files[name]


def _ggufs(listing: Listing) -> list[str]:
    return sorted(name for name in listing.files if name.endswith(".gguf"))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _unfit(listing: Listing, problem: str, fix: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_MODEL_LOAD_FAILED,
        f"{listing.repo} {problem}",
        fix=fix,
        operation="download",
        provider=PROVIDER,
        details={"repo": listing.repo},
    )


# -- failures --------------------------------------------------------------------------------------

LOG_IN: Final = "log in with `hf auth login` or set HF_TOKEN"


def stopped() -> WorkbenchError:
    """``CANCELLED``; what has come stays on disk."""
    return WorkbenchError(
        ErrorCode.CANCELLED,
        "The download was stopped.",
        fix="Pull the model again to take it up where it stopped.",
        operation="download",
        provider=PROVIDER,
    )


def explained(error: Exception, wanted: Wanted) -> WorkbenchError:
    """What the hub's client or the network raised, in our words."""
    from huggingface_hub import errors

    repo = wanted.repo
    status = getattr(getattr(error, "response", None), "status_code", None)
    code = ErrorCode.HF_HUB_UNREACHABLE
    if isinstance(error, errors.GatedRepoError):
        code = ErrorCode.HF_HUB_FORBIDDEN
        message = f"{repo} is gated: its owner must let you in first."
        fix = f"Ask for access on its page on the hub, then {LOG_IN}."
    elif isinstance(error, errors.RevisionNotFoundError):
        code = ErrorCode.HF_MODEL_NOT_FOUND
        message = f"{repo} has no revision {wanted.revision!r}."
        fix = "Leave --revision out for main, or see the branches on the model's page."
    elif isinstance(error, errors.RepositoryNotFoundError):
        code = ErrorCode.HF_MODEL_NOT_FOUND
        message = f"The hub has no model {repo}, or it is private."
        fix = f"Check the name (ORG/NAME); for a private model {LOG_IN}."
    elif isinstance(error, errors.OfflineModeIsEnabled):
        message = "HF_HUB_OFFLINE is set, so the hub is not asked."
        fix = "Unset it to download."
    elif status in (401, 403):
        code = ErrorCode.HF_HUB_FORBIDDEN
        message = f"The hub refuses access to {repo} ({status}); your token may be missing or old."
        fix = f"Check that you may read the model on the hub, then {LOG_IN}."
    elif status == 404:
        code = ErrorCode.HF_MODEL_NOT_FOUND
        message = f"The hub does not find what was asked for of {repo}."
        fix = "Check name and revision."
    elif status is not None:
        message = f"The hub answered {status} for {repo}."
        fix = "Try again in a while; what has come is kept."
    else:
        first_line = next(iter(str(error).splitlines()), "")
        message = f"The hub cannot be reached ({type(error).__name__}: {first_line})."
        fix = "Check the network (HTTPS_PROXY, HF_ENDPOINT) and pull again; what has come is kept."
    return WorkbenchError(
        code,
        message,
        fix=fix,
        operation="download",
        provider=PROVIDER,
        details={"repo": repo, **({"status": status} if status is not None else {})},
    )
