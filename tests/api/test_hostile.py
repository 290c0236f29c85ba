"""The table of hostile requests against a real server: each gets the answer it deserves."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from html import escape
from http.client import HTTPResponse

import pytest

from tests.api import hostile
from tests.api.hostile import KEY, Case
from tests.hf import tiny
from tests.live import LiveServer
from workbench.api.redaction import places
from workbench.settings import Settings

LIMITS = {"WORKBENCH_RATE_LIMIT": "0", "WORKBENCH_BODY_TIMEOUT_S": "3"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Without a key; its model folder is a minefield."""
    folder = tmp_path_factory.mktemp("hostile")
    models, secret = folder / "models", folder / "secret"
    tiny.write_folder(secret)
    (models / "bad-header").mkdir(parents=True)
    (models / "empty").mkdir()
    (models / "link").symlink_to(secret)
    (models / "ring").symlink_to(models / "ring")
    (models / "file-link.gguf").symlink_to("/etc/passwd")
    for name, change in (("linked-file", None), ("pickled", "pytorch_model.bin")):
        made = tiny.write_folder(models / name)
        (made / "model.safetensors").unlink()
        if change:
            (made / change).write_bytes(b"\x80\x04\x95cposix\nsystem\n")
        else:
            (made / "model.safetensors").symlink_to(secret / "model.safetensors")
    remote = tiny.write_folder(
        models / "remote-code", auto_map={"AutoModelForCausalLM": "evil.Evil"}
    )
    (remote / "evil.py").write_text("raise SystemExit('ran')")
    (models / "bad-header" / "config.json").write_text("{}")
    (models / "bad-header" / "model.safetensors").write_bytes(b"\xff" * 64)
    with LiveServer(folder, HF_MODEL_PATH=str(models), **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keyed")
    tiny.write_folder(folder / "models" / "mine")
    (folder / "models" / "mine" / "model.safetensors").write_bytes(b"\xff" * 64)
    with LiveServer(
        folder, WORKBENCH_API_KEY=KEY, HF_MODEL_PATH=str(folder / "models"), **LIMITS
    ) as running:
        yield running


def send(server: LiveServer, case: Case) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, over a connection of its own."""
    content = case.raw.replace(b"HOST", f"127.0.0.1:{server.port}".encode())
    if not content:
        lines: list[bytes] = [f"{case.method} {case.path} HTTP/1.1".encode()]
        lines.append(f"Host: 127.0.0.1:{server.port}".encode())
        for name, value in case.headers:
            lines.append(
                name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
            )
        lines += [
            f"Content-Length: {len(case.body)}".encode(),
            b"Connection: close",
            b"",
            case.body,
        ]
        content = b"\r\n".join(lines)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with suppress(ConnectionError):  # refused before all of it was read: the answer is there
            connection.sendall(content)
        answer = HTTPResponse(connection, method=case.method)
        answer.begin()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()


def check(server: LiveServer, case: Case) -> bytes:
    status, headers, body = send(server, case)
    assert status in case.statuses, (status, body[:500])
    text = body.decode()
    assert "Traceback" not in text
    assert "root:x:0" not in text
    if headers["content-type"] == "application/problem+json" and case.method != "HEAD":
        problem = json.loads(text)
        assert problem["code"] != "INTERNAL", problem
        assert problem["message"]
        assert problem["correlation_id"] == headers["x-correlation-id"]
    return body


@pytest.mark.parametrize("group", hostile.CASES)
def test_the_table(server: LiveServer, group: str) -> None:
    wrong = []
    for case in hostile.CASES[group]:
        try:
            body = check(server, case)
            if body.startswith(b"event: "):  # told in the stream, before any model was asked
                last = json.loads(body.decode().strip().splitlines()[-1].removeprefix("data: "))
                assert last["type"] == "error", last
                assert last["error"]["code"] != "INTERNAL", last
        except (AssertionError, OSError, ValueError) as error:
            wrong.append((case.name, repr(error)[:300]))
    assert wrong == []


def test_prompts_are_text_whatever_they_look_like(server: LiveServer) -> None:
    for case in hostile.PROMPTS:
        check(server, case)
    stored = {row[0] for row in server.query("SELECT content FROM messages WHERE role = 'user'")}
    assert set(hostile.MARKUP) <= stored


def test_nothing_of_it_was_a_defect(server: LiveServer) -> None:
    """The last of this file without a key: the server lives, logged no failure and lost no row."""
    with server.client() as http:
        health = http.get("/health").json()["parts"]
    assert health["store"]["status"] == "ok"
    assert health["store"]["dropped"] == 0
    defects = [
        line
        for line in map(json.loads, server.read_log().splitlines())
        if line["level"] == "error" or line["event"] in ("request_failed", "observer_failed")
    ]
    assert defects == []
    assert (server.folder / "secret" / "config.json").is_file()


def test_other_users_of_the_machine_read_none_of_it(server: LiveServer) -> None:
    """Whatever the umask says: log, spool, journal and the file with the token."""
    ours = [
        path
        for path in server.folder.rglob("*")
        if not {"models", "secret", "server.log"} & set(path.relative_to(server.folder).parts)
    ]
    assert {"workbench.duckdb", "server.json"} <= {path.name for path in ours}
    for path in ours:
        assert path.lstat().st_mode & 0o077 == 0, path


def test_wrong_keys(keyed: LiveServer) -> None:
    wrong = []
    for name, headers in hostile.WRONG_KEYS:
        expected = 422 if name == "twice" else 401
        status, _, body = send(keyed, Case(name, (), headers=headers))
        if status != expected:
            wrong.append((name, status, body[:200]))
    assert wrong == []


def test_every_path_wants_the_key(keyed: LiveServer) -> None:
    wrong = []
    right = (("Authorization", f"Bearer {KEY}".encode()),)
    upgrade: tuple[tuple[str, str | bytes], ...] = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    for path in hostile.PATHS:
        endless = path.startswith(("/gradio_api/heartbeat", "/gradio_api/queue/data"))
        for method in ("GET", "POST"):
            without = send(keyed, Case(path, (), method, path))[0]
            with_key = 0 if endless else send(keyed, Case(path, (), method, path, right))[0]
            if without != 401 or with_key in (401, 500):
                wrong.append((method, path, without, with_key))
        if (status := send(keyed, Case(path, (), "GET", path, upgrade))[0]) not in (401, 403):
            wrong.append(("websocket", path, status, 0))
    assert wrong == []


def test_liveness_needs_no_key(keyed: LiveServer) -> None:
    status, _, body = send(keyed, Case("live", (), path="/health/live"))
    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_outsiders_are_not_told_where_files_lie(keyed: LiveServer) -> None:
    """The owner's token shows a path in the same answer in which the key shows none."""
    token = keyed.announced()["token"]
    folder = str(keyed.folder)
    for path in ("/api/v1/models", "/api/v1/models/huggingface/mine", "/health"):
        with_key = send(keyed, Case(path, (), path=path, headers=(("X-API-Key", KEY.encode()),)))
        assert with_key[0] == 200
        assert folder.encode() not in with_key[2]
        json.loads(with_key[2])
    body = json.dumps({"model": f"{folder}/models/mine"}).encode()
    case = Case("load", (), "POST", "/api/v1/models/load", body=body)
    shown = {}
    for name, given in (("owner", token.encode()), ("other", KEY.encode())):
        headers = (("Authorization", b"Bearer " + given), ("Content-Type", "application/json"))
        shown[name] = send(keyed, Case("load", (), "POST", case.path, headers, body))[2].decode()
    assert folder in shown["owner"]
    assert folder not in shown["other"]
    assert "[models]" in shown["other"] or "[data]" in shown["other"]


def test_words_that_stand_for_folders_are_plain_text_in_html(settings: Settings) -> None:
    """They are put into answers that are HTML already, such as the page's updates."""
    names = [name.decode() for _, name in places(settings)]
    assert [escape(name) for name in names] == names


def test_the_table_is_long_enough() -> None:
    cases = sum(len(group) for group in hostile.CASES.values())
    assert cases + len(hostile.MARKUP) + len(hostile.WRONG_KEYS) + len(hostile.PATHS) >= 600
