"""The key-value cache of many requests to one model, and the forward pass over some of them.

Each request has a slot: one row of every layer's tensors, filled from its left end, which grows
with the request. A forward pass covers neighbouring slots; each of its tokens has its own position,
so requests of any length share a pass. The model's own code does the rest: it sees a cache, a mask
and position ids (imports torch and transformers).
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any, Final

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from workbench.hf.recorded import RecordedStep, changes_with_length
from workbench.hf.weights import PromptWeights

_TOKENS_STEP: Final = 128
"""Slots grow in steps of this many tokens, so that growing is rare."""
_SUPPORTED_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values: two tensors of shape (slots, tokens, heads, head size)."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        slots, tokens = self._cache.slots, self._cache.tokens
        # Zeros: a masked cell has no weight in the sum, but no weight times NaN is still NaN.
        self.keys, self.values = (
            states.new_zeros((slots, tokens, states.shape[1], states.shape[3]))
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *unused: Any, **ignored: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self._cache
        assert self.keys is not None
        assert self.values is not None
        if cache.high - cache.low == 1:
            # One request: a plain copy, which needs no index tensors.
            cells = slice(cache.start, cache.start + key_states.shape[2])
            self.keys[cache.low, cells] = key_states[0].transpose(0, 1)
            self.values[cache.low, cells] = value_states[0].transpose(0, 1)
        else:
            self.keys[cache.rows, cache.positions] = key_states.transpose(1, 2)
            self.values[cache.rows, cache.positions] = value_states.transpose(1, 2)
        window = (slice(cache.low, cache.high), slice(0, cache.length))
        return self.keys[window].transpose(1, 2), self.values[window].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.length, 0

    def get_seq_length(self) -> int:
        return 0  # positions are given with every pass

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """All layers' slots, and which of them the pass under way covers."""

    def __init__(self, n_layers: int) -> None:
        self.slots = 0
        self.tokens = 0
        self.low = self.high = self.start = self.length = 0
        self.rows = torch.empty(0)
        self.positions = torch.empty(0)
        super().__init__(layers=[_Layer(self) for _ in range(n_layers)])

    def reserve(self, slots: int, tokens: int) -> None:
        """Make room for this many slots of this many tokens; never shrinks."""
        tokens = -(-tokens // _TOKENS_STEP) * _TOKENS_STEP
        if slots <= self.slots and tokens <= self.tokens:
            return
        old = (slice(0, self.slots), slice(0, self.tokens))
        self.slots, self.tokens = max(slots, self.slots), max(tokens, self.tokens)
        for layer in self.layers:
            if not layer.is_initialized:
                continue
            for name in ("keys", "values"):
                before = getattr(layer, name)
                after = before.new_zeros((self.slots, self.tokens, *before.shape[2:]))
                after[old] = before
                setattr(layer, name, after)
                del before  # one layer's copy at a time, not two of the whole cache

    def cover(self, low: int, positions: torch.Tensor, length: int) -> None:
        """The next pass is over these slots.

        Args:
            low: the first slot.
            positions: of the new tokens, shape (slots, tokens).
            length: the most tokens that a slot holds after the pass.
        """
        self.reserve(low + len(positions), length)
        self.low, self.high = low, low + len(positions)
        self.start, self.length = length - positions.shape[1], length
        self.rows = torch.arange(low, self.high, device=positions.device)[:, None]
        self.positions = positions

    def windows(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Keys and values that the pass sees, of each layer, shape (slots, tokens, heads, size)."""
        window = (slice(self.low, self.high), slice(0, self.length))
        return (
            tuple(layer.keys[window] for layer in self.layers),
            tuple(layer.values[window] for layer in self.layers),
        )

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of one slot over another."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[target, :tokens] = layer.keys[source, :tokens]
                layer.values[target, :tokens] = layer.values[source, :tokens]

    def scatter(self, tokens: int) -> None:
        """Fill the first tokens of every slot with numbers, always the same."""
        chance = torch.Generator(self.rows.device).manual_seed(1)
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                states[:, :tokens].normal_(generator=chance)

    def clear(self, slot: int) -> None:
        """Fill a slot with zeros again, after values that are no numbers."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[slot].zero_()
                layer.values[slot].zero_()

    def release(self) -> None:
        """Give the memory back."""
        self.slots = self.tokens = 0
        for layer in self.layers:
            layer.keys = layer.values = None
            layer.is_initialized = False


class SlotRunner:
    """Forward passes of one model over slots.

    Args:
        model: a causal language model of transformers whose layers all attend (see
            :func:`supports_slots`).
        activations: the type that it computes in, which may be wider than its weights'.
        prompts: the model's matrices for passes over prompts, if it has such.
        prompts_from: tokens of a pass over prompts from which on these are used; 0 is never.
    """

    def __init__(
        self,
        model: Any,
        activations: torch.dtype,
        prompts: PromptWeights | None = None,
        prompts_from: int = 0,
    ) -> None:
        self.activations = activations
        self._prompts = prompts
        self.prompts_from = prompts_from
        config = model.config.get_text_config(decoder=True)
        self._model = model
        self._config = config
        self._device = model.device
        kinds = getattr(config, "layer_types", None)
        self._kinds = sorted(set(kinds)) if kinds else None
        self._window = getattr(config, "sliding_window", None)
        self.cache = SlotCache(config.num_hidden_layers)
        self._recorded: RecordedStep | None = None

    def forward(self, low: int, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Any:
        """Evaluate new tokens of neighbouring slots.

        Args:
            low: the first slot; the others follow it.
            tokens: new token ids of each slot, at least one each.
            starts: how many tokens each slot holds already.

        Returns:
            Logits after each slot's last new token, of shape (slots, vocabulary).
        """
        widest = max(map(len, tokens))
        lasts = [len(row) - 1 for row in tokens]
        padded = [[*row, *[0] * (widest - len(row))] for row in tokens]
        ids = torch.tensor(padded, device=self._device)
        positions = torch.tensor(starts, device=self._device)[:, None] + torch.arange(
            widest, device=self._device
        )
        length = max(starts) + widest
        self.cache.cover(low, positions, length)
        masks = self._masks(positions, length)
        # The first pass of all makes the cache's tensors, which a graph takes as they are.
        if widest == 1 and self._recorded is not None and self.cache.layers[-1].is_initialized:
            return self._recorded(ids, positions, masks, *self.cache.windows())
        kept = sorted(set(lasts))
        if self._prompts is not None:
            # By the tokens of the pass, padding included; a step never, however many take part.
            enough = 0 < self.prompts_from <= widest * len(tokens)
            self._prompts.reading = widest > 1 and enough
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=masks,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(kept, device=self._device),
        )
        logits = output.logits
        if len(kept) == 1:
            return logits[:, 0]
        columns = torch.tensor([kept.index(last) for last in lasts], device=self._device)
        return logits[torch.arange(len(lasts), device=self._device), columns]

    @property
    def cells(self) -> int:
        """Tokens that there is room for in all slots."""
        return self.cache.slots * self.cache.tokens

    @property
    def recorded(self) -> bool:
        """Whether decoding steps run as one recorded graph."""
        return self._recorded is not None

    def record(self) -> None:
        """Record the decoding step, and use the graph from now on if it computes the same.

        Whatever a model does that cannot be recorded only means that its steps stay as they are.
        """
        if changes_with_length(self._model):
            return
        last, starts = [[6], [2], [4]], [5, 3, 4]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # several would only wait for each other
        try:
            self.forward(0, last, starts)  # makes the cache's tensors
            self.cache.scatter(max(starts))
            expected = self.forward(0, last, starts)
            for by_layer in (True, False):
                self._recorded = self._record(last[:2], starts[:2], by_layer=by_layer)
                if self._recorded is None:
                    continue
                got = self.forward(0, last, starts)
                if torch.allclose(got, expected, rtol=1e-3, atol=1e-3):
                    break
                self._recorded = None
        except Exception:  # a model's own code may raise anything
            traceback.print_exc()
            self._recorded = None
        torch.set_num_threads(threads)
        self.cache.release()

    def _record(
        self, tokens: list[list[int]], starts: list[int], *, by_layer: bool
    ) -> RecordedStep | None:
        """The graph of a step of these; None if there can be none.

        It is made with two requests and compared with three: nothing of their number may stick.
        """
        positions = torch.tensor(starts, device=self._device)[:, None]
        length = max(starts) + 1
        self.cache.cover(0, positions, length)
        ids, masks = torch.tensor(tokens, device=self._device), self._masks(positions, length)
        try:
            windows = self.cache.windows()
            return RecordedStep(self._model, ids, positions, masks, *windows, by_layer=by_layer)
        except Exception:  # a tracer meets a whole model's code
            traceback.print_exc()
            return None

    def release(self) -> None:
        """Let go of the cache."""
        self.cache.release()

    def _masks(self, positions: torch.Tensor, length: int) -> Any:
        """Additive masks of shape (slots, 1, new tokens, length), by the layers' kind."""
        if self._kinds is None:
            kind = "sliding_attention" if self._window else "full_attention"
            return self._mask(positions, length, kind)
        masks = {kind: self._mask(positions, length, kind) for kind in self._kinds}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, positions: torch.Tensor, length: int, kind: str) -> torch.Tensor:
        cells = torch.arange(length, device=self._device)
        ahead = cells > positions[:, None, :, None]
        if kind == "sliding_attention" and self._window:
            ahead |= cells <= positions[:, None, :, None] - self._window
        mask = torch.zeros(ahead.shape, dtype=self.activations, device=self._device)
        return mask.masked_fill_(ahead, torch.finfo(self.activations).min)


class PlainRunner:
    """Forward passes with transformers' own cache, for one request at a time.

    For models whose layers keep something else than keys and values, and for ``engine=plain``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None

    def forward(self, low: int, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Any:
        """As :meth:`SlotRunner.forward`, for the one slot 0."""
        (ids,), (start,) = tokens, starts
        if start == 0:
            self._cache = DynamicCache(config=self._model.config)
        output = self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    @property
    def cells(self) -> int:
        """Tokens that are kept."""
        return self._cache.get_seq_length() if self._cache is not None else 0

    def release(self) -> None:
        """Let go of the cache."""
        self._cache = None


Runner = SlotRunner | PlainRunner


def supports_slots(model: Any) -> bool:
    """Whether every layer attends over keys and values and nothing else, as far as one can tell.

    A first check only: :func:`agrees_with_plain` then compares the numbers.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        kinds <= _SUPPORTED_LAYERS
        and not model.config.is_encoder_decoder
        and getattr(config, "_attn_implementation", None) in ("sdpa", "eager")
        and isinstance(getattr(config, "num_hidden_layers", None), int)
    )


def agrees_with_plain(model: Any, vocabulary: int, activations: torch.dtype) -> bool:
    """Whether a pass in two parts beside another request gives what one plain pass gives.

    Architectures keep surprising (position tricks, caches of their own), so each model is asked.
    """
    ids = [(7 * n + 3) % min(vocabulary, 1000) for n in range(9)]
    runner = SlotRunner(model, activations)
    try:
        plain = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        expected = plain.logits[0, -1].float()
        runner.forward(0, [ids[:3], ids[:6]], [0, 0])
        got = runner.forward(0, [ids[3:8], ids[6:]], [3, 6])[1].float()
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
        return False
    spread = float(expected.std()) or 1.0
    close = 0.05 if activations != torch.float32 else 0.002
    return bool((got - expected).abs().max() <= close * spread * 10)
