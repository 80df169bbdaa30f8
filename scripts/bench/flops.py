"""How many floating-point operations a router's training, or its forward pass, needs, by formula.

A multiply-add counts 2. For a linear layer of P weights, each token costs

    forward                          2 P
    gradient of the activations      2 P    frozen or not: the layers below need it
    gradient of the weights          2 P    only where the weights are trained

so 4 P when frozen and 6 P when trained, the two small matrices of a LoRA update among the latter
(Kaplan et al. 2020, arXiv:2001.08361, section 2.1, gives the 6 P). Attention over a row of T
tokens costs 12·T²·width a layer, two products forward and four backward (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B), and half of it where a token sees only those before it. A GRU's
weights are used once a token, like a linear layer's. A classification head is used once a row; the
vocabulary projection once a token of the completion, because TRL computes it nowhere else. The
attention router's classes ask every token of a row, 12·T·classes·width in all.

Counted is what the task needs, for real tokens: padding, recomputation, normalisation, activation
functions and embedding look-ups count nothing, nor does what is done once a step whatever its rows:
the attention router's descriptions of its classes. Counted though not needed is the gradient into
the first layer's input projections (1 to 2% of a six-layer encoder).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from distill.routers.attention import ToolTransformer

FORWARD, FROZEN, TRAINED = 2, 4, 6


@dataclass(frozen=True)
class Cost:
    """FLOPs of what was counted: per token, per completion token, per row, per T²."""

    token: int
    answer: int
    row: int
    square: int

    def of(self, lengths: Sequence[int], answers: int) -> int:
        """FLOPs of rows of `lengths` tokens with `answers` completion tokens among them."""
        squares = sum(length**2 for length in lengths)
        return (
            self.token * sum(lengths)
            + self.answer * answers
            + self.row * len(lengths)
            + self.square * squares
        )


def cost(model: nn.Module) -> Cost:
    """The cost of training a router's model as it stands: what requires a gradient is trained."""
    if isinstance(model, ToolTransformer):
        return _tool_transformer(model)
    return _cost(model, lambda weight: TRAINED if weight.requires_grad else FROZEN, 12)


def forward_cost(model: nn.Module) -> Cost:
    """The cost of a router's decision: the forward pass alone."""
    return _cost(model, lambda weight: FORWARD, 4)


def _cost(model: nn.Module, per_weight: Callable[[nn.Parameter], int], attention: int) -> Cost:
    """`attention` is what a layer costs per squared row length and unit of width."""
    token = answer = row = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.GRU):
            token += sum(per_weight(p) * p.numel() for p in module.parameters() if p.ndim == 2)
        # PEFT keeps the head it has copied as `original_module`; a pooler's output is never read.
        elif isinstance(module, nn.Linear) and not ("original_module" in name or "pooler" in name):
            flops = per_weight(module.weight) * module.weight.numel()
            if name.endswith("lm_head"):
                answer += flops
            elif ".head" in f".{name}":
                row += flops
            else:
                token += flops
    return Cost(token, answer, row, attention * _attention_widths(model))


def _tool_transformer(model: ToolTransformer) -> Cost:
    classes, width = model.own.shape
    asked = [*model.layers, model.ask.keys, model.ask.values]
    linear = [m for part in asked for m in part.modules() if isinstance(m, nn.Linear)]
    return Cost(
        token=TRAINED * sum(m.weight.numel() for m in linear) + 12 * classes * width,
        answer=0,
        row=TRAINED * classes * (model.ask.out.weight.numel() + width),
        square=12 * len(model.layers) * width,
    )


def _attention_widths(model: nn.Module) -> int:
    """The width of attention, summed over the layers; half of it where it is causal."""
    configs = (getattr(module, "config", None) for module in model.modules())
    config: Any = next((c for c in configs if hasattr(c, "num_attention_heads")), None)
    if config is None:
        return 0
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    causal = any(name.endswith("lm_head") for name, _ in model.named_modules())
    whole: int = config.num_hidden_layers * config.num_attention_heads * width
    return whole // 2 if causal else whole
