"""What a model writes, as Markdown that shows all of it and fetches nothing.

Gradio's sanitiser removes tags that could do harm, and with them words of the answer; it also lets
pictures through, which a browser would fetch from wherever the model says. So tags are shown as
text, and a picture becomes a link. Code is left alone: there Markdown shows everything as it is.
"""

from __future__ import annotations

import re
from typing import Final

_CODE: Final = re.compile(
    r"""
    ^[ ]{0,3}(?P<fence>`{3,}|~{3,}) .*? (?:^[ ]{0,3}(?P=fence)[`~]*[ \t]*$ | \Z)  # open to the end
    | (?<!`)(?P<ticks>`+)(?!`) [^\n]*? (?<!`)(?P=ticks)(?!`)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_TAG: Final = re.compile(r"<(?=[A-Za-z/!?])")
_MATHS: Final = re.compile(r"(?<![\\$\w])\$(?=[^\s$])([^$\n]{0,499}[^\s$\\])\$(?![\d$])")
"""``$x$`` but not ``$5 and $6``, by pandoc's rule."""
_PICTURE: Final = re.compile(r"(?<!\\)!(?=\[)")


def harmless(text: str) -> str:
    """The text with tags as text and pictures as links, outside of code."""
    parts: list[str] = []
    reached = 0
    for code in _CODE.finditer(text):
        parts += [_plain(text[reached : code.start()]), code.group()]
        reached = code.end()
    return "".join([*parts, _plain(text[reached:])])


def _plain(text: str) -> str:
    return _MATHS.sub(r"\\(\1\\)", _PICTURE.sub(r"\\!", _TAG.sub("&lt;", text)))
