"""Any router folder becomes a router: the one place that knows every kind."""

from pathlib import Path

from distill.config import EncoderConfig
from distill.routers.folder import read_router_file
from distill.types import Router


def load_router(path: str | Path) -> Router:
    """Load any router folder.

    Args:
        path: a router folder, or a run directory that contains `router/`.

    Raises:
        RouterError: no router there, or it is damaged.
        ModelError: the base model that an adapter needs cannot be had.
    """
    folder = Path(path)
    if not (folder / "router.json").exists() and (folder / "router").is_dir():
        folder = folder / "router"
    file = read_router_file(folder)
    config = file.config
    # Imported by kind: a TF-IDF router must not cost the seconds that torch and transformers take.
    match config.kind:
        case "majority" | "tfidf":
            from distill.routers import baselines  # noqa: PLC0415

            return baselines.load(folder, file)
        case "rnn":
            from distill.routers.rnn import RnnRouter  # noqa: PLC0415

            return RnnRouter.load(folder, file)
        case "encoder" if isinstance(config, EncoderConfig) and config.catalogue == "open":
            from distill.routers.open_encoder import OpenEncoderRouter  # noqa: PLC0415

            return OpenEncoderRouter.load(folder, file)
        case "encoder":
            from distill.routers.encoder import EncoderRouter  # noqa: PLC0415

            return EncoderRouter.load(folder, file)
        case "decoder":
            from distill.routers.decoder import DecoderRouter  # noqa: PLC0415

            return DecoderRouter.load(folder, file)
