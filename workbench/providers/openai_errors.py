"""The one place where failures of an endpoint and of the way to it become :class:`WorkbenchError`.

=================================================================  ==========================
what happened                                                      code
=================================================================  ==========================
refused connection, no route, connect timeout, broken proxy        ENDPOINT_UNREACHABLE
no such path (404 of the list of models, or in another form)       ENDPOINT_UNREACHABLE
key missing or refused (401, 403)                                  ENDPOINT_FORBIDDEN
unknown model (404 in OpenAI's form)                               ENDPOINT_MODEL_NOT_FOUND
rate limit (429), not ready or full (503)                          QUEUE_FULL, with Retry-After
other 4xx, also of an error event inside a stream                  INVALID_REQUEST
other statuses; other error events inside a stream                 ENDPOINT_GENERATION_FAILED
no answer within the read timeout                                  ENDPOINT_TIMEOUT
cut connection, bad framing, bad JSON, HTML, a redirect            ENDPOINT_STREAM_BROKEN
=================================================================  ==========================
"""

from __future__ import annotations

import datetime as dt
import email.utils
import html
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from workbench.endpoints import Endpoint
from workbench.errors import ErrorCode, WorkbenchError, sentence

if TYPE_CHECKING:
    import openai

_SHOWN: Final = 300
"""Characters of a server's words in a message."""
_READ: Final = 4000
"""Characters of a page that are looked at for them."""
_RETRY_AFTER_S: Final = 1.0
"""Where a server that is busy does not say for how long."""
_LONGEST_RETRY_S: Final = 3600.0


class MalformedAnswer(Exception):
    """The peer answered, but not as that API does. The argument is the start of what it sent."""


@contextmanager
def seam(
    operation: str, endpoint: Endpoint, model: str | None = None, *, listed: bool = True
) -> Iterator[None]:
    """Let nothing but :class:`WorkbenchError` out of the block.

    Args:
        operation: what was attempted, such as ``stream``.
        endpoint: whose server it is; its key is blotted out of what the server says.
        model: its name of the model, if the operation concerns one.
        listed: the server had a list of models when it was asked for one: its address is right.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        raise map_error(error, operation, endpoint, model, listed=listed) from error


def closed_unanswered(error: openai.APIConnectionError) -> bool:
    """Whether the server closed the connection in place of an answer.

    The client has no exception of its own for this, only words.
    """
    return "without sending a response" in str(error.__cause__)


def map_error(
    error: Exception,
    operation: str,
    endpoint: Endpoint,
    model: str | None = None,
    *,
    listed: bool = True,
) -> WorkbenchError:
    """Translate one foreign exception; see the table of this module."""
    # Late, because listing commands must start fast; whoever fails here has them loaded already.
    import httpx2
    import openai

    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    name, url = endpoint.name, endpoint.base_url
    details: dict[str, Any] = {
        "endpoint": name,
        "url": url,
        "model": model,
        "cause": type(cause or error).__name__,
    }

    def made(
        code: ErrorCode, message: str, fix: str, retry_after_s: float | None = None
    ) -> WorkbenchError:
        return WorkbenchError(
            code,
            sentence(_blotted(message, endpoint)),
            fix=fix,
            operation=operation,
            provider=name,
            details=details,
            retry_after_s=retry_after_s,
        )

    def broken(message: str) -> WorkbenchError:
        return made(
            ErrorCode.ENDPOINT_STREAM_BROKEN,
            message,
            f"Try again; if it stays so, look at the server's log and check that {url} is the "
            "address of its OpenAI API (OPENAI_COMPAT_ENDPOINTS).",
        )

    if isinstance(error, openai.APIStatusError):
        details["status"] = error.status_code
        if 300 <= error.status_code < 400:
            target = error.response.headers.get("location", "elsewhere")
            return broken(f"{url} sends its clients to {target}; prompts do not follow.")
        if error.status_code == 404 and _no_such_path(error, operation, listed):
            return made(
                ErrorCode.ENDPOINT_UNREACHABLE,
                f"Nothing at {url} speaks OpenAI's API (HTTP 404).",
                f"Is /v1 missing or wrong in the base_url of {name} (OPENAI_COMPAT_ENDPOINTS)? "
                "If its server has no list of models, name them in models.",
            )
        return made(*_explain(error, endpoint, model))
    unreachable = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
    if isinstance(cause, unreachable) or (
        isinstance(cause, OSError) and not isinstance(cause, TimeoutError)
    ):
        return made(
            ErrorCode.ENDPOINT_UNREACHABLE,
            f"No server answers at {url} ({str(cause) or type(cause).__name__}).",
            f"Start it, or correct the address of {name} in OPENAI_COMPAT_ENDPOINTS.",
        )
    if isinstance(error, openai.APITimeoutError) or isinstance(
        cause, (httpx2.TimeoutException, TimeoutError)
    ):
        return made(
            ErrorCode.ENDPOINT_TIMEOUT,
            f"{name} at {url} accepted the request but did not answer in time.",
            "See whether its server is overloaded, then try again.",
        )
    if isinstance(error, (openai.APIConnectionError, httpx2.HTTPError, httpx2.StreamError)):
        return broken(
            f"The connection to {name} at {url} broke off "
            f"({str(cause or error) or type(cause or error).__name__})."
        )
    if isinstance(error, UnicodeEncodeError):
        return made(
            ErrorCode.INVALID_REQUEST,
            f"The request cannot be written as JSON: {error}.",
            "Remove characters that are not valid Unicode.",
        )
    if isinstance(error, MalformedAnswer):
        return broken(f"{name} at {url} does not answer as OpenAI's API does: {error}")
    if isinstance(error, (openai.APIResponseValidationError, ValueError)):
        return broken(f"The answer of {name} at {url} cannot be read: {_start(str(error))}")
    if isinstance(error, openai.APIError):  # an error event inside a stream
        return made(*_inside(error))
    return made(
        ErrorCode.INTERNAL,
        f"Unexpected {type(error).__name__} while talking to {name}: {error}",
        "Please report this.",
    )


def _no_such_path(error: openai.APIStatusError, operation: str, listed: bool) -> bool:
    """Whether a 404 is about the address and not about a model."""
    said = _said(error.body)
    if said is None or operation == "list_models":
        return True
    return not listed and "model" not in said.lower()


def _explain(
    error: openai.APIStatusError, endpoint: Endpoint, model: str | None
) -> tuple[ErrorCode, str, str, float | None]:
    """Code, message, fix and retry delay (seconds) of a refusal."""
    status, name = error.status_code, endpoint.name
    text = _said(error.body) or _start(plain(error.response.text))
    said = f"{name}: {text}" if text else f"{name}: HTTP {status}"
    if status in (401, 403):
        fix = f"Give {name} an api_key in OPENAI_COMPAT_ENDPOINTS that its server accepts."
        return ErrorCode.ENDPOINT_FORBIDDEN, said, fix, None
    if status == 404:
        fix = "See: workbench models list."
        found = f"{name} has no model {model!r} ({text})." if model else said
        return ErrorCode.ENDPOINT_MODEL_NOT_FOUND, found, fix, None
    if status in (429, 503):
        wait_s = retry_after(error.response.headers.get("retry-after"))
        return ErrorCode.QUEUE_FULL, said, "Wait a moment and try again.", wait_s
    if 400 <= status < 500:
        return ErrorCode.INVALID_REQUEST, said, _correction(text), None
    return ErrorCode.ENDPOINT_GENERATION_FAILED, f"{said} (HTTP {status})", _LOOK, None


_LOOK: Final = "Try again; its server's log names the cause."


def _inside(error: openai.APIError) -> tuple[ErrorCode, str, str]:
    """Code, message and fix of an error that came as an event of a stream."""
    text = _start(error.body) if isinstance(error.body, str) else error.message
    if (error.code or "").isdigit() and 400 <= int(error.code or 0) < 500:
        return ErrorCode.INVALID_REQUEST, text, _correction(text)
    return ErrorCode.ENDPOINT_GENERATION_FAILED, text, _LOOK


def _correction(text: str) -> str:
    if re.search(r"context|too long|max_model_len|maximum.*length", text, re.IGNORECASE):
        return "Shorten the prompt or the history, or lower max_tokens: its context is too small."
    return "Correct the request."


def _said(body: object) -> str | None:
    """The server's words in OpenAI's form of an error, FastAPI's or TGI's; None: in none."""
    if not isinstance(body, Mapping):
        return None
    for key in ("message", "detail", "error"):
        value = body.get(key)
        if isinstance(value, str) and value:
            return _start(value)
        if isinstance(value, Mapping) and isinstance(value.get("message"), str):
            return _start(value["message"])
        if value is not None and not isinstance(value, bool):
            return _start(str(value))
    return None


def retry_after(value: str | None) -> float:
    """Seconds of a ``Retry-After`` header, which is a number or a date; 1 if it says neither."""
    if value is None:
        return _RETRY_AFTER_S
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value)
            seconds = (at - dt.datetime.now(dt.UTC)).total_seconds()
        except (ValueError, TypeError):
            return _RETRY_AFTER_S
    return min(max(seconds, 0.0), _LONGEST_RETRY_S) if seconds == seconds else _RETRY_AFTER_S


def plain(text: str) -> str:
    """What a page of HTML says, its title or else its text; other text as it is."""
    page = text[:_READ]
    if not re.match(r"\s*<(!doctype|html|head|body|title|h\d|p)\b", page, re.IGNORECASE):
        return text
    title = re.search(r"<title[^>]*>([^<]*\S[^<]*)<", page, re.IGNORECASE)
    hidden = r"(?is)<(script|style)\b.*?(</\1|$)|<[^>]*(>|$)"
    return html.unescape(title[1] if title else re.sub(hidden, " ", page))


def _start(text: str) -> str:
    return " ".join(text[:_SHOWN].split())


def _blotted(text: str, endpoint: Endpoint) -> str:
    """Without its key, which a server may repeat when it refuses it."""
    key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else ""
    return text.replace(key, "[hidden]") if key else text
