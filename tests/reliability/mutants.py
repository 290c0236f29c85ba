"""Changes the pure modules one place at a time: a change that no test notices is a survivor.

    python -m tests.reliability.mutants ['workbench.router*' ...] [--jobs 2]      (make mutants)

mutmut thinks of the changes; pyproject.toml names the modules and the tests. Its own runner begins
with pytest anew for each change. Here one process collects the tests and forks for each: the code
of one function is exchanged, decorated ones and properties too, and the tests that run it are
tried, the quickest first, until one fails. Not changed: module level, defaults of dataclasses.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Final

import hypothesis
import pytest
from mutmut.configuration import config

from tests.reliability.changes import Mutant, found, mutants, put

SURVIVED: Final = 0
KILLED: Final = 1
BROKEN: Final = 3
OUTCOMES: Final = {SURVIVED: "survived", KILLED: "killed", BROKEN: "not tried"}
"""Of a fork, by its exit code; any other is a crash or a bound that it ran into."""
SLOWER: Final = 10
MORE_S: Final = 10
MORE_BYTES: Final = 2 << 30
"""A change may make a loop endless, or a list: so much beyond what the tests take is borne."""
STARVED: Final = 10
"""And so many times this where a change makes a test wait: others may have the machine."""
LOOK_S: Final = 0.02


def forked(work: Callable[[], int]) -> int:
    """Do something in a fork that ends with its result; returns the fork's id."""
    pid = os.fork()
    if pid:
        return pid
    code = BROKEN
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class Trial:
    """A plugin of pytest in whose place it runs the tests: as they are, then on each mutant."""

    def __init__(self, tried: Sequence[Mutant], jobs: int) -> None:
        self.tried, self.jobs = tried, jobs
        self.outcomes: dict[str, str] = {}
        self._running: dict[int, Mutant] = {}
        self._left_s: dict[int, float] = {}
        self._changed = False
        self._out = os.dup(1)
        self._folder = Path()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        # Between conftest.py and the tests: one example that fails is enough, however large.
        quick = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        short, calm = hypothesis.settings.get_profile("short"), tuple(hypothesis.HealthCheck)
        hypothesis.settings.register_profile(
            "mutants", short, phases=quick, suppress_health_check=calm
        )
        hypothesis.settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            if not self._changed:
                os.write(self._out, f"{item.nodeid}: {call.excinfo.exconly()}\n".encode())
            os._exit(KILLED)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None  # pytest says what could not be collected
        self._folder = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        notes = self._folder / "notes.json"
        _, status = os.waitpid(forked(partial(self._look, session.items, notes)), 0)
        if status:
            pytest.exit("The tests fail as they are.", KILLED)
        seen = json.loads(notes.read_text())
        for name in seen["modules"]:  # imported here once, not in each fork
            if name not in sys.modules:
                with suppress(Exception):
                    importlib.import_module(name)
        gc.collect()
        gc.freeze()
        items = {item.nodeid: item for item in session.items}
        for mutant in self.tried:
            tests = seen["tests"].get(f"{mutant.module}.{mutant.function}", [])
            if not tests:
                self._told(mutant, "no test")
                continue
            if len(self._running) >= self.jobs:
                self._reap()
            tests.sort(key=seen["seconds"].__getitem__)
            limit_s = MORE_S + round(SLOWER * sum(seen["seconds"][test] for test in tests))
            work = partial(self._try, mutant, [items[test] for test in tests], limit_s)
            pid = forked(work)
            self._running[pid], self._left_s[pid] = mutant, STARVED * limit_s
        while self._running:
            self._reap()
        return True

    def _look(self, items: Sequence[pytest.Item], notes: Path) -> int:
        """Run all tests once; note what each takes, and which tests run which functions.

        Each function is exchanged here too, by itself: that must make no difference.
        """
        by_code = {}
        for module, function, was in {(one.module, one.function, one.was) for one in self.tried}:
            put(module, function, was)
            by_code[id(found(module, function).__code__)] = f"{module}.{function}"
        known, ran = set(sys.modules), set[str]()
        _hush()

        def note(frame: FrameType, event: str, arg: object) -> None:
            if (name := by_code.get(id(frame.f_code))) is not None:
                ran.add(name)

        seconds: dict[str, float] = {}
        tests: dict[str, list[str]] = defaultdict(list)
        for item, following in pairwise([*items, None]):
            ran.clear()
            begun = time.perf_counter()
            sys.settrace(note)
            _run(item, following)
            sys.settrace(None)
            seconds[item.nodeid] = time.perf_counter() - begun
            for name in ran:
                tests[name].append(item.nodeid)
        late = [name for name in sys.modules if name not in known]
        notes.write_text(json.dumps({"seconds": seconds, "tests": tests, "modules": late}))
        return SURVIVED

    def _try(self, mutant: Mutant, items: Sequence[pytest.Item], limit_s: int) -> int:
        """In a fork: the tests on a mutant. It ends in between if one fails."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        put(mutant.module, mutant.function, mutant.source)
        self._changed = True
        _hush()
        own = self._folder / str(os.getpid())
        own.mkdir()
        items[0].config._tmp_path_factory._basetemp = own  # type: ignore[attr-defined]
        for item, following in pairwise([*items, None]):
            _run(item, following)
        return SURVIVED

    def _reap(self) -> None:
        while not (ended := os.waitpid(-1, os.WNOHANG))[0]:
            time.sleep(LOOK_S)
            for pid in self._left_s:  # counted here, as all of us may be paused
                self._left_s[pid] -= LOOK_S
                if self._left_s[pid] < 0:
                    os.kill(pid, signal.SIGKILL)
        pid, status = ended
        del self._left_s[pid]
        shutil.rmtree(self._folder / str(pid), ignore_errors=True)
        code = os.waitstatus_to_exitcode(status)
        self._told(self._running.pop(pid), OUTCOMES.get(code, f"ended by {code}"))

    def _told(self, mutant: Mutant, outcome: str) -> None:
        self.outcomes[mutant.name] = outcome
        if outcome != "killed":
            print(f"\n{mutant.name} {outcome}\n{mutant.diff}", flush=True)
        if not len(self.outcomes) % 100:
            print(f"\n{len(self.outcomes)} of {len(self.tried)}", flush=True)


def _hush() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _run(item: pytest.Item | None, following: pytest.Item | None) -> None:
    assert item is not None
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def table(outcomes: dict[str, str]) -> str:
    """What became of the mutants of each module, as Markdown."""
    by_module: dict[str, Counter[str]] = defaultdict(Counter)
    columns = ("killed", "survived", "no test")
    for name, outcome in outcomes.items():
        module = next(part for part in _modules() if name.startswith(f"{part}."))
        by_module[module][outcome if outcome in columns else "other"] += 1
    rows = [f"| module | mutants | {' | '.join(columns)} | other |", "|---|--:|--:|--:|--:|--:|"]
    for module, counts in by_module.items():
        cells = (module, counts.total(), *(counts[one] for one in (*columns, "other")))
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def _modules() -> list[str]:
    return [path.removesuffix(".py").replace("/", ".") for path in config().only_mutate]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="of mutants, as they are named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(arguments)
    tried = [
        mutant
        for path in config().only_mutate
        for mutant in mutants(path)
        if any(fnmatch(mutant.name, pattern) for pattern in asked.patterns)
    ]
    trial = Trial(tried, asked.jobs)
    # No helpers with threads of their own, which a fork would lack.
    how = "-q -s --no-header --assert=plain -p no:cacheprovider -p no:xdist -o timeout=0"
    tests = config().pytest_add_cli_args_test_selection
    status = pytest.main([*how.split(), *tests], [trial])
    print(table(trial.outcomes))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
