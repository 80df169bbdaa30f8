"""Configs that do not fit their base model: one line that names the key and the cure."""

import json
import shutil

import pytest
import torch
from small_shop import encoder, job
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from distill.config import LoraConfig
from distill.errors import ConfigError, ModelError
from distill.training import train


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("targets", ["no_such_layer", ["no_such_layer"], "(", ["norm"], []])
def test_targets_that_name_no_layer_name_those_there_are(config_of, tmp_path, kind, targets):
    if targets == ["norm"]:
        targets = ["LayerNorm"] if kind == "encoder" else ["input_layernorm"]
    config = config_of(kind).model_copy(update={"lora": LoraConfig(targets=targets)})
    with pytest.raises(ConfigError, match=r"^lora\.targets: .*all-linear") as caught:
        train(config, job(tmp_path))
    assert ("query" if kind == "encoder" else "q_proj") in str(caught.value)
    assert "\n" not in str(caught.value)


# PEFT warns of what is refused right after.
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")
def test_the_vocabulary_projection_takes_no_lora(config_of, tmp_path):
    lora = LoraConfig(targets=["q_proj", "lm_head"])
    config = config_of("decoder").model_copy(update={"lora": lora})
    with pytest.raises(ConfigError, match=r"lora\.targets: .*vocabulary projection"):
        train(config, job(tmp_path))


def test_more_tokens_than_positions_are_refused(tiny_bert, tmp_path):
    config = encoder(tiny_bert).model_copy(update={"max_tokens": 257})
    with pytest.raises(ConfigError, match=r"max_tokens: .* at most 256 tokens, not 257; use 256"):
        train(config, job(tmp_path))


def test_a_roberta_has_fewer_positions_than_its_config_says(tiny_bert, tmp_path):
    """Its positions begin after the padding row's number."""
    folder = shutil.copytree(tiny_bert, tmp_path / "roberta")
    torch.manual_seed(0)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = RobertaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(folder)
    wanted = encoder(folder, epochs=0.2, evaluations=1)
    with pytest.raises(ConfigError, match="at most 64 tokens, not 65"):
        train(wanted.model_copy(update={"max_tokens": 65}), job(tmp_path / "long"))
    assert train(wanted.model_copy(update={"max_tokens": 64}), job(tmp_path / "fits")).seconds > 0


def test_an_encoder_that_cannot_pad_is_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "unpadded")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    with pytest.raises(ModelError, match="its tokenizer has no padding token; use another encoder"):
        train(encoder(folder), job(tmp_path / "run"))
