"""Examples of bodies and answers for what the OpenAPI document lacks by itself.

What has a class is written by it, so that an example cannot drift from the answers.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.hf.deletion import Deletion
from workbench.insight import Divergence, ParitySheet
from workbench.insight.divergence import Answer
from workbench.insight.probabilities import Step
from workbench.inspection import Inspection
from workbench.jobs import Job
from workbench.types import ModelInfo

_AT = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


def bodies() -> Mapping[str, Any]:
    """Bodies of requests by operation."""
    score = {"score_id": "s1", "created_at": _AT.isoformat(), "scorer": "exact", "score": 1.0}
    return {
        "POST /api/v1/log": {"items": [{"table": "scores", "rows": [score], "mode": "add"}]},
        "POST /api/v1/log/jobs/{kind}": {"path": "/home/ada/copy.duckdb"},
    }


def answers() -> Mapping[str, Any]:
    """Answers by operation."""
    model = ModelInfo(
        id="huggingface/SmolLM2-135M-Instruct",
        name="SmolLM2-135M-Instruct",
        provider="huggingface",
        status="resident",
        size_bytes=271_000_000,
        memory_bytes=655_000_000,
        loaded_at=_AT,
        last_used_at=_AT,
    )
    gone = replace(model, status="available", memory_bytes=None, loaded_at=None)
    done = {"id": model.id, "duration_s": 1.5}
    job = Job("job_1", "download", "org/name", _AT, "running", 1_000_000, 271_000_000).to_dict()
    one = {
        "id": model.id,
        "object": "model",
        "created": 1_772_366_400,
        "owned_by": model.provider,
        "workbench": model.to_dict(),
    }
    health = {
        "status": "degraded",
        "ready": True,
        "parts": {
            "store": {"status": "ok", "last_good_at": _AT.isoformat(), "last_good_age_s": 0.4},
            "ollama": {
                "status": "down",
                "reason": "Nothing answers at http://127.0.0.1:11434.",
                "fix": "Start it: ollama serve.",
                "last_good_at": None,
                "last_good_age_s": None,
            },
        },
    }
    session = {"session_id": "ses_1", "status": "ok", "text": "Red.", "ttft_s": 0.1}
    message = {"message_id": "msg_1", "session_id": "ses_1", "role": "user", "content": "Hi"}
    check = {"check": "blocks", "status": "ok", "message": "All blocks are whole.", "fix": ""}
    deletion = Deletion(model.id, "data/models/huggingface", (), 271_000_000)
    found = {
        "GET /health": health,
        "GET /health/ready": health,
        "GET /metrics": 'workbench_requests_total{model="ollama/a",status="ok"} 3.0\n',
        "GET /api/v1/models/{model}": model.to_dict(),
        "DELETE /api/v1/models/{model}": deletion.to_dict(),
        "POST /api/v1/models/load": {
            **model.to_dict(),
            **done,
            "was_resident": False,
            "evicted": ["ollama/smollm2:135m"],
        },
        "POST /api/v1/models/unload": {
            **gone.to_dict(),
            **done,
            "was_resident": True,
            "expected_bytes": 650_000_000,
            "recovered_bytes": 650_000_000,
        },
        "POST /api/v1/models/pin": {**model.to_dict(), "evicted": []},
        "POST /api/v1/models/unpin": {**model.to_dict(), "was_pinned": True},
        "POST /api/v1/models/download": job,
        "POST /api/v1/models/verify": {**job, "kind": "verify"},
        "GET /api/v1/jobs": {"jobs": [job]},
        "GET /api/v1/jobs/{job_id}": job,
        "DELETE /api/v1/jobs/{job_id}": {**job, "status": "cancelled"},
        "GET /api/v1/sessions/{session_id}": session,
        "GET /api/v1/comparisons/{comparison_id}/{form}": {
            "comparison_id": "cmp_1",
            "sessions": [
                {**session, "prompt": "Name three colors.", "answer": "Red, blue, green."}
            ],
        },
        "GET /api/v1/benchmarks": {
            "runs": [{"run_id": "run_1", "name": "quick", "status": "ok", "trials": 96}]
        },
        "GET /api/v1/benchmarks/{run}/{form}": {
            "run_id": "run_1",
            "name": "quick",
            "findings": [{"sentence": "b answers first, by 44 ms [38, 51].", "shown": True}],
        },
        "GET /api/v1/exports/{form}": {
            "comparison_id": "ses_1",
            "sessions": [
                {**session, "prompt": "Name three colors.", "answer": "Red, blue, green."}
            ],
        },
        "GET /api/v1/conversations/{conversation_id}": {
            "conversation_id": "con_1",
            "messages": [message],
        },
        **_insights(),
        "POST /api/v1/query": {"columns": [{"name": "n", "dtype": "int64"}], "rows": [[3]]},
        "GET /api/v1/tables": {
            "tables": [{"name": "scores", "kind": "table", "rows": 3, "columns": ["score_id"]}]
        },
        "GET /api/v1/log/verify": {"ok": True, "checks": [check]},
        "POST /api/v1/log": {"logged": 1},
        "POST /api/v1/log/jobs/{kind}": {**job, "kind": "snapshot", "model": "copy.duckdb"},
        "GET /v1/models/{model}": one,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _insights() -> Mapping[str, Any]:
    """A sheet and a divergence of two small answers."""
    a = Inspection("ollama/smollm2:135m", rendered="<|im_start|>user\nHi<|im_end|>\n")
    b = Inspection("huggingface/SmolLM2-135M-Instruct", rendered="<|im_start|>user\nHi<|im_end|>")
    likely = ((" with", -2.27), (" in", -2.36))
    first = Step(" with", -2.27, likely)
    second = Step(" in", -2.24, ((" in", -2.24), (" with", -2.31)))
    found = Divergence(Answer(a.model, (first,)), Answer(b.model, (second,)), (first,))
    return {
        "POST /api/v1/parity": ParitySheet.of(a, b).to_dict(),
        "POST /api/v1/diverge": found.to_dict(),
    }
