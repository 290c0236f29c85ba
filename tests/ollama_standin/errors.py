"""What the server answers when it says no: status codes and exact texts.

Clients match on these strings, so each text lives here once.
"""

from __future__ import annotations

BUSY = "server busy, please try again.  maximum pending requests exceeded"
RUNNER_LOST = "an error was encountered while running the model: unexpected EOF"
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
NO_IMAGES = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support '
    'multimodal requests.","type":"invalid_request_error"}}'
)


class ApiError(Exception):
    """An answer ``{"error": text}`` with a status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class BackendError(ApiError):
    """An error that arises behind the scheduler, when a streamed answer has already been chosen.

    The real server sends these with ``application/json`` and chunked framing when the request asked
    for a stream, and like any other error when it did not.
    """


def missing_body() -> ApiError:
    """No bytes at all where JSON is needed."""
    return ApiError(400, "missing request body")


def model_required() -> ApiError:
    """Chat, show and delete without a name."""
    return ApiError(400, "model is required")


def invalid_name() -> ApiError:
    """A name that the grammar of names refuses."""
    return ApiError(400, "invalid model name")


def model_not_found(name: str) -> ApiError:
    """The wording of chat, generate, show and delete."""
    return ApiError(404, f"model '{name}' not found")


def source_not_found(name: str) -> ApiError:
    """The wording of copy: the other kind of quotes."""
    return ApiError(404, f'model "{name}" not found')


def pull_first(name: str) -> ApiError:
    """The wording of embed."""
    return ApiError(404, f'model "{name}" not found, try pulling it first')


def not_implemented(what: str) -> ApiError:
    """The stand-in's own refusal: better than a success that nobody recorded."""
    return ApiError(501, f"the Ollama stand-in does not implement {what}")


def bad_option(name: str, kind: str) -> ApiError:
    """An option of a wrong type; the real server does answer 500 here."""
    return ApiError(500, f'option "{name}" must be of {kind}')


def bad_format(raw: str) -> BackendError:
    """A ``format`` that is neither "json" nor a schema; ``raw`` is its JSON text."""
    quoted = raw.replace("\\", "\\\\").replace('"', '\\"')
    return BackendError(
        500, f'invalid format: "{quoted}"; expected "json" or a valid JSON Schema object'
    )
