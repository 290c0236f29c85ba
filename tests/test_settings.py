"""Settings come from the environment; a bad one is named with its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import ErrorCode, WorkbenchError
from workbench.settings import Settings, load_settings, unknown_variables

ROOT = Path(__file__).parent.parent
CONTRACT = {
    "HF_MODEL_PATH": ROOT / "data/models/huggingface",
    "HF_MAX_CACHED_MODELS": 3,
    "HF_DEFAULT_TASK": "text-generation",
    "HF_ENABLE_GPU": "auto",
    "HF_MODEL_TIMEOUT_MS": 30_000,
    "HF_STREAM_CHUNK_SIZE": 50,
    "OLLAMA_HOST": "http://127.0.0.1:11434",
    "WORKBENCH_DB": ROOT / "data/workbench.duckdb",
    "WORKBENCH_HOST": "127.0.0.1",
    "WORKBENCH_PORT": 7860,
    "WORKBENCH_API_KEY": None,
    "WORKBENCH_MEMORY_BUDGET": None,
    "WORKBENCH_MAX_QUEUE": 64,
    "WORKBENCH_LOG_LEVEL": "INFO",
    "WORKBENCH_OFFLINE": False,
}


@pytest.mark.parametrize("name", CONTRACT)
def test_defaults(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name, raising=False)
    assert getattr(load_settings(_env_file=None), name.lower()) == CONTRACT[name]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HF_ENABLE_GPU", "TRUE", "true"),
        ("WORKBENCH_LOG_LEVEL", "debug", "DEBUG"),
        ("WORKBENCH_MEMORY_BUDGET", "12GB", 12 * 10**9),
        ("WORKBENCH_MEMORY_BUDGET", "800m", 800 * 10**6),
        ("WORKBENCH_MEMORY_BUDGET", "1.5 GiB", int(1.5 * 2**30)),
        ("OLLAMA_HOST", "10.0.0.5", "http://10.0.0.5:11434"),
        ("OLLAMA_HOST", "0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("OLLAMA_HOST", "https://box.example", "https://box.example:443"),
        ("OLLAMA_HOST", "[::1]:11500", "http://[::1]:11500"),
        ("WORKBENCH_OFFLINE", "1", True),
        (
            "WORKBENCH_FALLBACKS",
            "huggingface/org/a=ollama/b:1b, ollama/c=scripted/steady,",
            {"huggingface/org/a": "ollama/b:1b", "ollama/c": "scripted/steady"},
        ),
        ("WORKBENCH_FALLBACKS", "", {}),
    ],
)
def test_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(_env_file=None), name.lower()) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_MAX_CACHED_MODELS", "0"),
        ("HF_MAX_CACHED_MODELS", "three"),
        ("HF_DEFAULT_TASK", "image-classification"),
        ("HF_ENABLE_GPU", "perhaps"),
        ("HF_MODEL_TIMEOUT_MS", "-1"),
        ("HF_STREAM_CHUNK_SIZE", "0"),
        ("OLLAMA_HOST", "http://a b"),
        ("OLLAMA_HOST", "localhost:99999"),
        ("WORKBENCH_PORT", "70000"),
        ("WORKBENCH_MEMORY_BUDGET", "lots"),
        ("WORKBENCH_MEMORY_BUDGET", "0"),
        ("WORKBENCH_MEMORY_BUDGET", "500"),
        ("WORKBENCH_MAX_QUEUE", "0"),
        ("WORKBENCH_LOG_LEVEL", "LOUD"),
        ("WORKBENCH_OFFLINE", "maybe"),
        ("WORKBENCH_FALLBACKS", "huggingface/a"),
        ("WORKBENCH_FALLBACKS", "huggingface/a=b"),
        ("WORKBENCH_FALLBACKS", "ollama/a=ollama/a"),
        ("WORKBENCH_FALLBACKS", "ollama/a=ollama/b,ollama/a=ollama/c"),
        ("WORKBENCH_TOKEN_TIMEOUT_S", "nan"),
    ],
)
def test_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WorkbenchError, match=name) as caught:
        load_settings(_env_file=None)
    seed = name.startswith("HF_")
    assert caught.value.code is (ErrorCode.HF_INVALID_CONFIG if seed else ErrorCode.INVALID_REQUEST)
    assert caught.value.fix


def test_models_and_log_do_not_depend_on_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A notebook runs in its own folder and must find what the page uses."""
    for name in ("HF_MODEL_PATH", "WORKBENCH_DB"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    assert load_settings(_env_file=None).workbench_db == ROOT / "data/workbench.duckdb"


def test_env_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_DB")
    (tmp_path / ".env").write_text("WORKBENCH_PORT=9000\nSOMETHING_ELSE=1\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().workbench_port == 9000


def test_a_misspelt_variable_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKBENCH_MEMRY_BUDGET", "12GB")
    monkeypatch.setenv("WORKBENCH_XYZ", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("WORKBENCH_PROT=9000\n")
    assert unknown_variables() == {
        "WORKBENCH_MEMRY_BUDGET": "WORKBENCH_MEMORY_BUDGET",
        "WORKBENCH_PROT": "WORKBENCH_PORT",
        "WORKBENCH_XYZ": None,
    }


def endpoints(monkeypatch: pytest.MonkeyPatch, value: str) -> Settings:
    monkeypatch.setenv("OPENAI_COMPAT_ENDPOINTS", value)
    return load_settings(_env_file=None)


def test_endpoints_are_pairs_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoints(monkeypatch, "").openai_compat_endpoints == ()
    pairs = endpoints(monkeypatch, "vllm=http://gpu-box:8000, llama=http://127.0.0.1:8080/v1/,")
    told = [(one.name, one.base_url) for one in pairs.openai_compat_endpoints]
    assert told == [("vllm", "http://gpu-box:8000/v1"), ("llama", "http://127.0.0.1:8080/v1")]
    (one,) = endpoints(
        monkeypatch,
        '[{"name": "box", "base_url": "https://a.example/api/v2", "api_key": "sk-very-secret", '
        '"concurrency": 4}]',
    ).openai_compat_endpoints
    assert one.api_key is not None
    assert one.api_key.get_secret_value() == "sk-very-secret"
    assert "sk-very-secret" not in repr(one)
    assert (one.concurrency, one.scrape_url) == (4, "https://a.example/api/metrics")


@pytest.mark.parametrize(
    "value",
    [
        "vllm",
        "ollama=http://gpu-box:8000",
        "Big=http://gpu-box:8000",
        "a=ftp://gpu-box",
        "a=http://gpu-box,a=http://other",
        '[{"name": "a", "base_url": "http://u:sk-very-secret@gpu-box"}]',
        '[{"name": "a", "base_url": "http://gpu-box", "api_kye": "sk-very-secret"}]',
        '[{"name": "a", "api_key": "sk-very-secret"}]',
        '[{"name": "a", "api_key": "sk-very-secret"',
        '[{"name": "a", "base_url": "http://gpu-box", "api_key": {"x": "sk-very-secret"}}]',
    ],
)
def test_a_bad_endpoint_is_named_and_its_key_is_not(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    with pytest.raises(WorkbenchError) as caught:
        endpoints(monkeypatch, value)
    assert "OPENAI_COMPAT_ENDPOINTS" in caught.value.message
    assert ("base_url, api_key, server" in caught.value.message) == ("api_kye" in value)
    assert "sk-very-secret" not in str(caught.value)
