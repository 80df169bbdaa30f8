"""That an evaluation's memory stays flat while it decides, however many test examples there are.

A dataset of synthetic traces (`dataset.py`'s) is nearly all test part; TF-IDF, fitted on the rest,
decides it in a fresh process per size. Printed is the memory of this process alone (RssAnon, files
mapped from the dataset left out) after the first and after the last batch, decisions per second,
and the peak once all figures are made, which do hold a few numbers of each decision.

Example:
    python scripts/bench/streaming.py --sizes 1000 5000 10000
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dataset import peak_mib, traces
from machine import describe

from distill.config import DataConfig, EvaluationConfig, SplitConfig, TfidfConfig
from distill.dataset import build, load_dataset
from distill.dataset.vote import vote
from distill.evaluation.evaluate import evaluate
from distill.evaluation.metrics import score
from distill.evaluation.predictions import Draft
from distill.progress import silent
from distill.runs import RunDir, hardware, write_json
from distill.training import Job, Parts, train

_SPLIT = SplitConfig(train=0.05, validation=0.02, calibration=0.0, merge_jaccard=None)


def measure(n: int) -> dict[str, Any]:
    """Decide `n` examples in this process."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # A trace has some three decisions, and nine tenths of them are tested.
        build(traces(n // 2), DataConfig(split=_SPLIT), 0, folder / "data", source="synthetic")
        dataset = load_dataset(folder / "data")
        learned = (vote(dataset.examples(part)) for part in ("train", "validation"))
        parts = Parts(*learned, dataset.catalogue())
        job = Job(parts, RunDir(folder / "run"), 0, (), silent)
        router = train(TfidfConfig(regularisation=[1.0]), job).router
        test = dataset.examples("test")[:n]
        marks: list[float] = []
        start = time.perf_counter()
        predictions, _ = evaluate(
            router,
            test,
            EvaluationConfig(),
            Draft(folder / "predictions.jsonl", {}),
            seed=0,
            on_progress=lambda done, total: marks.append(_own_mib()),
        )
        seconds = time.perf_counter() - start
        score(predictions)
    return {
        "decisions": len(predictions),
        "first_mib": marks[0],
        "last_mib": marks[-1],
        "peak_mib": peak_mib(),
        "decisions_per_s": len(predictions) / seconds,
    }


def _own_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 5_000, 10_000])
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    args = parser.parse_args()
    machine = hardware()
    print(describe(machine))
    print("decisions  first MiB  last MiB  peak MiB  decisions/s")
    rows = []
    for n in args.sizes:
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            rows.append(fresh.submit(measure, n).result())
        row = rows[-1]
        print(
            f"{row['decisions']:>9} {row['first_mib']:>10.0f} {row['last_mib']:>9.0f}"
            f" {row['peak_mib']:>9.0f} {row['decisions_per_s']:>12.0f}",
            flush=True,
        )
    if args.output is not None:
        write_json(args.output, {"hardware": machine, "rows": rows})


if __name__ == "__main__":
    main()
