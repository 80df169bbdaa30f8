from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from .fake_hub import FakeHub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake hub, a matching token in the environment, and no other way out."""
    constants = huggingface_hub.constants
    # The fake speaks LFS, not Xet; telemetry would ask the real hub for a list.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    nowhere = "http://127.0.0.1:9"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "unused-cache"))
    with FakeHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub
    # The next test's hub may get the same port: no connection of this one may survive.
    huggingface_hub.close_session()
