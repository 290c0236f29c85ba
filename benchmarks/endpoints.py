"""The provider of endpoints against real servers: llama.cpp's, and ``transformers serve``.

Starts each in turn and asks the same things of it, so that what a server does or refuses is seen::

    python -m benchmarks.endpoints --folder DIR --gguf FILE

Prints a line a promise, and JSON last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import HttpPeer, LlamaCpp, Serve
from workbench.endpoints import Endpoint, Server
from workbench.errors import WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.openai_compat import OpenAICompatProvider
from workbench.types import (
    ChatRequest,
    Message,
    Options,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
)

Told = dict[str, Any]


async def ask(
    provider: OpenAICompatProvider,
    model: str,
    text: str = "Name three colors.",
    each: Callable[[CancellationToken], None] = lambda cancel: None,
    **options: Any,
) -> list[ProviderEvent]:
    """All events of one answer."""
    chosen = Options(**{"temperature": 0.0, "max_tokens": 24, **options})
    request = ChatRequest(f"peer/{model}", (Message("user", text),), chosen)
    cancel, events = CancellationToken(), []
    await provider.load(model, keep_alive_s=1)
    async for event in provider.stream(request, model, 7, cancel):
        events.append(event)
        each(cancel)
    return events


def texts(events: list[ProviderEvent]) -> str:
    """The answer."""
    return "".join(event.text for event in events if isinstance(event, ProviderToken))


async def promises(provider: OpenAICompatProvider, model: str) -> Told:
    """What a server does of what may be asked."""
    told: Told = {}
    greedy = await ask(provider, model)
    finish = greedy[-1]
    assert isinstance(finish, ProviderFinish)
    told["answer"] = texts(greedy)
    told["counts"] = [finish.prompt_tokens, finish.output_tokens]
    told["streamed"] = sum(e.n_tokens for e in greedy if isinstance(e, ProviderToken))
    told["greedy_again"] = texts(await ask(provider, model)) == told["answer"]
    word = told["answer"].split()[1]
    drawn = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}

    async def stops() -> str:
        return texts(await ask(provider, model, stop=(word,)))

    async def seed_decides() -> bool:
        return len({texts(await ask(provider, model, **drawn)) for _ in range(3)}) == 1

    async def logprobs() -> int:
        first = (await ask(provider, model, logprobs=2))[0]
        return len(first.logprobs) if isinstance(first, ProviderToken) else 0

    async def response_format() -> str:
        return texts(await ask(provider, model, response_format={"type": "json_object"}))

    async def repetition_penalty() -> str:
        return texts(await ask(provider, model, repetition_penalty=1.3))

    for promise in (seed_decides, logprobs, response_format, repetition_penalty, stops):
        try:
            told[promise.__name__] = await promise()
        except WorkbenchError as error:
            told[promise.__name__] = f"{error.code}: {error.message}"[:160]
    began = time.monotonic()
    await ask(provider, model, "Tell a long story.", lambda c: c.cancel("user"), max_tokens=400)
    told["cancelled_after_s"] = round(time.monotonic() - began, 2)
    began = time.monotonic()
    await ask(provider, model, max_tokens=1)
    told["free_again_after_s"] = round(time.monotonic() - began, 2)
    return told


def run(peer: HttpPeer, server: Server, models: tuple[str, ...] = ()) -> Told:
    """Start a peer, register it, ask."""

    async def all_of_it() -> Told:
        endpoint = Endpoint(name="peer", base_url=peer.url, server=server, models=models)
        provider = OpenAICompatProvider(endpoint)
        try:
            names = [info.name for info in await provider.list_models()]
            return {"lists": len(names), **await promises(provider, (*models, *names)[0])}
        finally:
            await provider.close()

    with peer:
        return asyncio.run(all_of_it())


def main() -> None:
    """Both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="safetensors, for transformers serve")
    parser.add_argument("--gguf", type=Path, help="for llama.cpp")
    arguments = parser.parse_args()
    found: dict[str, Told] = {}
    if arguments.gguf:
        found["llama.cpp"] = run(LlamaCpp(arguments.gguf, slots=1, threads=1), "auto")
    if arguments.folder:
        folder = arguments.folder
        for continuous in (False, True):
            peer = Serve(folder, continuous=continuous)
            found[peer.title] = run(peer, "transformers", (str(folder),))
    for name, told in found.items():
        print(name)
        for promise, value in told.items():
            print(f"  {promise:20} {value!r}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
