"""Routers: the baselines, networks from scratch, the encoder and the decoder; `load_router`."""

from distill.routers.load import load_router

__all__ = ["load_router"]
