"""Any router folder becomes a router: the one place that knows every kind."""

from pathlib import Path

from distill.routers.folder import RouterFile, read_router_file
from distill.types import Router


def load_router(path: str | Path) -> Router:
    """Load any router folder; its confidences are probabilities where it is calibrated.

    Args:
        path: a router folder, or a run directory that contains `router/`.

    Raises:
        RouterError: no router there, or it is damaged.
        ModelError: the base model that an adapter needs cannot be had.
        MissingExtraError: an exported encoder, and ONNX Runtime is not installed.
    """
    folder = Path(path)
    if not (folder / "router.json").exists() and (folder / "router").is_dir():
        folder = folder / "router"
    file = read_router_file(folder)
    return load_as(folder, file)


def load_as(folder: Path, file: RouterFile) -> Router:
    """The router of a folder, as if its `router.json` said `file`; errors as `load_router`."""
    # Imported by kind: a TF-IDF router must not cost the seconds that torch and transformers take.
    match file.config.kind:
        case "majority" | "tfidf":
            from distill.routers import baselines  # noqa: PLC0415

            return baselines.load(folder, file)
        case "rnn":
            from distill.routers.rnn import RnnRouter  # noqa: PLC0415

            return RnnRouter.load(folder, file)
        case "attention":
            from distill.routers.attention import AttentionRouter  # noqa: PLC0415

            return AttentionRouter.load(folder, file)
        case "encoder" if file.onnx is not None:
            from distill.routers.onnx import OnnxEncoderRouter  # noqa: PLC0415

            return OnnxEncoderRouter.load(folder, file)
        case "encoder":
            from distill.routers.encoder import EncoderRouter  # noqa: PLC0415

            return EncoderRouter.load(folder, file)
        case "decoder":
            from distill.routers.decoder import DecoderRouter  # noqa: PLC0415

            return DecoderRouter.load(folder, file)
