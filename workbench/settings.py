"""Configuration of the process: environment variables or ``.env``, all validated at start.

A bad value is a :class:`WorkbenchError` that names the variable and the fix.
"""

from __future__ import annotations

import difflib
import os
import platform
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import psutil
from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from workbench import endpoints, hosts
from workbench.errors import ErrorCode, WorkbenchError
from workbench.folders import config_folder, data_folder
from workbench.setting_kinds import (
    Budget,
    Bytes,
    Endpoints,
    Fallbacks,
    OllamaHosts,
    OllamaUrl,
    OptionalReserve,
    Reserve,
    Seconds,
    ServerUrl,
    Share,
    Size,
)

ENV_FILES: Final = (config_folder() / ".env", Path(".env"))
"""Read in this order; the later one wins, and a variable of the environment over both."""


class Settings(BaseSettings):
    """All settings with their defaults; the environment variable is the alias in upper case."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILES, env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    # Hugging Face
    hf_model_path: Path = Field(default_factory=lambda: data_folder() / "models/huggingface")
    """Folder of Hugging Face models."""
    hf_max_cached_models: int = Field(3, ge=1, le=1000)
    """The most Hugging Face models in memory at once, besides the memory budget."""
    hf_default_task: Literal["text-generation"] = "text-generation"
    """The only task so far."""
    hf_enable_gpu: Literal["auto", "true", "false"] = "auto"
    """`true` insists on a GPU, `false` never uses one."""
    hf_model_timeout_ms: int = Field(30_000, ge=100, le=3_600_000)
    """Longest load of a model."""
    hf_quality_timeout_ms: int = Field(120_000, ge=0, le=3_600_000)
    """How much longer a load may take if a fast form is checked first, as at a model's first
    load."""
    hf_stream_chunk_size: int = Field(50, ge=1, le=100_000)
    """The most characters joined into one event if the reader is slower than the model."""
    hf_load_options: str = ""
    """How models are loaded unless their name says otherwise, for example
    `quantization=int8&threads=2`."""
    hf_max_batch: int = Field(32, ge=1, le=1024)
    """Requests that one model answers at once; more wait."""
    hf_kv_cache_budget: Size = None
    """Memory for keys and values of one model; requests beyond it wait. Default: a quarter of free
    memory."""
    hf_prompt_weights_limit: Reserve = 2 * 10**9
    """Largest weight file whose matrices are also kept in bfloat16, so that prompts are read
    faster; `0`: never."""
    hf_home: Path | None = None
    """The folder above the hub's cache, as for huggingface_hub; default `~/.cache/huggingface`."""
    hf_hub_cache: Path | None = None
    """Where the hub's cache is, as for huggingface_hub; default `hub` in HF_HOME."""
    hf_endpoint: str | None = None
    """Address of a mirror of the hub to download from."""

    # Ollama
    ollama_host: OllamaUrl = "http://127.0.0.1:11434"
    """The Ollama server."""
    ollama_hosts: OllamaHosts = Field(default_factory=dict)
    """Several Ollama servers by name, instead of `OLLAMA_HOST`: `name=host:port`, separated by
    commas."""

    # servers that speak OpenAI's API
    openai_compat_endpoints: Endpoints = ()
    """Servers that speak OpenAI's API, as providers: `name=url`, separated by commas, or a JSON
    list, see [Other servers](../how-to/servers.md)."""

    # the workbench itself
    workbench_db: Path = Field(default_factory=lambda: data_folder() / "workbench.duckdb")
    """The log, a DuckDB file."""
    workbench_host: str = "127.0.0.1"
    """Address where the server listens; any but loopback needs a key."""
    workbench_port: int = Field(7860, ge=1, le=65_535)
    """Port where the server listens."""
    workbench_api_key: str | None = None
    """Key that clients must send; without one the server listens on loopback only."""
    workbench_memory_budget: Size = None
    """What all models together may hold in the host's memory, for example `12GB`. Default: what is
    free at start less the reserve."""
    workbench_gpu_memory_budget: Size = None
    """What all models together may hold on each GPU. Default: what is free at start less the
    reserve."""
    workbench_memory_reserve: OptionalReserve = None
    """Memory that models leave to other programs. Default: a tenth of each device."""
    workbench_memory_high: Share = 0.9
    """Share of a device's memory whose use raises an alert."""
    workbench_memory_critical: Share = 0.95
    """Share whose use raises a critical alert."""
    workbench_memory_band: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    """How far below its share use must fall before an alert ends."""
    workbench_memory_watch_s: Seconds = 1.0
    """Time between two readings of who holds how much memory, while a model is in memory."""
    workbench_runtime_watch_s: Seconds = 5.0
    """Time between two questions to each runtime about what it has in memory; none is asked during
    a generation."""
    workbench_evict_others: bool = False
    """Whether Ollama models that another program loaded may be evicted too."""
    workbench_max_queue: int = Field(64, ge=1, le=100_000)
    """Requests that may wait; one more is refused, with a time after which to try again."""
    workbench_max_queue_per_model: int = Field(32, ge=1, le=100_000)
    """Requests for one model that may wait."""
    workbench_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe lines in the server's log."""
    workbench_log_lines: int = Field(5_000, ge=0, le=1_000_000)
    """How many of its last log lines a server keeps in memory for the Health tab; 0: none."""
    workbench_timeline_s: Seconds = 5
    """Time between two readings of the memory plot on the Health tab."""
    workbench_timeline_readings: int = Field(720, ge=2, le=100_000)
    """How many readings the memory plot keeps."""
    workbench_offline: bool = False
    """Never ask the hub."""
    workbench_fallbacks: Fallbacks = Field(default_factory=dict)
    """Which model answers if another fails before its first token: `huggingface/a=ollama/b`,
    separated by commas. A request's own `fallback` wins."""

    # bounds and waits
    workbench_max_prompt_bytes: int = Field(262_144, ge=1)
    """The most bytes of text in a request."""
    workbench_max_image_bytes: Bytes = 20 * 10**6
    """The most bytes of all images in a conversation."""
    workbench_max_upload: Bytes = 5 * 10**6
    """The most bytes of files chosen on the page at once. As text they take a third more, and that
    must fit into `WORKBENCH_MAX_BODY`."""
    workbench_max_history: int = Field(400, ge=1)
    """The most messages in a request."""
    workbench_max_body: Bytes = 8 * 2**20
    """Largest body of an HTTP request."""
    workbench_max_header_bytes: int = Field(16_384, ge=1024, le=2**20)
    """Largest headers of an HTTP request."""
    workbench_body_timeout_s: Seconds = 30
    """Longest wait for a request's headers, and for its body."""
    workbench_connection_idle_s: Seconds = 75
    """An open connection without a request is closed after so long. Longer than clients keep theirs
    (httpx and the client of OpenAI five seconds): a request sent at that moment would be lost."""
    workbench_max_requests: int = Field(256, ge=1, le=100_000)
    """HTTP requests answered at the same time; health and metrics are always answered."""
    workbench_client_connections: int = Field(256, ge=1, le=100_000)
    """Open connections from one address."""
    workbench_rate_limit: float = Field(100, ge=0, le=1e6, allow_inf_nan=False)
    """Requests per second from one address in the long run; ten seconds' worth may come at once.
    0: no limit."""
    workbench_health_timeout_s: Seconds = 2
    """Longest wait for the answer of a part when health is asked."""
    workbench_listing_timeout_s: Seconds = 10
    """Longest wait for one provider's list of models; the others are shown without it. It is asked
    again when it answers, or after six times as long."""
    workbench_low_memory: Reserve = 2**30
    """With less free memory than this, health says `degraded`."""
    workbench_low_disk: Reserve = 2 * 2**30
    """With less free disk space than this, health says `degraded`."""
    workbench_lag_warning_ms: int = Field(250, ge=1, le=60_000)
    """If the event loop is later than this, health says `degraded`."""
    workbench_graphql_introspection: bool = True
    """`false` hides the GraphQL schema from clients."""
    workbench_graphql_max_depth: int = Field(10, ge=1, le=1000)
    """Deepest GraphQL query."""
    workbench_graphql_max_aliases: int = Field(15, ge=0, le=10_000)
    """The most aliases in a GraphQL query."""
    workbench_graphql_max_tokens: int = Field(2000, ge=10, le=1_000_000)
    """The most tokens in a GraphQL query."""
    workbench_detach_grace_s: Seconds = 60
    """How long a detached stream, or a page's answers, go on without a reader."""
    workbench_arena_chars_per_s: int = Field(400, ge=10, le=1_000_000)
    """Characters per second at which the arena shows both answers."""
    workbench_stream_buffer: int = Field(4096, ge=16, le=10_000_000)
    """Events of a stream held for readers who come back."""
    workbench_stream_keep_s: Seconds = 120
    """How long after its end a stream can be read again."""
    workbench_streams_kept: int = Field(100, ge=0, le=100_000)
    """How many ended streams can be read again."""
    workbench_keep_alive_s: float = Field(300, ge=0, allow_inf_nan=False)
    """Idle time before a model is unloaded, for both runtimes."""
    workbench_log_wait_s: Seconds = 5
    """How long a command or notebook waits for another process to let go of the log."""
    workbench_queue_timeout_s: Seconds = 600
    """Longest wait in the queue."""
    workbench_patience_s: Seconds = 180
    """After this time in the queue a request is no longer overtaken by later ones; it is refused if
    other programs hold the memory it lacks."""
    workbench_benchmark_patience_s: Seconds = 480
    """The same for requests of benchmarks."""
    workbench_failed_load_s: float = Field(60, ge=0, le=86_400, allow_inf_nan=False)
    """How long after a load failed for a lasting reason no model is evicted to try it again."""
    workbench_first_token_timeout_s: Seconds = 300
    """Longest wait for the first token."""
    workbench_token_timeout_s: Seconds = 60
    """Longest wait between two tokens."""
    workbench_total_timeout_s: Seconds = 1800
    """Longest time of a request in all, queue and load included."""
    workbench_cancel_grace_s: Seconds = 10
    """A worker that does not stop, or does not give back its memory after an unload, is killed
    after this time. An answer that still waits for its provider is ended after twice this time."""
    workbench_memory_interval_ms: int = Field(200, ge=20, le=60_000)
    """Time between memory readings while a model answers."""
    workbench_journal_ms: int = Field(500, ge=20, le=60_000)
    """Time between two copies of a running answer to the journal, in case the process is killed."""
    workbench_checkpoint_s: float = Field(60, gt=0, allow_inf_nan=False)
    """How long after its first entry the write-ahead log is put into the database file."""
    workbench_checkpoint_size: Bytes = 16 * 2**20
    """Size at which the write-ahead log is put into the database file."""
    workbench_check_size: Reserve = 256 * 2**20
    """A start checks every block of a database file up to this size."""
    workbench_copy_size: Reserve = 2 * 2**30
    """For a database file up to this size a copy of its last checkpoint is kept in the folder of
    the spool, and takes its place if it is damaged; of a larger one only the metadata, so that a
    kill does it no harm; 0: never."""
    workbench_open_wait_s: float = Field(30, ge=0, allow_inf_nan=False)
    """How long a start waits for another process that is opening the same log, and perhaps mends
    it."""
    workbench_exact_sessions: int = Field(2_000_000, ge=0, le=2**40)
    """In a log with up to this many sessions the percentiles of `model_leaderboard` and
    `latency_percentiles` are computed from every session; in a larger one from counts, to within
    0.25 %."""
    workbench_threads: int = Field(0, ge=0, le=1024)
    """Compute threads of a Hugging Face worker that runs alone; 0: one per physical core."""
    workbench_wait_policy: Literal["auto", "active", "brief", "passive"] = "auto"
    """How compute threads wait for each other: `active` spins for milliseconds, `brief` for the
    microseconds between two operators, `passive` sleeps at once; `auto` is brief on up to four
    cores."""
    workbench_hub_cache: bool = True
    """List models in the hub's cache too; of equal names the one in the model folder is taken."""
    workbench_hub_timeout_s: Seconds = 30
    """Longest silence of the hub during a download."""
    workbench_max_downloads: int = Field(2, ge=1, le=64)
    """Models downloaded at the same time."""
    workbench_download_files: int = Field(4, ge=1, le=32)
    """Files of one model downloaded at the same time."""
    workbench_download_attempts: int = Field(5, ge=1, le=100)
    """How often in a row a broken connection is tried again without a new byte."""
    workbench_disk_reserve: Reserve = 2**30
    """Disk space that a download, or a file kept from the page, must leave free."""
    workbench_job_history: int = Field(100, ge=1, le=100_000)
    """How many ended jobs (downloads, checks, exports) are remembered."""

    # datasets, and what code that models wrote may take
    workbench_dataset_max_size: Bytes = 64 * 2**20
    """Largest dataset in bytes."""
    workbench_dataset_max_items: int = Field(100_000, ge=1, le=10_000_000)
    """Largest dataset in items."""
    workbench_benchmarks: Path = Field(default_factory=lambda: data_folder() / "benchmarks")
    """Folder of your own specs and datasets, listed on the Benchmarks tab; a spec on the page may
    read no other files."""
    workbench_bench_max_in_flight: int = Field(1024, ge=1, le=100_000)
    """The most requests of an open load under way at once; more wait, and the wait counts."""
    workbench_bench_regex_s: Seconds = 1
    """Longest search for a dataset's pattern in one answer; after that the answer has no score."""
    workbench_bench_code_s: Seconds = 10
    """How long code that a model wrote may run when it is tested."""
    workbench_bench_code_memory: Budget = 512 * 2**20
    """How much memory such code may take."""
    workbench_bench_code_output: Bytes = 65_536
    """How much such code may print."""
    workbench_bench_uncontained_code: bool = False
    """Whether code that a model wrote runs even if this machine cannot cut it off from files and
    network."""

    # the log served to other processes, and SQL from outside
    workbench_log_serving: bool = True
    """Whether the log is served over DuckDB's Quack protocol."""
    workbench_log_host: str = "127.0.0.1"
    """Address where the log is served; any but loopback lets others in, and needs a token."""
    workbench_log_port: int = Field(0, ge=0, le=65_535)
    """Port where the log is served; 0: a free one."""
    workbench_log_token: str | None = Field(None, min_length=16, max_length=200)
    """Token that readers of the served log must send, 16 characters or more. Default: a new one at
    each start."""
    workbench_writer_id: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")
    """Name of this workbench in a shared log. Default: the machine's name."""
    workbench_shared_log: ServerUrl = None
    """Address of the server whose log a team shares, for example `http://192.0.2.7:7860`."""
    workbench_shared_log_key: str | None = None
    """That server's `WORKBENCH_API_KEY`."""
    workbench_share_s: float = Field(0, ge=0, le=86_400, allow_inf_nan=False)
    """How often a server sends new sessions to the shared log, never during a generation; 0: only
    when asked (`workbench db share`)."""
    workbench_query_timeout_s: Seconds = 30
    """Longest time that one query to a server may take."""
    workbench_query_max_rows: int = Field(1_000_000, ge=1, le=1_000_000_000)
    """The most rows in the result of a query."""
    workbench_query_memory: Budget = 2**30
    """The most memory that a query may take."""
    workbench_page_query_rows: int = Field(10_000, ge=1, le=1_000_000)
    """The most rows of a result that the page's SQL box takes."""
    workbench_search_s: Seconds = 3
    """How long the History tab searches for words before it says how far it came."""

    @field_validator("hf_enable_gpu", "workbench_log_level", mode="before")
    @classmethod
    def _fold_case(cls, value: object, info: object) -> object:
        if not isinstance(value, str):
            return value
        name = getattr(info, "field_name", "")
        if name == "workbench_log_level":
            return value.strip().upper()
        folded = value.strip().lower()
        return {"1": "true", "yes": "true", "0": "false", "no": "false"}.get(folded, folded)

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.workbench_memory_high > self.workbench_memory_critical:
            raise ValueError(
                "WORKBENCH_MEMORY_HIGH is above WORKBENCH_MEMORY_CRITICAL; give shares of memory "
                "in rising order, for example 0.9 and 0.95"
            )
        return self

    @field_validator(
        "workbench_api_key",
        "workbench_log_token",
        "workbench_shared_log_key",
        "workbench_writer_id",
        mode="before",
    )
    @classmethod
    def _no_empty_key(cls, value: object) -> object:
        return value or None

    @property
    def ollama_servers(self) -> dict[str, str]:
        """Addresses of the Ollama servers by the name of their provider."""
        if len(self.ollama_hosts) > 1:
            return {hosts.provider("ollama", name): url for name, url in self.ollama_hosts.items()}
        return {"ollama": next(iter(self.ollama_hosts.values()), self.ollama_host)}

    @cached_property
    def hub_cache(self) -> Path | None:
        """The hub's cache, where huggingface_hub has it; None if it is not to be looked at."""
        if not self.workbench_hub_cache:
            return None
        xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = self.hf_home or Path(xdg) / "huggingface"
        return Path(os.path.expandvars(self.hf_hub_cache or home / "hub")).expanduser()

    @cached_property
    def writer_id(self) -> str:
        """The name under which this workbench writes into a shared log."""
        host = re.sub(r"[^A-Za-z0-9_.@-]", "-", platform.node()).lstrip("_.@-")[:64]
        return self.workbench_writer_id or host or "unnamed"

    @cached_property
    def threads(self) -> int:
        """Compute threads a Hugging Face worker may use when it runs alone."""
        cores = os.cpu_count() or 1
        if self.workbench_threads:
            return min(self.workbench_threads, cores)
        return psutil.cpu_count(logical=False) or cores


def unknown_variables() -> dict[str, str | None]:
    """Variables that look like settings and are none, each with the setting that is meant."""
    prefix = "WORKBENCH_"
    given = set(os.environ)
    for path in ENV_FILES:
        given |= {name.upper() for name in dotenv_values(path)}
    fields = (name.upper() for name in Settings.model_fields)
    known = {name.removeprefix(prefix) for name in fields if name.startswith(prefix)}
    ours = {name.removeprefix(prefix) for name in given if name.startswith(prefix)}
    found: dict[str, str | None] = {}
    for name in sorted(ours - known):
        if not name.startswith("TEST_"):
            near = difflib.get_close_matches(name, known, 1)
            found[prefix + name] = prefix + near[0] if near else None
    return found


def _named(loc: tuple[int | str, ...], value: object) -> str:
    """A bad variable and what it was, unless that is or holds a secret."""
    if not loc:
        return ""
    name = ".".join(map(str, loc)).upper()
    inside = len(loc) > 1 and loc[-1] not in ("name", "base_url", "server", "concurrency")
    secret = inside or name.endswith(("KEY", "TOKEN"))
    # In a URL or the text of a list it may stand anywhere.
    secret = secret or any(mark in repr(value) for mark in ("api_key", "@"))
    return f"{name}: " if secret else f"{name}={value!r}: "


def _reason(item: Mapping[str, Any]) -> str:
    """Why it is bad, in words for who wrote it."""
    if item["type"] == "extra_forbidden" and item["loc"][0] == "openai_compat_endpoints":
        return (
            f"there is no such field; an endpoint has {', '.join(endpoints.Endpoint.model_fields)}"
        )
    return str(item["msg"]).removeprefix("Value error, ")


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Args:
        overrides: values that win over the environment, by field name.

    Raises:
        WorkbenchError: ``HF_INVALID_CONFIG`` for the seed's ``HF_*`` variables,
            ``INVALID_REQUEST`` for the others; the message names every bad variable.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [_named(item["loc"], item["input"]) + _reason(item) for item in error.errors()]
        seed = all(problem.startswith("HF_") for problem in problems)
        raise WorkbenchError(
            ErrorCode.HF_INVALID_CONFIG if seed else ErrorCode.INVALID_REQUEST,
            f"Bad setting: {'; '.join(problems)}.",
            fix="Correct the variable in the environment or in .env.",
            operation="settings",
        ) from None
