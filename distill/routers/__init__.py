"""Routers: the baselines, the RNN, the encoder and the decoder, and how a folder becomes one."""

from distill.routers.load import load_router

__all__ = ["load_router"]
