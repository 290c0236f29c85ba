"""Our figures against an established load tester's, for the very same requests.

    python -m benchmarks.load_testers --guidellm PATH/TO/guidellm [--model scripted/steady] [--json]

GuideLLM (a venv of its own: ``pip install guidellm``) asks our server's ``/v1`` for chat
completions; every answer's id names its session, so each request has the tester's stamps and our
row in the log. First one request at a time, then four. The scripted model plays a known schedule,
which is a third opinion.

Definitions differ. What they call ITL, (last - first token) / (tokens - 1), is our TPOT; what they
call TPOT has the time to the first token in it. Their TTFT begins when the client begins to send
and ends when it has read the first token, ours begins when the runtime is handed the request: what
lies between is HTTP and their client.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live import ROOT, LiveServer

PROFILES = {"one at a time": "kind=synchronous", "four": "kind=concurrent,streams=4"}
WARM_UPS = 2
"""Requests of each part that are left out: the tester's own start is in the first."""


@dataclass(frozen=True)
class Pair:
    """One request: seconds as the tester has them, and as the log has them."""

    ttft_s: tuple[float, float]
    arrival_to_first_s: float
    tpot_s: tuple[float, float]
    tokens: tuple[int, int]
    sent_to_end_s: tuple[float, float]


def asked(tester: str, server: LiveServer, model: str, profile: str, requests: int) -> list[Any]:
    """The tester's own record of every request that succeeded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.jsonl"
        lines = (json.dumps({"prompt": f"Question {i}: say something."}) for i in range(requests))
        prompts.write_text("\n".join(lines))
        target = f"target={server.url},model={model},request_format=/v1/chat/completions"
        done = subprocess.run(
            [
                tester,
                "run",
                *("--backend", f"kind=openai_http,{target}"),
                *("--profile", profile),
                *("--constraint", f"kind=max_requests,count={requests}"),
                *("--data", f"kind=json_file,path={prompts}"),
                *("--output", f"kind=json,path={folder / 'out.json'}"),
                "--disable-console",
            ],
            capture_output=True,
            text=True,
            timeout=280,
        )
        if done.returncode != 0:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        (found,) = json.loads((folder / "out.json").read_text())["benchmarks"]
    return sorted(
        found["requests"]["successful"], key=lambda r: r["info"]["timings"]["request_start"]
    )


def logged(server: LiveServer, ids: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Our rows of these sessions."""
    names = ", ".join(f"'{one}'" for one in ids)
    rows = server.query(
        "SELECT s.session_id, l.ttft_s, l.tpot_s, l.output_tokens, l.e2e_s, "
        "(s.first_any_ns - s.queued_ns) / 1e9, s.sent_ns / 1e9, s.end_ns / 1e9 "
        "FROM stream_sessions s JOIN latencies l USING (session_id) "
        f"WHERE s.session_id IN ({names})"
    )
    keys = ("ttft_s", "tpot_s", "output_tokens", "e2e_s", "first_s", "sent_s", "end_s")
    return {str(row[0]): dict(zip(keys, map(float, row[1:]), strict=True)) for row in rows}


def compared(requests: Sequence[Any], ours: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Medians of both, the ratio of theirs to ours, and the throughput of both."""
    pairs = []
    spans = []
    for request in requests:
        stamps, row = request["info"]["timings"], ours[session_of(request)]
        first, last = stamps["first_token_iteration"], stamps["last_token_iteration"]
        # Their iterations with text, as many as tokens of a model that streams them one by one.
        tokens = request["output_metrics"]["text_tokens"] or stamps["token_iterations"]
        pairs.append(
            Pair(
                (first - stamps["request_start"], row["ttft_s"]),
                row["first_s"],
                ((last - first) / (tokens - 1), row["tpot_s"]),
                (tokens, int(row["output_tokens"])),
                (stamps["request_end"] - stamps["request_start"], row["e2e_s"]),
            )
        )
        spans.append((stamps["request_start"], stamps["request_end"], row["sent_s"], row["end_s"]))
    made: dict[str, Any] = {"requests": len(pairs)}
    for name in ("ttft_s", "tpot_s"):
        theirs, own = (statistics.median(getattr(p, name)[i] for p in pairs) for i in (0, 1))
        made[name] = {"theirs": theirs, "ours": own, "ratio": theirs / own}
    begun = statistics.median(p.arrival_to_first_s for p in pairs)
    made["arrival_to_first_s"] = begun
    made["client_and_http_s"] = made["ttft_s"]["theirs"] - begun
    for side, at in (("theirs", 0), ("ours", 2)):
        span = max(s[at + 1] for s in spans) - min(s[at] for s in spans)
        total = sum(p.tokens[at // 2] for p in pairs)
        made.setdefault("throughput_tps", {})[side] = total / span
    throughput = made["throughput_tps"]
    throughput["ratio"] = throughput["theirs"] / throughput["ours"]
    return made


def session_of(request: Mapping[str, Any]) -> str:
    """Our session's id, from the id of the answer."""
    return str(request["response_id"]).removeprefix("chatcmpl-")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guidellm", required=True, help="the tester's program")
    parser.add_argument("--model", default="scripted/steady")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {}
    models = str(ROOT / "data" / "models" / "huggingface")
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveServer(Path(folder), HF_MODEL_PATH=models) as server,
    ):
        for name, profile in PROFILES.items():
            requests = asked(given.guidellm, server, given.model, profile, given.requests)
            kept = requests[WARM_UPS:]
            found[name] = compared(kept, logged(server, [session_of(r) for r in kept]))
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print("| load | figure | theirs | ours | theirs / ours |\n|---|---|---|---|---|")
    for name, part in found.items():
        for figure, scale, unit in (
            ("ttft_s", 1e3, "ms"),
            ("tpot_s", 1e3, "ms"),
            ("throughput_tps", 1, "tok/s"),
        ):
            theirs, ours = (part[figure][side] * scale for side in ("theirs", "ours"))
            ratio = part[figure]["ratio"]
            print(f"| {name} | {figure} | {theirs:.2f} {unit} | {ours:.2f} {unit} | {ratio:.4f} |")
        print(
            f"| {name} | from arrival at the server to the first token | | "
            f"{part['arrival_to_first_s'] * 1e3:.2f} ms | rest, HTTP and their client: "
            f"{part['client_and_http_s'] * 1e3:.2f} ms |"
        )


if __name__ == "__main__":
    main()
