"""A router that went to the hub and back decides what it decided before, as its card says."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from small_shop import PARTS
from transformers import AutoModel, AutoTokenizer

from distill import load_router
from distill.config import AssembledConfig, CascadeConfig, EnsembleConfig
from distill.hub.push import pull, push
from distill.routers.cascade import CascadeRouter
from distill.routers.decoder import DecoderRouter
from distill.routers.ensemble import EnsembleRouter
from distill.routers.folder import RouterFile, read_router_file
from distill.runs import RunDir, read_json

from .factory import base_model, make_run
from .fake_hub import FakeHub

# huggingface_hub 2.4 uploads LFS files with httpx2's deprecated `data=`; users do not see it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "acme/desk-router"
CONTEXTS = [example.context for example in PARTS.validation]
KINDS = ["tfidf", "rnn", "attention", "encoder", "decoder", "cascade", "ensemble"]


@pytest.fixture
def publish(
    trained: Callable[[str], Any], taught_llama: Path, default_hub: FakeHub, tmp_path: Path
) -> Callable[[str], RunDir]:
    """Pushes the trained router of a kind to `REPO`; the decoder's base is on the hub, too."""

    def decoder() -> DecoderRouter:
        router: Any = trained("decoder").router
        files = {path.name: path.read_bytes() for path in taught_llama.iterdir()}
        base = default_hub.create("acme/tiny-lm", private=False, files=files)
        config = {"model": "acme/tiny-lm", "revision": base.head.oid}
        settings = replace(
            router.file,
            base_model=base_model("decoder", revision=base.head.oid),
            config=router.file.config.model_copy(update=config),
        )
        return DecoderRouter(settings, router.tokenizer, router.model)

    def cascade() -> CascadeRouter:
        folders = {"encoder": trained("encoder").folder, "decoder": tmp_path / "decoder"}
        folders["decoder"].mkdir()
        decoder().save(folders["decoder"])
        return CascadeRouter.of(file(CascadeConfig()), folders)

    def ensemble() -> EnsembleRouter:
        members = ["encoder", "tfidf"]
        folders = {name: trained(name).folder for name in members}
        return EnsembleRouter.of(file(EnsembleConfig(members=members)), folders)

    def file(config: AssembledConfig) -> RouterFile:
        known = read_router_file(trained("encoder").folder)
        return RouterFile(config, known.catalogue, known.labels)

    def do(kind: str) -> RunDir:
        changes = {}
        if kind == "cascade":
            router: Any = cascade()
        elif kind == "ensemble":
            router = ensemble()
        elif kind == "decoder":
            router = decoder()
            changes["manifest"] = {"base_model": router.file.base_model}
        else:
            router = trained(kind).router
        run = make_run(tmp_path / "run", kind, **changes)
        shutil.rmtree(run.router)
        run.router.mkdir()
        router.save(run.router)
        push(run, REPO)
        return run

    return do


def snippets(card: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pulled_router_decides_identically(
    publish: Callable[[str], RunDir], tmp_path: Path, kind: str
) -> None:
    run = publish(kind)
    expected = load_router(run.router).decide(CONTEXTS)
    assert len({decision.tools for decision in expected}) > 1
    assert load_router(pull(REPO, tmp_path / "pulled")).decide(CONTEXTS) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_loads_and_asks_the_router(
    publish: Callable[[str], RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = publish(kind)
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path / "reader")
    names: dict[str, Any] = {}
    exec(snippets(pull(REPO, tmp_path / "pulled") / "README.md")[0], names)
    assert [names["decision"]] == load_router(run.router).decide([names["context"]])


def test_the_card_loads_the_decoder_with_peft(
    publish: Callable[[str], RunDir], tmp_path: Path
) -> None:
    ours = load_router(publish("decoder").router)
    assert isinstance(ours, DecoderRouter)
    names: dict[str, Any] = {}
    exec(snippets(pull(REPO, tmp_path / "pulled") / "README.md")[1], names)
    theirs = DecoderRouter(ours.file, names["tokenizer"], names["model"]).decide(CONTEXTS)
    expected = ours.decide(CONTEXTS)
    assert [d.calls for d in theirs] == [d.calls for d in expected]
    # The adapter is beside the weights here, and merged into them there.
    confidence = [d.confidence for d in expected]
    assert [d.confidence for d in theirs] == pytest.approx(confidence, abs=1e-4)


class FolderReader:
    """What sentence-transformers makes of a folder, as far as its JSON files tell."""

    def __init__(self, repo_id: str) -> None:
        self.folder = pull(repo_id, Path("sentence-transformers"))

    def encode(self, texts: list[str]) -> np.ndarray:
        folder, modules = self.folder, read_json(self.folder / "modules.json")
        kinds = [f"sentence_transformers.models.{k}" for k in ("Transformer", "Pooling", "Dense")]
        assert [module["type"] for module in modules] == kinds
        body, pooling, dense = (folder / module["path"] for module in modules)
        limit = read_json(body / "sentence_bert_config.json")["max_seq_length"]
        rows = AutoTokenizer.from_pretrained(body)(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        settings, head = read_json(pooling / "config.json"), read_json(dense / "config.json")
        assert settings["pooling_mode_mean_tokens"]
        assert head["activation_function"] == "torch.nn.modules.linear.Identity"
        linear = torch.nn.Linear(head["in_features"], head["out_features"], head["bias"])
        weights = load_file(dense / "model.safetensors")
        linear.load_state_dict({k.removeprefix("linear."): v for k, v in weights.items()})
        with torch.inference_mode():
            states = AutoModel.from_pretrained(body)(**rows)[0]
            mask = rows["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(1) / mask.sum(1)
            assert mean.shape[1] == settings["word_embedding_dimension"]
            return np.asarray(linear(mean))


def test_the_card_gets_the_encoders_logits_from_sentence_transformers(
    publish: Callable[[str], RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("sentence_transformers") is None:  # no dependency: its reading of the folder
        module: Any = ModuleType("sentence_transformers")
        module.SentenceTransformer = FolderReader
        monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    router: Any = load_router(publish("encoder").router)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"router": router, "context": CONTEXTS[0]}
    exec(snippets(pull(REPO, tmp_path / "pulled") / "README.md")[1], names)
    expected = router.probabilities([router.text(CONTEXTS[0])])
    assert softmax(names["logits"], axis=1) == pytest.approx(expected, abs=1e-5)
