"""Requests made from the schemas, right and wrong ones, against a real server.

    python -m benchmarks.api_fuzz [--examples 1000] [--only TEXT] [--seed 0] [--seconds 0]

For every operation of the OpenAPI document and every field of the GraphQL schema: half the examples
follow the schema, half break it (schemathesis makes both). Then hand-picked hostile values in every
field of the documented example bodies: NUL, halves of surrogate pairs, NaN, deep nesting, 10 MB.
What counts as a failure: an answer 500 or an error code INTERNAL, an answer that the document does
not describe (status, type, headers, body), no answer in time, and a defect in the server's log. An
honest 502 to 507 is none.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks as openapi

PATIENCE_S = 60.0
"""The longest that any answer may take, unless a machine is so busy that more is allowed."""

DEFECTS = ("request_failed", "graphql_failed", "feed_failed", "stream_task_failed", "Task ex")
"""What a line of the server's log says when something of ours broke."""

_ROUND = 100
"""Examples of an operation, right and wrong, before the next draw: what was stopped is even too."""

_QUICK = "scripted/tools"

OWNERS = ("/api/v1/query", "/api/v1/tables", "/api/v1/log", "/api/v1/log/verify")
"""Asked with the owner's token; the jobs of the log write where they are told to, and are not."""


@dataclass
class Outcome:
    """What became of the examples of one operation."""

    operation: str
    examples: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest_s: float = 0.0
    cut: bool = False
    """Stopped before all were made."""

    def took(self, seconds: float, status: int) -> None:
        """Count an answer."""
        self.examples += 1
        self.statuses[status] += 1
        self.slowest_s = max(self.slowest_s, seconds)

    def fail(self, what: str) -> None:
        """Note a failure; of many alike a few are enough."""
        if len(self.failures) < 20 and what not in self.failures:
            self.failures.append(what)


class Fuzzer:
    """One server under test.

    Args:
        url: where it is.
        token: of its owner.
        examples: for each operation.
        patience_s: the longest that any answer may take.
        drawn: seed of the examples; runs with different ones add up.
    """

    def __init__(
        self, url: str, token: str, examples: int, patience_s: float = PATIENCE_S, drawn: int = 0
    ) -> None:
        load_all_checks()
        self._drawn = drawn
        self._patience_s = patience_s
        self._url = url
        self._token = token
        self._examples = examples
        self._session = requests.Session()
        self._session.trust_env = False

    def rest(self, only: str = "") -> Iterator[Outcome]:
        """Every operation of the OpenAPI document."""
        schema = schemathesis.openapi.from_url(f"{self._url}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()
            name = f"{operation.method.upper()} {operation.path}"
            if _wanted(only, name):
                yield self._operation(name, operation, self._judge_rest)

    def graphql(self, only: str = "") -> Iterator[Outcome]:
        """Every query and mutation of the GraphQL schema."""
        schema = schemathesis.graphql.from_url(f"{self._url}/graphql")
        for found in schema.get_all_operations():
            operation = found.ok()
            if _wanted(only, f"graphql {operation.label}"):
                yield self._operation(f"graphql {operation.label}", operation, self._judge_graphql)

    def hostile(self, only: str = "") -> Outcome:
        """Hostile values in every field of the document's example bodies."""
        document = self._session.get(f"{self._url}/openapi.json", timeout=self._patience_s).json()
        outcome = Outcome("hostile bodies")
        began = time.monotonic()
        for path, verbs in document["paths"].items():
            for verb, operation in verbs.items():
                content = operation.get("requestBody", {}).get("content", {})
                example = content.get("application/json", {}).get("example")
                if example is not None and only in path:
                    quick = {"model": _QUICK, "models": [_QUICK, _QUICK]}
                    example |= {name: quick[name] for name in quick.keys() & example.keys()}
                    for body in _spoilt(example):
                        self._send(outcome, verb, path, body)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _operation(self, name: str, operation: Any, judge: Any) -> Outcome:
        outcome = Outcome(name)
        began = time.monotonic()
        modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
        if name.startswith("graphql"):
            modes = modes[:1]
        try:
            for number, examples in enumerate(_rounds(self._examples)):
                before = outcome.examples
                for mode in modes:
                    strategy = operation.as_strategy(generation_mode=mode)
                    drawn = f"{self._drawn} {number}"
                    self._one_kind(outcome, strategy, judge, examples // len(modes), drawn)
                if outcome.failures or outcome.examples - before < examples // 2:
                    break  # all that there is has been asked
        except KeyboardInterrupt:
            outcome.cut = True
        outcome.seconds = time.monotonic() - began
        return outcome

    def _one_kind(
        self, outcome: Outcome, strategy: Any, judge: Any, examples: int, drawn: str
    ) -> None:
        try:
            self._examine(outcome, strategy, judge, examples, drawn)
        except Unsatisfiable:
            pass  # nothing of it can be wrong
        except Exception as error:
            outcome.fail(f"{type(error).__name__}: {str(error)[:300]}")

    def _examine(
        self, outcome: Outcome, strategy: Any, judge: Any, examples: int, drawn: str
    ) -> None:
        @seed(drawn)
        @settings(
            max_examples=max(1, examples),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def one(case: Any) -> None:
            graphql = outcome.operation.startswith("graphql")
            if outcome.examples % 2:
                _make_right(case, outcome.examples)
            sent = time.monotonic()
            try:
                response = case.call(
                    base_url=None if graphql else self._url,
                    session=self._session,
                    headers=self._headers(outcome.operation),
                    timeout=self._patience_s,
                )
            except requests.Timeout:
                outcome.fail(f"no answer in {self._patience_s:g} s: {case.as_curl_command()[:500]}")
                return
            except (requests.RequestException, ValueError):
                return  # not a request that HTTP can carry
            outcome.took(time.monotonic() - sent, response.status_code)
            judge(outcome, case, response)

        one()

    def _headers(self, name: str) -> dict[str, str]:
        owner = name.partition(" ")[2] in OWNERS
        return {"Authorization": f"Bearer {self._token}"} if owner else {}

    @staticmethod
    def _judge_rest(outcome: Outcome, case: Any, response: Any) -> None:
        if why := _defect(response):
            outcome.fail(f"{why}: {case.as_curl_command()[:500]}")
        if response.status_code == 405 or (response.status_code == 404 and _moved(case)):
            return  # a path parameter that made another path of it
        try:
            case.validate_response(
                response,
                checks=[
                    openapi.status_code_conformance,
                    openapi.content_type_conformance,
                    openapi.response_headers_conformance,
                    openapi.response_schema_conformance,
                ],
            )
        except AssertionError as error:
            outcome.fail(str(error)[:500])
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                outcome.fail(str(error)[:500])

    @staticmethod
    def _judge_graphql(outcome: Outcome, case: Any, response: Any) -> None:
        if response.status_code != 200:
            outcome.fail(f"{response.status_code}: {case.body!r:.500}")
            return
        body = response.json()
        for error in body.get("errors") or ():
            if error.get("extensions", {}).get("code") in (None, "INTERNAL"):
                outcome.fail(f"{error}: {case.body!r:.500}")

    def _send(self, outcome: Outcome, verb: str, path: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json", **self._headers(f"{verb} {path}")}
        sent = time.monotonic()
        try:
            with self._session.request(
                verb,
                self._url + path,
                data=body,
                headers=headers,
                timeout=self._patience_s,
                stream=True,
            ) as response:
                # Of a stream that began the first bytes are enough: leaving stops it.
                first = next(response.iter_content(512), b"")
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    first = b""
                elif response.status_code >= 400:
                    first += b"".join(response.iter_content(None))
                response._content = first
        except requests.Timeout:
            outcome.fail(f"no answer in {self._patience_s:g} s: {verb} {path} {body[:200]!r}")
            return
        except requests.RequestException as error:
            if len(body) < 2**20:  # the server may close on a client that goes on sending
                outcome.fail(f"{error!r:.200}: {verb} {path} {body[:200]!r}")
            return
        outcome.took(time.monotonic() - sent, response.status_code)
        if why := _defect(response):
            outcome.fail(f"{why}: {verb} {path} {body[:300]!r}")


def _rounds(examples: int) -> list[int]:
    whole, rest = divmod(examples, _ROUND)
    return [_ROUND] * whole + ([rest] if rest else [])


def _wanted(only: str, name: str) -> bool:
    return any(part in name for part in only.split(","))


def _make_right(case: Any, number: int) -> None:
    """What no schema knows: a model that exists (it answers within 0.2 s), rows of a table."""
    if isinstance(case.body, dict):
        row = {"score_id": f"s{number}", "created_at": "2026-03-01T12:00:00Z", "score": number}
        items = [{"table": "scores", "rows": [{**row, "scorer": "fuzz"}]}]
        case.body |= {
            name: value
            for name, value in (("model", _QUICK), ("models", [_QUICK]), ("items", items))
            if isinstance(case.body.get(name), type(value))
        }


def _defect(response: Any) -> str | None:
    """Why an answer counts as a defect of the server, if it does."""
    if response.status_code == 500:
        return f"500 {response.content[:200]!r}"
    if response.status_code < 400:
        return None
    try:
        body = json.loads(response.content)
    except ValueError:
        return f"{response.status_code} is no JSON: {response.content[:100]!r}"
    code = body.get("code") or body.get("error", {}).get("code")
    if code is None and "status" not in body:
        return f"{response.status_code} has no code"
    return "INTERNAL" if code == "INTERNAL" else None


def defects(log: str) -> list[str]:
    """Lines of a server's log that tell of something that broke, also where no client saw it."""
    marks = [f'"event": "{word}' for word in DEFECTS]
    return [line[:600] for line in log.splitlines() if any(mark in line for mark in marks)]


def _moved(case: Any) -> bool:
    return any("/" in str(value) or not value for value in (case.path_parameters or {}).values())


_HOSTILE: list[Any] = [
    None,
    True,
    -1,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff tail",
    "\u202e\u200b\ufeff",
    "😀" * 1000,
    "../../../etc/passwd",
    "'; DROP TABLE stream_sessions; --",
    "<script>alert(1)</script>",
    "%s%n{0}{{7*7}}${jndi:ldap://x}",
    "x" * 100_000,
    [],
    {},
    [[]],
    {"a": {"b": {}}},
    ["\0"] * 50,
    {"\ud800": 1},
]


def _spoilt(example: Any) -> Iterator[bytes]:
    """The body with a hostile value in each place, and bodies that are no such thing."""
    for path in _places(example):
        for value in _HOSTILE:
            yield json.dumps(_with(example, path, value)).encode()
    whole = json.dumps(example).encode()
    yield from (
        b"",
        b"\0",
        b"\xff\xfe",
        whole[:-1],
        whole.replace(b'"', b"'"),
        b"[" * 100_000,
        b'{"a":' * 50_000,
        whole + b" " * 1000 + whole,
        json.dumps({**example, "message": "x" * 10_000_000}).encode(),
        b"[" + b"0," * 5_000_000 + b"0]",
    )


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from _places(item, (*at, key))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy


def main() -> None:
    """Start a server, ask it, print a table; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--only", default="", help="parts of operations' names, with commas")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=0, help="stop then; 0: at the end")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from tests.live import LiveServer

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {"WORKBENCH_RATE_LIMIT": "0", "HF_MODEL_PATH": f"{folder}/models"}
        os.environ.pop("HF_TOKEN", None)
        with LiveServer(Path(folder), **environment) as server:
            token = server.announced()["token"]
            signal.alarm(arguments.seconds)
            chosen = arguments.examples, arguments.patience, arguments.seed
            fuzzer = Fuzzer(server.url, token, *chosen)
            for outcome in _all(fuzzer, arguments.only):
                outcomes.append(outcome)
                told = ", ".join(f"{n} x {s}" for s, n in sorted(outcome.statuses.items()))
                print(
                    f"{outcome.operation}: {outcome.examples} examples in {outcome.seconds:.0f} s, "
                    f"slowest {outcome.slowest_s:.2f} s; {told}{' (stopped)' * outcome.cut}",
                    flush=True,
                )
                for failure in outcome.failures:
                    print(f"    FAILED {failure}", flush=True)
                if outcome.cut:
                    break
            signal.alarm(0)
            with server.client() as http:
                assert http.get("/health/live").status_code == 200
            broken = Outcome("the server's log", failures=defects(server.read_log()))
            for line in broken.failures[:20]:
                print(f"    FAILED log: {line}", flush=True)
            outcomes.append(broken)
    failed = sum(len(outcome.failures) for outcome in outcomes)
    total = sum(outcome.examples for outcome in outcomes)
    print(f"{total} requests to {len(outcomes) - 1} operations, {failed} kinds of failure")
    if arguments.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], default=str))
    raise SystemExit(1 if failed else 0)


def _all(fuzzer: Fuzzer, only: str) -> Iterator[Outcome]:
    yield from fuzzer.rest(only)
    yield from fuzzer.graphql(only)
    if _wanted(only, "hostile bodies"):
        yield fuzzer.hostile()


if __name__ == "__main__":
    main()
