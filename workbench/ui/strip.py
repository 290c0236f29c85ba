"""The metric strip of a pane: fixed slots, so that nothing jumps while figures come in."""

from __future__ import annotations

from workbench import figures
from workbench.figures import DASH, escape
from workbench.live import LiveAnswer
from workbench.metrics import DEFINITIONS, NS, spoilt
from workbench.types import Status, StreamSession

_PHASE_WORDS = {
    "idle": "nothing was asked yet",
    "queued": "waits for its turn",
    "loading": "the model is being brought into memory",
    "prompt": "the runtime evaluates the prompt",
    "thinking": "the model reasons before it answers",
    "answering": "the answer is coming",
    "done": "the answer is complete",
    "cancelled": "stopped before its end",
    "error": "failed; the card below says why",
    "timeout": "took longer than allowed",
    "rejected": "refused before it started",
}

_TITLES = {
    "elapsed": f"wall_s, {DEFINITIONS['wall_s']}",
    "ttft": f"ttft_s, {DEFINITIONS['ttft_s']}",
    "tps": f"decode_tps, {DEFINITIONS['decode_tps']}; tpot_s is {DEFINITIONS['tpot_s']}",
    "tokens": "output tokens; ~ until the runtime's own count is there",
    "memory": f"mem_peak_bytes, {DEFINITIONS['mem_peak_bytes']} (the latest reading while it runs)",
}


def render(live: LiveAnswer | None, now: int) -> str:
    """The strip as HTML.

    ``data-phase`` and ``data-metric`` name what is shown, ``data-value`` holds a figure in its
    base unit (seconds, tokens per second, tokens, bytes) and is empty when it is unknown.
    """
    if live is None:
        slots = [_slot(name, DASH, None) for name in _TITLES]
        return _strip("idle", 0, "", slots, "")
    session = live.session
    metrics = session.metrics if session else {}
    elapsed = metrics.get("wall_s") or live.elapsed_s(now)
    ttft, tps = metrics.get("ttft_s"), metrics.get("decode_tps")
    count, exact, memory = live.streamed or None, False, live.mem_bytes
    if session is None:
        ttft, tps = _live_ttft(live), _live_rate(live)
    else:
        count, exact = session.output_tokens, session.count_source == "runtime"
        memory = session.mem_peak_bytes
    shown_memory = figures.size(memory)
    gpu = session.gpu_peak_bytes if session else live.gpu_bytes
    if gpu:
        shown_memory += f" + {figures.size(gpu)} GPU"
    slots = [
        _slot("elapsed", figures.clock(elapsed), elapsed),
        _slot("ttft", figures.seconds(ttft), ttft),
        _slot("tps", figures.rate(tps), tps),
        _slot("tokens", figures.tokens(count, exact=exact), count),
        _slot("memory", shown_memory, memory),
    ]
    late = figures.lateness({**session.metrics, **spoilt(session)}) if session else ""
    return _strip(live.phase, contended_percent(session), late, slots, _detail(live, now))


def contended_percent(session: StreamSession | None) -> int:
    """How much of the generation ran beside another one; such figures are no speed of a model."""
    if session is None or session.stamps.first_any is None:
        return 0
    return figures.percent(session.overlap_ns / NS, session.metrics.get("e2e_s"))


def _strip(phase: str, contended: int, late: str, slots: list[str], detail: str) -> str:
    mark = ""
    if contended:
        mark = (
            f'<span class="wb-contended" title="{escape(DEFINITIONS["overlap_s"])}; '
            f'run isolated for figures of the model alone">contended {contended} %</span>'
        )
    if late:
        mark += (
            f'<span class="wb-contended" title="{escape(figures.LATE)}; ask again when the server '
            f'has less to do">{escape(late)}</span>'
        )
    return (
        f'<div class="wb-strip" data-phase="{escape(phase)}" data-contended="{contended}" '
        f'data-late="{str(bool(late)).lower()}">'
        f'<div class="wb-slots"><span class="wb-phase" data-metric="phase" '
        f'title="{escape(_PHASE_WORDS.get(phase, phase))}"><i></i>{escape(phase)}</span>'
        f"{''.join(slots)}</div>"
        f'<div class="wb-detail">{mark}<span title="{escape(detail)}">{escape(detail)}</span></div>'
        "</div>"
    )


def _slot(name: str, shown: str, value: float | int | None) -> str:
    label = '<span class="wb-label">TTFT</span> ' if name == "ttft" else ""
    return (
        f'<span class="wb-slot" data-metric="{name}" '
        f'data-value="{"" if value is None else escape(value)}" '
        f'title="{escape(_TITLES[name])}">{label}{escape(shown)}</span>'
    )


def _live_ttft(live: LiveAnswer) -> float | None:
    if live.first is None or live.sent is None:
        return None
    return (live.first - live.sent) / NS


def _live_rate(live: LiveAnswer) -> float | None:
    """Decoding speed so far, by the definition of the final figure."""
    if live.first is None or live.last is None or live.last <= live.first:
        return None
    return (live.streamed - 1) / ((live.last - live.first) / NS)


def _detail(live: LiveAnswer, now: int) -> str:
    """The second line: what is waited for, afterwards the circumstances of the figures."""
    session = live.session
    if session is None:
        return live.detail_at(now)
    if session.status is Status.REJECTED:
        return ""
    parts: list[str] = []
    if session.fallback_from:
        parts.append(f"answered by {session.model}")
    if session.prompt_tokens is not None:
        parts.append(f"prompt {session.prompt_tokens:,} tok")
    if session.cold:
        parts.append(f"cold, load {figures.seconds(session.metrics.get('load_s'))}")
    if (chars := session.metrics.get("chars_per_s")) is not None:
        parts.append(f"{chars:,.0f} chars/s")
    parts += [
        word
        for word in (figures.dtype(session.dtype), session.quantization, session.device)
        if word and word != "none"
    ]
    if session.threads:
        parts.append(f"{session.threads} thread{'s' if session.threads > 1 else ''}")
    parts += [session.timing_mode.value, f"seed {session.seed}"]
    return " · ".join(parts)
