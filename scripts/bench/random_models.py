"""Base models with random weights, for speed alone: what they decide means nothing.

They stand in where no weights can be had, and at sizes from a second on a CPU (`tiny`) upwards.
The tokenizer is learned from the texts that the caller has.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

# hidden, layers, heads, key-value heads, feed-forward, vocabulary
DECODERS = {
    "tiny": (64, 2, 4, 2, 128, 1024),
    "135m": (576, 30, 9, 3, 1536, 49152),  # the shape of SmolLM2-135M
    "600m": (1024, 28, 16, 8, 3072, 151936),  # about Qwen3-0.6B's
    "1.7b": (2048, 24, 32, 32, 8192, 49152),  # the shape of SmolLM2-1.7B
}
# hidden, layers, heads, feed-forward, vocabulary
ENCODERS = {
    "tiny": (64, 2, 4, 128, 1024),
    "22m": (384, 6, 12, 1536, 30522),  # the shape of MiniLM-L6
    "110m": (768, 12, 12, 3072, 30522),  # the shape of BERT base
}


def make_encoder(folder: Path, size: str, texts: Iterable[str]) -> str:
    """Write an encoder and its tokenizer into `folder`; returns its path as a model name."""
    hidden, layers, heads, inner, vocabulary = ENCODERS[size]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    BertModel(config).save_pretrained(folder)
    _tokenizer(texts, vocabulary).save_pretrained(folder)
    return str(folder)


def make_decoder(folder: Path, size: str, texts: Iterable[str]) -> str:
    """Write a causal LM and its tokenizer into `folder`; returns its path as a model name."""
    hidden, layers, heads, groups, inner, vocabulary = DECODERS[size]
    torch.manual_seed(0)
    tokenizer = _tokenizer(texts, vocabulary)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=inner,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` tokens with ChatML's two special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, 8192),
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
