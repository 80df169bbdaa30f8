"""What a router reads of a conversation."""

from typing import Literal

from pydantic import Field

from distill.config.base import Config


class RenderConfig(Config):
    """How much of a conversation a router reads (`distill.render`)."""

    system_chars: int = Field(0, ge=0)
    """Characters kept of the system prompt; 0 leaves it out."""
    first_chars: int = Field(600, ge=16)
    """Characters kept of the first user message."""
    turn_chars: int = Field(240, ge=16)
    """Characters kept of each later message, and of a call's arguments in texts."""
    turns: int = Field(4, ge=1)
    """Latest messages kept; of those before, only the names of the called tools."""
    order: Literal["oldest_first", "newest_first"] = "oldest_first"
    """Order of a text's lines (`distill.render.render_text`); a decoder's chat keeps its own.
    Newest first, the latest message, on which most depends, always stands at the same place."""
