"""Distil the tool calls of a large LLM into small local routers."""

from distill.routers import load_router
from distill.types import Context, Decision, Message, Router, ToolCall, ToolSpec

__all__ = ["Context", "Decision", "Message", "Router", "ToolCall", "ToolSpec", "load_router"]
