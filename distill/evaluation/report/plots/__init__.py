"""The report's plots as inline SVG whose colours follow the page's light or dark theme.

    drawing       what all are drawn with
    accuracy      how often each router is right, and how fast
    difficulty    accuracy in buckets, and by complexity
    confusion     which decisions are taken for which
    confidence    whether it can be trusted, and what is wrong among what it lets through
    cost          what the LLM is paid
    outcomes      what is solved in whole tasks, and what it takes

Every function returns an `<svg>` element without size, so that it fills its box, or None where
there is nothing to draw. The same input gives the same bytes. It knows nothing of HTML around it.
"""

from distill.evaluation.report.plots.accuracy import accuracy_plot, latency_plot
from distill.evaluation.report.plots.confidence import reliability_plot, selective_plot
from distill.evaluation.report.plots.confusion import confusion_plot
from distill.evaluation.report.plots.cost import pareto_plot
from distill.evaluation.report.plots.difficulty import bucket_plot, complexity_plot
from distill.evaluation.report.plots.drawing import SERIES, marker
from distill.evaluation.report.plots.outcomes import outcomes_plot

__all__ = [
    "SERIES",
    "accuracy_plot",
    "bucket_plot",
    "complexity_plot",
    "confusion_plot",
    "latency_plot",
    "marker",
    "outcomes_plot",
    "pareto_plot",
    "reliability_plot",
    "selective_plot",
]
