"""Tokens by their bytes: what each is called, where in a text it stands, how it is asked for. Pure.

A character may take several tokens, none of which is a text by itself. Told apart they can be only
where the runtime tells their bytes; one that gives U+FFFD for each does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

UNTOLD: Final = "\N{REPLACEMENT CHARACTER}"
"""The name of a token that is not told."""
_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
_RUN: Final = re.compile(UNTOLD + "+")


class Spelt(Protocol):
    """A token of an answer."""

    @property
    def text(self) -> str:
        """What it added to the answer's text; empty before the last token of a character."""
        ...

    @property
    def spelt(self) -> bytes | None:
        """Its bytes; None if they are not told."""
        ...


def name_of(entry: Mapping[str, Any]) -> str:
    """What a token is called: its text, and bytes that are none by themselves as ``<0xE6>``.

    Args:
        entry: ``token`` and perhaps ``bytes``, as in the ``logprobs`` of a token event.

    Returns:
        A name with U+FFFD, or an empty one, where the runtime does not tell which token it is.
    """
    told = entry.get("bytes")
    if not told:
        return str(entry["token"])
    name = bytes(told).decode("utf-8", "surrogateescape")
    return _NOT_UTF8.sub(lambda sign: f"<0x{ord(sign[0]) - 0xDC00:02X}>", name)


def own_name(entry: Mapping[str, Any]) -> str:
    """The same of the token that was taken.

    A runtime that shows whole characters only (llama.cpp's server) may call the last token of one
    like the whole: then it is the one among the likeliest that is as likely and ends it.
    """
    name = name_of(entry)
    names = [(name_of(one), one["logprob"]) for one in entry.get("top_logprobs") or ()]
    parts = [one for one in names if is_part(one[0])]
    exact = "token_id" in entry or name.isascii() or entry.get("logprob") is None
    if exact or not parts or name in [one for one, _ in names]:
        return name
    spelt = (bytes_of(name) or b"")[1:]
    ends = [
        one
        for one, logprob in parts
        if logprob == entry["logprob"] and spelt.endswith(bytes_of(one) or name.encode())
    ]
    return ends[0] if len(ends) == 1 else UNTOLD


def is_told(name: str) -> bool:
    """Whether a name is that of one token only."""
    return bool(name) and UNTOLD not in name


def is_part(name: str) -> bool:
    """Whether a token is, or may be, only a part of a character."""
    return UNTOLD in name or _BYTE.search(name) is not None


def bytes_of(name: str) -> bytes | None:
    """The inverse of :func:`name_of`; None if it is not told."""
    if not is_told(name):
        return None
    escaped = _BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), name)
    return escaped.encode("utf-8", "surrogateescape")


def text_of(spelt: bytes) -> str:
    """As a decoder shows bytes: U+FFFD for a run that is no text."""
    return _RUN.sub(UNTOLD, spelt.decode("utf-8", "replace"))


def says(spelt: bytes, text: str) -> bool:
    """Whether these bytes are shown as this text, however often a decoder writes U+FFFD."""
    return text_of(spelt) == _RUN.sub(UNTOLD, text)


def places(tokens: Sequence[Spelt]) -> list[int | None]:
    """The byte of the whole text at which each token begins; None where that is not known."""
    found: list[int | None] = []
    at, rest = 0, b""
    for group in _groups(tokens):
        shown = group[-1].text.encode("utf-8", "replace")
        spelt = [one.spelt for one in group]
        joined = rest + b"".join(one or b"" for one in spelt)
        whole = None not in spelt and (joined.startswith(shown) or says(joined, group[-1].text))
        if whole or not shown:
            found += _in_a_row(at + len(rest), spelt)
        else:
            found += _in_a_row(at, spelt[:-1])
            own = spelt[-1]
            if own is not None and _is_cut(own) and shown.endswith(own):
                found.append(at + len(shown) - len(own))
            else:
                found.append(at if len(group) == 1 and own is not None else None)
        rest = joined[len(shown) :] if whole and joined.startswith(shown) else b""
        at += len(shown)
    return found


def pieces(tokens: Sequence[Spelt]) -> tuple[str, ...]:
    """An answer as it is given to a runtime to be read: a piece a token where that is known.

    Bytes that are no text are written as Python's ``surrogateescape`` does; tokens of one character
    that are not told are one piece.
    """
    found: list[str] = []
    for group in _groups(tokens):
        text, spelt = group[-1].text, [one.spelt for one in group]
        if None not in spelt and (not text or says(b"".join(one or b"" for one in spelt), text)):
            found += [(one or b"").decode("utf-8", "surrogateescape") for one in spelt]
        elif text:
            found.append(text)
    return tuple(found)


def tells_last(text: str, name: str) -> bool:
    """Whether a text's only token is the last of several, of which the others are not told."""
    spelt = bytes_of(name)
    if spelt is None:
        return UNTOLD in name and UNTOLD not in text
    return _is_cut(spelt) and text.encode().endswith(spelt)


def shared_out(text: str, names: Sequence[str]) -> list[str]:
    """The part of a text that each of its tokens ended; joined they are the text."""
    found, rest = [""] * len(names), text
    held: list[int] = []
    spelt: bytes | None = b""
    for index, name in enumerate(names):
        held.append(index)
        own = bytes_of(name)
        spelt = spelt + own if spelt is not None and own is not None else None
        said = None if spelt is None or _is_cut(spelt) else spelt.decode("utf-8")
        for form in (said, said.removeprefix(" ") if said else None):
            if form and rest.startswith(form):
                found[index], rest, held, spelt = form, rest[len(form) :], [], b""
                break
        else:
            at = rest.find(name, 1) if spelt is None and not is_part(name) and name else -1
            if at > 0 and len(held) > 1:
                found[held[-2]], found[index] = rest[:at], name
                rest, held, spelt = rest[at + len(name) :], [], b""
    if rest and names:
        found[held[-1] if held else -1] += rest
    return found


def _groups(tokens: Sequence[Spelt]) -> list[list[Spelt]]:
    """Tokens up to one that has text; after the last one perhaps some that have none."""
    found: list[list[Spelt]] = [[]]
    for token in tokens:
        found[-1].append(token)
        if token.text:
            found.append([])
    return [group for group in found if group]


def _in_a_row(at: int, spelt: Sequence[bytes | None]) -> list[int | None]:
    found: list[int | None] = []
    known: int | None = at
    for one in spelt:
        found.append(known)
        known = known + len(one) if known is not None and one is not None else None
    return found


def _is_cut(spelt: bytes) -> bool:
    try:
        spelt.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False
