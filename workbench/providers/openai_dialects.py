"""How each server that speaks OpenAI's API spells what that API has no word for. Pure.

Servers differ in two ways: names of options, and what they ignore without a word. Nothing that
would change an answer may be ignored, so what a server is known to ignore is refused or warned of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from workbench.endpoints import Server
from workbench.errors import WorkbenchError, invalid
from workbench.types import Options, ProviderWarning


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server takes beyond OpenAI's fields.

    Attributes:
        top_k, repetition_penalty, num_ctx: the fields' names; None where there is none.
        no_top_k: how it writes that there is no such limit.
        always: fields that undo defaults which other runtimes do not have.
        with_penalty: the same where there is a repetition penalty.
        config: a field that takes generation options as JSON text, in place of the body.
        ignores: fields of OpenAI that it accepts and does nothing with.
        usage: whether it knows ``stream_options``.
        open_top_p: whether ``top_p`` 1 is out of its bounds.
    """

    top_k: str | None = None
    no_top_k: int = 0
    repetition_penalty: str | None = None
    num_ctx: str | None = None
    always: tuple[tuple[str, Any], ...] = ()
    with_penalty: tuple[tuple[str, Any], ...] = ()
    config: str | None = None
    ignores: frozenset[str] = frozenset()
    usage: bool = True
    open_top_p: bool = False


DIALECTS: Final[Mapping[Server, Dialect]] = {
    "openai": Dialect(),
    "vllm": Dialect(top_k="top_k", no_top_k=-1, repetition_penalty="repetition_penalty"),
    "sglang": Dialect(top_k="top_k", no_top_k=-1, repetition_penalty="repetition_penalty"),
    "tgi": Dialect(open_top_p=True),
    "llama.cpp": Dialect(
        top_k="top_k",
        repetition_penalty="repeat_penalty",
        always=(("min_p", 0.0),),  # else tokens below 5 % of the likeliest are left out
        # It looks back 64 tokens by default, transformers over the whole context.
        with_penalty=(("repeat_last_n", 131_072),),
    ),
    "transformers": Dialect(
        top_k="top_k",
        repetition_penalty="repetition_penalty",
        config="generation_config",
        ignores=frozenset({"response_format", "logprobs"}),
        usage=False,  # its last chunk has the counts, asked for or not
    ),
    "workbench": Dialect(top_k="top_k", repetition_penalty="repetition_penalty", num_ctx="num_ctx"),
}

_OWNERS: Final[Mapping[str, Server]] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
}


def recognised(entries: list[Mapping[str, Any]]) -> Server:
    """What answers, from its list of models; plain OpenAI where that does not say."""
    for entry in entries:
        if isinstance(entry.get("workbench"), Mapping):
            return "workbench"
        owner = entry.get("owned_by")
        if isinstance(owner, str) and owner in _OWNERS:
            return _OWNERS[owner]
    return "openai"


def sampling(
    options: Options, seed: int, server: Server
) -> tuple[dict[str, Any], list[ProviderWarning]]:
    """The fields of a request that say how to sample, and what the answer's reader must know.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, an option was chosen that this server cannot do.
    """
    dialect = DIALECTS[server]
    warnings: list[ProviderWarning] = []
    body: dict[str, Any] = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "seed": seed,
    }
    if not (dialect.open_top_p and options.top_p == 1):
        body["top_p"] = options.top_p
    if options.stop:
        body["stop"] = list(options.stop)
    own: dict[str, Any] = dict(dialect.always)
    if dialect.top_k is not None:
        own[dialect.top_k] = options.top_k or dialect.no_top_k
    elif options.top_k and options.temperature > 0:
        warnings.append(
            ProviderWarning(
                "OPTION_NOT_SENT",
                f"This server has no top_k: it drew from more tokens than the {options.top_k} "
                "likeliest. With top_k 0 or temperature 0 runtimes compare.",
                {"option": "top_k", "server": server},
            )
        )
    if dialect.repetition_penalty is not None:
        own[dialect.repetition_penalty] = options.repetition_penalty
        own |= dict(dialect.with_penalty) if options.repetition_penalty != 1 else {}
    elif options.repetition_penalty != 1:
        raise _cannot("repetition_penalty", server, "Leave it at 1.")
    if options.num_ctx is not None:
        if dialect.num_ctx is None:
            raise _cannot(
                "num_ctx", server, "Leave num_ctx out: its context is set where it is started."
            )
        own[dialect.num_ctx] = options.num_ctx
    if dialect.config is None:
        return {**body, **own}, warnings
    # Given one, it forgets the model's own, and with continuous batching its end token too. So it
    # is given one only where it must be: without, a temperature alone does not make it sample.
    if options.temperature == 0 and options.repetition_penalty == 1:
        del body["top_p"]
        return body, warnings
    own |= {name: body.pop(name) for name in ("temperature", "top_p")}
    if options.temperature == 0:
        own = {k: v for k, v in own.items() if k not in ("temperature", "top_p", dialect.top_k)}
    own |= {"do_sample": options.temperature > 0, "max_new_tokens": options.max_tokens}
    return {**body, dialect.config: json.dumps(own)}, warnings


def refuse_ignored(body: Mapping[str, Any], server: Server) -> None:
    """Raise ``INVALID_REQUEST`` for a field that this server would accept and ignore."""
    for name in sorted(DIALECTS[server].ignores & body.keys()):
        raise _cannot(name, server, f"Leave {name} out, or choose another runtime.")


def _cannot(option: str, server: Server, fix: str) -> WorkbenchError:
    what = "A server of this kind (plain OpenAI)" if server == "openai" else f"A {server} server"
    return invalid(f"{what} has no {option}.", fix=fix, option=option, server=server)
