"""The router of a DSPy program: when its decisions are acted on, and where it lies.

In a program's saved state stands the place of the router's folder, never its weights.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from dspy.predict.parameter import Parameter

from distill.errors import RouterError
from distill.policy import Verdict
from distill.routers import load_router
from distill.types import Context, Decision, Router
from distill.validation import check_arguments

Accept = Callable[[Decision, Context], bool | Verdict]
"""Whether a decision that could be acted on is: true takes it, false asks the LM instead. A
`distill.policy.Policy` is one; it takes no reply, so that the LM ends each loop."""


def confident(threshold: float) -> Accept:
    """Accepts what is at least as confident as `threshold` says."""

    def accept(decision: Decision, context: Context) -> bool:
        return decision.confidence is not None and decision.confidence >= threshold

    return accept


def feasible(decision: Decision, context: Context) -> bool:
    """Whether a decision can be acted on at all, whoever accepts it.

    It states a confidence, and each of its calls names an offered tool and has arguments that fit
    the tool's schema.
    """
    tools = {tool.name: tool for tool in context.tools}
    return decision.confidence is not None and all(
        call.arguments is not None
        and call.name in tools
        and check_arguments(call, tools[call.name]) is None
        for call in decision.calls
    )


class LocalRouter(Parameter):
    """A router as a part of a DSPy program; a `Parameter`, so that DSPy saves and loads it.

    Args:
        router: a router, or the place of its folder or run directory; only a place is saved.
        policy: what is acted on: a threshold for `confident`, which is saved, or any `Accept`,
            which is not.

    Raises:
        RouterError: no router lies at the place, or it is damaged.
    """

    def __init__(self, router: Router | str | Path, policy: Accept | float) -> None:
        if isinstance(router, str | Path):
            self.place: str | None = str(router)
            self._router = _load(self.place)
        else:
            self.place, self._router = None, router
        self._policy = policy
        # The tokenizers of several kinds must not be asked by two threads at once.
        self._lock = Lock()

    def __call__(self, context: Context) -> Decision:
        """The router's decision in one context."""
        with self._lock:
            (decision,) = self._router.decide([context])
        return decision

    async def acall(self, context: Context) -> Decision:
        """As a call, without holding up the event loop."""
        return await asyncio.to_thread(self, context)

    def takes(self, decision: Decision, context: Context) -> bool:
        """Whether the decision is acted on."""
        accept = self._policy if callable(self._policy) else confident(self._policy)
        return feasible(decision, context) and bool(accept(decision, context))

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Where the router lies (None: it was given as an object) and the threshold (None: the
        policy is none)."""
        return {
            "path": self.place,
            "threshold": None if callable(self._policy) else self._policy,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take what a saved program states; what it does not state stays, and so does a policy
        that is a function: no file loosens what the code demands.

        Raises:
            RouterError: no router lies at the place that it states.
        """
        place, threshold = state.get("path"), state.get("threshold")
        if place is not None and place != self.place:
            self._router, self.place = _load(place), place
        if threshold is not None and not callable(self._policy):
            self._policy = float(threshold)

    def reset(self) -> None:
        """Nothing here was learned by an optimizer of DSPy's."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "LocalRouter":
        """A copy of the settings; the router itself is shared, since deciding changes nothing."""
        made = LocalRouter(self._router, self._policy)
        made.place, made._lock = self.place, self._lock
        return made

    def __reduce__(self) -> NoReturn:
        raise TypeError("a router is not pickled: save the program's state as .json")


def _load(place: str) -> Router:
    if not Path(place).is_dir():
        cure = 'copy it there, or state its place (in a saved program: "path" under "router")'
        raise RouterError(place, "no router's folder lies there", cure)
    return load_router(place)
