"""A decoder's soft prompt, alone and beside LoRA: what is trained, saved, read and refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from small_shop import CANCEL, PARTS, ask, decoder, job, losses
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.config import DecoderConfig, LoraConfig
from distill.errors import ModelError, RouterError
from distill.routers import load_router, pretrained, soft_prompt
from distill.routers.decoding import PromptFormat
from distill.routers.grammar import grammar_text
from distill.training import Trained, loop, train
from distill.training.adapt import adapted_decoder
from distill.training.sft import row
from distill.types import Decision, ToolCall

COUNT, WIDTH = 4, 32
LORA = LoraConfig(rank=4, alpha=8)
WAYS = {"soft": (None, COUNT), "lora": (LORA, 0), "both": (LORA, COUNT)}
CONTEXTS = [example.context for example in PARTS.validation]


@dataclass(frozen=True)
class Made:
    """A training, its run directory, and the router's folder."""

    config: DecoderConfig
    trained: Trained
    run: Path
    folder: Path


def config_of(model: Path, way: str, **changes: object) -> DecoderConfig:
    lora, count = WAYS[way]
    rate = {"soft_prompt_learning_rate": 0.05}
    return decoder(model).model_copy(update={"lora": lora, "soft_prompt": count} | rate | changes)


@pytest.fixture(scope="module")
def made(taught_llama, tmp_path_factory) -> Callable[[str], Made]:
    found: dict[str, Made] = {}

    def get(way: str) -> Made:
        if way not in found:
            run = tmp_path_factory.mktemp(way)
            config = config_of(taught_llama, way)
            trained = train(config, job(run))
            (run / "router").mkdir()
            trained.router.save(run / "router")
            found[way] = Made(config, trained, run, run / "router")
        return found[way]

    return get


def fresh(model: Path, way: str, seed: int = 0):
    """The tokenizer, and the model with an adapter as training begins with it."""
    config = config_of(model, way)
    tokenizer = pretrained.load_tokenizer(pretrained.resolve(config.model))
    PromptFormat.new(tokenizer, config)
    plain = pretrained.load_decoder(pretrained.resolve(config.model))
    return tokenizer, adapted_decoder(plain, tokenizer, config, seed)


def validation_loss(model, prompts: PromptFormat) -> float:
    """Nats a label token, by whole forward passes of one row each: no padding, no fused head."""
    total, tokens = 0.0, 0
    for example in PARTS.validation:
        made = row(example, prompts, 64)
        ids, labels = torch.tensor([made["input_ids"]]), torch.tensor(made["labels"])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].double()
        total += float(nn.functional.cross_entropy(logits, labels[1:], reduction="sum"))
        tokens += int((labels != -100).sum())
    return total / tokens


@pytest.mark.parametrize("way", WAYS)
def test_only_what_was_asked_for_is_trained(made, taught_llama, way):
    model = made(way).trained.router.model
    plain = AutoModelForCausalLM.from_pretrained(taught_llama)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    soft = [p for n, p in trained.items() if f".{soft_prompt.NAME}." in n]
    matrices = [p for n, p in trained.items() if ".lora_" in n]
    assert len(soft) + len(matrices) == len(trained)
    assert [p.shape for p in soft] == ([(COUNT, WIDTH)] if WAYS[way][1] else [])
    assert bool(matrices) == (WAYS[way][0] is not None)
    for name, parameter in plain.named_parameters():
        left, _, right = name.rpartition(".")
        kept = [f"{left}.{right}", f"{left}.base_layer.{right}", f"{left}.base.{right}"]
        (same,) = (
            found
            for other, found in model.named_parameters()
            if other.removeprefix("base_model.model.") in kept
        )
        assert torch.equal(same, parameter), name
    _, before = fresh(taught_llama, way)
    start = dict(before.named_parameters())
    assert all(not torch.equal(p, start[n]) for n, p in trained.items() if "lora_A" not in n)
    count = sum(p.numel() for p in trained.values())
    assert made(way).trained.trainable_parameters == count
    assert made(way).trained.parameters == plain.num_parameters() + count


@pytest.mark.parametrize("way", ["soft", "both"])
def test_what_is_loaded_has_the_loss_that_training_saw(made, taught_llama, way):
    """TRL multiplies by the projection itself: nothing of a soft prompt must change that."""
    tokenizer, before = fresh(taught_llama, way)
    prompts = PromptFormat(tokenizer, made(way).config)
    after = validation_loss(load_router(made(way).folder).model, prompts)
    lines = map(orjson.loads, (made(way).run / "log.jsonl").read_bytes().splitlines())
    seen = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert len(seen) == 3
    assert min(abs(after - loss) for loss in seen) < 1e-5
    assert after < validation_loss(before.eval(), prompts)


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_router_decides_as_before(made, way):
    before = made(way).trained.router.decide(CONTEXTS)
    after = load_router(made(way).folder).decide(CONTEXTS)
    assert {decision.action for decision in before} == {"call", "reply"}
    if way == "soft":  # LoRA is merged, which rounds
        assert after == before
    assert [d.calls for d in after] == [d.calls for d in before]
    for one, other in zip(after, before, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=1e-5)
    assert load_router(made(way).folder).decide(CONTEXTS) == after


def test_a_batch_changes_no_decision(made):
    router = load_router(made("both").folder)
    lengths = {len(router.format.ids(router.format.prompt(context))) for context in CONTEXTS}
    assert len(lengths) > 3
    together, alone = router.decide(CONTEXTS), [router.decide([c])[0] for c in CONTEXTS]
    assert [d.calls for d in together] == [d.calls for d in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=1e-3)


def test_it_fills_arguments_for_tools_chosen_elsewhere(made):
    router = load_router(made("both").folder)
    asked = Decision("call", (ToolCall("get_order"), ToolCall("cancel_order")))
    (filled,) = router.fill([ask("show orders 4 and 5")], [asked])
    assert [call.name for call in filled.calls] == ["get_order", "cancel_order"]
    assert all(isinstance(call.arguments["order"], int) for call in filled.calls)


def test_prompts_begin_with_it_and_it_counts_as_tokens(made):
    soft, lora = (load_router(made(way).folder) for way in ("both", "lora"))
    names = soft_prompt.tokens(COUNT)
    for context in CONTEXTS:
        found = soft.format.ids(soft.format.prompt(context))
        plain = lora.format.ids(lora.format.prompt(context))
        assert soft.tokenizer.convert_ids_to_tokens(found[:COUNT]) == names
        assert found[COUNT:] == plain
    long = ask("where is order 1 " * 30)
    plain = lora.format.ids(lora.format.prompt(long))
    just = soft.config.model_copy(update={"max_tokens": len(plain)})
    found = soft.format.ids(PromptFormat(soft.tokenizer, just).prompt(long))
    assert len(found) <= len(plain)
    assert soft.tokenizer.convert_ids_to_tokens(found[:COUNT]) == names


def test_it_cannot_be_written(made):
    router = load_router(made("both").folder)
    ids = router.tokenizer.convert_tokens_to_ids(soft_prompt.tokens(COUNT))
    with torch.inference_mode():
        logits = router.model(input_ids=torch.tensor([ids])).logits
    assert logits.shape[-1] == min(ids)  # as many as the base has: it takes from no probability
    for begun in ("", '<tool_call>\n{"name":"cancel_order","arguments":{"order":1,"reason":"a'):
        for token in ids:
            matcher = router.format.grammars.matcher(grammar_text(ask("cancel", (CANCEL,))))
            matcher.consume_tokens(router.format.ids(begun))
            assert not matcher.is_error()
            assert matcher.validate_tokens([token]) == 0


def test_a_base_with_spare_rows_reads_the_vectors_and_not_the_rows(taught_llama, tmp_path):
    """Some models have more rows than their tokenizer has tokens: new tokens' ids fall there."""
    model = AutoModelForCausalLM.from_pretrained(taught_llama)
    model.resize_token_embeddings(model.config.vocab_size + 2)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(taught_llama).save_pretrained(tmp_path)
    narrow, wide = (fresh(folder, "soft") for folder in (taught_llama, tmp_path))
    ids = narrow[0]("".join(soft_prompt.tokens(COUNT)) + "where is order 1")["input_ids"]
    embedded = [
        adapted.get_input_embeddings()(torch.tensor([ids])) for _, adapted in (narrow, wide)
    ]
    assert torch.equal(*embedded)


def test_it_begins_as_words_that_the_seed_draws(taught_llama):
    vectors = {}
    for seed in (0, 0, 1):
        tokenizer, model = fresh(taught_llama, "soft", seed)
        embedding = model.get_input_embeddings()
        ids = tokenizer.convert_tokens_to_ids(soft_prompt.tokens(COUNT))
        found = embedding(torch.tensor(ids))
        special = set(tokenizer.all_special_ids)
        for vector in found:
            equal = (embedding.base.weight == vector).all(1).nonzero().flatten().tolist()
            assert equal
            assert special.isdisjoint(equal)
        assert torch.equal(found, vectors.setdefault(seed, found))
    assert not torch.equal(vectors[0], vectors[1])


def test_it_has_a_learning_rate_of_its_own(taught_llama):
    config = config_of(taught_llama, "both")
    _, model = fresh(taught_llama, "both")
    made = loop.optimizer(model, config.train, soft_prompt=0.5)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = f".{soft_prompt.NAME}." in name
            assert rates.pop(id(parameter)) == (0.5 if own else config.train.learning_rate)
    assert not rates


class Killed(BaseException):
    """Raised in the middle of a training, where nothing catches it."""


def test_a_killed_training_goes_on_exactly(made, tmp_path):
    def progress(stage: str, done: int, total: int | None = None) -> None:
        if stage.startswith("training") and done == 6:
            raise Killed

    with pytest.raises(Killed):
        train(made("both").config, job(tmp_path, progress=progress))
    resumed = job(tmp_path)
    train(made("both").config, resumed).router.save(tmp_path)
    assert losses(resumed.run) == losses(job(made("both").run).run)
    found, expected = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path, made("both").folder)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_base_with_a_soft_prompt_is_refused(made, taught_llama, tmp_path):
    folder = shutil.copytree(taught_llama, tmp_path / "base")
    load_router(made("soft").folder).tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="its tokenizer has soft tokens already"):
        train(config_of(folder, "soft"), job(tmp_path / "run"))


@pytest.mark.parametrize("count", [COUNT - 1, COUNT + 1])
def test_a_folder_that_says_another_length_is_refused(made, tmp_path, count):
    folder = shutil.copytree(made("both").folder, tmp_path / "router")
    value = json.loads((folder / "router.json").read_text())
    value["config"]["soft_prompt"] = count
    (folder / "router.json").write_text(json.dumps(value))
    with pytest.raises(RouterError, match=rf"tokenizer\.json: has no soft prompt of {count} tok"):
        load_router(folder)


def test_folders_from_before_soft_prompts_load(made, tmp_path):
    folder = shutil.copytree(made("lora").folder, tmp_path / "router")
    value = json.loads((folder / "router.json").read_text())
    for key in [key for key in value["config"] if key.startswith("soft_prompt")]:
        del value["config"][key]
    (folder / "router.json").write_text(json.dumps(value))
    assert load_router(folder).decide(CONTEXTS) == load_router(made("lora").folder).decide(CONTEXTS)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="lora: null leaves nothing to train without a soft_promp"):
        DecoderConfig(lora=None)
