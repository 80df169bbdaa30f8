"""The machine that figures were measured on: its description, and its measured peak.

A share of the peak means the share of what this machine's own matrix multiplication reaches, in
the same number format, minutes before; a vendor's figure is never used. Knows no model.
"""

import os
import time
from typing import Any


def describe(hardware: dict[str, Any]) -> str:
    """`distill.runs.hardware` and the load of the last minute, in one line."""
    parts = [hardware["cpu"], f"{hardware['cores']} cores"]
    if hasattr(os, "getloadavg"):
        parts.append(f"load {os.getloadavg()[0]:.1f}")
    return ", ".join(parts + hardware["gpus"])


def matmul_peak(dtype: str, size: int, repeats: int = 10) -> float:
    """FLOP/s of the fastest of `repeats` products of two [size, size] matrices.

    A product counts 2·size³ FLOPs. On the first GPU where there is one, else on the CPU with
    torch's threads. The fastest, because what slows one product down is not the machine's peak.
    """
    import torch  # noqa: PLC0415  (scripts that need no torch describe the machine too)

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(size, size, generator=generator).to(device, getattr(torch, dtype))
        for _ in range(2)
    )
    fastest = float("inf")
    for _ in range(3):
        a @ b
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        a @ b
        synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def synchronize() -> None:
    """Wait until the GPU, if there is one, has done what it was given."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        torch.cuda.synchronize()
