"""A trained router as a workflow's policy: what was distilled is where outcomes go on from.

The rnn, attention and encoder routers with a closed catalogue: their networks give logits of
decision classes, of which a router node's options are some. The weights are the router's own, so
what is learned is saved as the router that it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distill.errors import WorkflowError
from distill.routers.encoder import EncoderRouter
from distill.routers.scratch import ScratchRouter
from distill.types import Context, Router
from distill.workflow.deciders import Policy, Values


class RouterPolicy(Policy):
    """A router's belief in the decisions that a node's options stand for.

    Args:
        router: `rnn`, `attention` or a closed `encoder`.
        context: what the router is asked, given what a rollout knows.
        options: the decision of each option, as `Decision.tools` has it: the names of the tools
            that are called, sorted, or `("reply",)`.

    Raises:
        WorkflowError: a router of another kind, or a decision that it never saw in training.
    """

    def __init__(
        self,
        router: Router,
        context: Callable[[Values], Context],
        options: Sequence[tuple[str, ...]],
    ) -> None:
        super().__init__()
        if not isinstance(router, ScratchRouter | EncoderRouter):
            raise WorkflowError(
                router.kind, "no network over decision classes", "take rnn, attention or encoder"
            )
        classes = router.file.labels.classes
        if unknown := [option for option in options if option not in classes]:
            raise WorkflowError(
                f"option {unknown[0]}", "not among the router's decisions", f"take of {classes}"
            )
        self.network = router.model
        self.context = context
        self._router = router
        self._columns = [classes.index(option) for option in options]

    def forward(self, values: Sequence[Values]) -> Tensor:
        texts = [self._router.text(self.context(known)) for known in values]
        logits: Tensor = self.network(*self._router.rows(texts))["logits"]
        return logits[:, torch.tensor(self._columns, device=logits.device)].float()

    def tuned(self) -> Router:
        """The router with its weights of now.

        Without calibration and thresholds: those were fitted to other weights. `distill calibrate`
        fits them anew.
        """
        file = replace(self._router.file, calibration=None, thresholds=())
        return type(self._router)(file, self._router.tokenizer, self.network)  # type: ignore[arg-type]
