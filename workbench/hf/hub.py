"""Downloading a model from the hub into the model folder: resumable, checked, whole or not at all.

While it comes it lies in a hidden folder, each file under the hash of its content; that is what
the next try takes up. Only when all files are there and their hashes are those that the hub names
does the model appear, in one step. The files come by plain HTTPS, which can be resumed at any byte.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import IO, Any, Final

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import source
from workbench.hf.folder import (
    ADAPTER_CONFIG,
    INDEX_FILE,
    SOURCE_FILE,
    WEIGHTS_FILE,
    check_config,
    read_json,
    read_source,
    without_main_file,
)
from workbench.hf.found import PROVIDER, Unusable
from workbench.hf.listing import (
    Listing,
    RemoteFile,
    Wanted,
    ask,
    choose,
    explained,
    file_url,
    stopped,
)
from workbench.hf.transfer import Broken, NotThatLong, response
from workbench.jobs import Reporter
from workbench.settings import Settings

_log = logs.get(__name__)

PARTIAL_FOLDER: Final = ".downloads"
_LOCK_POLL_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 8.0


def download(
    settings: Settings, wanted: Wanted, report: Reporter, cancelled: threading.Event
) -> Mapping[str, Any]:
    """Bring a model from the hub to disk; blocking.

    Args:
        settings: model folder, hub, bounds.
        wanted: which model.
        report: receives what is done, with bytes on disk and in total.
        cancelled: stops the download soon; what has come is kept for the next try.

    Returns:
        ``id``, ``name``, ``revision`` (the commit), ``size_bytes``, ``downloaded_bytes``, ``path``.

    Raises:
        WorkbenchError: as :func:`workbench.hf.listing.ask` and ``choose``; ``DISK_FULL``;
            ``INVALID_REQUEST`` if something else lies where the model would;
            ``HF_DOWNLOAD_FAILED`` if a file is not what the hub says it is, or the model folder
            cannot be written; ``CANCELLED``.
    """
    report("asking the hub")
    listing = ask(settings, wanted, cancelled)
    files = choose(listing, wanted)
    root = settings.hf_model_path
    partial = root / PARTIAL_FOLDER / wanted.name.replace("/", "--")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_one(partial, report, cancelled):
            return _Download(settings, wanted, listing, files, partial, report, cancelled).run()
    except OSError as error:  # what the network does has become an error of ours before
        raise _unwritable(error, partial, root) from None


class _Stopped(Exception):
    """Another file failed, or the user has had enough."""


class _Download:
    """One download under its lock."""

    def __init__(
        self,
        settings: Settings,
        wanted: Wanted,
        listing: Listing,
        files: Sequence[RemoteFile],
        partial: Path,
        report: Reporter,
        cancelled: threading.Event,
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._listing = listing
        self._files = list(files)
        self._partial = partial
        self._target = settings.hf_model_path / wanted.repo
        self._report = report
        self._cancelled = cancelled
        self._failed = threading.Event()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._received = 0

    def run(self) -> Mapping[str, Any]:
        record = self._existing()
        self._clear_strangers()
        missing = self._reuse(record)
        if missing or record.get("revision") != self._listing.commit:
            self._check_space()
            small = [file for file in self._files if file.sha256 is None]
            self._fetch_all(small)
            self._check_usable()
            self._fetch_all([file for file in self._files if file.sha256 is not None])
            self._publish(record)
        shutil.rmtree(self._partial)
        self._say("done")
        return {
            "id": self._wanted.id,
            "name": self._wanted.name,
            "revision": self._listing.commit,
            "size_bytes": sum(file.size for file in self._files),
            "downloaded_bytes": self._received,
            "path": str(self._target / (self._wanted.gguf_file or "")),
        }

    # -- what is there already

    def _existing(self) -> Mapping[str, Any]:
        """The record of the model that lies at the target, if it came from this repository.

        Files of somebody else's are never overwritten.
        """
        record = read_source(self._target) if self._target.is_dir() else {}
        if self._wanted.repo in (record.get("repo"), record.get("original")):
            return record
        if self._wanted.gguf_file is not None:
            self._files = [
                file
                for file in self._files
                if file.name == self._wanted.gguf_file or not (self._target / file.name).exists()
            ]
        strange = next((f.name for f in self._files if (self._target / f.name).exists()), None)
        if strange is not None or (self._target.exists() and not self._target.is_dir()):
            raise WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                f"{self._target / (strange or '')} is there already and was not downloaded by the "
                "workbench.",
                fix=f"Move it away, or delete it: workbench models rm {quote(self._wanted.name)}.",
                operation="download",
                provider=PROVIDER,
            )
        return {}

    def _clear_strangers(self) -> None:
        """Remove what an earlier try left and this one does not need (another revision)."""
        wanted = {file.key for file in self._files}
        for path in self._partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name.partition(".")[0] not in wanted:
                path.unlink()

    def _reuse(self, record: Mapping[str, Any]) -> bool:
        """Take over files of the model that is there, if they are what the hub has.

        Returns:
            Whether any file is missing.
        """
        missing = False
        for file in self._files:
            present = self._target / file.name
            if not record or not present.is_file() or present.stat().st_size != file.size:
                missing = True
            elif not self._whole(file).is_file():
                self._say(f"checking {file.name}")
                if self._is_right(present, file):
                    _link(present, self._whole(file))
                else:
                    missing = True
            self._count(file)
        return missing

    def _check_space(self) -> None:
        needed = sum(file.size - self._counts[file.key] for file in self._distinct(self._files))
        reserve = self._settings.workbench_disk_reserve
        free = shutil.disk_usage(self._partial).free
        if needed + reserve > free:
            raise source.disk_full(
                f"{self._wanted.name} needs {source.in_words(needed)} more, and "
                f"{source.in_words(reserve)} must stay free (WORKBENCH_DISK_RESERVE); "
                f"{source.in_words(free)} are free at {self._settings.hf_model_path}."
            )

    def _check_usable(self) -> None:
        """Read the configuration before the weights come."""
        config = next((file for file in self._files if file.name == "config.json"), None)
        if config is None or self._wanted.gguf_file is not None:
            return
        # A copy under its own name: complaints name the file.
        path = self._partial / "config" / "config.json"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(self._whole(config), path)
        try:
            values = read_json(path)
            check_config(values)
            names = {file.name for file in self._files}
            main = str(values.get("transformers_weights"))
            if names.isdisjoint((WEIGHTS_FILE, INDEX_FILE, ADAPTER_CONFIG, main)):
                weights = sorted(name for name in names if name.endswith(".safetensors"))
                found = without_main_file(weights)  # its fix is for files that are here
                fix = "Pull a repository or --revision that has its weights under that name."
                raise Unusable(found.problem, fix if weights else found.fix)
        except Unusable as reason:
            shutil.rmtree(self._partial)
            raise WorkbenchError(
                reason.code,
                f"{self._wanted.name} {reason.problem}.",
                fix=reason.fix,
                operation="download",
                provider=PROVIDER,
                details={"repo": self._wanted.repo},
            ) from None

    # -- fetching

    def _fetch_all(self, files: Sequence[RemoteFile]) -> None:
        """Several files at once; the first failure stops the others."""
        pending = deque(self._distinct(files))
        failures: list[BaseException] = []

        def work() -> None:
            while pending and not self._failed.is_set():
                try:
                    file = pending.popleft()
                except IndexError:
                    return
                try:
                    self._fetch(file)
                except BaseException as error:  # handed to the thread that waits for all
                    failures.append(error)
                    self._failed.set()

        count = min(self._settings.workbench_download_files, len(pending))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._cancelled.is_set():
            raise stopped()
        if failures:
            raise next((e for e in failures if not isinstance(e, _Stopped)), stopped())

    def _fetch(self, file: RemoteFile) -> None:
        """Bring one file, and check that it is the one that the hub names."""
        if self._whole(file).is_file():
            return
        part = self._part(file)
        resumed = part.is_file()
        self._receive(file, part)
        self._say(f"checking {file.name}")
        if not self._is_right(part, file):
            part.unlink()
            if resumed:  # its beginning may have been damaged long ago: once more from the start
                self._fetch(file)
                return
            raise WorkbenchError(
                ErrorCode.HF_DOWNLOAD_FAILED,
                f"{file.name} of {self._wanted.repo} has another checksum than the hub says "
                f"({file.key}): it was damaged on the way.",
                fix="Pull the model again; if it stays so, do not use this network or mirror.",
                operation="download",
                provider=PROVIDER,
            )
        part.replace(self._whole(file))

    def _receive(self, file: RemoteFile, part: Path) -> None:
        """All bytes of a file, taken up again where a connection broke off."""
        failures = 0
        while True:
            have = part.stat().st_size if part.is_file() else 0
            if have > file.size:
                part.unlink()
                have = 0
            if part.is_file() and have == file.size:
                return
            try:
                self._transfer(file, part, have)
            except Broken as broken:
                cause = broken.__cause__
                assert isinstance(cause, Exception)
                now = part.stat().st_size if part.is_file() else 0
                failures = 0 if now > have else failures + 1
                _log.warning("download_broke_off", file=file.name, at=now, error=str(cause))
                if failures >= self._settings.workbench_download_attempts:
                    raise explained(cause, self._wanted) from None
                self._say(f"the connection broke off, trying again ({file.name})")
                pause = min(0.25 * 2**failures, _LONGEST_PAUSE_S) if failures else 0.0
                if self._cancelled.wait(pause):
                    raise _Stopped from None

    def _transfer(self, file: RemoteFile, part: Path, have: int) -> None:
        """One request, from byte ``have`` on."""
        settings = self._settings
        url, timeout_s = file_url(settings, self._listing, file), settings.workbench_hub_timeout_s
        explain = partial(explained, wanted=self._wanted)
        try:
            with response(url, have, timeout_s, explain) as (start, blocks):
                try:
                    with part.open("r+b" if start else "wb") as sink:
                        sink.seek(start)
                        self._write(file, sink, start, blocks)
                        sink.flush()
                        os.fsync(sink.fileno())
                except OSError as error:
                    raise _unwritable(error, part, settings.hf_model_path) from None
        except NotThatLong:
            part.unlink(missing_ok=True)
            raise

    def _write(self, file: RemoteFile, sink: IO[bytes], at: int, blocks: Iterator[bytes]) -> None:
        for block in blocks:
            if self._cancelled.is_set() or self._failed.is_set():
                raise _Stopped
            # Never more than announced, whatever the other side sends.
            sink.write(block[: file.size - at])
            taken = min(len(block), file.size - at)
            at += taken
            with self._lock:
                self._received += taken
                self._counts[file.key] = at
            self._say(file.name)

    # -- publishing

    def _publish(self, record: Mapping[str, Any]) -> None:
        """Let the model appear, or the new revision replace the old one, in one step."""
        self._say("checked, moving it into place")
        new = self._partial / "model"
        new.mkdir()
        files = {}
        for file in self._files:
            path = new / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(self._whole(file), path)
            files[file.name] = {
                "sha256": file.sha256 or source.sha256(path),
                "size": file.size,
                "revision": self._listing.commit,
            }
        old = record.get("files")
        kept = self._keep(new, old if isinstance(old, dict) else {})
        source.write(
            new,
            {
                "source": f"hub {self._wanted.repo}@{self._listing.commit}",
                "repo": self._wanted.repo,
                "revision": self._listing.commit,
                "requested_revision": self._wanted.revision or "main",
                "licence": self._listing.licence,
                "files": {**kept, **files},
            },
        )
        source.restrict(new)
        self._target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._target.exists():
            self._target.rename(self._partial / "replaced")
        new.rename(self._target)

    def _keep(self, new: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Carry over what else lies in the folder: other GGUF files, and what is not ours."""
        if not self._target.is_dir():
            return {}
        kept = {}
        for path in self._target.rglob("*"):
            name = path.relative_to(self._target).as_posix()
            other = self._wanted.gguf_file is not None or name.endswith(".gguf")
            if path.is_dir() or name == SOURCE_FILE or (new / name).exists():
                continue
            if name in recorded and not other:
                continue  # of the old revision only
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            _link(path, new / name)
            if name in recorded:
                kept[name] = recorded[name]
        return kept

    # -- small things

    def _whole(self, file: RemoteFile) -> Path:
        return self._partial / file.key

    def _part(self, file: RemoteFile) -> Path:
        return self._partial / f"{file.key}.part"

    def _is_right(self, path: Path, file: RemoteFile) -> bool:
        def count(_: int) -> None:
            if self._cancelled.is_set() or self._failed.is_set():
                raise stopped()

        if path.stat().st_size != file.size:
            return False
        if file.sha256 is not None:
            return source.sha256(path, count) == file.sha256
        return source.git_sha1(path, count) == file.git_sha1

    def _count(self, file: RemoteFile) -> None:
        part = self._part(file)
        with self._lock:
            if self._whole(file).is_file():
                self._counts[file.key] = file.size
            else:
                have = part.stat().st_size if part.is_file() else 0
                self._counts[file.key] = min(have, file.size)

    def _distinct(self, files: Sequence[RemoteFile]) -> list[RemoteFile]:
        """Each content once: two files may be equal."""
        return list({file.key: file for file in files}.values())

    def _say(self, message: str) -> None:
        with self._lock:
            done = sum(self._counts.values())
        self._report(message, done, sum(file.size for file in self._distinct(self._files)))


def _unwritable(error: OSError, path: Path, root: Path) -> WorkbenchError:
    """Why something cannot be written below the model folder ``root``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return source.disk_full(f"The disk of {root} is full.")
    return WorkbenchError(
        ErrorCode.HF_DOWNLOAD_FAILED,
        f"{error.filename or path} cannot be written ({error.strerror or error}).",
        fix="Check the disk and the rights of HF_MODEL_PATH.",
        operation="download",
        provider=PROVIDER,
    )


def _link(source_path: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    try:
        os.link(source_path, target)
    except OSError:
        shutil.copy2(source_path, target)


@contextmanager
def _only_one(partial: Path, report: Reporter, cancelled: threading.Event) -> Iterator[None]:
    """Hold the model's lock, so that two processes never download it into one folder at once."""
    with partial.with_name(f"{partial.name}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report("another process is downloading this model; waiting for it")
                if cancelled.wait(_LOCK_POLL_S):
                    raise stopped() from None
        partial.mkdir(mode=0o700, parents=True, exist_ok=True)  # the other one may have removed it
        yield
