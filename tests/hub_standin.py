"""A small hub for tests: what huggingface_hub and our downloads ask of it, over real HTTP.

Answers ``/api/models/<repo>[/revision/<r>]`` and ``/<repo>/resolve/<r>/<file>`` (HEAD and GET, with
ranges and ETags). What goes wrong on real networks can be switched on.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

_API = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^?]+))?$")
_FILE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)$")
_LARGE = (".safetensors", ".gguf", ".bin")
_BLOCK = 4096


def sha256(content: bytes) -> str:
    """As the hub names a large file."""
    return hashlib.sha256(content).hexdigest()


def commit_of(files: Mapping[str, bytes]) -> str:
    """A commit id that depends on the content."""
    total = hashlib.sha1(usedforsecurity=False)
    for name in sorted(files):
        total.update(name.encode() + files[name])
    return total.hexdigest()


@dataclass
class Repo:
    """A repository: commits by branch, tag or id; ``access`` is what a visitor is answered."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    access: str = "open"  # open, gated, private, forbidden
    card: dict[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put a commit on a branch; returns its id."""
        commit = commit_of(files)
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision names."""
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


@dataclass
class Faults:
    """What goes wrong: each count of ``break_after`` cuts one answer off after so many bytes."""

    break_after: list[int] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)  # names of files that arrive changed
    ignore_ranges: bool = False
    redirect: bool = False  # large files lie on another host, as behind the real hub
    status: list[int] = field(default_factory=list)  # of the next file requests
    hold_after: int | None = None  # waits there until ``go_on``
    go_on: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what these tests are about."""


class Hub:
    """The stand-in, listening on a free port while the block runs."""

    def __init__(self, token: str = "hf_secret") -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.token = token
        self.requests: list[tuple[str, str, str | None]] = []
        """(method, path, Range header) of each request."""
        self.keys_seen: set[tuple[str, str | None]] = set()
        """(host, Authorization header) of the requests."""
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody listens any more."""
        self.faults.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def repo(self, name: str, files: Mapping[str, bytes]) -> Repo:
        """A repository with one commit on main."""
        self.repos[name] = repo = Repo()
        repo.push(files)
        return repo

    def sent(self, name: str) -> list[str | None]:
        """The Range header of every GET of this file."""
        return [span for method, path, span in self.requests if method == "GET" and name in path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _answer(self, *, with_body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append((self.command, path, self.headers.get("Range")))
                hub.keys_seen.add((self._host(), self.headers.get("Authorization")))
                match = _API.match(path) or _FILE.match(path)
                repo = hub.repos.get(match["repo"]) if match else None
                if match is None or repo is None:
                    # As the real one: who is not logged in is not told what exists.
                    self._fail(404 if self._known() else 401, "RepoNotFound")
                elif repo.access == "private" and not self._known():
                    self._fail(401, "RepoNotFound")
                elif repo.access == "forbidden":
                    self._fail(403, "")
                elif (found := repo.at(match["revision"] or "main")) is None:
                    self._fail(404, "RevisionNotFound")
                elif "name" not in match.groupdict():
                    self._json(_model(match["repo"], repo, *found))
                elif repo.access == "gated" and not self._known():
                    self._fail(401, "GatedRepo")
                elif match["name"] not in found[1]:
                    self._fail(404, "EntryNotFound")
                else:
                    self._file(match["name"], *found, with_body=with_body)

            def _host(self) -> str:
                return (self.headers.get("Host") or "").partition(":")[0]

            def _known(self) -> bool:
                return self.headers.get("Authorization") == f"Bearer {hub.token}"

            def _file(
                self, name: str, commit: str, files: Mapping[str, bytes], *, with_body: bool
            ) -> None:
                content = files[name]
                faults = hub.faults
                if with_body and faults.status:
                    self._fail(faults.status.pop(0), "")
                    return
                if faults.redirect and name.endswith(_LARGE) and "localhost" not in self._host():
                    self.send_response(302)
                    port = hub.url.rpartition(":")[2]
                    self.send_header("Location", f"http://localhost:{port}{self.path}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                etag = sha256(content) if name.endswith(_LARGE) else git_sha1(content)
                start = 0
                span = re.match(r"bytes=(\d+)-$", self.headers.get("Range") or "")
                if span and not faults.ignore_ranges:
                    start = int(span[1])
                    if start >= len(content):
                        self._fail(416, "")
                        return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header(
                        "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                    )
                self.send_header("Content-Length", str(len(content) - start))
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Linked-Etag", f'"{etag}"')
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if with_body:
                    if name in faults.corrupt:
                        content = content[:-1] + bytes([content[-1] ^ 1])
                    self._send(content[start:], large=name.endswith(_LARGE))

            def _send(self, body: bytes, *, large: bool) -> None:
                faults = hub.faults
                cut = faults.break_after.pop(0) if large and faults.break_after else None
                for at in range(0, len(body), _BLOCK):
                    if large and faults.hold_after is not None and at >= faults.hold_after:
                        self.wfile.flush()
                        faults.held.set()
                        if not faults.go_on.wait(20):
                            self.close_connection = True
                            return
                    block = body[at : at + _BLOCK]
                    try:
                        self.wfile.write(block if cut is None else block[: max(cut - at, 0)])
                    except OSError:  # the other side has gone
                        self.close_connection = True
                        return
                    if cut is not None and at + _BLOCK >= cut:
                        self.wfile.flush()
                        self.connection.shutdown(2)
                        self.close_connection = True
                        return

            def _json(self, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _fail(self, status: int, code: str) -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler


def git_sha1(content: bytes) -> str:
    """As git, and so the hub, names a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _model(name: str, repo: Repo, commit: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for file, content in files.items():
        entry = {"rfilename": file, "size": len(content), "blobId": git_sha1(content)}
        if file.endswith(_LARGE):
            entry["lfs"] = {"size": len(content), "sha256": sha256(content), "pointerSize": 134}
        siblings.append(entry)
    return {
        "_id": "0",
        "id": name,
        "modelId": name,
        "sha": commit,
        "private": repo.access == "private",
        "gated": "manual" if repo.access == "gated" else False,
        "tags": [f"license:{repo.card['license']}"] if "license" in repo.card else [],
        "cardData": repo.card,
        "siblings": siblings,
    }
