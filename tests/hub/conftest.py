from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import transformers.utils.hub
from huggingface_hub import constants, hf_api

from .fake_hub import FakeHub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake hub, a matching token in the environment, and no other way out."""
    # The fake speaks LFS, not Xet; telemetry would ask the real hub for a list.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    _ask("http://127.0.0.1:9", monkeypatch)
    with FakeHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub
    # The next test's hub may get the same port: no connection of this one may survive.
    huggingface_hub.close_session()


@pytest.fixture
def default_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The fake hub as the one that every library asks when it is told none."""
    _ask(hub.endpoint, monkeypatch)
    return hub


def _ask(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this the hub that is asked by default, in all places where its address stands."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    # transformers' own client, made when first needed, keeps the address of that time.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
