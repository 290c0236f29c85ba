"""Load options: how a model is brought into memory, written into its name.

``huggingface/NAME?quantization=int8&dtype=float32`` is the model NAME loaded that way. Two ways of
loading one model are two resident models, so that they can be compared side by side, and every row
of the log says which one answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, ClassVar, Final, Self

from workbench.errors import ErrorCode, WorkbenchError

MARK: Final = "?"
_DEVICE: Final = re.compile(r"^(auto|cpu|cuda(:\d{1,2})?)$")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    Attributes:
        dtype: of the weights; ``auto`` keeps what the files hold.
        device: ``auto`` takes the GPU with the most free memory if there is one, else the CPU.
        quantization: ``int8`` or ``int4`` weights, made while loading. Refused where the quality
            check of this machine fails.
        attention: implementation by transformers' name; ``auto`` leaves the choice to it.
        engine: ``auto`` takes the fastest way that passes the quality check, ``plain`` runs the
            model exactly as transformers loads it, one request at a time.
        prompts: ``auto`` reads prompts in bfloat16 too, where the processor multiplies that and it
            is right and quicker; ``step`` always reads them as decoding steps compute.
        threads: compute threads at most; 0 leaves it to ``WORKBENCH_THREADS``.
        num_ctx: context limit in tokens; 0 is the model's own.
    """

    dtype: str = "auto"
    device: str = "auto"
    quantization: str = "none"
    attention: str = "auto"
    engine: str = "auto"
    prompts: str = "auto"
    threads: int = 0
    num_ctx: int = 0

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "dtype": ("auto", "float32", "bfloat16", "float16"),
        "quantization": ("none", "int8", "int4"),
        "attention": ("auto", "sdpa", "eager", "flash_attention_2"),
        "engine": ("auto", "plain"),
        "prompts": ("auto", "step"),
    }
    BOUNDS: ClassVar[Mapping[str, int]] = {"threads": 1024, "num_ctx": 10_000_000}

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise _bad(name, getattr(self, name), f"one of {', '.join(choices)}")
        if not _DEVICE.match(self.device):
            raise _bad("device", self.device, "auto, cpu, cuda or cuda:0")
        for name, most in self.BOUNDS.items():
            if not 0 <= getattr(self, name) <= most:
                raise _bad(name, getattr(self, name), f"a number from 0 to {most}")
        if self.engine == "plain" and self.quantization != "none":
            raise _bad("engine", "plain", "auto, as quantization needs it")

    @classmethod
    def parse(cls, text: str, defaults: Self | None = None) -> Self:
        """From ``quantization=int8&threads=2``; what is not named is as in ``defaults``.

        Raises:
            WorkbenchError: ``HF_INVALID_CONFIG`` that names the option and what it may be.
        """
        base = defaults if defaults is not None else cls()
        values: dict[str, Any] = {field.name: getattr(base, field.name) for field in fields(cls)}
        given: set[str] = set()
        for item in filter(None, text.split("&")):
            name, equals, value = item.partition("=")
            if name in given:
                raise _bad(name, value, "given once")
            given.add(name)
            if name in values and not equals:
                raise _bad(name, "", f"given a value, as in NAME?{name}={values[name]}")
            if name not in values:
                raise WorkbenchError(
                    ErrorCode.HF_INVALID_CONFIG,
                    f"Unknown load option {item!r}.",
                    fix=f"The load options are {', '.join(values)}, "
                    "for example NAME?quantization=int8.",
                    operation="load",
                    provider="huggingface",
                )
            values[name] = _converted(name, value)
        return cls(**values)

    def check_installed(self) -> None:
        """Refuse what the installed packages cannot do, before anything leaves memory for it.

        Raises:
            WorkbenchError: ``HF_INVALID_CONFIG`` with what is missing.
        """
        if self.device.startswith("cuda") and _torch().endswith("+cpu"):
            raise _missing(
                f"device={self.device} needs a CUDA build of torch; installed is {_torch()}.",
                "Leave device out, or install a CUDA build of torch and its driver.",
            )
        # The package kernels is not enough: it asks the hub, which workers never do.
        if self.attention == "flash_attention_2" and not find_spec("flash_attn"):
            raise _missing(
                "attention=flash_attention_2 needs the package flash-attn, which is not installed.",
                "Leave attention out, or pip install flash-attn (for NVIDIA GPUs).",
            )

    def text(self) -> str:
        """What :meth:`parse` reads, in a fixed order; empty when all is as by default."""
        default = type(self)()
        return "&".join(
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        )


def canonical(name: str) -> str:
    """The one spelling of a name: options in a fixed order, those at their default left out.

    Raises:
        WorkbenchError: as :meth:`LoadOptions.parse`.
    """
    base, options = split_name(name)
    text = LoadOptions.parse(options).text()
    return f"{base}{MARK}{text}" if text else base


def split_name(name: str) -> tuple[str, str]:
    """The model's name and its load options as text: ``("NAME", "quantization=int8")``."""
    base, _, options = name.partition(MARK)
    return base, options


def _converted(name: str, value: str) -> Any:
    if name in LoadOptions.BOUNDS:
        if not value.isdecimal():
            raise _bad(name, value, f"a number from 0 to {LoadOptions.BOUNDS[name]}")
        return int(value)
    return value


@lru_cache(maxsize=1)
def _torch() -> str:
    return version("torch")


def _missing(message: str, fix: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_INVALID_CONFIG, message, fix=fix, operation="load", provider="huggingface"
    )


def _bad(name: str, value: object, wanted: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_INVALID_CONFIG,
        f"The load option {name} is {value!r}.",
        fix=f"It must be {wanted}.",
        operation="load",
        provider="huggingface",
        details={"option": name},
    )
