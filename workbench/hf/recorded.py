"""The decoding step of a model as one recorded graph: its operators without Python in between.

A step of a small model on a CPU is a thousand small operators, and Python needs longer to call most
of them than they take. Recording (``torch.jit.trace``) keeps the very operators in their order, so
the numbers are the same to the last bit; nothing is compiled, so it takes a fraction of a second
and needs no C++ compiler. Fusing them as well, a layer at a time with AOTInductor, was tried: a
tenth faster again, for a minute of compiling (``benchmarks/RESULTS.md``).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin

from workbench.hf.recorded_layers import LayerGraphs, Window, name_packed

Masks = torch.Tensor | Mapping[str, torch.Tensor]


class RecordedStep:
    """One token of each of any number of requests, of any length.

    Args:
        model: a causal language model of transformers, on the CPU.
        ids: new token ids, shape (requests, 1); more than one request, so that nothing is taken
            for constant because it is 1.
        positions: of these tokens, same shape.
        masks: additive, of shape (requests, 1, 1, tokens); by kind of layer if there are several.
        keys: see :data:`Window`; the new tokens' are written into them.
        values: likewise.
        by_layer: record one layer of those that are alike for all of them.

    Raises:
        Exception: whatever recording a model that cannot be recorded comes to.
    """

    def __init__(
        self,
        model: Any,
        ids: torch.Tensor,
        positions: torch.Tensor,
        masks: Masks,
        keys: Window,
        values: Window,
        *,
        by_layer: bool = True,
    ) -> None:
        model.requires_grad_(False)  # or its weights could be no constants of the graph
        kinds = None if isinstance(masks, torch.Tensor) else tuple(sorted(masks))
        self._kinds = kinds
        self.by_layer = by_layer
        arguments = self._arguments(ids, positions, masks, keys, values)
        step = _Step(model, kinds)
        with warnings.catch_warnings():
            # It warns of each Python number that it takes for constant, and that there are newer
            # means. Whether the numbers are right is compared, not hoped.
            warnings.simplefilter("ignore")
            if by_layer:
                step.use_layer_graphs(arguments)
            self._graph = torch.jit.trace(  # type: ignore[no-untyped-call]
                step, arguments, check_trace=False
            )

    def __call__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        masks: Masks,
        keys: Window,
        values: Window,
    ) -> torch.Tensor:
        """Logits of shape (requests, vocabulary); the arguments are those of the class."""
        # Optimising would take its time at the first steps, for a twentieth of each later one.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            logits: torch.Tensor = self._graph(
                *self._arguments(ids, positions, masks, keys, values)
            )
        return logits

    def _arguments(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        masks: Masks,
        keys: Window,
        values: Window,
    ) -> tuple[Any, ...]:
        if isinstance(masks, torch.Tensor):
            listed: tuple[torch.Tensor, ...] = (masks,)
        else:
            assert self._kinds is not None
            listed = tuple(masks[kind] for kind in self._kinds)
        rows = torch.arange(len(ids))[:, None]
        return ids, positions, rows, listed, tuple(keys), tuple(values)


def changes_with_length(model: Any) -> bool:
    """Whether positions are turned by other angles once a request is long.

    A graph would keep those of the recording. The comparison after it, of short requests, would not
    notice.
    """
    names = [str(getattr(module, "rope_type", "")) for module in model.modules()]
    return any(kind in name for name in names for kind in ("dynamic", "longrope"))


class _Step(nn.Module):
    """What is recorded.

    The model is kept out of the modules that the recorder knows: it would wrap each of hundreds,
    which takes as long as all the rest. Its tensors become constants of the graph, without being
    copied; packed weights are no tensors and are named here one by one.
    """

    def __init__(self, model: Any, kinds: tuple[str, ...] | None) -> None:
        super().__init__()
        self.layers: LayerGraphs | None = None

        def run(
            ids: torch.Tensor,
            positions: torch.Tensor,
            rows: torch.Tensor,
            masks: tuple[torch.Tensor, ...],
            keys: Window,
            values: Window,
        ) -> torch.Tensor:
            cache = rows, positions, keys, values
            with self.layers.in_place(*cache) if self.layers is not None else nullcontext():
                output = model(
                    input_ids=ids,
                    position_ids=positions,
                    attention_mask=masks[0]
                    if kinds is None
                    else dict(zip(kinds, masks, strict=True)),
                    past_key_values=_Windows(*cache),
                    use_cache=True,
                    logits_to_keep=1,
                )
            return output.logits[:, 0]  # type: ignore[no-any-return]

        self.__dict__["_run"], self.__dict__["_model"] = run, model
        name_packed(self, model)

    def use_layer_graphs(self, arguments: tuple[Any, ...]) -> None:
        """Record the layers, with the arguments of a step."""
        _, positions, rows, _, keys, values = arguments
        self.layers = LayerGraphs(
            self._model,  # type: ignore[arg-type]
            lambda: self(*arguments),
            rows,
            positions,
            keys,
            values,
            _Windows,
        )

    def forward(self, *arguments: Any) -> torch.Tensor:
        return self._run(*arguments)  # type: ignore[no-any-return, operator]


class _Windows(Cache):  # type: ignore[misc]  # transformers is not typed
    """A cache that is windows into another one."""

    def __init__(
        self, rows: torch.Tensor, positions: torch.Tensor, keys: Window, values: Window
    ) -> None:
        super().__init__(
            layers=[_Layer(rows, positions, *pair) for pair in zip(keys, values, strict=True)]
        )


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    is_sliding = False

    def __init__(
        self, rows: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        super().__init__()
        self._rows, self._positions = rows, positions
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """There is nothing to make."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *unused: Any, **ignored: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[self._rows, self._positions] = key_states.transpose(1, 2)
        self.values[self._rows, self._positions] = value_states.transpose(1, 2)
        return self.keys.transpose(1, 2), self.values.transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[1], 0

    def get_seq_length(self) -> int:
        return 0  # positions are given with every pass

    def get_max_length(self) -> int:
        return -1
