"""What every answer tells the browser: what it may load, run and show, and where it may send.

The page's scripts run by a nonce, new with every answer: a script that a model's text smuggled in
has none and does not run, even if it passed everything that cleans the text. Gradio compiles some
of its own code at run time, which needs ``unsafe-eval``; styles are inline throughout. What
gradio's page says of itself to those who make a preview of its address, in the name of Gradio and
with a picture of another host, makes way for the page's own name.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_ASSETS: Final = "/assets/"
_FOREVER: Final = "private, max-age=31536000, immutable"
"""Of the page's own code, whose names change with what is in it."""
_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"
_PAGE: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' 'nonce-{nonce}'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'none'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_SCRIPT: Final = re.compile(rb"<script(?=[\s>])")
_PREVIEW: Final = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')
_NAMED: Final = (
    '<title>Workbench</title><meta name="description" content="Compare language models of '
    'Ollama and Hugging Face side by side">'
    '<link rel="icon" type="image/svg+xml" href="/favicon.ico">'
)


class SecurityHeaders:
    """ASGI middleware that adds them; HTML is held back until it is whole, to give it its nonce.

    Args:
        app: whose answers these are.
        head: what the head of the page says besides, as HTML.
    """

    def __init__(self, app: ASGIApp, head: str = "") -> None:
        self._app = app
        self._head = f"<head>{_NAMED}{head}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and complete its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        page = bytearray()

        async def complete(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers[name] = value
                if scope["path"].startswith(_ASSETS) and message["status"] == 200:
                    headers["Cache-Control"] = _FOREVER
                html = headers.get("content-type", "").startswith("text/html")
                if html and scope["method"] != "HEAD":
                    start = message
                    return
                headers["Content-Security-Policy"] = _NOTHING
            elif message["type"] == "http.response.body" and start is not None:
                page.extend(message.get("body", b""))
                if message.get("more_body", False):
                    return
                nonce = secrets.token_urlsafe(16)
                body = named(bytes(page), self._head)
                body = _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), body)
                headers = MutableHeaders(scope=start)
                headers["Content-Security-Policy"] = _PAGE.format(nonce=nonce)
                headers["Content-Length"] = str(len(body))
                await send(start)
                message = {"type": "http.response.body", "body": body}
                start = None
            await send(message)

        await self._app(scope, receive, complete)


def named(page: bytes, head: bytes) -> bytes:
    """HTML under the workbench's own name, if it was under Gradio's.

    Args:
        page: as it was made.
        head: in whose place it begins, with the name.
    """
    cleaned, previews = _PREVIEW.subn(b"", page)
    return cleaned.replace(b"<head>", head, 1) if previews else page
