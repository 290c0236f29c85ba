"""Whether the tensors in the files and those of the model match (heavy imports are late).

transformers fills what the files lack with random numbers and goes on, and peft leaves an adapter
as it was initialised. Such a model answers, differently in every process; here it is refused.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError

UNUSED: Final = "WEIGHTS_UNUSED"
"""Code of the warning that the files hold tensors which the model has no place for."""
_REPORTING: Final[Mapping[str, Any]] = {
    "local_files_only": True,
    "trust_remote_code": False,
    # What does not match is told, and refused in our words, not in a report on a terminal.
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,
}
"""How transformers is asked for a model and for its report."""
_UNCONVERTED: Final = re.compile(
    r"(?:Sizes of tensors must match|to be equal size)[^\n]*\n"
    r"Error: \w+ on tensors destined for (\S+)\. Ckpt contains"
)
"""In transformers' log: tensors of the files that do not make one of the model's together."""

_SHOWN: Final = 4
_COMPUTED: Final = re.compile(r"(^|\.)((original_)?inv_freq|position_ids)$")
"""Buffers that the model computes by itself; old files hold them, new ones do not."""
_LEFTOVERS: Final = re.compile(
    # Masks and rotary tables that older releases saved,
    r"(attn|attention)\.(masked_)?bias$|inv_freq$|position_ids$|^rope_freqs|rotary_emb\.|"
    # heads of training, and the parts for pictures and sound of a model that is run for text,
    r"(^|\.)(mtp|v_head|score|vision_tower|vision_model|visual|audio_tower|multi_modal_projector)\.|"
    # ranges of activations and of a cache that are not rounded here.
    r"\.[kvq]_(scale|zero_point)$|\.(input|output|activation)_(scale|zero_point)$"
)
_PACKED: Final = ("qweight", "weight_packed", "W_q")
"""Names of weights in blocks, in place of ``weight``."""
_SCALES: Final = re.compile(
    r"\.(weight_(scale\w*|zero_point|global_scale)|SCB|weight\.(nested_)?(absmax|quant_map))$"
)
"""What a rounded ``weight`` is to be multiplied with."""
_MISMATCH: Final = re.compile(
    r"size mismatch for (\S+): copying a param with shape (?:torch\.Size\()?(\[[\d, ]*\]).*?"
    r"current model is (?:torch\.Size\()?(\[[\d, ]*\])"
)
_ONE_REVISION: Final = (
    "Download all files of the model again, from one revision; or choose another revision."
)
_PEFT_PARTS: Final = re.compile(r"^base_model\.model\.|\.default(?=\.|$)")


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a model would not be what its files are for.

    ``problem`` is the end of a sentence that begins with the model; ``tensors`` are the names that
    it is about, by the kind of what is wrong with them.
    """

    problem: str
    fix: str
    tensors: Mapping[str, list[str]]


def open_model(source: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """A model as transformers makes it, and what it reports (imports transformers).

    Args:
        source: a folder.
        options: for ``from_pretrained``.

    Returns:
        The model, and the report of ``output_loading_info=True``, tied weights done. Where tensors
        of the files could not be put together, None, and their names under ``unconverted``.

    Raises:
        Exception: whatever else transformers raises.
    """
    from transformers import AutoModelForCausalLM

    with _log_of_a_load() as log:
        try:
            model, report = AutoModelForCausalLM.from_pretrained(source, **_REPORTING, **options)
        except RuntimeError:
            unconverted = sorted(set(_UNCONVERTED.findall(log.getvalue())))
            if not unconverted:
                raise
            return None, {"unconverted": unconverted}
    return model, report


@contextmanager
def _log_of_a_load() -> Iterator[io.StringIO]:
    """What transformers logs of a load, which its errors only point to."""
    logger, log = logging.getLogger("transformers.modeling_utils"), io.StringIO()
    handler = logging.StreamHandler(log)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def compare(folder: Path) -> Misfit | None:
    """What a load would find wrong, from names and shapes alone.

    The model is made without memory for its weights, and transformers goes through the files as
    for a load: headers are read, renamings and conversions done, weights only mapped.

    Args:
        folder: of a model in safetensors.

    Raises:
        Exception: as :func:`open_model`; nothing is known then.
    """
    _, report = open_model(str(folder), dtype="auto", use_safetensors=True, device_map="meta")
    return misfit(report)


def check(name: str, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Refuse a model that the files do not fill.

    Args:
        name: of the model, for the message.
        report: as for :func:`misfit`.

    Returns:
        Fields of a warning if the files hold more than the model takes.

    Raises:
        WorkbenchError: ``HF_MODEL_LOAD_FAILED`` with the tensors; ``details.misfit`` is the problem
            as :class:`Misfit` has it.
    """
    found = misfit(report)
    if found is not None:
        raise _failed(
            f"{name} {found.problem}.", found.fix, {"misfit": found.problem}, **found.tensors
        )
    unused = sorted(key for key in report["unexpected_keys"] if not _LEFTOVERS.search(key))
    if not unused:
        return []
    message = (
        f"The files hold {_tensors(unused)} that the model has no place for by its configuration, "
        f"and that were left out: {_listed(unused)}."
    )
    return [{"code": UNUSED, "message": message, "details": {"unused": unused[:100]}}]


def misfit(report: Mapping[str, Any]) -> Misfit | None:
    """What is missing, has another shape or would be read wrongly.

    Args:
        report: of :func:`open_model`.
    """
    if apart := report.get("unconverted"):
        return Misfit(
            f"has tensors that do not make {_tensors(apart)} of its architecture together, because "
            f"some are missing or have other shapes: {_listed(apart)}",
            _ONE_REVISION,
            {"unconverted": apart},
        )
    unread = list(_unread(report))
    if unread:
        return Misfit(
            "is quantised in a way that its configuration does not name, or that transformers does "
            f"not read: {_tensors(unread)} would be left out, without which its weights are other "
            f"numbers: {_listed(unread)}",
            "Download config.json again (quantization_config), or choose another form of it.",
            {"unread": unread},
        )
    wrong = [
        f"{key} is {_shape(has)} in the files, but {_shape(wants)} by the configuration"
        for key, has, wants in sorted(report["mismatched_keys"])
    ]
    if wrong:
        return Misfit(
            f"has tensors of other shapes than its configuration says: {_listed(wrong)}",
            _ONE_REVISION,
            {"mismatched": wrong},
        )
    missing = sorted(key for key in report["missing_keys"] if not _COMPUTED.search(key))
    if missing:
        return Misfit(
            f"lacks {_tensors(missing)} of its configuration, which would be random numbers: "
            f"{_listed(missing)}",
            _ONE_REVISION,
            {"missing": missing},
        )
    return None


def _unread(report: Mapping[str, Any]) -> Iterator[str]:
    """Tensors of quantised weights that were left out, though the model has those weights."""
    missing, unexpected = report["missing_keys"], report["unexpected_keys"]
    for key in sorted(unexpected):
        if _LEFTOVERS.search(key):
            continue
        module, _, name = key.rpartition(".")
        if name in _PACKED and f"{module}.weight" in missing:
            yield key
        elif scales := _SCALES.search(key):
            module = key[: scales.start()]
            # Of a module that the model does not have, the weight itself is left out as well.
            if not any(f"{module}.{name}" in unexpected for name in ("weight", *_PACKED)):
                yield key


def with_adapter(model: Any, adapter: Path) -> Any:
    """The model with a LoRA adapter merged into it.

    Raises:
        WorkbenchError: ``HF_MODEL_LOAD_FAILED`` if the adapter does not fit, with its tensors.
    """
    from peft import PeftModel  # rarely needed

    name = f"The LoRA adapter {adapter.name}"
    try:
        adapted = PeftModel.from_pretrained(model, adapter)
        # Only this call tells what matched; an adapter is small, and read twice in no time.
        result = adapted.load_adapter(adapter, "default", torch_device=str(model.device))
    except (RuntimeError, ValueError, KeyError) as error:
        wrong = [
            f"{_plain(key)} is {has} in the adapter, but {wants} for this base"
            for key, has, wants in _MISMATCH.findall(str(error))
        ]
        if not wrong and "memory" in str(error):
            raise
        cause = f"has other shapes: {_listed(wrong)}" if wrong else f"cannot be applied: {error}"
        raise _failed(
            f"{name} does not fit its base: it {cause[:1000].rstrip('.')}.",
            "Use the base that it was trained on (base_model_name_or_path in adapter_config.json).",
            mismatched=wrong,
        ) from error
    unexpected, missing = (
        sorted({_plain(key) for key in keys})
        for keys in (result.unexpected_keys, result.missing_keys)
    )
    if unexpected or missing:
        parts = []
        if unexpected:
            parts.append(f"nothing in the base goes by the name of {_listed(unexpected)}")
        if missing:
            parts.append(f"it lacks {_listed(missing)}, which would be random numbers")
        raise _failed(
            f"{name} does not fit its base: {'; '.join(parts)}.",
            "Use the base that it was trained on, or download the adapter again.",
            unmatched=unexpected,
            missing=missing,
        )
    return adapted.merge_and_unload()


def _plain(key: str) -> str:
    """A tensor's name as the adapter's file has it, without peft's own parts."""
    return _PEFT_PARTS.sub("", key)


def _shape(sizes: Iterable[int]) -> str:
    return str(list(sizes))


def _tensors(keys: Collection[str]) -> str:
    return f"{len(keys)} tensor{'' if len(keys) == 1 else 's'}"


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _failed(
    message: str, fix: str, more: Mapping[str, str] | None = None, **tensors: list[str]
) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_MODEL_LOAD_FAILED,
        message,
        fix=fix,
        operation="load",
        provider="huggingface",
        details={**(more or {}), **{kind: names[:100] for kind, names in tensors.items() if names}},
    )
