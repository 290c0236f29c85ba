"""The GraphQL face: the same engine, for clients that want just the fields they name."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import strawberry
from cross_web import HTTPException
from graphql import GraphQLError, NoSchemaIntrospectionCustomRule
from pydantic import ValidationError
from starlette.websockets import WebSocket
from strawberry.extensions import (
    AddValidationRules,
    MaxAliasesLimiter,
    MaxTokensLimiter,
    QueryDepthLimiter,
    SchemaExtension,
)
from strawberry.fastapi import GraphQLRouter
from strawberry.schema.config import StrawberryConfig
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types.execution import ExecutionResult, StreamExecutionResult

from workbench import logs
from workbench.api import graphql_types as types
from workbench.api.calls import Generate
from workbench.api.feeds import Feeds
from workbench.api.graphql_types import Long, build
from workbench.api.problems import wrong_field
from workbench.api.streaming import while_connected
from workbench.engine import Engine
from workbench.errors import WorkbenchError, invalid, unforeseen
from workbench.settings import Settings
from workbench.store import records
from workbench.types import Status

P = ParamSpec("P")
T = TypeVar("T")
Info = strawberry.Info[dict[str, Any], None]

_log = logs.get(__name__)
_Limit = Annotated[int, strawberry.argument(description="Rows of the page, 200 at most.")]
_Cursor = Annotated[str | None, strawberry.argument(description="`next` of the page before.")]


@contextmanager
def _told() -> Iterator[None]:
    """Errors of ours in GraphQL's form, with code, fix and details as extensions."""
    try:
        yield
    except WorkbenchError as error:
        raise GraphQLError(
            f"{error.message} {error.fix}".strip(), extensions=error.to_dict()
        ) from error


def _state(info: Info) -> Any:
    connection = info.context.get("request") or info.context["ws"]
    return connection.app.state


def _engine(info: Info) -> Engine:
    engine: Engine = _state(info).engine
    return engine


def _correlation(info: Info) -> str:
    connection = info.context.get("request") or info.context["ws"]
    return str(connection.state.correlation_id)


async def _read(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Ask the log in a thread."""
    with _told():
        return await asyncio.to_thread(work, *args, **kwargs)


def _page_size(limit: int) -> int:
    if not 1 <= limit <= records.MAX_PAGE:
        raise invalid(
            f"limit is {limit}.", fix=f"Choose between 1 and {records.MAX_PAGE}.", option="limit"
        )
    return limit


def _moment(name: str, value: str | None) -> dt.datetime | None:
    if value is None:
        return None
    try:
        return dt.datetime.fromisoformat(value)
    except ValueError:
        raise invalid(
            f"{name} is {value[:40]!r}.", fix="Give a time as 2026-01-31T12:00:00Z.", option=name
        ) from None


@strawberry.type
class Query:
    """What can be asked."""

    @strawberry.field(description="All models of all providers.")
    async def available_models(self, info: Info, provider: str | None = None) -> list[types.Model]:
        """As ``GET /api/v1/models``; ``health`` says which provider could not be asked."""
        with _told():
            listing = await _engine(info).list_models()
        return [
            build(types.Model, model.to_dict())
            for model in listing.models
            if provider in (None, model.provider)
        ]

    @strawberry.field(description="One model, by its id or a bare name.")
    async def model(self, info: Info, id: str) -> types.Model:
        """As ``GET /api/v1/models/{id}``."""
        return await _shown(info, id)

    @strawberry.field(description="Finished sessions, the newest first.")
    async def stream_sessions(
        self,
        info: Info,
        model: str | None = None,
        provider: str | None = None,
        status: str | None = None,
        source: str | None = None,
        error_code: str | None = None,
        conversation_id: str | None = None,
        comparison_id: str | None = None,
        run_id: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: _Limit = 50,
        cursor: _Cursor = None,
    ) -> types.StreamSessions:
        """As ``GET /api/v1/sessions``."""
        with _told():
            if status is not None and status not in set(Status):
                raise invalid(f"status is {status[:40]!r}.", fix=f"Use {', '.join(Status)}.")
            wanted = {
                "model": model,
                "provider": provider,
                "status": status,
                "source": source,
                "error_code": error_code,
                "conversation_id": conversation_id,
                "comparison_id": comparison_id,
                "run_id": run_id,
            }
            page = await _read(
                records.sessions,
                _engine(info).store,
                wanted,
                since=_moment("since", since),
                until=_moment("until", until),
                limit=_page_size(limit),
                cursor=cursor,
            )
        return types.StreamSessions(
            sessions=[build(types.StreamSession, row) for row in page.rows], next=page.next
        )

    @strawberry.field(description="A conversation and its messages.")
    async def conversation(self, info: Info, id: str) -> types.Conversation:
        """As ``GET /api/v1/conversations/{id}``."""
        found = await _read(records.conversation, _engine(info).store, id)
        messages = [build(types.Message, message) for message in found["messages"]]
        return build(types.Conversation, {**found, "messages": messages})

    @strawberry.field(description="Who is in memory, who waits, who answers.")
    async def queue(self, info: Info) -> types.Queue:
        """As ``GET /api/v1/queue`` and ``GET /api/v1/streams``."""
        engine = _engine(info)
        found = engine.overview().to_dict()
        lists = {
            "streams": [build(types.ActiveStream, item) for item in engine.active()],
            "waiting": [build(types.Waiting, item) for item in found["waiting"]],
            "residents": [build(types.Resident, item) for item in found["residents"]],
            "next_victims": list(found["next_victims"]),
        }
        return build(types.Queue, {**found, **lists})

    @strawberry.field(description="Every part with its reason.")
    async def health(self, info: Info) -> types.Health:
        """As ``GET /health``."""
        found = (await _state(info).health.check()).to_dict()
        parts = []
        for name, part in found["parts"].items():
            known = {key: part.pop(key, None) for key in ("reason", "fix", "last_good_at")}
            status = part.pop("status")
            parts.append(types.HealthPart(name=name, status=status, details=part, **known))
        return types.Health(status=found["status"], ready=found["ready"], parts=parts)

    @strawberry.field(description="Benchmark runs, the newest first.")
    async def benchmark_runs(
        self, info: Info, limit: _Limit = 50, cursor: _Cursor = None
    ) -> types.BenchmarkRuns:
        """Pages of ``benchmark_runs``."""
        with _told():
            size = _page_size(limit)
        page = await _read(records.benchmark_runs, _engine(info).store, limit=size, cursor=cursor)
        return types.BenchmarkRuns(
            runs=[build(types.BenchmarkRun, row) for row in page.rows], next=page.next
        )


@strawberry.type
class Mutation:
    """What can be done."""

    @strawberry.mutation(description="Bring a model into memory.")
    async def load_model(self, info: Info, model: str) -> types.Model:
        """As ``POST /api/v1/models/load``; given up if the client leaves."""
        with _told():
            work, request = _engine(info).load(model), info.context.get("request")
            # A WebSocket that closes ends its operations by itself.
            await (while_connected(request, work) if request is not None else work)
        return await _shown(info, model)

    @strawberry.mutation(description="Take a model out of memory.")
    async def unload_model(self, info: Info, model: str) -> types.Model:
        """As ``POST /api/v1/models/unload``."""
        with _told():
            await _engine(info).unload(model)
        return await _shown(info, model)

    @strawberry.mutation(description="Begin a download from the hub, or join the one under way.")
    async def download_model(
        self, info: Info, model: str, revision: str | None = None, gguf_file: str | None = None
    ) -> types.Job:
        """As ``POST /api/v1/models/download``."""
        with _told():
            job = _engine(info).disk.download(model, revision, gguf_file)
        return build(types.Job, job.to_dict())

    @strawberry.mutation(description="Stop a stream of whatever face.")
    async def terminate_stream(self, info: Info, id: str) -> types.Termination:
        """As ``DELETE /api/v1/streams/{id}``."""
        feeds: Feeds = _state(info).feeds
        return types.Termination(cancelled=feeds.cancel(id))


@strawberry.type
class Subscription:
    """What can be watched."""

    @strawberry.subscription(description="One answer as it comes; leaving stops the work.")
    async def stream_message(
        self, info: Info, input: types.StreamMessageInput
    ) -> AsyncGenerator[types.StreamEvent, None]:
        """As ``POST /api/v1/stream-message``."""
        with _told():
            call = _call(input).request(input.model, _correlation(info), source="graphql")
            feeds: Feeds = _state(info).feeds
            feed = feeds.start([call], call.session_id, detach=False)
            async with aclosing(feed.follow()) as items:
                async for item in items:
                    yield types.StreamEvent.of(item)


async def _shown(info: Info, model: str) -> types.Model:
    with _told():
        return build(types.Model, (await _engine(info).show(model)).to_dict())


def _call(input: types.StreamMessageInput) -> Generate:
    try:
        return Generate.model_validate(input.body())
    except ValidationError as error:
        raise wrong_field(error.errors()[0]) from None


class Explained(SchemaExtension):
    """Gives every error a code; what nobody expected is logged and told without its message."""

    def on_operation(self) -> Iterator[None]:
        """Complete the errors of a result."""
        yield
        result = self.execution_context.result
        if isinstance(result, ExecutionResult) and result.errors:
            result.errors = [self._told(error) for error in result.errors]

    def on_stream_result(self, result: StreamExecutionResult) -> Iterator[None]:
        """Complete the errors of one item of a subscription."""
        errors = getattr(result, "errors", None)
        if errors:
            result.errors = [self._told(error) for error in errors]  # type: ignore[union-attr]
        yield

    def _told(self, error: GraphQLError) -> GraphQLError:
        told, context = _explained(error), self.execution_context.context
        connection = context.get("request") or context["ws"]
        told.extensions = {
            **(told.extensions or {}),
            "correlation_id": str(connection.state.correlation_id),
        }
        return told


_FIXES: Final[Mapping[str, str]] = {
    "maximum operation depth": "Nest less deeply, or raise WORKBENCH_GRAPHQL_MAX_DEPTH.",
    "aliases found": "Use fewer aliases, or raise WORKBENCH_GRAPHQL_MAX_ALIASES.",
    "Document contains more than": "Ask for less at once, or raise WORKBENCH_GRAPHQL_MAX_TOKENS.",
    "introspection": "Set WORKBENCH_GRAPHQL_INTROSPECTION=true to allow it.",
}
"""What to do about a query that is refused, by words of the libraries' messages."""


def _explained(error: GraphQLError) -> GraphQLError:
    extensions = error.extensions or {}
    if "code" in extensions:
        return error
    cause = error.original_error
    if cause is None or isinstance(cause, GraphQLError):  # the query itself is wrong
        fixes = (fix for words, fix in _FIXES.items() if words in error.message)
        told = invalid(error.message, fix=next(fixes, "See the schema: GET /graphql."))
        message = error.message
    else:
        _log.error("graphql_failed", path=error.path, exc_info=cause)
        told = unforeseen(cause, "graphql", told=False)
        message = told.message
    return GraphQLError(
        message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=told.to_dict(),
    )


class _Schema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], *unused: Any) -> None:
        """Not strawberry's log, which quotes the query: :class:`Explained` says what failed."""


def make_schema(settings: Settings) -> strawberry.Schema:
    """The schema with its bounds."""

    def extensions() -> list[Callable[[], SchemaExtension]]:
        found: list[Callable[[], SchemaExtension]] = [
            Explained,
            lambda: MaxTokensLimiter(settings.workbench_graphql_max_tokens),
            lambda: QueryDepthLimiter(settings.workbench_graphql_max_depth),
            lambda: MaxAliasesLimiter(settings.workbench_graphql_max_aliases),
        ]
        if not settings.workbench_graphql_introspection:
            found.append(lambda: AddValidationRules([NoSchemaIntrospectionCustomRule]))
        return found

    scalar = strawberry.scalar(
        name="Long",
        description="A whole number of up to 64 bits: bytes, nanoseconds.",
        serialize=int,
        parse_value=int,
    )
    return _Schema(
        Query,
        Mutation,
        Subscription,
        extensions=extensions(),
        config=StrawberryConfig(
            scalar_map={Long: scalar},
            # Names in error messages are introspection by another door.
            disable_field_suggestions=not settings.workbench_graphql_introspection,
        ),
    )


class _Router(GraphQLRouter[Any, None]):
    """With the shapes checked that the library takes for granted."""

    async def run(self, request: Any, *args: Any, **more: Any) -> Any:
        """As always; what is no GraphQL request is refused in our form."""
        try:
            return await super().run(request, *args, **more)
        except HTTPException as error:
            if isinstance(request, WebSocket):
                raise
            raise invalid(f"{error.reason.rstrip('.')}.", fix="See GET /graphql.") from None

    def parse_json(self, data: str | bytes) -> Any:
        """The body of a POST: an object."""
        try:
            return _object(data)
        except json.JSONDecodeError:
            raise HTTPException(400, "The body is no JSON object.") from None

    def decode_json(self, data: str | bytes) -> object:
        """One message on a WebSocket; a wrong one closes it.

        Raises:
            JSONDecodeError: what strawberry expects of a message that cannot be read.
        """
        message = _object(data)
        payload = message.get("payload")
        if (
            message.get("type") not in _MESSAGES
            # Strawberry repeats it in the reason of a close, which must be short.
            or not _is_id(message.get("id", "-"))
            or not isinstance(payload, dict | None)
            or (message["type"] == "subscribe" and not _is_query(payload or {}))
        ):
            raise json.JSONDecodeError("not a message", "", 0)
        return message


_MESSAGES: Final = ("connection_init", "ping", "pong", "subscribe", "complete")
_MESSAGE_ID: Final = re.compile(r"[!-~]{1,64}")


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _MESSAGE_ID.fullmatch(value) is not None


def _is_query(payload: Mapping[str, Any]) -> bool:
    kinds = {"variables": dict, "operationName": str, "extensions": dict}
    return isinstance(payload.get("query"), str) and all(
        isinstance(payload.get(name), kind | None) for name, kind in kinds.items()
    )


def _object(data: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, RecursionError, ValueError):  # ValueError: too many digits
        raise json.JSONDecodeError("no JSON", "", 0) from None
    if not isinstance(value, dict):
        raise json.JSONDecodeError("no object", "", 0)
    return value


def make_router(schema: strawberry.Schema, settings: Settings) -> GraphQLRouter[Any, None]:
    """``POST /graphql``, and subscriptions over WebSocket (``graphql-transport-ws``)."""
    return _Router(
        schema,
        prefix="/graphql",
        graphql_ide=None,
        allow_queries_via_get=False,  # a GET must not do anything
        subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
        max_subscriptions_per_connection=settings.workbench_max_queue,
        include_in_schema=False,  # it has a schema of its own
    )
