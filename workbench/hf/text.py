"""From token ids to text as it may be shown, one token at a time.

Three steps in a row, each of which may hold a little text back until it is settled: decoding (a
character may take several tokens), the tokenizer's own clean-up, and the search for stop strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, Protocol

from workbench.errors import invalid
from workbench.types import Channel

Decode = Callable[[list[int]], str]

_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ESCAPED: Final = re.compile("[\udc80-\udcff]")
_FAULTY: Final = re.compile(_UNFINISHED + "+")


def token_bytes(text: str, piece: str) -> list[int] | None:
    """The bytes of a token that is no whole text by itself.

    Args:
        text: of the token alone.
        piece: how its vocabulary writes it, as ``<0xE6>`` or in the alphabet of byte-level BPE.

    Returns:
        None for a whole text, or where the vocabulary writes bytes in another way.
    """
    if _UNFINISHED not in text:
        return None
    if (one := _BYTE.fullmatch(piece)) is not None:
        return [int(one[1], 16)]
    alphabet = _alphabet()
    return [alphabet[sign] for sign in piece] if all(sign in alphabet for sign in piece) else None


@cache
def _alphabet() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {sign: byte for byte, sign in bytes_to_unicode().items()}


@cache
def _signs() -> dict[int, str]:
    return {byte: sign for sign, byte in _alphabet().items()}


class IncrementalDecoder:
    """Decodes a growing list of ids; the texts joined are the text of the whole list.

    A token cannot be decoded alone: its text depends on its neighbours (a leading space, the bytes
    of one character). So each step decodes a short window twice, with and without the new tokens,
    and takes the difference. The window begins at the previous step's tokens and does not grow
    with the answer.

    Args:
        decode: text of a list of ids, without clean-up.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0
        self._shown = 0

    def push(self, token_id: int) -> str:
        """The text that this token settled; empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._new_text()
        # Half a character decodes to U+FFFD. A run of true garbage is released by the next
        # whole character, or at the end.
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._window, self._shown = self._shown, len(self._ids)
        return text

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        text = self._new_text()
        self._window = self._shown = len(self._ids)
        return text

    def _new_text(self) -> str:
        before = self._decode(self._ids[self._window : self._shown])
        now = self._decode(self._ids[self._window :])
        if now.startswith(before):
            return now[len(before) :]
        # A tokenizer with byte tokens turns a whole run of them into U+FFFD when its end is
        # invalid, also the characters before, which were shown already and stay.
        return self._decode(self._ids[self._shown :])


class CleanUp:
    """The tokenizer's clean-up (``" ."`` to ``"."`` and the like) applied to a stream of text.

    Clean-up works on a whole text. Cut before a space it gives the same on both parts, unless what
    it looks for lies across the cut; so text is released up to the last space that is safe.

    Args:
        clean: the tokenizer's function; None leaves text as it is.
    """

    # Every pattern begins with a space; only " ' " has another one. An " n" before the cut could
    # become " n't" once a "'" moves up to it.
    _UNSAFE_ENDS: Final = (" ", "'", " n")

    def __init__(self, clean: Callable[[str], str] | None) -> None:
        self._clean = clean
        self._pending = ""

    def push(self, text: str) -> str:
        """The part of the text so far that is settled."""
        if self._clean is None:
            return text
        self._pending += text
        cut = self._pending.rfind(" ")
        while cut > 0 and self._pending[:cut].endswith(self._UNSAFE_ENDS):
            cut = self._pending.rfind(" ", 0, cut)
        if cut <= 0:
            return ""
        settled, self._pending = self._pending[:cut], self._pending[cut:]
        return self._clean(settled)

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        rest, self._pending = self._pending, ""
        return self._clean(rest) if self._clean is not None else rest


class StopFilter:
    """Finds the first stop string in a stream of text and lets nothing of it through.

    The first is the one that is complete first, of several the longest: the same one however the
    text is cut into tokens.

    Args:
        stops: the strings; text that could be the beginning of one is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._pending = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """The text that may be shown; after a hit there is none."""
        if self.hit is not None:
            return ""
        self._pending += text
        found = [
            (at + len(stop), -len(stop))
            for stop in self._stops
            if (at := self._pending.find(stop)) >= 0
        ]
        if found:
            end, back = min(found)
            at = end + back
            shown, self.hit = self._pending[:at], self._pending[at:end]
            self._pending = ""
            return shown
        keep = self._held_back()
        cut = len(self._pending) - keep
        shown, self._pending = self._pending[:cut], self._pending[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        rest, self._pending = self._pending, ""
        return rest

    def _held_back(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        return max((_overlap(self._pending, stop) for stop in self._stops), default=0)


class ThinkFilter:
    """Tells a reasoning model's thinking from its answer.

    Args:
        thinking: True if the prompt ended inside the thinking already.

    The thinking stands before the answer, between ``<think>`` and ``</think>``; tags further on
    are text like any other. White space around the tags belongs to neither.
    """

    OPEN: Final = "<think>"
    CLOSE: Final = "</think>"

    def __init__(self, thinking: bool) -> None:
        self.thinking = thinking
        self._settled = False
        self._trim = thinking
        self._pending = ""

    def push(self, text: str) -> list[tuple[Channel, str]]:
        """The pieces of text that are settled, each with its channel."""
        if self._settled and not self._trim:
            return [("content", text)] if text else []
        self._pending += text
        pieces: list[tuple[Channel, str]] = []
        while self._step(pieces):
            pass
        return pieces

    def finish(self) -> list[tuple[Channel, str]]:
        """What was held back, when no more text comes."""
        rest, self._pending = self._pending, ""
        if self._trim:
            rest = rest.lstrip()
        return [("reasoning" if self.thinking else "content", rest)] if rest else []

    def _step(self, pieces: list[tuple[Channel, str]]) -> bool:
        """Settle what can be; True if there may be more."""
        if self._trim:
            self._pending = self._pending.lstrip()
        if not self._pending:
            return False
        if self.thinking:
            before, tag, after = self._pending.partition(self.CLOSE)
            if tag:
                self._show(pieces, "reasoning", before.rstrip())
                self.thinking, self._settled, self._trim, self._pending = False, True, True, after
                return True
            # White space is held back too, as it may stand before the tag.
            keep = _overlap(self._pending, self.CLOSE)
            shown = self._pending[: len(self._pending) - keep].rstrip()
            self._pending = self._pending[len(shown) :]
            self._show(pieces, "reasoning", shown)
            return False
        if not self._settled:
            begin = self._pending.lstrip()
            if begin.startswith(self.OPEN):
                self._pending = begin[len(self.OPEN) :]
                self.thinking = self._trim = True
                return True
            if self.OPEN.startswith(begin):
                return False
            self._settled = True
        shown, self._pending = self._pending, ""
        self._show(pieces, "content", shown)
        return False

    def _show(self, pieces: list[tuple[Channel, str]], channel: Channel, text: str) -> None:
        if text:
            pieces.append((channel, text))
            self._trim = False


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of the text that the tag begins with."""
    return next(
        (n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0
    )


class ChannelFilter(Protocol):
    """What tells thinking from answer: :class:`ThinkFilter`, or ``tools.ToolFilter``."""

    thinking: bool

    def push(self, text: str) -> list[tuple[Channel, str]]:
        """The pieces of text that are settled, each with its channel."""
        ...

    def finish(self) -> list[tuple[Channel, str]]:
        """What was held back, when no more text comes."""
        ...


class AnswerText:
    """The steps as one.

    Args:
        decode: text of a list of ids, without clean-up.
        clean: the tokenizer's clean-up, or None.
        stops: strings that end the answer.
        think: tells thinking, and calls of functions, from the answer; None for a model that does
            neither.
    """

    def __init__(
        self,
        decode: Decode,
        clean: Callable[[str], str] | None,
        stops: Sequence[str],
        think: ChannelFilter | None = None,
    ) -> None:
        self._decoder = IncrementalDecoder(decode)
        self._clean_up = CleanUp(clean)
        self._stop = StopFilter(stops)
        self._think = think

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, if any."""
        return self._stop.hit

    @property
    def channel(self) -> Channel:
        """Where text goes that comes now."""
        return "reasoning" if self._think is not None and self._think.thinking else "content"

    def push(self, token_id: int) -> list[tuple[Channel, str]]:
        """Add a token; returns the pieces of text to show, each with its channel."""
        text = self._stop.push(self._clean_up.push(self._decoder.push(token_id)))
        return self._split(text)

    def finish(self) -> list[tuple[Channel, str]]:
        """The rest of the text; after a stop string there is none."""
        text = self._clean_up.push(self._decoder.finish()) + self._clean_up.finish()
        pieces = self._split(self._stop.push(text) + self._stop.finish())
        return pieces + (self._think.finish() if self._think is not None else [])

    def _split(self, text: str) -> list[tuple[Channel, str]]:
        if self._think is not None:
            return self._think.push(text)
        return [("content", text)] if text else []


def cleans_up(tokenizer: Any) -> bool:
    """Whether ``decode`` of this tokenizer would clean up spaces by itself."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return type(getattr(backend, "model", None)).__name__ != "BPE" or getattr(
        tokenizer, forced, False
    )


def forced_ids(tokenizer: Any, pieces: Sequence[str]) -> list[int]:
    """The tokens of an answer that was made in ``pieces``, each the text of one token or more.

    A model says in one token what its tokenizer would split when it reads the whole (an
    empty line before a digit, in GPT-2's rule). So the pieces are read one by one, unless that
    takes more tokens than the whole does, as with the pieces of another tokenizer, or gives another
    text. A piece may be bytes of a character, in Python's ``surrogateescape``; these are looked up,
    or read together with their neighbours where the tokenizer has no such token.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, nothing is left of it.
    """

    def read(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    text = _shown("".join(pieces))
    whole = read(text)
    if not whole:
        raise invalid("The text to be scored is empty.", fix="Give an answer that has text.")
    apart: list[int] = []
    parts = 0
    for piece in _whole_or_known(tokenizer, pieces):
        if isinstance(piece, int):
            apart.append(piece)
            parts += 1
        elif piece:
            apart += read(piece)
    if whole[-len(apart) :] == apart:  # before a text some tokenizers put a space of their own
        return whole
    said = tokenizer.decode(apart, clean_up_tokenization_spaces=False)
    same = _FAULTY.sub(_UNFINISHED, said) == _FAULTY.sub(_UNFINISHED, text)
    # Parts of characters are a model's own cut: no other tokenizer would come to have them. Where
    # they are no text, decoders write the bytes around them in ways of their own.
    known = same or (parts > 0 and _UNFINISHED in text)
    return apart if known and len(apart) <= len(whole) + parts else whole


def _whole_or_known(tokenizer: Any, pieces: Sequence[str]) -> list[str | int]:
    """Pieces that are text, and ids of those that are not; what is neither is joined to text."""
    found: list[str | int] = []
    held: list[str] = []
    for piece in pieces:
        number = _id_of_bytes(tokenizer, piece) if _ESCAPED.search(piece) else None
        if number is not None:
            found += [*_joined(held), number]
            held = []
        elif _ESCAPED.search(piece):
            held.append(piece)
        else:
            found += [*_joined(held), piece]
            held = []
    return found + _joined(held)


def _joined(held: Sequence[str]) -> list[str | int]:
    return [_shown("".join(held))] if held else []


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _id_of_bytes(tokenizer: Any, piece: str) -> int | None:
    """The inverse of :func:`token_bytes`; None if no token has just these bytes."""
    spelt = piece.encode("utf-8", "surrogateescape")
    forms = ["".join(_signs()[byte] for byte in spelt)]
    if len(spelt) == 1:
        forms.append(f"<0x{spelt[0]:02X}>")
    for form in forms:
        number = tokenizer.convert_tokens_to_ids(form)
        # What a vocabulary lacks is its unknown token.
        if isinstance(number, int) and tokenizer.convert_ids_to_tokens(number) == form:
            return number
    return None
