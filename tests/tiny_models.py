"""Tiny random base models in local folders, so that training a router takes seconds.

Same seed, same bytes: the loss curves in `tests/golden/` start from these weights. Dropout is 0, so
that a step's loss does not depend on how its examples are shared among processes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

_TEXT = [
    "Call tools with <tool_call>, or write: reply",
    '<tool_call>\n{"name":"get_order","arguments":{"order":7}}\n</tool_call>',
    '<tool_call>\n{"name":"cancel_order","arguments":{"order":3,"reason":"late"}}\n</tool_call>',
    "Tools:\nget_order(order)\ncancel_order(order, reason?)\nlist_orders()",
    "user assistant system tool\nuser: where is order 1\ncall: get_order order:1\nresult: shipped",
    "please cancel order 2, show orders 4 and 5, what did I buy, hello, thank you",
]


def save_bert(folder: Path, heads: int = 2) -> Path:
    """A 2-layer BERT of width 32 with a `[CLS] … [SEP]` tokenizer."""
    tokenizer = _byte_level(["[PAD]", "[CLS]", "[SEP]"], _TEXT)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=64,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def save_llama(folder: Path, heads: int = 2) -> Path:
    """A 2-layer Llama of width 32 with a ChatML tokenizer that ends turns with `<|im_end|>`."""
    tokenizer = _byte_level(["<|im_end|>", "<|im_start|>"], _TEXT)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        attention_dropout=0.0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _byte_level(special: list[str], texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def teach(folder: Path, rows: Sequence[dict[str, list[int]]], steps: int = 150) -> None:
    """Train all weights of a causal LM folder on rows of `input_ids` and `labels`, in place."""
    model = LlamaForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = [rows[i] for i in torch.randint(len(rows), (16,), generator=generator).tolist()]
        width = max(len(row["input_ids"]) for row in chosen)
        batch = {
            name: torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in chosen])
            for name, fill in (("input_ids", 0), ("labels", -100))
        }
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
