"""Which decisions are taken for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from distill.evaluation.predictions import Prediction
from distill.evaluation.report.confusion import confusion
from distill.evaluation.report.plots.drawing import COLOURS, canvas, short, svg

_CONFUSED = 7


def confusion_plot(predictions: Sequence[Prediction]) -> str | None:
    """The most confused decisions: the teacher's in rows, the router's in columns."""
    found = confusion(predictions, _CONFUSED)
    if found is None:
        return None
    with canvas(1.7 + 0.3 * len(found.rows)) as (figure, axes):
        for i, row in enumerate(found.counts):
            total = sum(row)
            for j, count in enumerate(row):
                right = found.rows[i] == found.columns[j]
                colour = COLOURS[2] if right else COLOURS[3]
                if count:
                    # At most half opaque: text stays legible on it in either theme.
                    shade = 0.08 + 0.42 * count / total
                    axes.add_patch(Rectangle((j, i), 1, 1, color=colour, alpha=shade, linewidth=0))
                    axes.text(j + 0.5, i + 0.5, str(count), ha="center", va="center", fontsize=9)
        axes.set_xlim(0, len(found.columns))
        axes.set_ylim(len(found.rows), 0)
        axes.set_yticks(np.arange(len(found.rows)) + 0.5, [short(name) for name in found.rows])
        axes.set_xticks(
            np.arange(len(found.columns)) + 0.5,
            [short(name) for name in found.columns],
            rotation=40,
            ha="right",
            rotation_mode="anchor",
        )
        axes.tick_params(length=0)
        axes.grid(False)
        axes.set_ylabel("teacher")
        axes.set_xlabel("router")
        return svg(figure, "Confusion of the most confused decisions")
