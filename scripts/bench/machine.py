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


def int8_peak(size: int, repeats: int = 10) -> float:
    """Operations/s of the fastest of `repeats` products of a uint8 and an int8 [size, size] matrix.

    Counted as in `matmul_peak`, computed by ONNX Runtime on the processor, as a quantised router's
    are, with as many threads as torch takes. The int8 matrix is constant, as weights are.
    """
    import numpy as np  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    generator = np.random.default_rng(0)
    a = generator.integers(0, 255, (size, size), dtype=np.uint8)
    b = generator.integers(-127, 127, (size, size), dtype=np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [size, size])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [size, size])],
        [numpy_helper.from_array(b, "b")],
    )
    # Versions that every runtime reads; the newest of both would ask for the newest of it.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fastest = float("inf")
    for _ in range(3):
        session.run(None, {"a": a})
    for _ in range(repeats):
        start = time.perf_counter()
        session.run(None, {"a": a})
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def synchronize() -> None:
    """Wait until the GPU, if there is one, has done what it was given."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        torch.cuda.synchronize()
