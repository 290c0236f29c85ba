"""Every failure becomes one of our codes, with a fix."""

from __future__ import annotations

import errno
import json

import httpx
import ollama
import pydantic
import pytest

from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.ollama_errors import (
    MalformedAnswer,
    Server,
    UnsendableRequest,
    map_error,
    nested_error,
    seam,
)
from workbench.settings import load_settings

URL = "http://127.0.0.1:11434"


def _response_error(text: str, status: int) -> ollama.ResponseError:
    return ollama.ResponseError(json.dumps({"error": text}), status)


def _validation_error() -> Exception:
    try:
        ollama.ListResponse(models=5)  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


_BAD_SCHEMA = json.dumps({"error": {"code": 400, "message": "JSON schema conversion failed"}})

CASES: list[tuple[Exception, ErrorCode, str]] = [
    (
        _response_error("model 'm' not found", 404),
        ErrorCode.OLLAMA_MODEL_NOT_FOUND,
        "ollama pull m",
    ),
    (_response_error("model is required", 400), ErrorCode.INVALID_REQUEST, ""),
    (_response_error("invalid model name", 400), ErrorCode.INVALID_REQUEST, ""),
    (_response_error('"m" does not support thinking', 400), ErrorCode.INVALID_REQUEST, ""),
    (_response_error(_BAD_SCHEMA, 400), ErrorCode.INVALID_REQUEST, ""),
    (
        _response_error('option "num_predict" must be of type integer', 500),
        ErrorCode.INVALID_REQUEST,
        "",
    ),
    (_response_error('invalid format: "5"; expected', 500), ErrorCode.INVALID_REQUEST, ""),
    (_response_error("ollama cloud is disabled", 403), ErrorCode.INVALID_REQUEST, "local model"),
    (_response_error("unauthorized", 401), ErrorCode.INVALID_REQUEST, "signin"),
    (_response_error("server busy, please try again.", 503), ErrorCode.QUEUE_FULL, "try again"),
    (_response_error("too many requests", 429), ErrorCode.QUEUE_FULL, ""),
    (
        _response_error("llama-server process has terminated: signal: killed", 500),
        ErrorCode.OLLAMA_GENERATION_FAILED,
        "log",
    ),
    (
        _response_error("model requires more system memory (9 GiB) than is available", 500),
        ErrorCode.OLLAMA_GENERATION_FAILED,
        "Unload",
    ),
    (_response_error("unexpected EOF", -1), ErrorCode.OLLAMA_GENERATION_FAILED, "Try again"),
    (ConnectionError("failed"), ErrorCode.OLLAMA_UNREACHABLE, "OLLAMA_HOST"),
    (ConnectionRefusedError(111, "refused"), ErrorCode.OLLAMA_UNREACHABLE, "ollama serve"),
    (OSError("no route"), ErrorCode.OLLAMA_UNREACHABLE, "OLLAMA_HOST"),
    (httpx.ConnectError("refused"), ErrorCode.OLLAMA_UNREACHABLE, "https://ollama.com/download"),
    (httpx.ConnectTimeout("slow"), ErrorCode.OLLAMA_UNREACHABLE, "OLLAMA_HOST"),
    (httpx.ProxyError("403"), ErrorCode.OLLAMA_UNREACHABLE, "OLLAMA_HOST"),
    (httpx.ReadTimeout(""), ErrorCode.OLLAMA_TIMEOUT, "try again"),
    (httpx.WriteTimeout(""), ErrorCode.OLLAMA_TIMEOUT, ""),
    (httpx.PoolTimeout(""), ErrorCode.OLLAMA_TIMEOUT, ""),
    (TimeoutError(), ErrorCode.OLLAMA_TIMEOUT, ""),
    (httpx.RemoteProtocolError("peer closed"), ErrorCode.OLLAMA_STREAM_BROKEN, "log"),
    (httpx.ReadError(""), ErrorCode.OLLAMA_STREAM_BROKEN, "log"),
    (httpx.WriteError(""), ErrorCode.OLLAMA_STREAM_BROKEN, ""),
    (httpx.StreamClosed(), ErrorCode.OLLAMA_STREAM_BROKEN, ""),
    (httpx.DecodingError("bad gzip"), ErrorCode.OLLAMA_STREAM_BROKEN, ""),
    (MalformedAnswer("<html>"), ErrorCode.OLLAMA_STREAM_BROKEN, "OLLAMA_HOST"),
    (json.JSONDecodeError("bad", "{", 0), ErrorCode.OLLAMA_STREAM_BROKEN, ""),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ErrorCode.OLLAMA_STREAM_BROKEN, ""),
    (_validation_error(), ErrorCode.OLLAMA_STREAM_BROKEN, ""),
    (UnsendableRequest("surrogates not allowed"), ErrorCode.INVALID_REQUEST, "Unicode"),
    (AttributeError("bug"), ErrorCode.INTERNAL, "report"),
]


@pytest.mark.parametrize(
    ("error", "code", "fix"), CASES, ids=[f"{i}-{type(c[0]).__name__}" for i, c in enumerate(CASES)]
)
def test_mapping(error: Exception, code: ErrorCode, fix: str) -> None:
    mapped = map_error(error, "stream", Server(URL), "m")
    assert mapped.code is code
    assert fix in mapped.fix
    assert mapped.fix
    assert mapped.message
    assert (mapped.provider, mapped.operation) == ("ollama", "stream")
    assert mapped.details["host"] == URL
    assert (mapped.retry_after_s is not None) == (code is ErrorCode.QUEUE_FULL)


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.RemoteProtocolError("peer closed")]
)
def test_one_of_several_hosts_is_named_with_its_setting(error: Exception) -> None:
    for others in ({}, {"cellar": "http://127.0.0.1:11435"}):
        settings = load_settings(_env_file=None, ollama_hosts={"attic": URL, **others})
        provider = next(iter(settings.ollama_servers))
        mapped = map_error(error, "stream", Server.of(settings, provider), "m")
        assert f"attic, {URL}" in mapped.message
        assert "attic of OLLAMA_HOSTS" in mapped.fix
        assert mapped.provider == ("ollama@attic" if others else "ollama")


def test_every_exception_of_httpx_has_a_case() -> None:
    """A new kind in a later httpx must not fall through to INTERNAL."""

    def leaves(kind: type[Exception]) -> set[type[Exception]]:
        below = kind.__subclasses__()
        return set().union(*map(leaves, below)) if below else {kind}

    needs_request = httpx.Request("GET", URL)
    for kind in leaves(httpx.HTTPError) - {httpx.HTTPStatusError}:
        assert issubclass(kind, httpx.RequestError)
        code = map_error(kind("x", request=needs_request), "list_models", Server(URL)).code
        assert code.value.startswith("OLLAMA_"), kind


def test_the_runners_own_words_are_shown() -> None:
    mapped = map_error(_response_error(_BAD_SCHEMA, 400), "stream", Server(URL), "m")
    assert mapped.message == "Ollama: JSON schema conversion failed."


@pytest.mark.parametrize("text", ["plain", "5", "[]", '{"error": 3}', "null"])
def test_an_error_text_that_holds_no_error_object(text: str) -> None:
    assert nested_error(_response_error(text, 400)) == {}


def test_our_own_errors_pass_the_seam_unchanged() -> None:
    ours = WorkbenchError(ErrorCode.CANCELLED, "enough")
    with pytest.raises(WorkbenchError) as caught, seam("show", Server(URL)):
        raise ours
    assert caught.value is ours


def test_the_cause_is_kept_for_the_log() -> None:
    with pytest.raises(WorkbenchError) as caught, seam("show", Server(URL)):
        raise httpx.ReadError("reset")
    assert isinstance(caught.value.__cause__, httpx.ReadError)


@pytest.mark.parametrize("several", [False, True], ids=["one address", "two addresses"])
def test_out_of_files_is_no_absent_server(several: bool) -> None:
    """The advice was to start a server that ran, and its models were taken for gone."""
    starved: Exception = OSError(errno.EMFILE, "Too many open files")
    failed = httpx.ConnectError("All connection attempts failed")
    failed.__cause__ = ExceptionGroup("tried", [starved, starved]) if several else starved
    starved.__context__ = failed  # as anyio leaves it
    error = map_error(failed, "stream", Server(URL))
    assert error.code is ErrorCode.TOO_MANY_FILES
    assert "ulimit" in error.fix


def test_causes_that_go_round_in_circles_end() -> None:
    failed, cause = httpx.ConnectError("no"), OSError("All connection attempts failed")
    failed.__cause__, cause.__context__ = cause, failed
    assert map_error(failed, "stream", Server(URL)).code is ErrorCode.OLLAMA_UNREACHABLE
