"""The command line: parse, call, print. Exit 0 done, 2 bad input, 1 our own fault, 130 Ctrl-C."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from distill import config as configs
from distill import disk
from distill.config import DataConfig, HistoriesConfig
from distill.display import Display
from distill.errors import ConfigError, InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Distil the tool calls of a large LLM into small local routers.",
)

out = Console()
err = Console(stderr=True)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A run config (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Overrides of config keys.")
]

_INTERRUPTED = 130


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A trace file, a request log, or gateway://PATH.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the traces go.")],
    format: Annotated[  # noqa: A002
        str, typer.Option(help="auto, traces (canonical) or openai (request/response log).")
    ] = "auto",
    group_by: Annotated[
        str | None, typer.Option(help="The key by which splits will be made.")
    ] = None,
) -> None:
    """Turn logs into canonical traces; what cannot be used goes to OUTPUT.rejected.jsonl.

    Example: `distill import requests.jsonl.gz -o traces.jsonl.zst --group-by session`

    A gateway's records: `gateway://gateway.db`, or `gateway://env:VARIABLE` with the database's
    address in VARIABLE. What its LLM answered teaches; what the router answered is context.
    """
    from distill.traces import GATEWAY, import_traces  # noqa: PLC0415

    if format not in ("auto", "traces", "openai"):
        raise ConfigError("--format", f"unknown format {format!r}", "use auto, traces or openai")
    unit, rows = ("records", "records") if source.startswith(GATEWAY) else ("bytes", "lines")
    with Display(err) as display:
        counts = import_traces(
            source,
            output,
            format=format,  # type: ignore[arg-type]
            group_by=group_by,
            progress=lambda done, size: display(f"importing, {unit}", done, size),
        )
    _say(f"{counts.traces} traces from {counts.lines} {rows} in {output}")
    for reason, count in [*counts.reasons.items(), *counts.notes.items()]:
        _say(f"  {count:>8}  {reason}")


@app.command()
def build(
    traces: Annotated[str, typer.Argument(metavar="TRACES", help="A trace file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The dataset folder.")],
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Decides which group goes to which part.")] = 0,
) -> None:
    """Turn traces into a dataset: verified decision points, deduplicated, split by group.

    Example: `distill build traces.jsonl.zst -o dataset split.train=0.7 outcome=succeeded`
    """
    from distill.pipeline.build import build_dataset  # noqa: PLC0415

    with Display(err) as display:
        data = configs.parse({"traces": traces}, "command line", DataConfig, overrides or ())
        manifest = build_dataset(data, seed, output, display)
    table = Table("part", "examples", "groups")
    for part, counts in manifest["parts"].items():
        table.add_row(part, str(counts["examples"]), str(counts["groups"]))
    _show(table)
    for reason, count in manifest["dropped"].items():
        _say(f"  {count:>8}  {reason}")
    _say(f"{output} (hash {manifest['hash'][:12]})")


@app.command()
def train(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train and calibrate a config's routers; a killed run goes on from its last checkpoint.

    Example: `distill train configs/run/decoder.yaml routers.decoder.train.epochs=1`

    On several processes or GPUs: `accelerate launch scripts/train.py CONFIG key=value`
    """
    from distill.pipeline.layout import run_dir  # noqa: PLC0415
    from distill.pipeline.plan import steps  # noqa: PLC0415

    job = configs.load(config, overrides or ())
    main = int(os.environ.get("RANK", "0")) == 0
    kinds = ("dataset", "train", "calibrate") if main else ("dataset", "train")
    plan = [step for step in steps(job) if step.name.startswith(kinds)]
    with Display(err if main else Console(quiet=True), [step.cost for step in plan]) as display:
        for step in plan:
            display.step(step.name)
            step.do(display)
    if main:
        for seed in job.seeds:
            for router in job.routers:
                _say(str(run_dir(job, router, seed).path))


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="At most this share wrong among decisions taken; may be repeated."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Probability with which that may fail.")
    ] = None,
) -> None:
    """Fit a router's confidences and thresholds on the calibration part; shows what they promise.

    Example: `distill calibrate runs/quickstart/encoder-s0 --alpha 0.05 --alpha 0.1 --delta 0.1`
    """
    from distill.evaluation.report import promises  # noqa: PLC0415
    from distill.pipeline.calibrate import recalibrate  # noqa: PLC0415
    from distill.runs import RunDir  # noqa: PLC0415

    with Display(err) as display:
        file = recalibrate(RunDir(run), alpha, delta, display)
    _show(promises(file.thresholds))
    _say(str(RunDir(run).router / "router.json"))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
) -> None:
    """Measure a run's router on the test part of its dataset, and write report.json.

    Killed, it goes on after its last decision; once finished, it is done anew.

    Example: `distill evaluate runs/quickstart/encoder-s0`
    """
    from distill.evaluation.report import table  # noqa: PLC0415
    from distill.pipeline.evaluate import evaluate_run  # noqa: PLC0415
    from distill.runs import RunDir  # noqa: PLC0415

    with Display(err) as display:
        report = evaluate_run(RunDir(run), display)
    _show(table(report))
    _say(str(RunDir(run).report))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the report goes.")],
    prices: Annotated[
        Path | None, typer.Option(help="A table of prices like configs/prices.yaml.")
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Recommend the cheapest router that holds this.")
    ] = None,
    closed_loop: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="What `distill simulate` wrote; may be repeated."),
    ] = None,
) -> None:
    """Compare evaluated runs in one report: HTML, Markdown, CSV and JSON.

    Example: `distill compare runs/quickstart/*-s0 -o comparison`
    """
    from distill.config import EvaluationConfig  # noqa: PLC0415
    from distill.evaluation.compare import compare as compare_runs  # noqa: PLC0415
    from distill.evaluation.report import table  # noqa: PLC0415
    from distill.runs import RunDir  # noqa: PLC0415

    config = configs.parse({"target_accuracy": target_accuracy}, "command line", EvaluationConfig)
    table_of_prices = None if prices is None else configs.load_prices(prices)
    report = compare_runs(
        [RunDir(run) for run in runs], output, config, table_of_prices, closed_loop or ()
    )
    _show(table(report))
    _say(str(output / "report.html"))


@app.command()
def histories(
    source: Annotated[
        Path, typer.Argument(metavar="DATASET_OR_RUN", help="A dataset folder or a run directory.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the figures go.")],
    overrides: Overrides = None,
    *,
    arms: Annotated[
        str, typer.Option(help="Separated by commas; see `distill.evaluation.arms`.")
    ] = "own,handed,synthetic,synthetic-no-tools",
    model: Annotated[
        str, typer.Option(help="A causal LM: packaged:smollm2, a hub name or a folder.")
    ] = "packaged:smollm2",
    part: Annotated[str, typer.Option(help="The part whose traces are measured.")] = "test",
    limit: Annotated[
        int | None, typer.Option(help="At most this many replies, drawn by the seed.")
    ] = None,
) -> None:
    """Tell how expected recorded replies are to a local LM, by what it is shown of tool calls.

    Arms: own (the calls as recorded), handed (results as text, no tools in the request) and
    synthetic (calls as though a router had made them); each also as own-no-tools,
    handed-with-tools, synthetic-no-tools. A killed command goes on where it was.

    Example: `distill histories runs/quickstart/dataset-s0 --arms own,handed --limit 40 -o out`
    """
    from distill.evaluation.report import histories as shown  # noqa: PLC0415
    from distill.pipeline.histories import measure_histories  # noqa: PLC0415

    values = {"arms": arms.split(","), "model": model, "part": part, "limit": limit}
    config = configs.parse(values, "command line", HistoriesConfig, overrides or ())
    with Display(err) as display:
        report = measure_histories(source, config, output, display)
    _show(shown.arms_table(report))
    _show(shown.paired_table(report))
    _say(shown.counts(report))
    _say(str(output / "histories.json"))


@app.command()
def simulate(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN... [key=value...]", help="Runs, and overrides of the policy."),
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the outcomes go.")],
    policy: Annotated[
        Path | None, typer.Option(help="Which calls are taken: a policy (YAML).")
    ] = None,
    fallback: Annotated[
        Literal["none", "recorded", "llm"],
        typer.Option(help="Who answers the rest: nobody, the recorded teacher, or an LLM."),
    ] = "none",
    endpoint: Annotated[
        Path | None, typer.Option(help="The LLM: an endpoint (YAML), see configs/endpoint/.")
    ] = None,
    arms: Annotated[
        str, typer.Option(help="What the LLM is shown, separated by commas; compares them.")
    ] = "",
    attacks: Annotated[
        bool, typer.Option("--attacks", help="Hide instructions in what the tools return.")
    ] = False,
    environment: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FACTORY", help="Tools and tasks of your own, not orderdesk."),
    ] = None,
    part: Annotated[
        Literal["train", "validation", "calibration", "test"],
        typer.Option(help="The part of a run's dataset whose orderdesk conversations are played."),
    ] = "test",
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Play at most this many, drawn by chance.")
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the conversations, too, with their outcomes."),
    ] = None,
) -> None:
    """Let routers call the tools in whole held-out tasks, and count what becomes of these.

    Arms: own (the LLM calls the tools itself, no router), handed (the router calls, and the LLM
    words replies from the results as text) and synthetic (from the calls as though it had made
    them); also handed-with-tools, synthetic-no-tools. A killed command goes on where it was.

    Example: `distill simulate runs/quickstart/decoder-s0 threshold=0 --fallback recorded -o loop`
    """
    from distill.evaluation.report import outcomes_table, paired_table  # noqa: PLC0415
    from distill.pipeline import simulate as simulation  # noqa: PLC0415

    overrides, named = _divided(runs)
    folders = [Path(text) for text in named]
    if not folders:
        raise ConfigError("RUN", "no run is named", "name at least one run directory")
    rules = configs.load_policy(policy, overrides)
    with Display(err) as display:
        report = simulation.simulate(
            folders,
            rules,
            output,
            display,
            environment=environment,
            fallback=fallback,
            endpoint=None if endpoint is None else configs.load_endpoint(endpoint),
            arms=arms.split(",") if arms else (),
            attacks=attacks,
            part=part,
            most=tasks,
            traces=traces,
        )
    _show(outcomes_table(report))
    differences = paired_table(report)
    if differences is not None:
        _show(differences)
    _say(str(output / "closed_loop.json"))


@app.command()
def learn(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A decoder's run directory.")],
    traces: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRACES... [key=value...]",
            help="Trace files with outcomes, and overrides of how it learns.",
        ),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The run to make, beside RUN: NAME-sSEED.")
    ],
    environment: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY",
            help="Where it tries by itself, with method=grpo; or orderdesk.",
        ),
    ] = None,
) -> None:
    """Teach a trained decoder by what came of decisions, and never far from where it began.

    `method=sft`, `dpo` or `kto` learn from traces, `grpo` from tries in an environment that has a
    record; `beta` is how much it is held to the trained router. What belongs to other parts of the
    run's dataset than training is left out. Killed, it resumes.

    Example: `distill learn runs/mine/decoder-s0 tries.jsonl method=kto -o runs/mine/taught-s0`
    """
    from distill.pipeline import learn as learning  # noqa: PLC0415
    from distill.runs import RunDir  # noqa: PLC0415

    overrides, sources = _divided(traces or [])
    config = configs.parse({}, "command line", configs.OutcomesConfig, overrides)
    with Display(err) as display:
        learning.learn(RunDir(run), sources, output, config, display, environment=environment)
    _say(str(output))


@app.command()
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Do it all: dataset, training, evaluation and comparison. Killed, it resumes.

    Example: `distill run configs/run/quickstart.yaml seeds=[0,1,2]`
    """
    from distill.evaluation.report import table  # noqa: PLC0415
    from distill.pipeline.layout import comparison_dir  # noqa: PLC0415
    from distill.pipeline.plan import steps  # noqa: PLC0415
    from distill.runs import read_json  # noqa: PLC0415

    job = configs.load(config, overrides or ())
    plan = steps(job)
    with Display(err, [step.cost for step in plan]) as display:
        for step in plan:
            display.step(step.name)
            step.do(display)
    folder = comparison_dir(job)
    _show(table(read_json(folder / "report.json")))
    _say(f"Report: {(folder / 'report.html').resolve()}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or router folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The router folder to write.")],
    quantise: Annotated[
        Literal["int8", "none"], typer.Option(help="The weights' format; none leaves float32.")
    ] = "int8",
) -> None:
    """Write an encoder as a router folder that ONNX Runtime computes, on a processor.

    int8 weights answer with other confidences, so calibration and thresholds are fitted to these
    anew, on the run's dataset; without it the folder has none.

    Example: `distill export runs/quickstart/encoder-s0 -o encoder-int8`
    """
    from distill.evaluation.report import promises  # noqa: PLC0415
    from distill.pipeline.export import export_run  # noqa: PLC0415

    with Display(err) as display:
        file = export_run(run, output, quantise, display)
    if file.thresholds:
        _show(promises(file.thresholds))
    _say(str(output))


@app.command()
def serve(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A gateway's config (YAML).")],
    overrides: Overrides = None,
) -> None:
    """Answer an OpenAI client: locally what the router is sure of, else through the large LLM.

    Point the client's `base_url` at it. SIGHUP reads the config again, SIGTERM ends it.

    Example: `distill serve configs/serve/orderdesk.yaml rollout.mode=on`
    """
    from distill.serving.process import serve as run_gateway  # noqa: PLC0415

    run_gateway(config, overrides or ())


@app.command()
def key() -> None:
    """Make an API key for the gateway: the key for its user, its hash for the config.

    Example: `distill key`
    """
    from distill.serving.access import new_key  # noqa: PLC0415

    secret, digest = new_key()
    _say(f"key     {secret}")
    _say(f"sha256  {digest}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="An evaluated run directory.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder only.")] = False,
    output: Annotated[Path | None, typer.Option("-o", help="Where --dry-run writes.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Publish; default: private.")] = False,
) -> None:
    """Upload a router with a model card made from its report. Needs HF_TOKEN.

    Example: `distill push runs/quickstart/encoder-s0 me/orderdesk-router --dry-run`
    """
    from distill.hub import push as hub  # noqa: PLC0415
    from distill.runs import RunDir  # noqa: PLC0415

    if dry_run:
        folder = output or RunDir(run).path / "push"
        for path in hub.prepare(RunDir(run), repo, folder):
            _say(str(path))
        return
    _say(hub.push(RunDir(run), repo, private=not public))


@app.command("config")
def show_config(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A run's or a gateway's config.")
    ],
    overrides: Overrides = None,
) -> None:
    """Print a run's or a gateway's config resolved, every default spelled out.

    Example: `distill config configs/serve/orderdesk.yaml`
    """
    print(configs.dump(configs.load_any(config, overrides or ())), end="")


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code; a user's fault is one line, never a traceback."""
    _quiet_libraries()
    try:
        if app(arguments, standalone_mode=False) == _INTERRUPTED:  # typer takes Ctrl-C itself
            _interrupted()
    except InputError as error:
        _fail(str(error))
    except typer.TyperException as error:  # an unknown option or command, a missing argument
        err.print(error.format_message(), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        refused = disk.refusal(error)
        if refused is None:
            raise
        _fail(f"{refused}; mend that and run the same command again")


def _divided(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Overrides, and what names files: also one with an equals sign, if it is there."""
    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    return overrides, [text for text in arguments if text not in overrides]


def _say(line: str) -> None:
    """A result's line, whole whatever the width: paths are copied and piped."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(table: Table) -> None:
    """A table; a file or a pipe has no width, and gets the cells whole."""
    (out if out.is_terminal else Console(width=160)).print(table)


def _interrupted() -> None:
    err.print("interrupted; the same command goes on from here", highlight=False)
    sys.exit(_INTERRUPTED)


def _fail(line: str) -> None:
    err.print(line.replace("\n", " "), markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def _quiet_libraries() -> None:
    """Keep other libraries' bars, advice and telemetry out; their errors still come through."""
    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    # TRL reports every training to the hub unless told not to; logs of tool calls are private.
    for name in ("PROGRESS_BARS", "TELEMETRY"):
        os.environ.setdefault(f"HF_HUB_DISABLE_{name}", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
