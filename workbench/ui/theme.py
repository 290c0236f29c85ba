"""How the page looks, and what gradio wants to be told when it is mounted."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

SHEETS = ("page.css", "benchmarks.css", "history.css", "health.css", "models.css")
"""The style sheets, in order."""

_ACCENT = gr.themes.Color(
    name="cobalt",
    c50="#eef3fe",
    c100="#dbe6fd",
    c200="#bccffa",
    c300="#91aff5",
    c400="#6488ed",
    c500="#3f66e0",
    c600="#2c4fc9",
    c700="#2540a3",
    c800="#233a84",
    c900="#21346b",
    c950="#172146",
)


def theme() -> gr.themes.Base:
    """Neutral surfaces, one accent, system fonts (nothing is fetched from another host)."""
    made = gr.themes.Base(
        primary_hue=_ACCENT,
        secondary_hue=_ACCENT,
        neutral_hue=gr.themes.colors.zinc,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_sm,
        font=["Inter", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif"],
        font_mono=["JetBrains Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"],
    )
    made.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_shadow="none",
        block_border_width="1px",
        block_label_background_fill="transparent",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="transparent",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
    )
    return made


def mount_options() -> dict[str, Any]:
    """Keyword arguments for ``gradio.mount_gradio_app``.

    The run history that gradio would keep in the browser is off: the log is the one record.
    """
    here = files("workbench.ui")
    sheets = "".join((here / name).read_text(encoding="utf-8") for name in SHEETS)
    return {
        "theme": theme(),
        # As a style element: gradio rewrites what it is given as css, and loses container queries.
        "head": f"<style>{sheets}</style>",
        "js": (here / "page.js").read_text(encoding="utf-8"),
        "favicon_path": str(here / "icon.svg"),
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "show_error": True,
    }
