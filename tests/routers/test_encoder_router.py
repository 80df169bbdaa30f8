"""The encoder's folder is a sentence-transformers model, its LoRA merged without loss."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_shop import PARTS, TOOLS
from transformers import AutoModel, AutoTokenizer

from distill.routers import load_router, pretrained
from distill.routers.encoder import EncoderClassifier
from distill.types import Context, Message

CONTEXTS = [example.context for example in PARTS.validation]


@pytest.fixture(scope="module")
def saved(trained):
    return trained("encoder")


def read(path):
    return json.loads(path.read_text())


def test_the_folder_serves_as_a_sentence_transformers_model(saved):
    """Any reader of that layout computes the class logits: nothing of ours is needed."""
    modules = read(saved.folder / "modules.json")
    assert [m["type"].rpartition(".")[2] for m in modules] == ["Transformer", "Pooling", "Dense"]
    transformer, pooling, dense = (saved.folder / m["path"] for m in modules)
    assert read(pooling / "config.json")["pooling_mode_mean_tokens"] is True
    layer = read(dense / "config.json")
    assert layer["activation_function"] == "torch.nn.modules.linear.Identity"

    router = load_router(saved.folder)
    texts = [router.text(context) for context in CONTEXTS]
    tokenizer = AutoTokenizer.from_pretrained(transformer)
    limit = read(transformer / "sentence_bert_config.json")["max_seq_length"]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(transformer)(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = (states * mask).sum(1) / mask.sum(1)
    weights = load_file(dense / "model.safetensors")
    assert weights["linear.weight"].shape == (layer["out_features"], layer["in_features"])
    logits = pooled @ weights["linear.weight"].T + weights["linear.bias"]
    probabilities = logits.double().softmax(1).numpy()
    np.testing.assert_allclose(router.probabilities(texts), probabilities, atol=1e-6)


def test_merged_weights_compute_what_the_adapter_did(saved, tiny_bert):
    last = max(
        (saved.run / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])
    )
    best = read(last / "trainer_state.json")["best_model_checkpoint"]
    base = pretrained.load_encoder(pretrained.resolve(str(tiny_bert)))
    classes = len(saved.router.file.labels)
    adapted = PeftModel.from_pretrained(EncoderClassifier(base, classes), best).eval()
    tokens = saved.router.tokenizer(
        [saved.router.text(context) for context in CONTEXTS], padding=True, return_tensors="pt"
    )
    arguments = tokens["input_ids"], tokens["attention_mask"]
    with torch.inference_mode():
        expected = adapted(*arguments)["logits"]
        found = saved.router.model(*arguments)["logits"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_lora_moved_the_encoder_and_spared_its_pooler(saved, tiny_bert):
    before = load_file(tiny_bert / "model.safetensors")
    after = load_file(saved.folder / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {
        name
        for name, tensor in before.items()
        if tensor.ndim == 2 and "embeddings" not in name and "pooler" not in name
    }
    assert moved == linear


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("encoder", "again and "),
        ("encoder", "東京都の注文"),
        ("rnn", "again and "),
        ("attention", "again and "),
    ],
)
def test_a_long_conversation_fits_with_its_latest_turn(trained, kind, word):
    """Left to a tokenizer's truncation, the latest turn would be what is lost."""
    router = trained(kind).router
    asked, answered = Message("user", f"please {word * 80}"), Message("assistant", word * 80)
    context = Context((asked, answered, asked, answered, Message("user", "cancel")), TOOLS)
    text = router.text(context)
    latest = 0 if router.config.render.order == "newest_first" else -1
    assert text.splitlines()[latest].startswith("user: ca")
    assert len(router.tokenizer.encode(text)) <= router.config.max_tokens
