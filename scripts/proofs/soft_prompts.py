"""A soft prompt, LoRA, or both: what each learns in equal steps.

The decoder of `configs/run/orderdesk.yaml` learns the embedded domain three times a seed, from the
same examples: a soft prompt alone, LoRA alone, and both in one adapter. None stops early, so that
all take the same steps; the loss told is that after the last. Each is tested as it is kept (the
latest checkpoint within one standard error of the best); the intervals are the report's, over
groups of test examples, the seeds pooled. The learning rates are the configs' own, one for LoRA
and one for a soft prompt: no tuning was done for this comparison.

Example:
    python scripts/proofs/soft_prompts.py --examples 640 --epochs 1 --seeds 3
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from results import finish, options, panels, table

from distill import config as configs
from distill.config import DecoderConfig, RunConfig
from distill.pipeline.build import ensure_dataset
from distill.pipeline.evaluate import compare_all, ensure_evaluated
from distill.pipeline.layout import run_dir
from distill.pipeline.train import train_router
from distill.progress import silent
from distill.runs import RunDir, read_json

JOB = Path(__file__).parents[2] / "configs/run/orderdesk.yaml"
NAMES = {"soft": "soft prompt", "lora": "LoRA", "both": "both"}


def job(given: Any) -> RunConfig:
    """Three decoders that differ only in what is trained."""
    config = configs.load(JOB)
    lora = config.routers["decoder"]
    assert isinstance(lora, DecoderConfig)
    patience = {"evaluations": given.evaluations, "patience": given.evaluations}
    train = lora.train.model_copy(update=patience | {"epochs": given.epochs})
    lora = lora.model_copy(update={"train": train, "max_examples": given.examples})
    soft = {"soft_prompt": given.tokens, "soft_prompt_learning_rate": given.rate}
    routers = {
        "soft": lora.model_copy(update=soft | {"lora": None}),
        "lora": lora,
        "both": lora.model_copy(update=soft),
    }
    # How fast they are is not the question: as little of it as may be.
    measured = {"max_examples": given.test, "latency_samples": 2, "batch_size": 16}
    return config.model_copy(
        update={
            "output": given.output,
            "routers": routers,
            "seeds": list(range(given.seeds)),
            "evaluation": config.evaluation.model_copy(update=measured),
        }
    )


def losses(run: RunDir) -> list[tuple[int, float]]:
    """Steps and the validation loss after each, in nats a label token."""
    lines = map(orjson.loads, run.log.read_bytes().splitlines())
    return [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]


def figure_of(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None:
        return f"{entry['value']:.1%} (too few groups for an interval)"
    return f"{entry['value']:.1%} ({entry['low']:.1%} to {entry['high']:.1%})"


def main() -> None:
    parser = options(__doc__, "soft_prompts")
    parser.set_defaults(seeds=3)
    parser.add_argument("--examples", type=int, default=640, help="to train on")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--evaluations", type=int, default=8, help="of the validation loss")
    parser.add_argument("--test", type=int, help="test examples a seed at most")
    parser.add_argument("--tokens", type=int, default=20, help="of the soft prompt")
    default = DecoderConfig().soft_prompt_learning_rate
    parser.add_argument("--rate", type=float, default=default, help="the soft prompt's peak rate")
    given = parser.parse_args()
    config = job(given)
    for seed in config.seeds:
        ensure_dataset(config, seed, silent)
        for name in config.routers:
            run = train_router(config, name, seed, silent)
            ensure_evaluated(run, silent)
            print(run.path, losses(run), flush=True)
    report = {entry["name"]: entry for entry in compare_all(config)["routers"]}

    figure, (axis,) = panels(1)
    rows, result = [], {}
    for name, words in NAMES.items():
        runs = [run_dir(config, name, seed) for seed in config.seeds]
        curves = [losses(run) for run in runs]
        for seed, curve in enumerate(curves):
            label = None if seed else words
            axis.plot(*zip(*curve, strict=True), color=f"C{len(rows)}", marker=".", label=label)
        steps, last = zip(*(curve[-1] for curve in curves), strict=True)
        trained = read_json(runs[0].manifest)["trainable_parameters"]
        accuracies = {key: report[name][key] for key in ("tool_accuracy", "call_accuracy")}
        rows.append(
            [words, f"{trained:,}", f"{np.mean(steps):.0f}", f"{np.mean(last):.4f}"]
            + [figure_of(found) for found in accuracies.values()]
        )
        result[name] = {"trained": trained, "validation_loss": curves} | accuracies
    axis.set(xlabel="step", ylabel="validation loss, nats a token")
    axis.legend(fontsize=8)
    head = ["trained", "parameters", "steps", "validation loss", "tool accuracy", "call accuracy"]
    finish(given.output, figure, table(head, rows), result)


if __name__ == "__main__":
    main()
