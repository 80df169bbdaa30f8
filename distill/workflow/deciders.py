"""What decides at a node: a threshold on a number, or a policy over the next nodes.

Both are torch modules, so that whatever they learn is a state dict. They give logits, and know
nothing of graphs, losses or gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

Values = Mapping[str, Any]
"""What a rollout knows at a node: the workflow's inputs, and what its tools gave."""


class Threshold(nn.Module):
    """Above or below a number.

    While it learns, it is soft: P(above | x) = sigmoid((x - value) / temperature), a logistic
    relaxation of the step; in use it is the step itself.

    Args:
        value: where it begins.
        temperature: in the units of x; the width of the part in which it wavers.
        learned: whether `value` is a parameter.
    """

    value: Tensor
    temperature: Tensor

    def __init__(self, value: float, temperature: float = 1.0, *, learned: bool = True) -> None:
        if not temperature > 0:
            raise ValueError("temperature: not above zero")
        super().__init__()
        start = torch.tensor(float(value))
        if learned:
            self.value = nn.Parameter(start)
        else:
            self.register_buffer("value", start)
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    @property
    def learned(self) -> bool:
        return isinstance(self.value, nn.Parameter)

    def forward(self, numbers: Tensor) -> Tensor:
        """Logits [batch, 2] of above and below, for numbers [batch]."""
        above = (numbers - self.value) / self.temperature
        return torch.stack([above, torch.zeros_like(above)], dim=1)


class Policy(nn.Module, ABC):
    """A distribution over a router node's options, given what a rollout knows."""

    @abstractmethod
    def forward(self, values: Sequence[Values]) -> Tensor:
        """Logits [batch, options], in the order of the node's options."""


class Mlp(Policy):
    """A perceptron with one hidden layer on features of the values.

    Args:
        features: of one rollout's values, `width` finite numbers.
        width, options: how many numbers come in, and how many logits go out.
        hidden: units; 0: none, a linear policy.
    """

    def __init__(
        self,
        features: Callable[[Values], Sequence[float]],
        width: int,
        options: int,
        *,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        self.features = features
        self.layers = (
            nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, options))
            if hidden
            else nn.Linear(width, options)
        )

    def forward(self, values: Sequence[Values]) -> Tensor:
        rows = torch.tensor([list(self.features(known)) for known in values], dtype=torch.float32)
        device = next(self.parameters()).device
        return cast(Tensor, self.layers(rows.to(device)))
