"""OpenTelemetry's names for model calls, in one place, as of one version of its conventions.

The conventions for generative AI are still in development; when they change, this map does.
Names of ours begin with ``workbench``.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "1.44.0"
SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{VERSION}"

CHAT: Final = "chat"
COMPLETION: Final = "text_completion"
"""The names of the operations, the second for raw prompts; a span is called by it and the model."""

CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The environment variable that asks for prompts and answers in spans."""

NAMES: Final[dict[str, str]] = {
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "requested_model": "gen_ai.request.model",
    "model": "gen_ai.response.model",
    "conversation_id": "gen_ai.conversation.id",
    "session_id": "gen_ai.response.id",
    "stream": "gen_ai.request.stream",
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "output_type": "gen_ai.output.type",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "ttft_s": "gen_ai.response.time_to_first_chunk",
    "system": "gen_ai.system_instructions",
    "input": "gen_ai.input.messages",
    "output": "gen_ai.output.messages",
    "error_code": "error.type",
    "correlation_id": "workbench.correlation_id",
    "source": "workbench.source",
    "status": "workbench.status",
    "timing_mode": "workbench.timing_mode",
    "fallback_from": "workbench.fallback_from",
    "termination_reason": "workbench.termination_reason",
    "cold": "workbench.cold",
    "queue_s": "workbench.queue_s",
    "load_s": "workbench.load_s",
    "tpot_s": "workbench.tpot_s",
    "overlap_s": "workbench.overlap_s",
    "reason": "workbench.reason",
    "duration_s": "workbench.duration_s",
    "ok": "workbench.ok",
}
"""Our word for a figure to the attribute that carries it."""
