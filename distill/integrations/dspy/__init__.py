"""DSPy programs with a local router: `RoutedReAct` routes them, `TraceRecorder` records them.

react       the agent loop in which a router chooses tools and the LM has the last word
local       the router of a program: when its decisions are acted on, and where it lies
recorder    the callback that writes traces
chat        DSPy's signatures, tools and histories <-> the core types
"""

from distill.errors import MissingExtraError

try:
    import dspy as _  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "dspy":
        raise
    raise MissingExtraError("dspy", "distill.integrations.dspy") from None

from distill.integrations.dspy.local import Accept, confident
from distill.integrations.dspy.react import RoutedReAct, Routing
from distill.integrations.dspy.recorder import TraceRecorder

__all__ = ["Accept", "RoutedReAct", "Routing", "TraceRecorder", "confident"]
