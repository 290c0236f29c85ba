"""Breaks a running workbench at random, under load, and looks after each fault what it left.

    python -m tests.reliability.campaign --faults 1000 --seed 1 [--minutes 60] [--kinds reset,...]
    python -m tests.reliability.campaign --sum A.json B.json      (of pieces: --report A.json)

Meanwhile innocents ask all models and must get what they always get. After every fault: a typed
error with a fix to the victim, its session over, the next request served. Now and then everybody is
kept away: nothing runs, nothing waits, no process was left, every request has its row. Ended by
Ctrl+C or SIGTERM it tells what it found until then, tidies up, and exits with 130.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tests.disks import unmount_below
from tests.reliability import (
    client_kinds,
    disk_kinds,
    hub_kinds,
    process_kinds,
    server_kinds,
    wire_kinds,
)
from tests.reliability.kinds import OWN, Case, Kind
from tests.reliability.report import DONE, RUNNING, Report, Score, summed
from tests.reliability.stage import MODELS, SERVER, Stage, grounds

KINDS: list[Kind] = [
    *wire_kinds.KINDS,
    *client_kinds.KINDS,
    *process_kinds.KINDS,
    *hub_kinds.KINDS,
    *server_kinds.KINDS,
    *disk_kinds.KINDS,
]
TYPED = ("ok", "cancelled", "left", "cut")
REPORT_EVERY_S = 120.0
ENDED_BY_HAND = 130


@dataclass
class Campaign:
    """Injects faults until there were enough.

    Args:
        stage: what is broken.
        seed: of all choices.
        kinds: to choose from.
        faults: how many, or None: until ``minutes`` are over.
        minutes: at most.
        lanes: how many faults may be under way at once.
        innocents: how many ask meanwhile.
        rest_every: after so many faults everybody is kept away.
    """

    stage: Stage
    seed: int = 1
    kinds: Sequence[Kind] = tuple(KINDS)
    faults: int | None = None
    minutes: float = 1e9
    lanes: int = 4
    innocents: int = 3
    rest_every: int = 100
    in_turn: bool = False
    scores: dict[str, Score] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    levels: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    tell: bool = False
    ended: str = RUNNING
    _began: float = field(init=False, default_factory=time.monotonic)
    _harm: int | None = field(init=False, default=None)

    def end(self, why: str) -> None:
        """What goes wrong from now on is not counted: a terminal's Ctrl+C is for all processes."""
        self.ended, self._harm = why, len(self.stage.harm)

    async def run(self) -> None:
        """All of it; what was found is in the fields."""
        self._chance = random.Random(self.seed)
        self._began = time.monotonic()
        self._over = False
        self._numbers = itertools.count(1)
        kinds = list(self.kinds)
        self._chance.shuffle(kinds)
        self._turn = iter(kinds if self.in_turn else ())
        asking = [asyncio.create_task(self._innocent(n)) for n in range(self.innocents)]
        try:
            await asyncio.gather(*(self._lane() for _ in range(self.lanes)))
        except BaseException:
            for innocent in asking:
                innocent.cancel()
            raise
        finally:
            self._over = True
            await asyncio.gather(*asking, return_exceptions=True)
        for innocent in asking:
            innocent.result()
        await self._rest()
        self.end(DONE)

    # -- those who break

    def _next(self) -> Kind | None:
        late = time.monotonic() - self._began > 60 * self.minutes
        if late or (self.faults is not None and self.count >= self.faults):
            return None
        self.count += 1
        if self.in_turn:
            return next(self._turn, None)
        return self._chance.choices(self.kinds, [kind.weight for kind in self.kinds])[0]

    async def _lane(self) -> None:
        while (kind := self._next()) is not None:
            await self._break(kind)
            if self.count % self.rest_every == 0 and not self.in_turn:
                await self._rest()

    async def _break(self, kind: Kind) -> None:
        model = self._chance.choice(list(kind.models))
        number = next(self._numbers)
        case = Case(self.stage, random.Random(self._chance.random()), model, number)
        score = self.scores.setdefault(kind.name, Score(kind.family, kind.how))
        hurts = {model if name == OWN else name for name in kind.hurts}
        async with self.stage.turns.take(hurts, grounds(model)):
            began = time.monotonic()
            try:
                async with asyncio.timeout(180):
                    await kind.inject(case)
                    problems = [p for told in case.victims for p in wrong(kind, told)]
                    if not case.victims:
                        problems.append("nobody was told anything")
                    for told in case.victims:
                        if told.session_id:
                            await self.stage.gone(told)
                    if kind.serves:
                        await self.stage.serves(model)
                    assert not problems, "; ".join(problems)
            except Exception as error:
                if self.ended != RUNNING:
                    return
                self._found(kind, model, score, error)
            score.seconds += time.monotonic() - began
        score.count += 1
        score.outcomes.update(told.outcome for told in case.victims)

    def _found(self, kind: Kind, model: str, score: Score, error: Exception) -> None:
        words = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        problem = f"{kind.name} at {model}: {words}"
        score.problems.append(problem)
        self.problems.append(problem)
        if self.tell:
            print("PROBLEM", time.strftime("%H:%M:%S"), problem, file=sys.stderr, flush=True)

    async def _rest(self) -> None:
        async with self.stage.turns.take((SERVER,)):
            try:
                self.levels.append({"faults": self.count, **await self.stage.at_rest()})
            except Exception as error:
                if self.ended != RUNNING:
                    return
                words = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                self.problems.append(f"at rest after {self.count} faults: {words}")
                if self.tell:
                    print("PROBLEM", self.problems[-1], file=sys.stderr, flush=True)
        if self.tell and self.levels:
            seconds = round(time.monotonic() - self._began)
            found = len(self.problems) + len(self.stage.harm)
            print(json.dumps({"s": seconds, **self.levels[-1], "problems": found}),
                  file=sys.stderr, flush=True)  # fmt: skip

    # -- those who only want an answer

    async def _innocent(self, number: int) -> None:
        chance = random.Random(self.seed * 1000 + number)
        while not self._over:
            await self.stage.innocent(chance.choice(MODELS))

    # -- what was found

    def report(self) -> Report:
        """Until now."""
        order = [
            kind.name
            for kind in self.kinds
            if (score := self.scores.get(kind.name)) and score.count
        ]
        harm = self.stage.harm[: self._harm]
        return Report(
            seeds=[self.seed],
            ended=[self.ended],
            seconds=time.monotonic() - self._began,
            requests=len(self.stage.users.asked) if self.stage.starts else 0,
            told=self.stage.totals() if self.stage.starts else Counter(),
            harmed=len(harm),
            starts=self.stage.starts,
            levels=self.levels[:1] + self.levels[1:][-1:],
            scores={name: self.scores[name] for name in order},
            problems=[*self.problems, *(f"an innocent was hurt: {one.what}" for one in harm)],
        )


def wrong(kind: Kind, told: Any) -> list[str]:
    """What is wrong with what a victim was told."""
    problems = []
    if told.outcome not in kind.expects:
        problems.append(f"expected {sorted(kind.expects)}, not {told}")
    if told.outcome not in TYPED and not (told.fix and told.message):
        problems.append(f"no words or no fix: {told}")
    return problems


@contextmanager
def ended_by_signals(campaign: Campaign, work: asyncio.Task[None]) -> Iterator[None]:
    """Inside the block the first signal of a hand ends the campaign, and no other does any harm."""
    loop = asyncio.get_running_loop()

    def end(number: int, frame: FrameType | None) -> None:
        if campaign.ended == RUNNING:
            campaign.end(signal.Signals(number).name)
            loop.call_soon_threadsafe(work.cancel)

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


async def run(chosen: argparse.Namespace, folder: Path) -> Campaign:
    """One campaign on a stage of its own; it is told what was found before that is taken down."""
    names = chosen.kinds.split(",") if chosen.kinds else None
    kinds = [kind for kind in KINDS if names is None or kind.name in names or kind.family in names]
    stage = Stage(folder, small_disks=True, own_clock=True)
    campaign = Campaign(
        stage, chosen.seed, kinds, chosen.faults, chosen.minutes,
        lanes=chosen.lanes, innocents=chosen.innocents, in_turn=chosen.in_turn, tell=True,
    )  # fmt: skip

    async def whole() -> None:
        await stage.open()
        if stage.clock is None:
            print("clock steps: not run, there is no C compiler here", file=sys.stderr)
            kinds[:] = [kind for kind in kinds if not kind.name.startswith(server_kinds.CLOCK)]
        if stage.model_disk is None:
            print("disks: not run, mounting is not permitted here", file=sys.stderr)
            kinds[:] = [kind for kind in kinds if kind.family != "disks"]
        await stage.warm()
        await campaign.run()

    work = asyncio.create_task(whole())
    with ended_by_signals(campaign, work):
        try:
            await told(campaign, work, chosen.report)
        finally:
            await stage.close()
            unmount_below(folder)
    return campaign


async def told(campaign: Campaign, work: asyncio.Task[None], path: Path | None) -> None:
    """Wait for the end of a campaign; what it found is told, however it ended, and written."""

    async def writing() -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            write(campaign.report(), path)

    write(campaign.report(), path)
    writes = asyncio.create_task(writing())
    try:
        await work
    except asyncio.CancelledError:
        if campaign.ended == RUNNING:
            raise
    except Exception as error:
        campaign.end(type(error).__name__)
        raise
    finally:
        writes.cancel()
        tell(campaign.report())
        write(campaign.report(), path)


def tell(report: Report) -> None:
    """A table, what was wrong, and JSON last."""
    print(report.table())
    for problem in report.problems[:50]:
        print("-", problem[:2000])
    print(json.dumps(report.summary()), flush=True)


def write(report: Report, path: Path | None) -> None:
    """For a sum; whoever reads the file finds a whole one."""
    if path is None:
        return
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(report.to_dict()))
    new.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if anything was wrong, 130 if it was ended by hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", help="names or families, by commas")
    parser.add_argument("--in-turn", action="store_true", help="each kind once")
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--innocents", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="kept, for a look at its logs")
    parser.add_argument(
        "--report", type=Path, help="for what was found, every two minutes and last"
    )
    parser.add_argument("--sum", type=Path, nargs="+", help="only tell such reports, as one")
    chosen = parser.parse_args(arguments)
    if chosen.sum:
        pieces = [Report.from_dict(json.loads(path.read_text())) for path in chosen.sum]
        tell(whole := summed(pieces))
        return bool(whole.problems)
    with tempfile.TemporaryDirectory(prefix="reliability-") as made:
        folder = chosen.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        campaign = asyncio.run(run(chosen, folder))
    if campaign.ended != DONE:
        return ENDED_BY_HAND
    return bool(campaign.report().problems)


if __name__ == "__main__":
    sys.exit(main())
