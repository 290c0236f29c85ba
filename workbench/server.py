"""The server: settings -> store -> engine -> page and API in one ASGI application.

A running server owns the models and the log. It says so in ``server.json`` beside the database
(0600: pid, port, token), where the command line and notebooks find it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import uvicorn
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from workbench import environment, logs
from workbench.api import (
    benchmarks,
    document,
    explorer,
    graphql,
    handlers,
    health,
    insight,
    log,
    metrics,
    openai,
    rest,
    sessions,
    streams,
)
from workbench.api.connections import guarded
from workbench.api.edge import Edge
from workbench.api.feeds import Feeds
from workbench.api.headers import SecurityHeaders
from workbench.api.limits import Limits
from workbench.api.redaction import Redaction
from workbench.api.security import Guard, check_address, is_loopback
from workbench.bench.service import Benchmarks
from workbench.client.roads import LocalRoad
from workbench.discovery import announce, server_file
from workbench.engine import Engine, build
from workbench.errors import ErrorCode, WorkbenchError
from workbench.observe.health import HealthMonitor
from workbench.observe.prometheus import Metrics
from workbench.observe.timeline import MemoryTimeline
from workbench.observe.tracing import Tracing, provider_from_environment
from workbench.settings import Settings
from workbench.sharing import Courier, SharedLog
from workbench.store import Store
from workbench.store.database import durability
from workbench.store.serving import Address
from workbench.ui import stubs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_log = logs.get(__name__)

FACES = (
    health.router,
    metrics.router,
    rest.router,
    streams.router,
    sessions.router,
    benchmarks.router,
    log.router,
    log.shared,
    insight.router,
    openai.router,
    explorer.router,
)
"""What programs speak to; a further face is one line here."""


def create_app(
    settings: Settings, engine: Engine, *, page: bool = True, spans: TracerProvider | None = None
) -> FastAPI:
    """The ASGI application around an engine.

    Args:
        settings: of the process.
        engine: closed when the application shuts down.
        page: False leaves out the Gradio page (it takes seconds to import).
        spans: where traces go; None: as the ``OTEL_*`` variables say.
    """
    measured = Metrics(engine)
    engine.lag.on_sample = measured.lagged
    watched, timeline = HealthMonitor(engine), MemoryTimeline(engine)
    logs.keep(settings.workbench_log_lines)
    engine.observers.append(measured)
    spans = spans or provider_from_environment()
    if spans is not None:
        engine.observers.append(Tracing(spans))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        engine.lag.start()
        timeline.start()
        engine.prewarm()
        engine.store.set_environment(await asyncio.to_thread(environment.capture, settings))
        courier = None
        if settings.workbench_shared_log is not None and settings.workbench_share_s:
            shared = SharedLog(engine.store, settings)
            every_s = settings.workbench_share_s
            courier = Courier(shared, every_s, lambda: bool(engine.active_sessions))
            courier.start()
        yield
        if courier is not None:
            await courier.close()
        watched.stop()
        await timeline.close()
        await app.state.benchmarks.stop()
        await app.state.feeds.close()
        await engine.close()
        if spans is not None:
            await asyncio.to_thread(spans.shutdown)

    app = FastAPI(
        title="Workbench",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry={
            "tracing": spans is not None,
            "tracer_provider": spans,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.feeds = Feeds(engine, settings)
    app.state.benchmarks = Benchmarks(LocalRoad(engine, "ui"), settings, "ui")
    app.state.health = watched
    app.state.metrics = measured
    app.state.token = secrets.token_urlsafe(32)
    hub_tokens = (os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    logs.hide(settings.workbench_api_key, app.state.token, *hub_tokens)
    handlers.install(app)
    app.state.graphql_schema = graphql.make_schema(settings)
    faces = (*FACES, graphql.make_router(app.state.graphql_schema, settings))
    for router in faces:
        app.include_router(router)
    handlers.fence(app, faces)
    document.install(app, keyed=settings.workbench_api_key is not None)
    head = _mount_page(app, watched, timeline) if page else ""
    # The last one added is the first to see a request.
    app.add_middleware(Redaction, settings=settings, token=app.state.token)
    app.add_middleware(Guard, settings=settings, token=app.state.token)
    app.add_middleware(Limits, settings=settings)
    app.add_middleware(SecurityHeaders, head=head)
    app.add_middleware(Edge, on_response=measured.responded)
    return app


def _mount_page(app: FastAPI, health: HealthMonitor, timeline: MemoryTimeline) -> str:
    """Serve the page where no other route serves anything; returns what goes into its head."""
    stubs.leave_out()
    import gradio as gr

    from workbench.ui import frontend
    from workbench.ui.page import build_page
    from workbench.ui.theme import mount_options

    built = frontend.folder()
    page = build_page(app.state.engine, app.state.benchmarks, health, timeline)
    assets: ASGIApp = StaticFiles(directory=built / "assets")
    if not is_loopback(app.state.settings.workbench_host):
        assets = GZipMiddleware(assets)  # on one machine it only costs both sides time
    app.mount("/assets", assets)
    gr.mount_gradio_app(app, page, path="/", **mount_options())
    files = frontend.needed(built, frontend.kinds(page.config))
    return frontend.head(files, page.theme_hash)


_ALL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Addresses that stand for all of the machine's, each with one that a browser can open."""


class _Server(uvicorn.Server):
    """Announces itself once it listens."""

    def __init__(self, config: uvicorn.Config, settings: Settings, app: FastAPI, url: str) -> None:
        super().__init__(config)
        self._settings, self._app, self._url = settings, app, url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What was imported stays for good. Looking through all of it stops every stream for 0.1 s.
        gc.collect()
        gc.freeze()
        if self.started:
            serving = self._app.state.engine.store.serving
            announce(self._settings, self._url, self._app.state.token, serving)
            _log.info("started", url=self._url, db=str(self._settings.workbench_db))
            print(f"Workbench is at {self._url}{self._also()}", flush=True)  # noqa: T201

    def _also(self) -> str:
        """Who else may come in; without a key nothing listens beyond loopback."""
        if is_loopback(host := self._settings.workbench_host):
            return ""
        where = "on all interfaces" if host in _ALL else f"on {host}"
        return f" (it listens {where}: clients must send WORKBENCH_API_KEY)"

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams first: uvicorn waits for open connections, and each of these is one. All must be
        # done in here, since uvicorn hands the signal on when this returns.
        engine: Engine = self._app.state.engine
        _log.info("shutdown", running=len(engine.active_sessions))
        self._app.state.health.stop()
        await self._app.state.benchmarks.stop()  # it can be resumed at the trial where it was
        engine.cancel_all("shutdown")
        await super().shutdown(sockets)
        server_file(self._settings).unlink(missing_ok=True)


def serve(settings: Settings) -> None:
    """Run the server until it is interrupted.

    Raises:
        WorkbenchError: ``PORT_IN_USE``, ``STORE_UNAVAILABLE``, or a refused address; nothing was
            started then.
    """
    check_address(settings)
    listening = _bind(settings)
    with listening:
        store = Store.open(
            settings.workbench_db,
            address=_log_address(settings),
            durability=durability(settings),
        )
        try:
            app = create_app(settings, build(settings, store))
        except BaseException:
            store.close()
            raise
        host = _ALL.get(settings.workbench_host, settings.workbench_host)
        url = f"http://{f'[{host}]' if ':' in host else host}:{settings.workbench_port}"
        config = uvicorn.Config(
            app,
            http=guarded(settings),
            h11_max_incomplete_event_size=settings.workbench_max_header_bytes,
            ws_max_size=settings.workbench_max_body,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            ws="websockets-sansio",
        )
        try:
            with suppress(KeyboardInterrupt):  # Ctrl+C is how a server is stopped
                _Server(config, settings, app, url).run(sockets=[listening])
        finally:
            store.close()


def _log_address(settings: Settings) -> Address | None:
    if not settings.workbench_log_serving:
        return None
    return Address(
        token=settings.workbench_log_token or secrets.token_urlsafe(32),
        host=settings.workbench_log_host,
        port=settings.workbench_log_port,
        offline=settings.workbench_offline,
    )


def _bind(settings: Settings) -> socket.socket:
    """Take the port before anything costly is started, so that a clash is told at once."""
    family = socket.AF_INET6 if ":" in settings.workbench_host else socket.AF_INET
    # With the protocol named: asyncio sends small packets at once (TCP_NODELAY) only then.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.workbench_host, settings.workbench_port))
    except OSError as error:
        listening.close()
        raise WorkbenchError(
            ErrorCode.PORT_IN_USE,
            f"Cannot listen on {settings.workbench_host}:{settings.workbench_port} "
            f"({error.strerror}).",
            fix="Stop what uses it, or take another port: --port, or WORKBENCH_PORT.",
            operation="serve",
        ) from None
    return listening
