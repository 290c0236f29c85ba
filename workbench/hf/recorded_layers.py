"""The layers of a model as recorded graphs: one for all that are alike, each with its own weights.

A model of thirty layers is recorded in a fifth of the time this way, and the graph of its step is
the same one: the recorder puts the layers' graphs where they are called (imports torch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.utils import _pytree as pytree
from transformers.cache_utils import Cache

Window = Sequence[torch.Tensor]
"""Keys or values of each layer, of shape (requests, tokens, heads, head size)."""
CacheOf = Callable[[torch.Tensor, torch.Tensor, Sequence[Any], Sequence[Any]], Cache]
"""Makes a cache of rows, positions, keys and values."""

_OWN_NUMBERS: Final = frozenset({"layer_idx", "layer_index"})
"""What tells layers apart that are alike; it is used for their place in the cache only."""


class Unlike(Exception):
    """The layers cannot be recorded this way; the text says why."""


class _Seen(Exception):
    """Every kind of layer was called once: the pass need not go on."""


@dataclass(frozen=True, slots=True)
class _Call:
    """How a model calls a layer: the tensors, and what else is among the arguments."""

    tensors: tuple[torch.Tensor, ...]
    others: tuple[Any, ...]
    """The types in place of tensors and of the cache, whatever else there is as it is."""
    spec: pytree.TreeSpec

    @classmethod
    def of(cls, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> _Call:
        leaves, spec = pytree.tree_flatten((arguments, dict(options)))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        others = tuple(
            torch.Tensor
            if isinstance(leaf, torch.Tensor)
            else Cache
            if isinstance(leaf, Cache)
            else leaf
            for leaf in leaves
        )
        return cls(tensors, others, spec)

    def again(self, tensors: Sequence[torch.Tensor], cache: Cache) -> Any:
        """The arguments and options of the same call with other tensors and another cache."""
        left = iter(tensors)
        leaves = [
            next(left) if one is torch.Tensor else cache if one is Cache else one
            for one in self.others
        ]
        return pytree.tree_unflatten(leaves, self.spec)


class _OneLayer(nn.Module):
    """What is recorded of a layer: its tensors are arguments, its packed weights attributes."""

    def __init__(self, layer: nn.Module, index: int, call: _Call, cache_of: CacheOf) -> None:
        super().__init__()

        def run(
            inputs: Sequence[torch.Tensor],
            weights: Sequence[torch.Tensor],
            rows: torch.Tensor,
            positions: torch.Tensor,
            keys: torch.Tensor,
            values: torch.Tensor,
        ) -> Any:
            before = [None] * index
            cache = cache_of(rows, positions, [*before, keys], [*before, values])
            arguments, options = call.again(inputs, cache)
            with _weights_of(layer, weights):
                # By its class: its own `forward` may be the one that stands in for it.
                return type(layer).forward(layer, *arguments, **options)

        self.__dict__["_run"] = run  # out of the recorder's sight, with the layer
        name_packed(self, layer)

    def forward(self, *arguments: Any) -> Any:
        return self._run(*arguments)  # type: ignore[operator]


class LayerGraphs(nn.Module):
    """Graphs of all layers of a model.

    Args:
        model: of transformers.
        step: one pass of the model with these arguments; it is left before its end.
        rows: of the requests, shape (requests, 1).
        positions: of the new tokens, same shape.
        keys: see :data:`Window`.
        values: likewise.
        cache_of: makes the cache that a layer gets.

    Raises:
        Unlike: if layers that are alike are called in different ways.
        Exception: whatever recording a layer comes to.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Callable[[], Any],
        rows: torch.Tensor,
        positions: torch.Tensor,
        keys: Window,
        values: Window,
        cache_of: CacheOf,
    ) -> None:
        super().__init__()
        layers = layers_of(model)
        if len(layers) != len(keys):
            raise Unlike(f"{len(layers)} layers, but a cache of {len(keys)}")
        kinds = [_kind(layer) for layer in layers]
        firsts = {kind: kinds.index(kind) for kind in kinds}
        calls = _calls(layers, set(firsts.values()), step)
        recorded = {}
        for kind, index in firsts.items():
            layer, call = layers[index], calls[index]
            recorded[kind] = torch.jit.trace(  # type: ignore[no-untyped-call]
                _OneLayer(layer, index, call, cache_of),
                (call.tensors, _tensors(layer), rows, positions, keys[index], values[index]),
                check_trace=False,
            )
        self._call_of: Callable[[int], _Call] = lambda index: calls[firsts[kinds[index]]]
        self._all: Callable[[], list[nn.Module]] = lambda: layers  # not modules of its own
        self.graphs = nn.ModuleList()
        for kind, layer in zip(kinds, layers, strict=True):
            # Shares the code and not the attributes, as `copy.copy` of a traced module would.
            graph = torch.jit.RecursiveScriptModule.__copy__(recorded[kind])  # type: ignore[attr-defined]
            name_packed(graph, layer)
            self.graphs.append(graph)

    @contextmanager
    def in_place(
        self, rows: torch.Tensor, positions: torch.Tensor, keys: Window, values: Window
    ) -> Iterator[None]:
        """Meanwhile the model's layers are their graphs, over this cache."""
        layers = self._all()

        def stand_in(index: int, *arguments: Any, **options: Any) -> Any:
            first, call = self._call_of(index), _Call.of(arguments, options)
            if (first.others, first.spec) != (call.others, call.spec):
                raise Unlike(f"layer {index} is called in another way than the first of its kind")
            weights = _tensors(layers[index])
            return self.graphs[index](
                call.tensors, weights, rows, positions, keys[index], values[index]
            )

        with _forward_is(layers, stand_in):
            yield


def layers_of(model: Any) -> list[nn.Module]:
    """The model's blocks, in order: the longest list of modules in it."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def name_packed(target: nn.Module, source: nn.Module) -> None:
    """Make packed weights, which are no tensors, known to the recorder as attributes."""
    for number, module in enumerate(source.modules()):
        for name, value in vars(module).items():
            if isinstance(value, torch.ScriptObject):
                setattr(target, f"{name}_{number}", value)


def _calls(
    layers: Sequence[nn.Module], wanted: set[int], step: Callable[[], Any]
) -> dict[int, _Call]:
    """How the model calls these layers."""
    found: dict[int, _Call] = {}

    def watch(index: int, *arguments: Any, **options: Any) -> Any:
        if index in wanted:
            found[index] = _Call.of(arguments, options)
        if wanted == set(found):
            raise _Seen
        return type(layers[index]).forward(layers[index], *arguments, **options)

    with _forward_is(layers, watch):
        try:
            step()
        except _Seen:
            return found
    raise Unlike("it does not call its layers")


@contextmanager
def _forward_is(layers: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Meanwhile a call of a layer is one of ``forward`` with the layer's place as the first."""

    def of(index: int) -> Callable[..., Any]:
        return lambda *arguments, **options: forward(index, *arguments, **options)

    for index, layer in enumerate(layers):
        layer.__dict__["forward"] = of(index)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _tensors(layer: nn.Module) -> tuple[torch.Tensor, ...]:
    return tuple(held[name] for held, name in _places(layer))


def _places(layer: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where a layer holds its tensors."""
    return [
        (held, name)
        for module in layer.modules()
        for held in (module._parameters, module._buffers)
        for name, tensor in held.items()
        if tensor is not None
    ]


@contextmanager
def _weights_of(layer: nn.Module, weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Meanwhile a layer computes with these tensors instead of its own."""
    places, usual = _places(layer), _tensors(layer)
    for (held, name), tensor in zip(places, weights, strict=True):
        held[name] = tensor
    try:
        yield
    finally:
        for (held, name), tensor in zip(places, usual, strict=True):
            held[name] = tensor


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """Equal for layers that differ in the values of their weights only."""
    found: list[Any] = []
    for name, module in layer.named_modules():
        plain = {
            key: value
            for key, value in vars(module).items()
            if key not in _OWN_NUMBERS and isinstance(value, (bool, int, float, str, type(None)))
        }
        packed = [key for key, one in vars(module).items() if isinstance(one, torch.ScriptObject)]
        own = (*module._parameters.values(), *module._buffers.values())
        shapes = [None if one is None else (one.shape, one.dtype) for one in own]
        found.append((name, type(module), tuple(sorted(plain.items())), *packed, *shapes))
    return tuple(found)
