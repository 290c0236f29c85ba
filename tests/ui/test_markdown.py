"""Nothing that a model writes is lost, runs, or is fetched."""

from __future__ import annotations

import pytest

from workbench.ui.markdown import harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain *text*", "plain *text*"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("<think>hm</think>", "&lt;think>hm&lt;/think>"),
        ("<!-- hidden -->", "&lt;!-- hidden -->"),
        ("a < b and c <d", "a < b and c &lt;d"),
        ("![pic](http://evil/x.png)", "\\![pic](http://evil/x.png)"),
        ("wow! [link](http://x)", "wow! [link](http://x)"),
        ("$$a<b$$", "$$a&lt;b$$"),
    ],
)
def test_tags_become_text_and_pictures_links(text: str, shown: str) -> None:
    assert harmless(text) == shown


@pytest.mark.parametrize(
    "code",
    [
        "`<b>`",
        "``a ` <b>``",
        "```html\n<b>x</b>\n```",
        "~~~\n<b>![x](y)\n~~~",
        "  ```\n<b>\n  ```",
        "````\n```\n<b>\n```\n````",
    ],
)
def test_code_stays_as_it_is(code: str) -> None:
    assert harmless(f"before\n{code}\nafter <i>") == f"before\n{code}\nafter &lt;i>"


def test_code_that_is_still_being_written_is_code() -> None:
    assert harmless("```html\n<b>not yet clo") == "```html\n<b>not yet clo"


def test_lone_backtick_opens_nothing() -> None:
    assert harmless("a ` <b>") == "a ` &lt;b>"


def test_long_text_takes_linear_time() -> None:
    """A hostile text must not stall the event loop (10 MB of it in well under the timeout)."""
    for piece in ("`", "```", "<", "![", "``` ` "):
        harmless(piece * (60_000 // len(piece)))
