"""What a training or a decision needs, by formula, is what was multiplied."""

from pathlib import Path
from typing import Any


def counted(model: Any, batch: dict[str, Any]) -> int:
    """FLOPs of matrix products that one forward and backward really do."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    with FlopCounterMode(display=False) as counter:
        model(**batch)["loss"].backward()
    return counter.get_total_flops()


def test_the_formula_agrees_with_the_products_an_encoder_does(script: Any, tiny_bert: Path):
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    from distill.routers import pretrained  # noqa: PLC0415
    from distill.routers.encoder import EncoderClassifier  # noqa: PLC0415

    torch.manual_seed(0)
    base = pretrained.load_encoder(pretrained.resolve(str(tiny_bert)))
    base.set_attn_implementation("eager")  # the counter knows no fused attention of a CPU
    targets = ["query", "key", "value", "intermediate.dense", "output.dense"]
    settings = LoraConfig(r=4, target_modules=targets, modules_to_save=["head"])
    model = get_peft_model(EncoderClassifier(base, 5), settings)
    ids = torch.randint(3, 200, (4, 100))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([0, 1, 2, 3]),
    }
    expected = counted(model, batch)
    # What the formula counts too much: the gradient into the first of two layers' projections.
    assert expected <= script("flops").cost(model).of([100] * 4, 0) < 1.1 * expected


def test_the_formula_agrees_with_the_products_the_attention_router_does(script: Any):
    import torch  # noqa: PLC0415
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415

    from distill.config import AttentionConfig  # noqa: PLC0415
    from distill.routers.attention import ToolTransformer  # noqa: PLC0415

    classes, tools = 20, torch.randint(1, 300, (5, 3, 7))
    shares = torch.rand(classes, 5)
    model = ToolTransformer(AttentionConfig(width=64), 300, tools, shares)
    ids = torch.randint(1, 300, (4, 100))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([0, 1, 2, 3]),
    }
    with sdpa_kernel(SDPBackend.MATH):
        expected = counted(model, batch)
    # What the formula leaves out: the classes and their questions, made once a step.
    assert 0.95 * expected < script("flops").cost(model).of([100] * 4, 0) <= expected


def test_the_formula_of_a_decision_counts_its_products(script: Any, tiny_bert: Path):
    import torch  # noqa: PLC0415
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    from distill.routers import pretrained  # noqa: PLC0415
    from distill.routers.encoder import EncoderClassifier  # noqa: PLC0415

    base = pretrained.load_encoder(pretrained.resolve(str(tiny_bert)))
    base.set_attn_implementation("eager")
    model = EncoderClassifier(base, 5)
    ids = torch.randint(3, 200, (1, 50))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, torch.ones_like(ids))
    pooler = 2 * base.config.hidden_size**2  # computed and thrown away: no decision needs it
    assert script("flops").forward_cost(model).of([50], 0) == counter.get_total_flops() - pooler


def test_the_formula_agrees_with_the_products_a_decoder_does(script: Any, tiny_llama: Path):
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    from distill.routers import pretrained  # noqa: PLC0415

    base = pretrained.load_decoder(pretrained.resolve(str(tiny_llama)))
    base.set_attn_implementation("eager")
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, settings)
    ids = torch.randint(3, 200, (4, 50))
    expected = counted(model, {"input_ids": ids, "labels": ids})
    formula = script("flops").cost(model)
    # Eager attention multiplies the masked half, too.
    whole = formula.of([50] * 4, 200) + formula.square * 4 * 50**2
    assert expected <= whole < 1.1 * expected
