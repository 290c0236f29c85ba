"""What a network, a proxy or a broken server does between the workbench and Ollama."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from tests.reliability.gate import Fault, Script, Wire, last_line, line
from tests.reliability.kinds import OWN, Case, Kind
from tests.reliability.stage import OLLAMA

BROKEN, FAILED, LATE = "OLLAMA_STREAM_BROKEN", "OLLAMA_GENERATION_FAILED", "OLLAMA_TIMEOUT"
TOO_LATE = (LATE, "TIMEOUT")
"""The time was over before the request came that far, which a busy machine may do."""
PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>\r\n"


def wire(
    name: str,
    how: str,
    script: Script,
    *expects: str,
    times: int | None = None,
    tokens: int = 4,
    weight: float = 1.0,
    **timeouts: float,
) -> Kind:
    """A fault that a marked request meets, every time it is tried or ``times`` times."""

    async def inject(case: Case) -> None:
        gate = case.stage.gate
        with gate.armed(gate.marked, case.mark.encode(), Fault(script, times)) as fault:
            told = await case.ask(tokens=tokens, timeouts=timeouts)
        assert fault.met or told.outcome in TOO_LATE, f"the fault met nobody: {told}"

    return Kind(name, "Ollama's answer", how, frozenset(expects), inject, OLLAMA, weight=weight)


def in_answer(name: str, how: str, *expects: str, after: bytes, **more: Any) -> Kind:
    """Two good words, then these bytes in a chunk, then the end of the stream."""

    async def script(wire: Wire) -> None:
        await wire.say("one ", "two ")
        await wire.chunk(after)
        await wire.end()

    return wire(name, how, script, *expects, **more)


def status(code: int, error: str, *expects: str, times: int | None = None) -> Kind:
    """A refusal in Ollama's form."""

    async def script(wire: Wire) -> None:
        await wire.whole(code, json.dumps({"error": error}).encode())

    once = "" if times is None else ", the first time"
    name = f"http-{code}" + ("" if times is None else "-once")
    return wire(name, f"status {code}, {error!r}{once}", script, *expects, times=times)


async def reset(wire: Wire) -> None:
    wire.reset()


async def closed(wire: Wire) -> None:
    wire.writer.close()


async def reset_in_stream(wire: Wire) -> None:
    await wire.say("one ", "two ")
    await asyncio.sleep(0.02)  # a reset takes back what was not read yet
    wire.reset()


async def cut_in_line(wire: Wire) -> None:
    await wire.say("one ")
    await wire.chunk(line("two ")[:40])


async def no_last_line(wire: Wire) -> None:
    await wire.say("one ", "two ")
    await wire.end()


async def silent(wire: Wire) -> None:
    await wire.until_gone()


async def silent_after_head(wire: Wire) -> None:
    await wire.head()
    await wire.until_gone()


async def silent_in_stream(wire: Wire) -> None:
    await wire.say("one ")
    await wire.until_gone()


async def drip(wire: Wire) -> None:
    """Byte after byte."""
    await wire.head()
    for byte in line("one ") + line("two ") + last_line():
        await wire.chunk(bytes([byte]))
        await asyncio.sleep(0.0003)
    await wire.end()


async def drip_for_ever(wire: Wire) -> None:
    await wire.head()
    while True:
        await wire.chunk(line("x "))
        await asyncio.sleep(0.02)


async def error_first(wire: Wire) -> None:
    await wire.head()
    await wire.chunk(b'{"error":"an error was encountered while running the model"}\n')
    await wire.end()


async def html_502(wire: Wire) -> None:
    await wire.whole(502, PAGE, "text/html")


async def html_200(wire: Wire) -> None:
    await wire.whole(200, PAGE, "text/html")


async def long_line(wire: Wire) -> None:
    await wire.head()
    await wire.chunk(line("0123456789" * 10**6))
    await wire.chunk(last_line(1))
    await wire.end()


async def endless_line(wire: Wire) -> None:
    await wire.head()
    for _ in range(66):
        await wire.chunk(b"x" * 2**20)
    await wire.until_gone()


async def redirect(wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:9/\r\n"
                   b"Content-Length: 0\r\n\r\n")  # fmt: skip


async def bad_chunk(wire: Wire) -> None:
    await wire.say("one ")
    await wire.raw(b"zz\r\nno number\r\n")


async def short_body(wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + line("one "))


async def bad_gzip(wire: Wire) -> None:
    await wire.head(200, "Content-Encoding: gzip")
    await wire.chunk(b"this is no gzip at all")
    await wire.end()


async def endless_head(wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 200 OK\r\n" + b"X-Padding: 0123456789\r\n" * 50_000)


async def no_http(wire: Wire) -> None:
    await wire.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def deep(wire: Wire) -> None:
    await wire.say("one ")
    await wire.chunk(b"[" * 200_000 + b"\n")
    await wire.end()


async def burst(wire: Wire) -> None:
    await wire.head()
    await wire.chunk(line("word ") * 3000 + last_line(3000))
    await wire.end()


async def interim(wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    await wire.say("one ")
    await wire.chunk(last_line(1))
    await wire.end()


def said(text: str, **more: Any) -> Script:
    """A good answer with this text, and these fields in its last line."""

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.chunk(line(text) + last_line(**{"tokens": 1, **more}))
        await wire.end()

    return script


def when_loaded(
    name: str,
    how: str,
    script: Script,
    *expects: str,
    times: int | None = None,
    **timeouts: float,
) -> Kind:
    """A fault in the load of a model, which is taken out of memory before."""

    async def inject(case: Case) -> None:
        stage = case.stage
        await stage.users.post("/api/v1/models/unload", model=case.model)
        with stage.gate.armed(stage.gate.loads, case.name, Fault(script, times)) as fault:
            told = await case.ask(timeouts=timeouts)
        assert fault.met or told.outcome in TOO_LATE, f"the fault met nobody: {told}"

    return Kind(
        name, "Ollama's load", how, frozenset(expects), inject, OLLAMA, (OWN,), weight=0.3
    )  # fmt: skip


def refused_load(code: int, error: str) -> Script:
    """A load that Ollama refuses."""

    async def script(wire: Wire) -> None:
        await wire.whole(code, json.dumps({"error": error}).encode())

    return script


def in_lists(name: str, how: str, answers: Mapping[str, Script], *expects: str) -> Kind:
    """A fault in the calls that only ask; everybody else's are hit as well."""

    async def inject(case: Case) -> None:
        stage = case.stage
        await stage.users.post("/api/v1/models/unload", model=case.model)
        for path, script in answers.items():
            stage.gate.paths[path] = Fault(script)
        try:
            await case.ask()
        finally:
            for path in answers:
                del stage.gate.paths[path]

    return Kind(
        name, "Ollama's lists", how, frozenset(expects), inject, OLLAMA, ("ollama",), weight=0.2
    )  # fmt: skip


async def refused(case: Case) -> None:
    async with case.stage.gate.refusing():
        await case.ask()


KINDS = [
    wire("reset", "connection reset before the answer", reset, BROKEN),
    wire("reset-once", "the same, the first time", reset, "ok", times=1),
    wire("closed", "connection closed before the answer", closed, BROKEN),
    wire("reset-in-stream", "connection reset after two words", reset_in_stream, BROKEN),
    wire("cut-in-line", "connection closed in the middle of a line", cut_in_line, BROKEN),
    wire("no-last-line", "the stream ends without its last line", no_last_line, BROKEN),
    wire("stalled", "no answer at all", silent, LATE, first_token_s=0.2),
    wire("stalled-after-head", "a head and no line", silent_after_head, LATE, first_token_s=0.2),
    wire("stalled-in-stream", "silent after a word", silent_in_stream, LATE, between_tokens_s=0.2),
    wire("slow-drip", "byte after byte, each in a chunk", drip, "ok"),
    wire("drip-for-ever", "words without an end", drip_for_ever, LATE, total_s=0.4),
    wire("error-line-first", "an error line in place of an answer", error_first, FAILED),
    wire("error-line-first-once", "the same, the first time", error_first, "ok", times=1),
    in_answer(
        "error-line-in-stream", "an error line after two words", FAILED,
        after=b'{"error":"an error was encountered while running the model: EOF"}\n',
    ),
    in_answer("error-object", "an error line whose error is an object", FAILED,
              after=b'{"error":{"code":500,"message":"x"}}\n'),
    wire("html-502", "a proxy's page, status 502", html_502, BROKEN),
    wire("html-200", "a page in place of an answer, status 200", html_200, BROKEN),
    in_answer("html-in-stream", "a page in the middle of the answer", BROKEN, after=PAGE),
    in_answer("invalid-utf-8", "a line with bytes that are no UTF-8", BROKEN,
              after=b'{"message":{"content":"\xff\xfe"},"done":false}\n'),
    in_answer("bad-json", "a line that is no JSON", BROKEN, after=b'{"message":{"content":"x\n'),
    in_answer("no-object", "a line that is a list", BROKEN, after=b"[1, 2]\n"),
    in_answer("null-line", "a line that is null", BROKEN, after=b"null\n"),
    in_answer("text-for-object", "message is a text", BROKEN, after=b'{"message":"x"}\n'),
    in_answer("number-for-text", "content is a number", BROKEN,
              after=b'{"message":{"content":7},"done":false}\n'),
    in_answer("bad-counts", "counts are texts", BROKEN, after=line("", done=True, eval_count="2")),
    in_answer("bad-tool-calls", "tool calls are a text", BROKEN,
              after=b'{"message":{"content":"","tool_calls":"x"},"done":false}\n'),
    in_answer("load-in-answer", "the answer says that a model was loaded", BROKEN,
              after=line("", done=True, done_reason="load")),
    wire("long-line", "a line of 10 MB", long_line, "ok", weight=0.02),
    wire("endless-line", "66 MB without the end of a line", endless_line, BROKEN, weight=0.02),
    wire("deep-nesting", "a line of 200,000 brackets", deep, BROKEN, weight=0.3),
    status(400, "bad request", "INVALID_REQUEST"),
    status(401, "unauthorized", "INVALID_REQUEST"),
    status(404, "model 'x' not found", "OLLAMA_MODEL_NOT_FOUND"),
    status(429, "too many requests", "QUEUE_FULL"),
    status(500, "llama runner process no longer running", FAILED),
    status(500, "llama runner process no longer running", "ok", times=1),
    status(503, "server busy, please try again", "QUEUE_FULL"),
    wire("redirect", "status 307 to another address", redirect, BROKEN),
    wire("bad-chunk", "a chunk whose size is no number", bad_chunk, BROKEN),
    wire("short-body", "fewer bytes than announced", short_body, BROKEN),
    wire("bad-gzip", "compressed, says the head", bad_gzip, BROKEN),
    wire("endless-head", "a head of a megabyte", endless_head, BROKEN, weight=0.3),
    wire("no-http", "another protocol answers", no_http, BROKEN),
    wire("interim", "an interim answer before the real one", interim, "ok"),
    wire("burst", "3,000 lines in one packet", burst, "ok", tokens=4000, weight=0.1),
    wire("surrogate", "half of a surrogate pair in a word", said("a\ud83d b"), "ok"),
    wire("zero-byte", "a zero byte in a word", said("a\x00b"), "ok"),
    wire("line-breaks", "every line break of Unicode in a word",
         said("a\x85\u2028\u2029\r\n\x0bb"), "ok"),
    wire("huge-counts", "counts of thirty digits", said("a", eval_count=10**30), BROKEN),
    wire("large-counts", "counts of 40 bits", said("a", prompt_eval_count=2**40), BROKEN),
    wire("negative-counts", "counts below zero", said("a", eval_count=-3), BROKEN),
    wire("empty-answer", "nothing but the last line", said("", eval_count=0), "ok"),
    when_loaded("load-fails", "status 500 for the load",
                refused_load(500, "llama runner process has terminated: exit status 2"), FAILED),
    when_loaded("load-lacks-memory", "status 500: more memory is needed",
                refused_load(500, "model requires more system memory (9 GiB) than is available"),
                FAILED, "OLLAMA_MEMORY_EXCEEDED"),
    when_loaded("load-reset", "connection reset in the load", reset, BROKEN),
    when_loaded("load-reset-once", "connection reset in the load, the first time", reset, "ok",
                times=1),
    when_loaded("load-page", "a proxy's page for the load", html_200, BROKEN),
    when_loaded("load-stalls", "the load does not end", silent, LATE, "TIMEOUT", load_s=0.3),
    in_lists("lists-are-pages", "a proxy's page for all lists",
             {"/api/tags": html_200, "/api/ps": html_200}, BROKEN),
    in_lists("lists-reset", "connection reset in all lists",
             {"/api/tags": reset, "/api/ps": reset}, BROKEN),
    in_lists("show-is-a-page", "a proxy's page in place of the description",
             {"/api/show": html_200}, BROKEN),
    Kind("refused", "Ollama's server", "nobody listens", frozenset({"OLLAMA_UNREACHABLE"}),
         refused, OLLAMA, ("ollama",), weight=0.5),
]  # fmt: skip
