"""The hub: away, slow, wrong, or closed to us; and the disk that a download goes to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from tests.hf.downloads import REPO
from tests.hub_standin import Faults
from tests.reliability.asking import until
from tests.reliability.gate import Fault, Script
from tests.reliability.kinds import Case, Kind
from tests.reliability.stage import SCRIPTED
from tests.reliability.wire_kinds import html_200, silent

HUB = "hub"


async def download(case: Case) -> dict[str, Any]:
    """Asked for and waited for; its end is noted."""
    users = case.stage.users
    shutil.rmtree(case.stage.models / "org", ignore_errors=True)
    answer = await users.post("/api/v1/models/download", model=REPO)
    if answer.status_code != 202:
        problem = answer.json()
        case.note(problem["code"], problem["message"], problem["fix"])
        return {}
    number = answer.json()["id"]

    async def over() -> Any:
        job = await users.get(f"/api/v1/jobs/{number}")
        return job if job["status"] not in ("queued", "running") else None

    job = await until(over, "the download ends", 60)
    error = job.get("error")
    if error is None:
        case.note("ok" if job["status"] == "done" else job["status"])
    else:
        case.note(error["code"], error["message"], error["fix"])
    return dict(job)


def hub(name: str, how: str, arm: Callable[[Case], Faults], *expects: str) -> Kind:
    """A fault of the hub; afterwards the same download must succeed."""

    async def inject(case: Case) -> None:
        case.stage.hub.faults = arm(case)
        try:
            await download(case)
        finally:
            case.stage.hub.faults.go_on.set()
            case.stage.hub.faults = Faults()
            case.stage.hub.repos[REPO].access = "open"
        first, case.victims = case.victims, []
        await download(case)
        assert case.victims[0].outcome == "ok", f"afterwards: {case.victims[0]}"
        case.victims = first
        answer = await case.stage.users.http.delete(f"/api/v1/models/huggingface/{REPO}")
        assert answer.status_code == 200, answer.text

    return Kind(
        name, "the hub", how, frozenset(expects), inject, SCRIPTED, (HUB,), 0.3, quick=False
    )


def closed_to_us(access: str) -> Callable[[Case], Faults]:
    """The repository is gated, private or forbidden."""

    def arm(case: Case) -> Faults:
        case.stage.hub.repos[REPO].access = access
        return Faults()

    return arm


AWAY, WRONG = "HF_HUB_UNREACHABLE", "HF_DOWNLOAD_FAILED"


async def hub_away(case: Case) -> None:
    """Nobody listens where the hub was."""
    async with case.stage.hub_gate.refusing():
        await download(case)


def at_the_gate(script: Script) -> Any:
    """What the hub says of a repository is said by a script."""

    async def inject(case: Case) -> None:
        gate = case.stage.hub_gate
        with (
            gate.armed(gate.paths, f"/api/models/{REPO}", Fault(script)) as fault,
            gate.armed(gate.paths, f"/api/models/{REPO}/revision/main", fault),
        ):
            await download(case)
        assert fault.met, "the fault met nobody"

    return inject


def by_gate(name: str, how: str, inject: Any, *expects: str) -> Kind:
    """A fault on the way to the hub."""
    return Kind(
        name, "the hub", how, frozenset(expects), inject, SCRIPTED, (HUB,), 0.3, quick=False
    )


KINDS = [
    by_gate("hub-away", "connections are refused", hub_away, AWAY),
    by_gate("hub-silent", "no answer within WORKBENCH_HUB_TIMEOUT_S", at_the_gate(silent), AWAY),
    by_gate("hub-is-a-page", "a page in place of its answer", at_the_gate(html_200), AWAY, WRONG),
    hub("hub-slow", "the weights stop coming after each 8 kB, and are taken up",
        lambda case: Faults(hold_after=8192), "ok"),
    hub("hub-stalls", "the weights never come",
        lambda case: Faults(hold_after=0), AWAY, WRONG),
    hub("hub-wrong-checksum", "one byte of the weights is another",
        lambda case: Faults(corrupt={"model.safetensors"}), WRONG),
    hub("hub-breaks-off", "the weights break off once, and are taken up",
        lambda case: Faults(break_after=[40_000]), "ok"),
    hub("hub-breaks-off-always", "no byte of the weights ever comes",
        lambda case: Faults(break_after=[0] * 500), AWAY, WRONG),
    hub("hub-500", "status 500 for every file",
        lambda case: Faults(status=[500] * 500), AWAY, WRONG),
    hub("hub-gated", "a gated repository", closed_to_us("gated"), "HF_HUB_FORBIDDEN"),
    hub("hub-forbidden", "a repository that we may not see", closed_to_us("forbidden"),
        "HF_HUB_FORBIDDEN"),
]  # fmt: skip
