"""Configuration of the process: environment variables or ``.env``, all validated at start.

A bad value is a :class:`WorkbenchError` that names the variable and the fix.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import platformdirs
import psutil
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from workbench import endpoints
from workbench.errors import ErrorCode, WorkbenchError

_NAME: Final = "llm-workbench"
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(value: object) -> object:
    """Bytes from ``12GB`` or ``12g`` (powers of 1000, as they are shown), ``12 GiB`` (of 1024)."""
    if isinstance(value, str) and value.strip():
        match = _SIZE.match(value)
        if match is None:
            raise ValueError("give a size such as 12GB or 800MB")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].lower()])
    return None if value == "" else value


def _ollama_url(value: str) -> str:
    """Normalise OLLAMA_HOST as Ollama reads it: scheme and port are optional."""
    text = value.strip().rstrip("/")
    if not text:
        text = "127.0.0.1:11434"
    if "://" not in text:
        text = f"http://{text}"
    match = re.match(r"^(https?)://(\[[0-9a-fA-F:]+\]|[\w.-]+)(?::(\d{1,5}))?$", text)
    if match is None or not 0 < int(match[3] or 1) < 65536:
        raise ValueError("give host:port or a URL, for example http://127.0.0.1:11434")
    scheme, host = match[1], match[2]
    port = match[3] or ("443" if scheme == "https" else "11434")
    # A server may listen on every address; a client cannot connect to "every address".
    everywhere = host == "0.0.0.0"  # noqa: S104
    return f"{scheme}://{'127.0.0.1' if everywhere else host}:{port}"


def checkout() -> Path | None:
    """The checkout this package runs from; None where it was installed from a wheel."""
    folder = Path(__file__).parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def data_folder() -> Path:
    """Where models and log are unless a setting says otherwise: ``data/`` of the checkout.

    Without one it is the user's data folder as the platform has it, on Linux
    ``~/.local/share/llm-workbench``. Never the working directory: notebooks run in their own
    folder, and they must find the same models and the same log.
    """
    folder = checkout()
    return folder / "data" if folder else platformdirs.user_data_path(_NAME, appauthor=False)


def shipped(folder: str) -> Path:
    """A folder of data files that come with the workbench.

    Args:
        folder: its path in the checkout, ``data/datasets`` for example; a wheel has its last part
            in the package.
    """
    root = checkout()
    return root / folder if root else Path(__file__).parent / "shipped" / Path(folder).name


_MODEL_ID = re.compile(r"^[^\s/=,]+/[^\s=,]+$")


def _fallbacks(value: object) -> object:
    """``huggingface/a=ollama/b,...`` as a mapping from the model that failed to who answers."""
    if not isinstance(value, str):
        return value
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        model, _, fallback = (part.strip() for part in item.partition("="))
        if not (_MODEL_ID.match(model) and _MODEL_ID.match(fallback)):
            raise ValueError(
                f"{item!r} is no pair of model ids; give provider/model=provider/model"
            )
        if model == fallback:
            raise ValueError(f"{model} cannot be its own fallback")
        if model in pairs:
            raise ValueError(f"{model} has two fallbacks")
        pairs[model] = fallback
    return pairs


Fallbacks = Annotated[dict[str, str], NoDecode, BeforeValidator(_fallbacks)]
Endpoints = Annotated[
    endpoints.Endpoints,
    NoDecode,
    BeforeValidator(endpoints.read),
    AfterValidator(endpoints.distinct),
]
Size = Annotated[int | None, Field(ge=2**20), BeforeValidator(parse_size)]
Bytes = Annotated[int, Field(ge=1), BeforeValidator(parse_size)]
Reserve = Annotated[int, Field(ge=0), BeforeValidator(lambda value: parse_size(value) or 0)]
OptionalReserve = Annotated[
    int | None,
    Field(ge=0),
    BeforeValidator(lambda v: None if v is None or v == "" else parse_size(v) or 0),
]
Share = Annotated[float, Field(gt=0, le=1)]
Budget = Annotated[int, Field(ge=2**26), BeforeValidator(parse_size)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


ENV_FILES: Final = (
    (checkout() or platformdirs.user_config_path(_NAME, appauthor=False)) / ".env",
    Path(".env"),
)
"""Read in this order; the later one wins, and a variable of the environment over both."""


class Settings(BaseSettings):
    """All settings with their defaults; the environment variable is the alias in upper case."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILES, env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    # Hugging Face
    hf_model_path: Path = Field(default_factory=lambda: data_folder() / "models/huggingface")
    hf_max_cached_models: int = Field(3, ge=1, le=1000)
    hf_default_task: Literal["text-generation"] = "text-generation"
    hf_enable_gpu: Literal["auto", "true", "false"] = "auto"
    hf_model_timeout_ms: int = Field(30_000, ge=100, le=3_600_000)
    hf_quality_timeout_ms: int = Field(120_000, ge=0, le=3_600_000)
    hf_stream_chunk_size: int = Field(50, ge=1, le=100_000)
    hf_load_options: str = ""
    hf_max_batch: int = Field(32, ge=1, le=1024)
    hf_kv_cache_budget: Size = None
    hf_prompt_weights_limit: Reserve = 2 * 10**9
    hf_home: Path | None = None
    hf_hub_cache: Path | None = None
    hf_endpoint: str | None = None

    # Ollama
    ollama_host: Annotated[str, AfterValidator(_ollama_url)] = "http://127.0.0.1:11434"

    # servers that speak OpenAI's API
    openai_compat_endpoints: Endpoints = ()

    # the workbench itself
    workbench_db: Path = Field(default_factory=lambda: data_folder() / "workbench.duckdb")
    workbench_host: str = "127.0.0.1"
    workbench_port: int = Field(7860, ge=1, le=65_535)
    workbench_api_key: str | None = None
    workbench_memory_budget: Size = None
    workbench_gpu_memory_budget: Size = None
    workbench_memory_reserve: OptionalReserve = None
    workbench_memory_high: Share = 0.9
    workbench_memory_critical: Share = 0.95
    workbench_memory_band: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    workbench_memory_watch_s: Seconds = 1.0
    workbench_runtime_watch_s: Seconds = 5.0
    workbench_evict_others: bool = False
    workbench_max_queue: int = Field(64, ge=1, le=100_000)
    workbench_max_queue_per_model: int = Field(32, ge=1, le=100_000)
    workbench_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    workbench_log_lines: int = Field(5_000, ge=0, le=1_000_000)
    workbench_timeline_s: Seconds = 5
    workbench_timeline_readings: int = Field(720, ge=2, le=100_000)
    workbench_offline: bool = False
    workbench_fallbacks: Fallbacks = Field(default_factory=dict)

    # bounds and waits
    workbench_max_prompt_bytes: int = Field(262_144, ge=1)
    workbench_max_image_bytes: Bytes = 20 * 10**6
    workbench_max_history: int = Field(400, ge=1)
    workbench_max_body: Bytes = 8 * 2**20
    workbench_max_header_bytes: int = Field(16_384, ge=1024, le=2**20)
    workbench_body_timeout_s: Seconds = 30
    workbench_max_requests: int = Field(256, ge=1, le=100_000)
    workbench_client_connections: int = Field(256, ge=1, le=100_000)
    workbench_rate_limit: float = Field(100, ge=0, le=1e6, allow_inf_nan=False)
    workbench_health_timeout_s: Seconds = 2
    workbench_low_memory: Reserve = 2**30
    workbench_low_disk: Reserve = 2 * 2**30
    workbench_lag_warning_ms: int = Field(250, ge=1, le=60_000)
    workbench_graphql_introspection: bool = True
    workbench_graphql_max_depth: int = Field(10, ge=1, le=1000)
    workbench_graphql_max_aliases: int = Field(15, ge=0, le=10_000)
    workbench_graphql_max_tokens: int = Field(2000, ge=10, le=1_000_000)
    workbench_detach_grace_s: Seconds = 60
    workbench_arena_chars_per_s: int = Field(400, ge=10, le=1_000_000)
    workbench_stream_buffer: int = Field(4096, ge=16, le=10_000_000)
    workbench_stream_keep_s: Seconds = 120
    workbench_streams_kept: int = Field(100, ge=0, le=100_000)
    workbench_keep_alive_s: float = Field(300, ge=0, allow_inf_nan=False)
    workbench_log_wait_s: Seconds = 5
    workbench_queue_timeout_s: Seconds = 600
    workbench_patience_s: Seconds = 180
    workbench_benchmark_patience_s: Seconds = 480
    workbench_failed_load_s: float = Field(60, ge=0, le=86_400, allow_inf_nan=False)
    workbench_first_token_timeout_s: Seconds = 300
    workbench_token_timeout_s: Seconds = 60
    workbench_total_timeout_s: Seconds = 1800
    workbench_cancel_grace_s: Seconds = 10
    workbench_memory_interval_ms: int = Field(200, ge=20, le=60_000)
    workbench_journal_ms: int = Field(500, ge=20, le=60_000)
    workbench_checkpoint_s: float = Field(60, gt=0, allow_inf_nan=False)
    workbench_checkpoint_size: Bytes = 16 * 2**20
    workbench_check_size: Reserve = 256 * 2**20
    workbench_copy_size: Reserve = 2 * 2**30
    workbench_exact_sessions: int = Field(2_000_000, ge=0, le=2**40)
    workbench_threads: int = Field(0, ge=0, le=1024)
    workbench_wait_policy: Literal["auto", "active", "passive"] = "auto"
    workbench_hub_cache: bool = True
    workbench_hub_timeout_s: Seconds = 30
    workbench_max_downloads: int = Field(2, ge=1, le=64)
    workbench_download_files: int = Field(4, ge=1, le=32)
    workbench_download_attempts: int = Field(5, ge=1, le=100)
    workbench_disk_reserve: Reserve = 2**30
    workbench_job_history: int = Field(100, ge=1, le=100_000)

    # datasets, and what code that models wrote may take
    workbench_dataset_max_size: Bytes = 64 * 2**20
    workbench_dataset_max_items: int = Field(100_000, ge=1, le=10_000_000)
    workbench_benchmarks: Path = Field(default_factory=lambda: data_folder() / "benchmarks")
    workbench_bench_max_in_flight: int = Field(1024, ge=1, le=100_000)
    workbench_bench_regex_s: Seconds = 1
    workbench_bench_code_s: Seconds = 10
    workbench_bench_code_memory: Budget = 512 * 2**20
    workbench_bench_code_output: Bytes = 65_536
    workbench_bench_uncontained_code: bool = False

    # the log served to other processes, and SQL from outside
    workbench_log_serving: bool = True
    workbench_log_host: str = "127.0.0.1"
    workbench_log_port: int = Field(0, ge=0, le=65_535)
    workbench_log_token: str | None = Field(None, min_length=16, max_length=200)
    workbench_query_timeout_s: Seconds = 30
    workbench_query_max_rows: int = Field(1_000_000, ge=1, le=1_000_000_000)
    workbench_query_memory: Budget = 2**30
    workbench_page_query_rows: int = Field(10_000, ge=1, le=1_000_000)
    workbench_search_s: Seconds = 3

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

    @field_validator("workbench_api_key", "workbench_log_token", mode="before")
    @classmethod
    def _no_empty_key(cls, value: object) -> object:
        return value or None

    @cached_property
    def hub_cache(self) -> Path | None:
        """The hub's cache, where huggingface_hub has it; None if it is not to be looked at."""
        if not self.workbench_hub_cache:
            return None
        xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = self.hf_home or Path(xdg) / "huggingface"
        return Path(os.path.expandvars(self.hf_hub_cache or home / "hub")).expanduser()

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
        problems = [
            _named(item["loc"], item["input"]) + item["msg"].removeprefix("Value error, ")
            for item in error.errors()
        ]
        seed = all(problem.startswith("HF_") for problem in problems)
        raise WorkbenchError(
            ErrorCode.HF_INVALID_CONFIG if seed else ErrorCode.INVALID_REQUEST,
            f"Bad setting: {'; '.join(problems)}.",
            fix="Correct the variable in the environment or in .env.",
            operation="settings",
        ) from None
