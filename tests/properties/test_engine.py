"""The engine under a storm of everything that can happen, in any order, against a small model.

A machine draws what happens: requests of all kinds, answers that go on, end or fail, readers that
stop or leave, workers and runtimes that die, loads and unloads that drag on, time that passes. What
must hold meanwhile and at the end is short; it stands in :meth:`Storm.nothing_is_wrong`,
:meth:`Storm.accounts` and :meth:`Reader.ended_for_a_reason`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.properties import times
from tests.properties.stage import AtOnce, Book, Clock, Playing, Stage
from workbench import engine as engine_module
from workbench import metrics
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.router import ModelRouter
from workbench.settings import Settings
from workbench.store import Store
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    LoadingEvent,
    Message,
    Priority,
    PromptEvent,
    ProviderFinish,
    QueuedEvent,
    SessionEvent,
    Status,
    StreamEvent,
    StreamSession,
    Timeouts,
    TimingMode,
    TokenEvent,
    WarningEvent,
)

MB = 10**6
PLACES, WAITING, WAITING_PER_MODEL = 2, 4, 3
SIZES = {
    "huggingface": {"a": 3 * MB, "b": 5 * MB, "c": 6 * MB, "huge": 20 * MB},
    "ollama": {"x": 4 * MB, "y": 7 * MB},
}
MODELS = [f"{provider}/{name}" for provider, names in SIZES.items() for name in names]
LOAD_FAILURES = (
    ErrorCode.HF_MODEL_LOAD_FAILED,  # lasts
    ErrorCode.HF_MEMORY_EXCEEDED,  # tried again once others have made room
    ErrorCode.HF_PIPELINE_ERROR,
)
OUT_OF_MEMORY = {ErrorCode.HF_MEMORY_EXCEEDED, ErrorCode.OLLAMA_MEMORY_EXCEEDED}
NO_HISTORY = "SELECT NULL WHERE false AND $remembered IS NULL"
PATIENCE_S = 30.0
"""Real time that what must happen may take on a slow machine."""


@dataclass(repr=False)
class Reader:
    """Somebody who asked, what they saw, and what was done to their answer."""

    request: ChatRequest
    begun_ns: int
    events: list[StreamEvent] = field(default_factory=list)
    causes: set[str] = field(default_factory=set)
    """What may end the answer: the words of :meth:`ended_for_a_reason`."""
    refused: WorkbenchError | None = None
    gone: bool = False
    """It left before the end."""
    task: asyncio.Task[None] = field(init=False)

    def __repr__(self) -> str:
        seen = [event.type for event in self.events]
        return f"<{self.request.model} {self.request.timing_mode} {seen} {self.causes}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    @property
    def models(self) -> set[str]:
        return {name for name in (self.request.model, self.request.fallback) if name}

    @property
    def done(self) -> bool:
        return self.task.done()

    @property
    def session(self) -> StreamSession:
        last = self.events[-1]
        assert isinstance(last, DoneEvent | ErrorEvent), f"the last event is a {last.type}"
        return last.session

    def ids(self) -> list[str]:
        return [event.session_id for event in self.events if isinstance(event, SessionEvent)]

    def news(self) -> StreamEvent:
        """The last event that tells how far it is; a warning may be of a second attempt."""
        told = (SessionEvent, QueuedEvent, LoadingEvent, PromptEvent, TokenEvent, WarningEvent)
        return next(event for event in reversed(self.events) if isinstance(event, told))

    def session_begun(self) -> int:
        """When its last session began, monotonic ns."""
        return next(e.t_ns for e in reversed(self.events) if isinstance(e, SessionEvent))

    def ended_once(self) -> None:
        """With one end event, the last; a fallback's failure in between is its own."""
        ends = [event for event in self.events if isinstance(event, DoneEvent | ErrorEvent)]
        assert ends == self.events[-1:], "ends exactly once"

    def ended_for_a_reason(self, waited_s: float) -> None:
        """Nobody ends for what was done to others."""
        session = self.session
        code = session.error.code if session.error is not None else None
        assert code is not ErrorCode.INTERNAL, str(session.error)
        match session.status:
            case Status.OK:
                assert "finish" in self.causes
            case Status.CANCELLED:
                assert self.causes & {"cancel", "shutdown"}
            case Status.TIMEOUT:
                given = self.request.timeouts
                limits = (given.queue_s, given.first_token_s, given.between_tokens_s, given.total_s)
                assert waited_s >= min(s for s in limits if s is not None)
            case Status.REJECTED:
                assert "full" in self.causes
            case Status.ERROR:
                causes = self.causes & {"fail", "death", "load", "down", "huge"}
                kept = code in OUT_OF_MEMORY and "pins" in self.causes
                assert causes or kept, str(session.error)
            case _:
                raise AssertionError(session.status)

    def text_is_whole(self, plays: list[Playing]) -> None:
        """What it was given is what was played for it, in the last attempt."""
        session, whole = self.session, "".join(plays[-1].texts) if plays else ""
        if session.status is Status.OK:
            assert session.text == whole
        else:
            assert whole.startswith(session.text)


class Storm(RuleBasedStateMachine):
    """One engine, from its start to its end."""

    def __init__(self, base: Settings, store: Store, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.readers: list[Reader] = []
        self.by_hand: list[asyncio.Task[Any]] = []
        self.ended: list[StreamSession] = []
        self.problems: list[str] = []
        self.storing: set[str] = set()
        """Sessions that were given to the log."""
        self.spoken = 0
        self.pins = False
        """Whether anything was ever pinned: then there may be no room for others."""
        self.patch = patch
        self.clock = Clock(pytest.MonkeyPatch())
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, found: self.problems.append(str(found)))
        self.loop.set_default_executor(AtOnce(1))
        self.store = store
        write = store.log_session

        def log(session: StreamSession, *more: Any) -> Any:
            self.storing.add(session.session_id)
            return write(session, *more)

        self.patch.setattr(store, "log_session", log)
        self.patch.setattr(store, "close", lambda: None)  # the next example needs it
        self.patch.setattr(engine_module, "Ledger", Book)
        self.patch.setattr(engine_module, "HISTORY", NO_HISTORY)
        self.stages = {
            name: Stage(name, sizes, counted=name == "huggingface") for name, sizes in SIZES.items()
        }
        router = ModelRouter()
        for stage in self.stages.values():
            router.register_provider(stage)
        changes = {
            "hf_max_cached_models": PLACES,
            "workbench_max_queue": WAITING,
            "workbench_max_queue_per_model": WAITING_PER_MODEL,
        }
        self.engine = Engine(base.model_copy(update=changes), router, store)
        self.engine.observers.append(self)

    # -- what the engine tells an observer

    def session_ended(self, session: StreamSession, request: ChatRequest) -> None:
        self.ended.append(session)

    def request_refused(self, request: ChatRequest, error: WorkbenchError) -> None:
        pass

    def model_event(self, event: object) -> None:
        pass

    # -- running it

    def run(self, until: Callable[[], bool] = lambda: True) -> None:
        """Let everything happen that can happen now, and more until something holds."""

        async def quiet() -> None:
            while True:
                await asyncio.sleep(0)
                if not self.loop._ready:  # type: ignore[attr-defined]
                    return

        deadline = time.perf_counter() + PATIENCE_S
        self.loop.run_until_complete(quiet())
        while not self.storing.isdisjoint(self.engine.active_sessions) or not until():
            assert time.perf_counter() < deadline, f"never happens:\n{self.scene()}"
            time.sleep(0.0002)  # the log has a thread of its own
            self.loop.run_until_complete(quiet())
        self.loop.run_until_complete(quiet())

    def scene(self) -> str:
        rotation = self.engine.rotation
        lines = [f"running {dict(rotation.running)}, waiting {rotation.queue.tickets}"]
        for name, stage in self.stages.items():
            lines.append(
                f"{name}: in {stage.residents()}, loading {list(stage.loading)}, unloading "
                f"{list(stage.unloading)}, playing {[p.model for p in stage.playing.values()]}"
            )
        return "\n".join([*lines, *map(repr, self.live)])

    @property
    def live(self) -> list[Reader]:
        return [reader for reader in self.readers if not reader.task.done()]

    @property
    def playing(self) -> list[Playing]:
        """Those that were not told to end."""
        return [
            one for stage in self.stages.values() for one in stage.playing.values() if not one.over
        ]

    def stage(self, model: str) -> tuple[Stage, str]:
        provider, _, name = model.partition("/")
        return self.stages[provider], name

    def reader_of(self, playing: Playing) -> Reader:
        return next(
            r for r in self.readers if playing.request.conversation_id == r.request.conversation_id
        )

    def blame(self, cause: str, models: set[str]) -> None:
        """What is done to these models may end whatever is live and wants them."""
        for reader in self.live:
            if reader.models & models:
                reader.causes.add(cause)

    async def read(self, reader: Reader) -> None:
        try:
            async with aclosing(self.engine.stream(reader.request)) as events:
                async for event in events:
                    reader.events.append(event)
        except WorkbenchError as error:
            reader.refused = error

    # -- what people do

    @initialize(
        slow_loads=st.sets(st.sampled_from(MODELS)), slow_unloads=st.sets(st.sampled_from(MODELS))
    )
    def begin(self, slow_loads: set[str], slow_unloads: set[str]) -> None:
        for model in slow_loads:
            stage, name = self.stage(model)
            stage.slow_loads.add(name)
        for model in slow_unloads:
            stage, name = self.stage(model)
            stage.slow_unloads.add(name)

    @rule(
        model=st.sampled_from(MODELS),
        mode=st.sampled_from((TimingMode.CONCURRENT,) * 3 + (TimingMode.ISOLATED,)),
        priority=st.sampled_from(Priority),
        keep_alive_s=st.sampled_from((None, 0.0, 5.0)),
        queue_s=st.sampled_from((5.0, 1000.0)),
        fallback=st.sampled_from((None, None, None, *MODELS)),
    )
    def asks(
        self,
        model: str,
        mode: TimingMode,
        priority: Priority,
        keep_alive_s: float | None,
        queue_s: float,
        fallback: str | None,
    ) -> None:
        request = ChatRequest(
            model,
            (Message("user", "Hello"),),
            timing_mode=mode,
            priority=priority,
            keep_alive_s=keep_alive_s,
            fallback=fallback,
            timeouts=Timeouts(
                queue_s=queue_s, first_token_s=20.0, between_tokens_s=10.0, total_s=300.0
            ),
        )
        reader = Reader(request, self.clock.ns)
        queue = self.engine.rotation.queue.tickets
        waiting = Counter(ticket.model for ticket in queue)
        if len(queue) >= WAITING or any(waiting[m] >= WAITING_PER_MODEL for m in reader.models):
            reader.causes.add("full")
        for one in reader.models:
            stage, name = self.stage(one)
            reader.causes |= {"huge"} if SIZES[stage.name][name] > Book.LIMIT else set()
            reader.causes |= {"down"} if stage.down else set()
            reader.causes |= {"load"} if name in stage.broken else set()
        reader.causes |= {"pins"} if self.pins else set()
        self.readers.append(reader)
        reader.task = self.loop.create_task(self.read(reader))
        self.run()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def stops(self, data: st.DataObject) -> None:
        """Stop ends an answer wherever it is, and soon."""
        reader = data.draw(st.sampled_from(self.live))
        reader.causes.add("cancel")
        (session_id,) = reader.ids()[-1:]
        assert self.engine.cancel(session_id), "it is live"
        self.run(lambda: reader.done)
        assert reader.session.status is Status.CANCELLED

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        """A reader's connection is gone; the row is written all the same."""
        reader = data.draw(st.sampled_from(self.live))
        reader.gone = True
        reader.task.cancel()
        ids = reader.ids()
        self.run(lambda: reader.done and not set(ids) & set(self.engine.active_sessions))

    @rule(model=st.sampled_from(MODELS), what=st.sampled_from(("load", "unload", "pin", "unpin")))
    def asks_by_hand(self, model: str, what: str) -> None:
        if what == "pin":
            self.pins = True
            self.blame("pins", set(MODELS))
        self.by_hand.append(self.loop.create_task(getattr(self.engine, what)(model)))
        self.run()

    # -- what models do

    @precondition(lambda self: self.playing)
    @rule(
        data=st.data(),
        n_tokens=st.integers(0, 3),
        channel=st.sampled_from(("content", "content", "reasoning")),
    )
    def says(self, data: st.DataObject, n_tokens: int, channel: Any) -> None:
        playing = data.draw(st.sampled_from(self.playing))
        self.spoken += 1
        playing.say(f"{self.spoken} ", n_tokens, channel)
        self.run()

    @precondition(lambda self: self.playing)
    @rule(data=st.data())
    def finishes(self, data: st.DataObject) -> None:
        playing = data.draw(st.sampled_from(self.playing))
        reader = self.reader_of(playing)
        reader.causes.add("finish")
        playing.end(ProviderFinish("stop", 3, None))
        self.run(lambda: reader.done)

    @precondition(lambda self: self.playing)
    @rule(
        data=st.data(),
        code=st.sampled_from(
            (
                ErrorCode.HF_GENERATION_FAILED,  # tried again if nothing was said
                ErrorCode.HF_MEMORY_EXCEEDED,  # once others have made room
                ErrorCode.OLLAMA_STREAM_BROKEN,
                ErrorCode.HF_INVALID_CONFIG,
            )
        ),
    )
    def fails(self, data: st.DataObject, code: ErrorCode) -> None:
        playing = data.draw(st.sampled_from(self.playing))
        self.reader_of(playing).causes.add("fail")
        playing.end(WorkbenchError(code, "It failed.", operation="generate"))
        self.run()

    @rule(model=st.sampled_from(MODELS))
    def breaks(self, model: str) -> None:
        """Its files are damaged, or whole again."""
        stage, name = self.stage(model)
        stage.broken ^= {name}
        self.blame("load", {model})

    # -- what runtimes do

    def pick(self, data: st.DataObject, what: str) -> tuple[Stage, str] | None:
        found = [(stage, name) for stage in self.stages.values() for name in getattr(stage, what)]
        return data.draw(st.sampled_from(found)) if found else None

    @precondition(lambda self: any(stage.loading for stage in self.stages.values()))
    @rule(data=st.data(), how=st.sampled_from((None, None, *LOAD_FAILURES)))
    def load_ends(self, data: st.DataObject, how: ErrorCode | None) -> None:
        stage, name = self.pick(data, "loading")
        if how is None:
            stage.loaded(name)
        else:
            self.blame("load", {f"{stage.name}/{name}"})
            stage.load_fails(name, how)
        self.run()

    @precondition(lambda self: any(stage.unloading for stage in self.stages.values()))
    @rule(data=st.data())
    def unload_ends(self, data: st.DataObject) -> None:
        stage, name = self.pick(data, "unloading")
        stage.unloaded(name)
        self.run()

    @precondition(lambda self: any(stage.alive() for stage in self.stages.values()))
    @rule(
        data=st.data(),
        code=st.sampled_from((ErrorCode.HF_PIPELINE_ERROR, ErrorCode.OLLAMA_STREAM_BROKEN)),
    )
    def worker_dies(self, data: st.DataObject, code: ErrorCode) -> None:
        """The process of a model is killed, in use or not."""
        found = [(stage, name) for stage in self.stages.values() for name in stage.alive()]
        stage, name = data.draw(st.sampled_from(found))
        self.blame("death", {f"{stage.name}/{name}"})
        self.loop.call_soon(stage.dies, name, code)
        self.run()

    @rule(returns=st.booleans())
    def runtime_falls(self, returns: bool) -> None:
        """Ollama is killed, and may come back at once."""
        stage = self.stages["ollama"]
        if not stage.down:
            self.blame("down", {model for model in MODELS if model.startswith("ollama/")})
            stage.falls()
            if not returns:
                self.run()
        stage.down = not returns
        self.run()

    @precondition(lambda self: self.vanishing())
    @rule(data=st.data())
    def model_vanishes(self, data: st.DataObject) -> None:
        """Another program unloads an idle model of Ollama."""
        self.stages["ollama"].vanishes(data.draw(st.sampled_from(self.vanishing())))
        self.run()

    def vanishing(self) -> list[str]:
        stage = self.stages["ollama"]
        leased = self.engine.rotation.running
        return [name for name in stage.alive() if f"ollama/{name}" not in leased]

    @rule(seconds=st.sampled_from((0.5, 6.0, 15.0, 70.0, 400.0)))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_by(seconds)
        self.run(lambda: not self.overdue())

    def overdue(self) -> list[str]:
        """Who waits longer than allowed in its phase."""
        found = []
        for reader in self.live:
            given, last = reader.request.timeouts, reader.news()
            waited_s = (self.clock.ns - last.t_ns) / 1e9
            limit_s = {
                "queued": None,
                "prompt": given.first_token_s,
                "token": given.between_tokens_s,
            }.get(last.type)
            total_s = (self.clock.ns - reader.session_begun()) / 1e9
            if (limit_s is not None and waited_s >= limit_s) or total_s >= (given.total_s or 0):
                found.append(f"{reader.request.model} {last.type} {waited_s} {total_s}")
        return found

    # -- what must hold

    @invariant()
    def nothing_is_wrong(self) -> None:
        """Budget, places, leases and bounds hold at every moment; no task fails unseen."""
        stages = self.stages.values()
        assert not self.problems
        assert not [wrong for stage in stages for wrong in stage.wrongs]
        assert sum(stage.occupied() for stage in stages) <= Book.LIMIT, self.scene()
        assert self.stages["huggingface"].placed() <= PLACES, self.scene()
        queue = self.engine.rotation.queue
        assert len(queue) <= WAITING
        assert all(n <= WAITING_PER_MODEL for n in Counter(t.model for t in queue.tickets).values())
        playing = [one for stage in stages for one in stage.playing.values()]
        for stage in stages:
            for n in Counter(one.model for one in stage.playing.values()).values():
                assert n <= stage.concurrency
        if any(one.alone for one in playing):
            assert len(playing) == 1, "an isolated answer is alone"
            assert not any(stage.loading for stage in stages), "and nothing loads beside it"
        for reader in self.readers:
            if reader.done and not reader.gone:
                reader.ended_once()
                waited_s = (self.clock.ns - reader.begun_ns) / 1e9
                reader.ended_for_a_reason(waited_s)
        known = {one.model for one in self.engine.overview().residents}
        # What Ollama makes of a load that was given up is its own affair, and in the book.
        there = {f"huggingface/{name}" for name in self.stages["huggingface"].alive()}
        assert there <= known, f"in memory without a place: {there - known}\n{self.scene()}"
        live = sum(not reader.done for reader in self.readers)
        assert len(self.engine.active_sessions) == live, "who is live is listed"
        running = self.engine.rotation.running
        for one in playing:
            assert running.get(f"{self.home(one)}/{one.model}"), "who answers has a lease"

    def home(self, playing: Playing) -> str:
        return next(n for n, s in self.stages.items() if playing in s.playing.values())

    def teardown(self) -> None:
        try:
            self.calm()
            self.loop.run_until_complete(self.engine.close())
            assert not [wrong for stage in self.stages.values() for wrong in stage.wrongs]
        finally:
            self.clock.goes_on()
            # Where something hangs, its threads must not meet the next example.
            with suppress(Exception):
                self.loop.run_until_complete(asyncio.wait_for(self.engine.close(), PATIENCE_S))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.patch.undo()
        self.accounts()

    def calm(self) -> None:
        """Nothing is in the way any more: whoever still waits gets an answer, or its end."""
        for stage in self.stages.values():
            stage.down = False
            stage.broken.clear()
            stage.obeys_at_once()
        for _ in range(400):
            self.run()
            self.nothing_is_wrong()
            if not self.live and all(task.done() for task in self.by_hand):
                break
            for playing in self.playing:
                self.reader_of(playing).causes.add("finish")
                playing.end(ProviderFinish("stop", 3, None))
            self.clock.pass_by(0.5)
        assert not self.live, f"somebody waits for ever:\n{self.scene()}"
        for task in self.by_hand:
            assert task.done(), f"somebody waits for ever:\n{self.scene()}"
            error = task.exception()
            assert error is None or isinstance(error, WorkbenchError), repr(error)
        rotation = self.engine.rotation
        assert (dict(rotation.running), rotation.queue.tickets) == ({}, []), "slots are back"
        assert self.engine.active_sessions == []

    def accounts(self) -> None:
        """Each session has one row, which says what its reader was told."""
        ended = {session.session_id: session for session in self.ended}
        assert len(ended) == len(self.ended), "told once"
        marks = ", ".join("?" for _ in ended) or "NULL"
        rows = self.store.rows(
            "SELECT s.session_id, s.status, s.error_code, s.streamed_tokens, l.wall_s, "
            f"{' + '.join('l.' + phase for phase in metrics.PHASES)} AS phases_s "
            "FROM stream_sessions AS s JOIN latencies AS l USING (session_id) "
            f"WHERE s.session_id IN ({marks})",
            list(ended),
        )
        assert sorted(row["session_id"] for row in rows) == sorted(ended), "rows = sessions"
        for row in rows:
            session = ended[row["session_id"]]
            assert row["status"] == session.status
            assert row["error_code"] == (session.error.code if session.error else None)
            assert row["streamed_tokens"] == session.streamed_tokens
            assert row["phases_s"] == pytest.approx(row["wall_s"], abs=1e-6)
        for reader in self.readers:
            assert set(reader.ids()) <= ended.keys()
            if not reader.gone:
                assert reader.session == ended[reader.session.session_id]
                reader.text_is_whole(self.plays(reader))

    def plays(self, reader: Reader) -> list[Playing]:
        return [
            one
            for stage in self.stages.values()
            for one in stage.played
            if one.request.session_id == reader.session.session_id
        ]


def test_whatever_happens_each_request_ends_once_and_is_counted_once(
    settings: Settings, store: Store
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        run_state_machine_as_test(
            lambda: Storm(settings, store, patch),
            settings=hypothesis.settings(times(0.6), stateful_step_count=40),
        )
