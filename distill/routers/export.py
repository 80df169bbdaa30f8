"""A trained encoder as an ONNX graph, its weights in int8 unless told otherwise.

torch exports the encoder, the mean pooling and the head as one graph with free batch and time
axes; ONNX Runtime's tools quantise it: the weights of each output channel to int8 once, the inputs
of a product to uint8 when it runs ("dynamic" quantisation), so that no example is needed. The head
and the softmax within attention stay in float32.

Knows nothing of how the router was trained or is measured. Needs the extra `onnx`.
"""

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor, nn

from distill.errors import MissingExtraError, RouterError
from distill.routers.arguments import FillingRouter
from distill.routers.encoder import EncoderClassifier, EncoderRouter
from distill.routers.load import load_router
from distill.routers.onnx import GRAPH, OnnxEncoderRouter
from distill.runs import new_folder
from distill.types import Router

Quantise = Literal["int8", "none"]

_OPSET = 23
"""The first ONNX operator set with attention as one operator, which ONNX Runtime computes without
the transpositions and copies of its parts."""


def export(source: Path, out: Path, quantise: Quantise = "int8") -> None:
    """Write the router folder `out` that ONNX Runtime serves, replacing an earlier export.

    Calibration and thresholds stay with float32 weights; int8 ones answer with other confidences,
    to which they can be fitted anew (`distill.pipeline.export`).

    Args:
        source: a run directory or a router folder of an encoder.
        quantise: `int8`, or `none` for float32 weights.

    Raises:
        RouterError: no encoder there, it cannot be exported, or `out` holds something else.
        MissingExtraError: the extra `onnx` is not installed.
    """
    _require_extra()
    require_replaceable(out)
    router = load_router(source)
    if not isinstance(router, EncoderRouter):
        raise RouterError(
            source,
            f"holds {_in_words(router)}",
            "export a trained encoder with a closed catalogue and no arguments",
        )
    graph = _graph(router, source, quantise)
    record = {"sha256": hashlib.sha256(graph).hexdigest(), "quantise": quantise}
    file = replace(router.file, onnx=record)
    if quantise == "int8":
        # Its confidences are others than those that were calibrated, so no promise carries over.
        file = replace(file, calibration=None, thresholds=())
    exported = OnnxEncoderRouter(file, router.tokenizer, graph, out / GRAPH)
    with new_folder(out) as folder:
        exported.save(folder)


def _in_words(router: Router) -> str:
    if isinstance(router, OnnxEncoderRouter):
        return "an exported encoder"
    if isinstance(router, FillingRouter):
        return "an encoder that fills arguments"
    return "an open encoder" if router.kind == "encoder" else f"a router of kind {router.kind!r}"


def _require_extra() -> None:
    try:
        for name in ("onnx", "onnxruntime", "onnxscript"):
            metadata.version(name)
    except metadata.PackageNotFoundError:
        raise MissingExtraError("onnx", "distill export") from None


def require_replaceable(out: Path) -> None:
    """Raise RouterError where writing the folder would delete something else."""
    ours = (out / "router.json").is_file() and (out / GRAPH).is_file()
    if out.exists() and not ours and not (out.is_dir() and not any(out.iterdir())):
        raise RouterError(out, "is there and is no exported router", "name another folder")


class _Logits(nn.Module):
    """The classifier with one output, as a graph has it."""

    def __init__(self, model: EncoderClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids, attention_mask)["logits"]
        return logits


def _graph(router: EncoderRouter, source: Path, quantise: Quantise) -> bytes:
    """The serialised graph: `input_ids`, `attention_mask` [batch, time] -> `logits`."""
    model = _Logits(router.model.cpu()).eval()
    # Two rows of which one is padded: neither an axis nor the mask may be taken for a constant.
    rows = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones_like(rows)
    mask[1, 4:] = 0
    axes = {0: "batch", 1: "time"}
    with TemporaryDirectory() as temporary, _quiet():
        plain, quantised = Path(temporary) / "plain.onnx", Path(temporary) / "quantised.onnx"
        try:
            torch.onnx.export(
                model,
                (rows, mask),
                plain,
                dynamo=True,
                external_data=False,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={"input_ids": axes, "attention_mask": axes},
                opset_version=_OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise RouterError(
                source,
                f"torch cannot export this base model ({reason})",
                "serve it with PyTorch, or train another base",
            ) from None
        if quantise == "none":
            return plain.read_bytes()
        _quantise(plain, quantised)
        return quantised.read_bytes()


def _quantise(plain: Path, quantised: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(
        plain,
        quantised,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # The products of attention multiply two activations: both would be quantised as they run.
        extra_options={"MatMulConstBOnly": True},
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' advice to those who develop models."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    before = [logger.level for logger in loggers]
    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        root.handlers[:] = handlers  # the first message on `logging` itself adds one
