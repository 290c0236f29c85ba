"""Why a request is refused, or what it needs cannot be loaded, as errors with figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from workbench.budget import HOST, DeviceBytes, Prediction
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hosts import family
from workbench.rotation.snapshot import added, spoken
from workbench.router import Route

_MEMORY_CODE: Final[Mapping[str, ErrorCode]] = {"ollama": ErrorCode.OLLAMA_MEMORY_EXCEEDED}
_SHORTEST_CONTEXT: Final = 256
"""Tokens: a shorter one is no use to anybody."""
_LASTING: Final = frozenset(
    {
        ErrorCode.HF_MODEL_NOT_FOUND,
        ErrorCode.HF_MODEL_LOAD_FAILED,
        ErrorCode.HF_INVALID_CONFIG,
        ErrorCode.OLLAMA_MODEL_NOT_FOUND,
        ErrorCode.MODEL_NOT_FOUND,
        ErrorCode.UNSAFE_FILE,
    }
)
"""Failures of a load that do not go away by themselves."""


class FailedLoads:
    """Loads that failed just now for a reason that lasts: nobody is evicted for such a model.

    Args:
        remembered_s: how long a failure counts as just now; 0 remembers nothing.
    """

    def __init__(self, remembered_s: float) -> None:
        self._remembered_s = remembered_s
        self._failures: dict[str, tuple[WorkbenchError, float]] = {}

    def failed(self, model: str, error: BaseException) -> None:
        """A load failed; it is remembered if its reason lasts."""
        if (
            isinstance(error, WorkbenchError)
            and error.code in _LASTING
            and not error.details.get("transient")
        ):
            self._failures[model] = (error, time.monotonic())

    def loaded(self, model: str) -> None:
        """It works again."""
        self._failures.pop(model, None)

    def doomed(self, model: str) -> bool:
        """Whether its load failed just now."""
        failure = self._failures.get(model)
        if failure is not None and time.monotonic() - failure[1] >= self._remembered_s:
            del self._failures[model]
            failure = None
        return failure is not None

    def refusal(self, model: str) -> WorkbenchError:
        """The failure once more, for a request that would evict others for nothing."""
        error, at = self._failures[model]
        ago_s = time.monotonic() - at
        return WorkbenchError(
            error.code,
            f"{error.message} (That was {ago_s:.0f} s ago. It was not tried again, because another "
            "model would have had to leave memory for it.)",
            fix=error.fix,
            operation="load",
            provider=error.provider,
            details=error.details,
            retry_after_s=max(round(self._remembered_s - ago_s, 1), 1.0),
        )


def too_large(
    route: Route,
    reason: str,
    prediction: Prediction,
    capacity: DeviceBytes,
    pinned: Mapping[str, DeviceBytes],
    tokens: int = 0,
) -> WorkbenchError:
    """The error of a request that never fits.

    Args:
        route: the model.
        reason: the policy's, in words: it ``needs`` so much of so much.
        prediction: what it is expected to need, and from where that is known.
        capacity: what all models together may hold, at best.
        pinned: other pinned models, with what they hold at least.
        tokens: context that its prompt and answer may come to.
    """
    return _refused(
        route,
        f"{reason} (predicted {_source(prediction)})",
        _smaller(route, prediction, tokens, capacity, added(pinned.values())),
        {
            "need_bytes": dict(prediction.peak(tokens)),
            "context_tokens": tokens,
            "budget_bytes": dict(capacity),
            "pinned": {model: dict(held) for model, held in pinned.items()},
            "source": prediction.source,
            "error_share": prediction.error_share,
        },
    )


def no_place(route: Route, reason: str) -> WorkbenchError:
    """The error of a request for whose model pinned ones leave no place.

    Args:
        route: the model.
        reason: the policy's, in words.
    """
    return _refused(route, reason, "Unpin a model, or raise HF_MAX_CACHED_MODELS.")


def kept_by_others(
    route: Route, reason: str, waited_s: float, prediction: Prediction
) -> WorkbenchError:
    """The error of a request that waited in vain for memory in the hands of other programs.

    Args:
        route: the model.
        reason: the policy's, in words: what is missing and who has it.
        waited_s: how long it waited.
        prediction: what it is expected to need.
    """
    return _refused(
        route,
        f"waited {waited_s:.0f} s: {reason}",
        "Close programs that need much memory, choose a smaller model, or allow a longer wait "
        "(WORKBENCH_PATIENCE_S).",
        {"need_bytes": dict(prediction.bytes), "waited_s": round(waited_s, 3)},
    )


def _refused(
    route: Route, why: str, fix: str, details: Mapping[str, Any] | None = None
) -> WorkbenchError:
    provider = route.provider.name
    return WorkbenchError(
        _MEMORY_CODE.get(family(provider), ErrorCode.HF_MEMORY_EXCEEDED),
        f"{route.model} {why}. Nothing was evicted.",
        fix=fix,
        operation="load",
        provider=provider,
        details=details,
    )


def _source(prediction: Prediction) -> str:
    if prediction.source == "files":
        return "from its files"
    return f"from {prediction.loads} measured load{'' if prediction.loads == 1 else 's'}"


def _smaller(
    route: Route,
    prediction: Prediction,
    tokens: int,
    capacity: DeviceBytes,
    pinned: DeviceBytes,
) -> str:
    """What to do about a request that is too large: each of it is enough."""

    def fits(tokens: int, beside: DeviceBytes) -> bool:
        peak = prediction.peak(tokens)
        return all(peak.get(d, 0) + beside.get(d, 0) <= most for d, most in capacity.items())

    room = [
        (most - pinned.get(device, 0) - prediction.answering.get(device, 0)) // size
        for device, most in capacity.items()
        if (size := prediction.token_bytes.get(device))
    ]
    context = min(room, default=tokens)
    ways = ["unpin a model"] if pinned and fits(tokens, {}) else []
    if context < tokens and fits(_SHORTEST_CONTEXT, pinned):
        context = 1 << (context.bit_length() - 1)
        base, _, options = route.model.partition("?")
        kept = [one for one in options.split("&") if one and not one.startswith("num_ctx=")]
        name = f"{base}?{'&'.join([*kept, f'num_ctx={context}'])}"
        ways += ["shorten the prompt", "lower max_tokens", f"use {name}"]
    else:
        ways.append("choose a smaller model or quantisation")
    fix = f"{', '.join(ways)}, or raise WORKBENCH_MEMORY_BUDGET."
    return fix[0].upper() + fix[1:]


def even_now(
    error: WorkbenchError, evicted: Sequence[str], figures: Mapping[str, Any]
) -> WorkbenchError:
    """The error of memory that ran out although idle models had left, with the figures."""
    return WorkbenchError(
        error.code,
        f"{error.message} The machine has {_size(figures['host_available_bytes'])} "
        f"available; in memory: {_held(figures)}; "
        f"evicted: {', '.join(evicted) or 'none, as none was idle'}.",
        fix=error.fix,
        operation=error.operation,
        provider=error.provider,
        details={**error.details, **figures, "evicted": list(evicted)},
    )


def killed(
    error: WorkbenchError, prediction: Prediction, available: int, figures: Mapping[str, Any]
) -> WorkbenchError:
    """The error of a load whose process the system ended, with the figures.

    Args:
        error: of the load.
        prediction: what the model was expected to need.
        available: bytes of the machine that were available as the load began.
        figures: what the others hold, as :meth:`ModelRotationService.figures` has it.
    """
    need = prediction.bytes.get(HOST)
    expected = "what it needs is not known"
    if need is not None:
        expected = f"it was expected to need {_size(need)} (predicted {_source(prediction)})"
    return WorkbenchError(
        error.code,
        f"{error.message} As its load began, {expected}, and {_size(available)} were available; "
        f"in memory: {_held(figures)}.",
        fix="Unload other models or close programs that need much memory, then ask again; or "
        "choose a smaller or more strongly quantised model. A lower WORKBENCH_MEMORY_BUDGET lets "
        "idle models leave earlier.",
        operation=error.operation,
        provider=error.provider,
        details={
            **error.details,
            "need_bytes": dict(prediction.bytes),
            "available_at_start_bytes": available,
            **figures,
        },
    )


def _held(figures: Mapping[str, Any]) -> str:
    held = [f"{model} {_size(size)}" for model, size in figures["resident_bytes"].items()]
    return ", ".join(held) or "no other model"


def _size(size_bytes: int) -> str:
    return spoken({HOST: size_bytes})
