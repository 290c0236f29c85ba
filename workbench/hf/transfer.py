"""One request for a file of the hub, from any byte on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from workbench.errors import WorkbenchError

_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)


class Broken(Exception):
    """The connection broke off, or the hub asks for patience."""


class NotThatLong(Broken):
    """The hub has fewer bytes than are here already."""


@contextmanager
def response(
    url: str, have: int, timeout_s: float, explain: Callable[[Exception], WorkbenchError]
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Ask for a file; the position of the answer's first byte, and its blocks.

    Args:
        url: where the file is.
        have: bytes of its beginning that are here already.
        timeout_s: longest silence.
        explain: what a refusal of the hub means.

    Raises:
        Broken: only for what the network does, its cause the client's own exception.
        WorkbenchError: the hub refuses.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    # Compressed transfer would make byte positions meaningless.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        opened = get_session().stream(
            "GET",
            url,
            headers=headers,
            timeout=timeout_s,
            follow_redirects=True,
        )
        answer = opened.__enter__()
    except Exception as error:  # a closed set of the client's own, all of them "no connection"
        raise Broken from error
    try:
        if answer.status_code == 416:  # longer than what the hub has now
            raise NotThatLong from ValueError("the hub refuses the range")
        if answer.is_error:
            try:
                answer.read()
                hf_raise_for_status(answer)
            except Exception as error:
                if answer.status_code in _PASSING:
                    raise Broken from error
                raise explain(error) from None
        yield _start(answer.headers.get("Content-Range"), answer.status_code), _blocks(answer)
    finally:
        opened.__exit__(None, None, None)


def _start(content_range: str | None, status: int) -> int:
    """The position of an answer's first byte: 0 if the hub does not heed the range."""
    if status != 206 or content_range is None:
        return 0
    digits = content_range.removeprefix("bytes ").partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def _blocks(answer: Any) -> Iterator[bytes]:
    try:
        yield from answer.iter_bytes()
    except Exception as error:  # as above: of the client's own kinds
        raise Broken from error
