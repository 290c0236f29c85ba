"""Malformed GraphQL: bodies and queries that are wrong, and WebSockets that do not keep to it.

    python -m benchmarks.api_fuzz_graphql [--examples 1000] [--only malformed] [--seed 0]

The counterpart of ``api_fuzz``, whose GraphQL examples all follow the schema. Against a real
server. What counts as a failure: an answer 500, an error without a code or with INTERNAL, no answer
in time, work that goes on for a client that is gone, a defect in the server's log.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.api_fuzz import PATIENCE_S, defects
from tests.live import LiveServer

PROTOCOL: Final = "graphql-transport-ws"
RIGHT: Final = (
    "{ availableModels { id status } queue { nextVictims } }",
    '{ model(id: "scripted/tools") { id details } }',
    '{ streamSessions(status: "ok", limit: 3) { sessions { model ttftS } next } }',
    '{ conversation(id: "con_1") { title messages { role content } } }',
    'mutation { loadModel(model: "scripted/tools") { id } }',
    'mutation { terminateStream(id: "ses_1") { cancelled } }',
    "query Q($id: String!) { model(id: $id) { id } }",
)
SUBSCRIBE: Final = (
    'subscription { streamMessage(input: {model: "scripted/tools", message: "Hi"}) { type seq } }'
)

_signs = st.sampled_from(
    (
        *("\0", "\ud800", "\udfff", "\u202e", "{", "}", "(", ")", '"', '"""', "...", "$", "@", "#"),
        *("null", "1e999", "-", "9" * 400, "[" * 200, "on", "\\u{0}"),
        "fragment F on Query { ...F } ",
    )
)
_odd: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from(["\0", "\ud800", "x" * 100_000, 10**400, "'; DROP TABLE scores; --"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def queries(draw: st.DrawFn) -> str:
    """A right query with some of it taken out, doubled, or replaced by what does not belong."""
    text = draw(st.sampled_from((*RIGHT, SUBSCRIBE)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        middle = draw(_signs | st.just(text[start:end] * 2) | st.text(max_size=8))
        text = text[:start] + middle + text[end:]
    deep = draw(st.sampled_from([0, 0, 0, 0, 40, 5000]))
    return "{ queue " * deep + text + "}" * deep if deep else text


bodies = (
    st.fixed_dictionaries(
        {"query": queries()}, optional={"variables": _odd, "operationName": _odd}
    ).map(lambda body: json.dumps(body).encode())
    | st.fixed_dictionaries(
        {}, optional={"query": _odd, "variables": _odd, "extensions": _odd, "operationName": _odd}
    ).map(lambda body: json.dumps(body).encode())
    | _odd.map(lambda body: json.dumps(body).encode())
    | st.binary(max_size=50)
    | st.sampled_from([b"[" * 100_000, b'{"query":"' + b"x" * 10_000_000 + b'"}', b"\xff\xfe{}"])
)
"""Bodies of ``POST /graphql``."""

messages = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["subscribe", "complete", "ping", "pong", "connection_init"])},
        optional={"id": _odd | st.just("1"), "payload": _odd},
    ),
    st.builds(
        lambda id, query: {"type": "subscribe", "id": id, "payload": {"query": query}},
        st.sampled_from(["1", "1", "2", ""]),
        queries() | st.just(SUBSCRIBE),
    ),
    st.fixed_dictionaries({"type": _odd}),
    _odd,
).map(json.dumps)
frames = st.lists(
    st.one_of(
        messages,
        messages,
        messages,
        st.text(max_size=20),
        st.binary(max_size=20),
        st.just("x" * 9_000_000),
        st.just("[" * 100_000),
    ),
    min_size=1,
    max_size=6,
)
"""What is sent on one WebSocket, one after another."""


@dataclass
class Found:
    """What became of the examples of one kind."""

    kind: str
    examples: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def fail(self, what: str) -> None:
        """Note a failure; of many a few are enough."""
        if len(self.failures) < 20:
            self.failures.append(what)


def malformed(
    server: LiveServer, examples: int, patience_s: float = PATIENCE_S, drawn: int = 0
) -> Found:
    """Bodies of ``POST /graphql``."""
    found = Found("malformed bodies")
    session = requests.Session()
    session.trust_env = False

    def ask(body: bytes) -> None:
        try:
            answer = session.post(
                f"{server.url}/graphql",
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=patience_s,
            )
        except requests.Timeout:
            found.fail(f"no answer in {patience_s:g} s: {body[:300]!r}")
            return
        except requests.ConnectionError as error:
            if len(body) < 2**20:  # the server may close on a client that goes on sending
                found.fail(f"{error!r:.200}: {body[:300]!r}")
            return
        found.ends[str(answer.status_code)] += 1
        if why := _wrong(answer):
            found.fail(f"{why}: {body[:400]!r}")

    _examples(bodies, examples, found, ask, drawn)
    return found


def hostile(
    server: LiveServer, examples: int, patience_s: float = PATIENCE_S, drawn: int = 0
) -> Found:
    """WebSockets that begin well or not, send what they like and vanish."""
    found = Found("hostile WebSockets")
    address = server.url.replace("http", "ws") + "/graphql"
    handshakes = st.sampled_from(["", "init", "init", "init", "init", "twice"])

    def talk(case: tuple[str, list[str | bytes], bool]) -> None:
        handshake, sent, politely = case
        with (
            suppress(ConnectionClosed, TimeoutError),
            connect(
                address,
                subprotocols=[Subprotocol(PROTOCOL)],
                proxy=None,
                max_size=None,
                close_timeout=patience_s,
            ) as connection,
        ):
            found.ends[_conversation(found, connection, handshake, sent)] += 1
            if not politely:
                connection.socket.close()  # half open: the server's side is not told
        assert requests.get(f"{server.url}/health/live", timeout=patience_s).status_code == 200

    _examples(st.tuples(handshakes, frames, st.booleans()), examples, found, talk, drawn)
    with server.client() as http:
        until = time.monotonic() + patience_s
        while running := http.get("/api/v1/streams").json()["streams"]:
            if time.monotonic() > until:
                found.fail(f"{len(running)} streams of clients that are gone still run")
                break
            time.sleep(0.05)
    return found


def _conversation(
    found: Found, connection: ClientConnection, handshake: str, sent: list[str | bytes]
) -> str:
    try:
        for _ in range({"": 0, "init": 1, "twice": 2}[handshake]):
            connection.send(json.dumps({"type": "connection_init"}))
        for frame in sent:
            with suppress(UnicodeEncodeError):
                connection.send(frame)
        while True:
            answer = str(connection.recv(timeout=0.5))
            if "INTERNAL" in answer:
                found.fail(f"{answer[:200]}: {sent!r:.400}")
    except TimeoutError:
        return "open"
    except ConnectionClosed as end:
        code = end.rcvd.code if end.rcvd else "cut"
        if code == 1011:
            found.fail(f"1011: {sent!r:.400}")
        return str(code)


def _examples(
    strategy: st.SearchStrategy[Any],
    count: int,
    found: Found,
    check: Callable[[Any], None],
    drawn: int,
) -> None:
    @seed(drawn)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def one(case: Any) -> None:
        found.examples += 1
        began = time.monotonic()
        check(case)
        found.slowest_s = max(found.slowest_s, time.monotonic() - began)

    one()


def _wrong(answer: requests.Response) -> str | None:
    """Why an answer to a malformed body counts as a failure, if it does."""
    if answer.status_code not in (200, 400, 413, 415, 422):
        return f"{answer.status_code} {answer.content[:200]!r}"
    try:
        body = answer.json()
    except ValueError:
        return f"{answer.status_code} is no JSON: {answer.content[:100]!r}"
    errors = body.get("errors") or ([body] if answer.status_code != 200 else [])
    for error in errors:
        code = error.get("code") or error.get("extensions", {}).get("code")
        if code in (None, "INTERNAL"):
            return f"{answer.status_code} {error!r:.300}"
    return None


def check_log(server: LiveServer, found: Found) -> Found:
    """Defects that the client was not told of."""
    for line in defects(server.read_log()):
        found.fail(f"log: {line}")
    return found


def main() -> None:
    """Start a server, ask it, print what was found; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds")
    parser.add_argument("--only", choices=["malformed", "hostile"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveServer(Path(folder), WORKBENCH_RATE_LIMIT="0") as server,
    ):
        for ask in (malformed, hostile):
            if arguments.only not in (None, ask.__name__):
                continue
            chosen = arguments.examples, arguments.patience, arguments.seed
            found = check_log(server, ask(server, *chosen))
            ends = ", ".join(f"{count} x {end}" for end, count in found.ends.most_common())
            print(
                f"{found.kind}: {found.examples} examples; {ends}; slowest {found.slowest_s:.2f} s"
            )
            for failure in found.failures:
                print(f"    FAILED {failure}", flush=True)
            failed += len(found.failures)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
