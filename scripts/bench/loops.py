"""What simulations of several seeds found, the seeds of each router together.

Every seed has a split and test tasks of its own, and some tasks are tested by several: intervals
are over the tasks' groups, each with all its outcomes.

Example:
    for s in 0 1 2; do
        distill simulate runs/orderdesk/{rnn,encoder,decoder}-s$s threshold=0 -o loops/alone-s$s
    done
    python scripts/bench/loops.py loops/alone-s*
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

import orjson

from distill.evaluation.closed_loop import Outcome, summarise
from distill.evaluation.report import grid
from distill.evaluation.report.outcomes import rows
from distill.runs import read_json, write_json

RESAMPLES = 2000


def outcomes(path: Path, part: str) -> list[Outcome]:
    """Of an arm, the latest of each task."""
    found: dict[str, Outcome] = {}
    for line in path.read_bytes().splitlines():
        row = orjson.loads(line)
        if row.pop("part") == part and "id" in row:
            found[row["id"]] = Outcome.of(row)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("simulations", type=Path, nargs="+", help="what `distill simulate` wrote")
    parser.add_argument("-o", "--output", type=Path, help="figures as JSON")
    given = parser.parse_args()
    pooled: dict[str, list[Outcome]] = defaultdict(list)
    seeds: dict[str, int] = defaultdict(int)
    kinds: dict[str, str] = {}
    loops = [read_json(folder / "closed_loop.json") for folder in given.simulations]
    if len({(loop["fallback"], loop["attacks"]) for loop in loops}) > 1:
        parser.error("these simulations are not alike: their fallbacks or attacks differ")
    for folder, loop in zip(given.simulations, loops, strict=True):
        for arm in loop["arms"]:
            name = re.sub(r"-s\d+\b", "", arm["name"])
            pooled[name] += outcomes(folder / "tasks.jsonl", arm["name"])
            seeds[name] += 1
            kinds[name] = arm["kind"]
    arms = [
        {"name": name, "kind": kinds[name], "seeds": seeds[name], **summarise(found, RESAMPLES)}
        for name, found in pooled.items()
    ]
    print(grid.to_markdown(rows({"arms": arms})))
    for arm in arms:
        print(f"{arm['name']}: {arm['seeds']} seeds, {arm['n_groups']} groups")
    if given.output:
        write_json(given.output, {"arms": arms})


if __name__ == "__main__":
    main()
