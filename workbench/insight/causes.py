"""Named causes of different answers, ranked by their likely effect. Pure.

Each rule looks at two inspections of the same request and names one cause, says what it does and
how to take it away. A rule that lacks a fact says nothing: silence of a runtime is no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Final, Literal

from workbench.inspection import Inspection

Effect = Literal["decisive", "large", "some", "small"]
EFFECTS: Final[tuple[Effect, ...]] = ("decisive", "large", "some", "small")
"""From another question altogether down to the last bits of a sum."""

_SAME_SIZE: Final = 0.02
"""Parameters may differ by this share: some runtimes count tied embeddings twice."""
_BITS: Final = {"F32": 32, "F16": 16, "BF16": 16, "INT8": 8, "INT4": 4}


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason why the answers may differ.

    Attributes:
        code: its name, in capitals.
        effect: how much it usually changes; an order, not a measurement.
        says: what differs, with both sides' values.
        fix: how to make the two equal, or that nothing can.
    """

    code: str
    effect: Effect
    says: str
    fix: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


Rule = Callable[[Inspection, Inspection], Iterator[Cause]]


def causes(a: Inspection, b: Inspection) -> tuple[Cause, ...]:
    """All causes that two inspections of one request show, the most effective first."""
    found = [cause for rule in _RULES for cause in rule(a, b)]
    return tuple(sorted(found, key=lambda cause: EFFECTS.index(cause.effect)))


def _cut(a: Inspection, b: Inspection) -> Iterator[Cause]:
    for one, other in ((a, b), (b, a)):
        if one.left_out and one.left_out != other.left_out:
            yield Cause(
                "PROMPT_CUT",
                "decisive",
                f"{one.model} leaves out {one.left_out:,} tokens of the prompt: its context holds "
                f"{one.context_length or 0:,}.",
                "Raise num_ctx, or shorten the conversation.",
            )


def _refused(a: Inspection, b: Inspection) -> Iterator[Cause]:
    for one, other in ((a, b), (b, a)):
        if one.refuses and not other.refuses:
            yield Cause(
                "PROMPT_REFUSED",
                "decisive",
                f"{one.model} would not answer: {one.refuses}",
                "Raise num_ctx, or shorten the prompt.",
            )


def _system(a: Inspection, b: Inspection) -> Iterator[Cause]:
    for one, other in ((a, b), (b, a)):
        added = _inserted(one.rendered, other.rendered)
        if added is not None and "system" in added:
            own = one.default_system
            text = own if own and own in added else added.strip()
            where = "model file (SYSTEM)" if own else "chat template"
            yield Cause(
                "SYSTEM_PROMPT_ADDED",
                "decisive",
                f"The {where} of {one.model} adds a system prompt of its own: {_short(text)!r}.",
                "Give both the same system prompt; then neither adds one.",
            )


def _inserted(longer: str | None, shorter: str | None) -> str | None:
    """The one stretch that ``longer`` has and ``shorter`` has not, if all else is the same."""
    if not longer or shorter is None or len(longer) <= len(shorter):
        return None
    head = beginning_shared(longer, shorter)
    tail = min(beginning_shared(longer[::-1], shorter[::-1]), len(shorter) - head)
    if head + tail != len(shorter):
        return None
    return longer[head : len(longer) - tail]


def beginning_shared(one: str, other: str) -> int:
    """How many characters at the beginning two texts share."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _prompt(a: Inspection, b: Inspection) -> Iterator[Cause]:
    if a.rendered is None or b.rendered is None or a.rendered == b.rendered:
        return
    if a.rendered.split() == b.rendered.split():
        yield Cause(
            "TEMPLATE_WHITE_SPACE",
            "some",
            "The rendered prompts differ in white space only.",
            "Small models notice it. Use the template of one side in the other's model file.",
        )
        return
    if _begins(a, b) or _begins(b, a) or any(_system(a, b)):
        return  # named already
    yield Cause(
        "TEMPLATE_DIFFERS",
        "decisive",
        "The chat templates make different prompts of the same messages; the sheet shows where.",
        "Copy the template of one side into the other's model file (TEMPLATE) or "
        "tokenizer_config.json (chat_template).",
    )


def _begin(a: Inspection, b: Inspection) -> Iterator[Cause]:
    for one, other in ((a, b), (b, a)):
        begin = one.begin_text
        doubled = one.token_ids is not None and len(one.token_ids) > 1
        if doubled and one.token_ids and one.token_ids[0] == one.token_ids[1] and one.adds_bos:
            yield Cause(
                "BEGIN_TOKEN_TWICE",
                "large",
                f"{one.model} puts its begin token before a prompt whose template has one already.",
                "Take it out of the template.",
            )
        if _begins(one, other):
            yield Cause(
                "BEGIN_TOKEN",
                "small",
                f"The prompt of {one.model} begins with {begin!r} as text; the other runtime may "
                "add it as a token.",
                "Compare the token ids below.",
            )


def _begins(one: Inspection, other: Inspection) -> bool:
    return (
        bool(one.begin_text)
        and one.rendered is not None
        and other.rendered is not None
        and one.rendered == f"{one.begin_text}{other.rendered}"
    )


def _tokens(a: Inspection, b: Inspection) -> Iterator[Cause]:
    if a.token_ids is None or b.token_ids is None or a.token_ids == b.token_ids:
        return
    if a.rendered != b.rendered and not (_begins(a, b) or _begins(b, a)):
        return  # other text, other ids
    yield Cause(
        "TOKENS_DIFFER",
        "large",
        f"The same text becomes {len(a.token_ids)} tokens in {a.model} and {len(b.token_ids)} in "
        f"{b.model}, or other ones.",
        "The tokenizers differ: convert the model again from its original files.",
    )


def _model(a: Inspection, b: Inspection) -> Iterator[Cause]:
    if a.parameters and b.parameters:
        ratio = max(a.parameters, b.parameters) / min(a.parameters, b.parameters)
        if ratio > 1 + _SAME_SIZE:
            yield Cause(
                "ANOTHER_MODEL",
                "decisive",
                f"{a.model} has {a.parameters / 1e6:,.0f} million weights, {b.model} "
                f"{b.parameters / 1e6:,.0f} million.",
                "These are not the same weights; choose two forms of one model.",
            )
            return
    size_a, size_b = a.tokenizer.get("vocabulary"), b.tokenizer.get("vocabulary")
    if size_a and size_b and size_a != size_b:
        yield Cause(
            "VOCABULARY_DIFFERS",
            "some",
            f"The vocabularies have {size_a:,} and {size_b:,} tokens.",
            "Harmless if only padding was added; else another model or another conversion.",
        )


def _weights(a: Inspection, b: Inspection) -> Iterator[Cause]:
    kinds = [kind for kind in a.weights if a.weights[kind] != b.weights.get(kind, a.weights[kind])]
    matrices = [kind for kind in kinds if kind in ("attention", "feed-forward")]
    if not kinds:
        return
    bits = [_least_bits(one.weights.get(kind, "")) for one in (a, b) for kind in matrices]
    effect: Effect = "some" if matrices and min(bits) < 16 else "small"
    if matrices and min(bits) <= 4:
        effect = "large"
    sides = "; ".join(f"{kind} {a.weights[kind]} against {b.weights[kind]}" for kind in kinds)
    yield Cause(
        "WEIGHTS_ROUNDED",
        effect,
        f"The weights are of different types: {sides}.",
        "Load both in one type: without ?quantization=, a GGUF of the same type (F16 or BF16), or "
        "the GGUF file itself with transformers.",
    )


def _least_bits(kind: str) -> int:
    """Bits of the coarsest of the stored types, such as 4 for ``Q4_1+Q8_0``."""
    parts = kind.partition(" (from")[0].split("+")
    digits = ["".join(c for c in part[1:3] if c.isdigit()) for part in parts]
    found = [_BITS.get(part, int(digit or 32)) for part, digit in zip(parts, digits, strict=True)]
    return min(found, default=32)


def _draw(a: Inspection, b: Inspection) -> Iterator[Cause]:
    samplers = [dict(one.sampler) for one in (a, b)]
    if not any(one.get("temperature") and one.get("top_k") != 1 for one in samplers):
        return
    if a.model.partition("/")[0] == b.model.partition("/")[0]:
        yield Cause(
            "DRAWN_AT_RANDOM",
            "some",
            "Both draw their tokens at random. One runtime draws the same numbers for the same "
            "seed, so they part where rounding moves a token over a border.",
            "Set temperature 0, or give both one seed.",
        )
    else:
        yield Cause(
            "DRAWN_AT_RANDOM",
            "large",
            "Both draw their tokens at random, and the same seed does not give two runtimes the "
            "same numbers.",
            "Set temperature 0, or compare the shares of many repeats.",
        )


def _sampler(a: Inspection, b: Inspection) -> Iterator[Cause]:
    left, right = dict(a.sampler), dict(b.sampler)
    if not left or not right:
        return
    drawn = bool(left.get("temperature") or right.get("temperature"))
    for name in sorted(left.keys() & right.keys()):
        if left[name] != right[name]:
            yield Cause(
                "SAMPLING_DIFFERS",
                "large",
                f"{name} is {left[name]:g} in {a.model} and {right[name]:g} in {b.model}.",
                f"Set {name} for both.",
            )
    extra = {n: v for n, v in (left | right).items() if (n in left) != (n in right)}
    active = {n: v for n, v in extra.items() if v != {"min_p": 0, "typical_p": 1}.get(n)}
    if drawn and active:
        names = ", ".join(f"{name} {value:g}" for name, value in sorted(active.items()))
        yield Cause(
            "SAMPLER_ON_ONE_SIDE",
            "some",
            f"Only one side applies {names}.",
            "Take it out of the model file (PARAMETER), or give it its neutral value.",
        )
    common = [[name for name in chain if name in left and name in right] for chain in (left, right)]
    if drawn and common[0] != common[1]:
        yield Cause(
            "SAMPLER_ORDER",
            "some",
            f"The settings are applied in another order: {', '.join(common[0])} in {a.model}, "
            f"{', '.join(common[1])} in {b.model}. top_p after the temperature keeps other tokens "
            "than before it.",
            "At temperature 1, or with top_p 1, the order does not matter.",
        )


def _stop(a: Inspection, b: Inspection) -> Iterator[Cause]:
    if set(a.stop) == set(b.stop) or "stop" in a.untold or "stop" in b.untold:
        return
    texts = {text for one in (a, b) for text in (one.token_texts or ()) if text.strip()}
    # A stop string that is one special token ends an answer on the other side as a token.
    unlike = {text for text in set(a.stop) ^ set(b.stop) if text not in texts}
    if unlike:
        named = ", ".join(repr(text) for text in sorted(unlike))
        yield Cause(
            "STOP_DIFFERS",
            "some",
            f"Only one side ends at {named}.",
            "Give the same stop strings to both.",
        )


def _rope(a: Inspection, b: Inspection) -> Iterator[Cause]:
    for name in sorted(a.rope.keys() & b.rope.keys()):
        if a.rope[name] != b.rope[name]:
            yield Cause(
                "POSITIONS_DIFFER",
                "large",
                f"{name} is {a.rope[name]} in {a.model} and {b.rope[name]} in {b.model}.",
                "One conversion lost a setting; the longer the prompt, the more it matters.",
            )


def _context(a: Inspection, b: Inspection) -> Iterator[Cause]:
    if a.context_length and b.context_length and a.context_length != b.context_length:
        shorter, longer = sorted((a, b), key=lambda one: one.context_length or 0)
        fits = all(one.left_out == 0 and not one.refuses for one in (a, b))
        yield Cause(
            "CONTEXT_DIFFERS",
            "small",
            f"{shorter.model} has a context of {shorter.context_length:,} tokens, {longer.model} "
            f"{longer.context_length:,}.{' This prompt fits into both.' if fits else ''}",
            "Set num_ctx for both before a conversation grows.",
        )


def _arithmetic(a: Inspection, b: Inspection) -> Iterator[Cause]:
    if a.runtime != b.runtime or a.computed_in != b.computed_in or a.device != b.device:
        left, right = (one.computed_in or one.runtime or one.model for one in (a, b))
        yield Cause(
            "ARITHMETIC",
            "small",
            f"The sums are made in another order and width ({left}; {right}).",
            "Nothing: where two tokens are almost equally likely, this decides. The divergence "
            "says whether it did.",
        )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


_RULES: Final[tuple[Rule, ...]] = (
    _refused,
    _cut,
    _system,
    _prompt,
    _begin,
    _tokens,
    _model,
    _weights,
    _draw,
    _sampler,
    _stop,
    _rope,
    _context,
    _arithmetic,
)
