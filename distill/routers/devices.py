"""Where models compute, and in which number format: decided here for training and routing alike."""

import os

import torch
from transformers.utils.generic import strtobool


def device() -> torch.device:
    """The first GPU, else the CPU; the CPU too under `accelerate launch --cpu`."""
    if strtobool(os.environ.get("ACCELERATE_USE_CPU", "False")) or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def dtype(precision: str) -> torch.dtype:
    """The number format for a config's `precision`; trained weights stay in float32."""
    if precision == "auto":
        able = device().type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if able else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
