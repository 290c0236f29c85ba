"""A server whose one model writes attacks on the page; it prints its address. For tests."""

from __future__ import annotations

from tests.page_server import serve
from workbench.providers.scripted import Schedule, Step

ATTACKS = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=2>",
    "<svg/onload=window.pwned=3>",
    "<iframe srcdoc='<script>parent.pwned=4</script>'></iframe>",
    "<math><mtext></mtext><mglyph><style></math><img src onerror=window.pwned=5>",
    "[click](javascript:window.pwned=6)",
    "![x](http://evil.invalid/a.png)",
    "<a href='javascript:window.pwned=7'>x</a>",
    "<details open ontoggle=window.pwned=8>",
    "<form action=http://evil.invalid><button>x</button></form>",
    "<style>@import 'http://evil.invalid/x.css'; body{display:none}</style>",
    "<link rel=stylesheet href=http://evil.invalid/y.css>",
    "<meta http-equiv=refresh content='0;url=http://evil.invalid'>",
    "<base href=http://evil.invalid/>",
    "$$\\href{javascript:window.pwned=9}{x}$$ $\\includegraphics{http://evil.invalid/b.png}$",
    '```mermaid\ngraph LR; A-->B; click A href "javascript:window.pwned=10"\n```',
    "```html\n<script>window.pwned=11</script>\n```",
    "<video src=http://evil.invalid/v onerror=window.pwned=12></video>",
    "<!--<img src=--><img src=x onerror=window.pwned=13>",
    '<p style="background:url(http://evil.invalid/c.png)">x</p>',
    "\\<img src=x onerror=window.pwned=14>",
    "`` ` `<img src=x onerror=window.pwned=15>` ``",
]


if __name__ == "__main__":
    steps = tuple(Step(0.0, f"{attack}\n\n") for attack in ATTACKS)
    serve({"evil": Schedule((*steps, Step(0.0, "the end")))})
