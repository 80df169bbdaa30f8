"""DSPy with a router: `RoutedReAct` routes, `TraceRecorder` records, `LearnOutcomes` learns.

react       the agent loop in which a router chooses tools and the LM has the last word
workflow    workflows as programs, and what they learn from outcomes as an optimiser
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
from distill.integrations.dspy.workflow import LearnOutcomes, WorkflowProgram, metric_loss

__all__ = [
    "Accept",
    "LearnOutcomes",
    "RoutedReAct",
    "Routing",
    "TraceRecorder",
    "WorkflowProgram",
    "confident",
    "metric_loss",
]
