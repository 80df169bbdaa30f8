"""An encoder router that ONNX Runtime computes on a processor, from a folder that `export` wrote.

    router.json       as any encoder's; `onnx` has the graph's SHA-256 and its quantisation
    model.onnx        token rows -> class logits: encoder, mean pooling and head in one graph
    tokenizer.json, …

An ONNX graph is plain protobuf, arrays and the names of operators that the runtime brings: loading
it runs no code of the file's. Knows nothing of exporting.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from distill.errors import MissingExtraError, RouterError
from distill.routers import pretrained
from distill.routers.encoding import EncodingRouter, Logits, TokenRows
from distill.routers.folder import RouterFile, require_files

GRAPH = "model.onnx"

_SLOW = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]
"""Fusions of the runtime whose operator takes five times as long as an addition and a layer
normalisation do (1.32, on a processor with AVX-512): a fifth of a quantised MiniLM's time."""


class OnnxEncoderRouter(EncodingRouter):
    """The encoder as a router, from its graph.

    Args:
        graph: the serialised ONNX model, without data outside of it.
        place: where it comes from, for errors.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        RouterError: this version of it cannot run the graph.
    """

    batch = 1
    """A quantised product scales its input by the range of all of it, so rows computed together
    would change each other. One row alone keeps a processor as busy as many."""

    def __init__(
        self, file: RouterFile, tokenizer: PreTrainedTokenizerBase, graph: bytes, place: Path
    ) -> None:
        super().__init__(file, tokenizer)
        self._graph = graph
        self._session = _session(graph, place)

    def logits(self, input_ids: TokenRows, attention_mask: TokenRows) -> Logits:
        rows = {"input_ids": input_ids, "attention_mask": attention_mask}
        (logits,) = self._session.run(["logits"], rows)
        return cast(Logits, logits)

    def save(self, path: Path) -> None:
        self.tokenizer.save_pretrained(path)
        (path / GRAPH).write_bytes(self._graph)
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "OnnxEncoderRouter":
        require_files(folder, [GRAPH])
        graph = (folder / GRAPH).read_bytes()
        assert file.onnx is not None
        if hashlib.sha256(graph).hexdigest() != file.onnx.get("sha256"):
            fault = "damaged (its SHA-256 is not router.json's)"
            raise RouterError(folder / GRAPH, fault, "copy the folder again")
        local = pretrained.saved(folder)
        return cls(file, pretrained.load_tokenizer(local), graph, folder / GRAPH)


def _session(graph: bytes, place: Path) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("onnx", "an exported encoder") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW
        )
    except Exception as error:  # the runtime's errors have no class of their own in common
        reason = str(error).partition("\n")[0]
        raise RouterError(
            place,
            f"ONNX Runtime {onnxruntime.__version__} cannot run it ({reason})",
            "export it again with this version, or install the one that wrote it",
        ) from None


def _threads() -> int:
    """As many as torch would take: `OMP_NUM_THREADS`, else 0, which lets the runtime choose."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(first) if first.isdigit() else 0
