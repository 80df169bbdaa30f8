"""How often a promised error rate is broken: thresholds fitted and checked on random parts.

The calibration and test parts of each run, both unknown to its router, are put together and parted
anew, group by group, as often as `--resplits` says. On the one share (`--calibration`) thresholds
are fitted as `distill calibrate` fits them; on the rest their decisions are counted. A promise of
"at most alpha wrong" is broken where more than alpha of what is taken there is wrong. `taken` is
the mean share of the rest that is taken, `unsupported` the share of parts that support none.

A threshold is to be broken in at most delta of the draws of its calibration part. Counting on a
small rest adds the luck of that rest, so the share printed lies above the promise's own.

Example:
    python scripts/bench/risk.py runs/workbench/encoder-s* --alpha 0.05 --alpha 0.1
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from distill.config import RiskConfig
from distill.errors import InputError
from distill.evaluation.calibrate import fit_calibration
from distill.evaluation.predictions import Prediction, load
from distill.evaluation.risk import Judged, fit_thresholds
from distill.routers.confidence import log_odds
from distill.routers.folder import read_router_file
from distill.runs import RunDir, write_json


def unseen(run: RunDir) -> list[Prediction]:
    """The decisions of both parts that training and its choices never saw, calibrated alike.

    Raises:
        RouterError: the run is not calibrated, or not evaluated.
    """
    calibration = read_router_file(run.router).calibration
    before = load(run.calibration)
    if calibration is not None:
        before = [
            replace(p, decision=replace(p.decision, confidence=calibration(p.decision.confidence)))
            for p in before
            if p.decision.confidence is not None
        ]
    return [*before, *load(run.predictions)]


def resplit(
    made: Sequence[Prediction], risk: RiskConfig, share: float, random: Random
) -> list[tuple[float, float | None] | None]:
    """For each alpha (taken, wrong of it) on the rest; None where no threshold is supported."""
    groups = sorted({p.group for p in made})
    random.shuffle(groups)
    fitted_on = set(groups[: round(share * len(groups))])
    fit = [p for p in made if p.group in fitted_on]
    rest = Judged.of([p for p in made if p.group not in fitted_on])
    calibration = fit_calibration(fit)
    if calibration is None:
        return [None] * len(risk.alphas)
    found: list[tuple[float, float | None] | None] = []
    for threshold in fit_thresholds(fit, calibration, risk):
        if threshold.tool is not None:
            continue
        if threshold.threshold is None:
            found.append(None)
            continue
        odds = (log_odds(threshold.threshold) - calibration.offset) / calibration.slope
        taken = rest.weights * (rest.odds >= odds)
        wrong = float((taken * rest.wrong).sum() / taken.sum()) if taken.any() else None
        found.append((float(taken.sum() / rest.weights.sum()), wrong))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="evaluated runs")
    parser.add_argument("--alpha", type=float, action="append", help="default: 0.05, 0.1 and 0.2")
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--resplits", type=int, default=200, help="over all runs together")
    parser.add_argument("--calibration", type=float, default=0.5, help="share of the groups")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    given = parser.parse_args(arguments)
    try:
        risk = RiskConfig(alphas=given.alpha or [0.05, 0.1, 0.2], delta=given.delta)
        parts = [unseen(RunDir(run)) for run in given.runs]
    except (InputError, ValueError) as error:
        sys.exit(str(error))
    random = Random(0)
    draws = [
        resplit(parts[i % len(parts)], risk, given.calibration, random)
        for i in range(given.resplits)
    ]
    groups = [len({p.group for p in part}) for part in parts]
    print(f"{given.resplits} resplits of {len(parts)} runs, {min(groups)} to {max(groups)} groups")
    print(f"{'alpha':>6} {'delta':>6} {'broken':>8} {'unsupported':>12} {'taken':>7} {'wrong':>7}")
    rows = []
    for i, alpha in enumerate(risk.alphas):
        found = [draw[i] for draw in draws]
        kept = [one for one in found if one is not None]
        errors = [wrong for _, wrong in kept if wrong is not None]
        row = {
            "alpha": alpha,
            "delta": risk.delta,
            "broken": sum(wrong > alpha for wrong in errors) / len(draws),
            "unsupported": found.count(None) / len(draws),
            "taken": sum(taken for taken, _ in kept) / len(draws),
            "wrong": float(np.mean(errors)) if errors else None,
        }
        rows.append(row)
        wrong = "–" if row["wrong"] is None else f"{row['wrong']:.1%}"
        print(
            f"{alpha:>6} {risk.delta:>6} {row['broken']:>8.1%} {row['unsupported']:>12.1%} "
            f"{row['taken']:>7.1%} {wrong:>7}"
        )
    if given.output:
        write_json(given.output, {"runs": [str(run) for run in given.runs], "rows": rows})


if __name__ == "__main__":
    main()
