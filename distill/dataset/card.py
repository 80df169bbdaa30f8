"""The dataset card: the manifest in words. It counts nothing of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render_card(manifest: dict[str, Any], parts: Sequence[str]) -> str:
    """README.md of a dataset folder, with the front matter that `datasets` reads."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["figure"] = _figure
    return environment.get_template("card.md.jinja").render(manifest=manifest, parts=parts)


def _figure(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.3f}" if value < 10 else f"{value:,.0f}"
