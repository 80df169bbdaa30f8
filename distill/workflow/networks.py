"""A trained router as a workflow's policy: what was distilled is where outcomes go on from.

The rnn, attention and encoder routers with a closed catalogue: their networks give logits of
decision classes, of which a router node's options are some. The weights are the router's own, so
what is learned is saved as the router that it is.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distill.errors import WorkflowError
from distill.routers.arguments import FillingRouter
from distill.routers.encoder import EncoderRouter
from distill.routers.folder import RouterFile
from distill.routers.scratch import ScratchRouter
from distill.types import REPLY, Context, Router
from distill.workflow.deciders import Policy, Values


class RouterPolicy(Policy):
    """A router's belief in the decisions that a node's options stand for.

    Args:
        router: `rnn`, `attention` or a closed `encoder`, also one whose arguments are filled after.
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
        self._given, self._router = router, _chooser(router)
        classes = self._router.file.labels.classes
        if unknown := [option for option in options if option not in classes]:
            raise WorkflowError(
                f"option {unknown[0]}", "not among the router's decisions", f"take of {classes}"
            )
        self.network = self._router.model
        self.context = context
        self.options = tuple(options)
        self._columns = [classes.index(option) for option in options]

    @classmethod
    def over(
        cls, router: Router, context: Callable[[Values], Context], tools: Collection[str]
    ) -> "RouterPolicy":
        """A policy over all of a router's decisions that call only these tools, or none.

        Raises:
            WorkflowError: as `RouterPolicy`, or fewer than two decisions are left.
        """
        classes = _chooser(router).file.labels.classes
        options = [names for names in classes if set(names) <= {*tools, REPLY}]
        if len(options) < 2:
            fault = f"of {sorted(tools)} it knows {len(options)} decisions"
            raise WorkflowError(router.kind, fault, "take a router that was trained on them")
        return cls(router, context, options)

    def forward(self, values: Sequence[Values]) -> Tensor:
        texts = [self._router.text(self.context(known)) for known in values]
        logits: Tensor = self.network(*self._router.rows(texts))["logits"]
        return logits[:, torch.tensor(self._columns, device=logits.device)].float()

    def tuned(self) -> Router:
        """The router with its weights of now.

        Without calibration and thresholds: those were fitted to other weights. `distill calibrate`
        fits them anew.
        """
        chooser = self._router
        made = type(chooser)(_unfitted(chooser.file), chooser.tokenizer, self.network)  # type: ignore[arg-type]
        if not isinstance(self._given, FillingRouter):
            return made
        return FillingRouter(made, self._given.filler, _unfitted(self._given.file))


def _chooser(router: Router) -> ScratchRouter | EncoderRouter:
    """What chooses the tools, whatever fills their arguments."""
    chooser = router.tools if isinstance(router, FillingRouter) else router
    if not isinstance(chooser, ScratchRouter | EncoderRouter):
        raise WorkflowError(
            router.kind, "no network over decision classes", "take rnn, attention or encoder"
        )
    return chooser


def _unfitted(file: RouterFile) -> RouterFile:
    return replace(file, calibration=None, thresholds=())
