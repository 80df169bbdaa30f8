"""What a GPU makes of encoder and decoder: training speed, accuracy, decisions per second.

On a dataset folder, with the project's own training code, in bfloat16 where the card computes in it
and with the fused attention that torch brings (scaled-dot-product attention). In turn:

    peak      matrix multiplication of this card in the training's number format
    encoder   steady training speed; then training as long as the minutes allow; test accuracy
    decoder   the same; its decisions per second are of transformers' `generate`

`served.py` has the decisions per second of both through vLLM.

Routers learn what they learn in `distill train` (one answer per question, repeated by its weight),
from at most --train-examples of it, because texts must become tokens before the first step. Test
accuracy counts each decision by its weight, as `distill evaluate` does.

A part whose packages are missing is skipped with a line that names them; the others run. Padding
is printed because it is all that packing could save: batches hold rows of similar length, so a few
percent are left, less than the block mask would cost that packed rows need without a flash kernel.
Models with random weights stand in where no others are at hand: `random:22m` and `random:110m`
(encoder), `random:135m`, `random:600m` and `random:1.7b` (decoder). Their speeds hold, their
accuracies mean nothing. The last line of stdout is one JSON object with all figures.

Exit 0: done, though perhaps with parts skipped; 1: a part failed; 2: no GPU or no dataset.

Example:
    distill build traces.jsonl.gz -o dataset
    python scripts/bench/gpu.py dataset --decoder HuggingFaceTB/SmolLM2-135M-Instruct --minutes 8
"""

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Only the standard library above: what is not installed is said where it is needed.

NEEDS = {
    "dataset": [
        *("numpy", "pydantic", "yaml", "orjson", "datasets", "jsonschema", "referencing"),
        *("datasketch", "transformers", "accelerate", "jinja2", "zstandard"),
    ],
    "encoder": ["peft", "safetensors"],
    "decoder": ["peft", "safetensors", "trl"],
}
"""Packages by part, as they are imported; all parts but the peak need those of `dataset`."""

DISTRIBUTIONS = {"yaml": "pyyaml"}

SPEED_STEPS = 30
DECIDED_TOGETHER = 64

Part = Callable[[], dict[str, Any]]


class Skip(Exception):  # noqa: N818  (it is no error)
    """Why a part has nothing more to do; `figures` are what it has found until then."""

    def __init__(self, reason: str, figures: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.figures = figures or {}


def require_installed(packages: Sequence[str]) -> None:
    """Raise Skip naming those that are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(DISTRIBUTIONS.get(name, name) for name in missing)
        raise Skip(f"not installed: {names} (pip install {names})")


class Bench:
    """One run of the script: its arguments, its clock, and what was found so far."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.started = time.monotonic()
        self.figures: dict[str, Any] = {}
        self.parts: Any = None
        self.test: list[Any] = []

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return float(self.args.minutes * 60 - (time.monotonic() - self.started))

    def do(self, name: str, part: Part) -> None:
        """Do a part, or note why not: a fault in one must not cost the figures of the others."""
        start = time.monotonic()
        try:
            require_installed(NEEDS.get(name, []))
            figures = part()
        except Skip as reason:
            figures = {**reason.figures, "skipped": str(reason)}
        except ModuleNotFoundError as error:
            figures = {"skipped": f"not installed: {error.name}"}
        except Exception as error:
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {error}"}
        figures["seconds"] = round(time.monotonic() - start, 1)
        self.figures[name] = figures
        for key, value in figures.items():
            print(f"{name:<8} {key:<22} {_shown(value)}", flush=True)

    def all(self) -> None:
        """Every part in turn."""
        self.do("peak", self.peak)
        self.do("dataset", self.dataset)
        self.do("encoder", self.encoder)
        self.do("decoder", self.decoder)

    def peak(self) -> dict[str, Any]:
        from machine import matmul_peak  # noqa: PLC0415

        dtype = "bfloat16" if self.precision() == "bfloat16" else "float32"
        size = 256 if self.args.dry_run_on_cpu else 8192
        return {"dtype": dtype, "tflops_per_s": matmul_peak(dtype, size, repeats=20) / 1e12}

    def precision(self) -> str:
        """The training's number format; a dry run takes the GPU's way through the code."""
        import torch  # noqa: PLC0415

        able = self.args.dry_run_on_cpu or torch.cuda.is_bf16_supported()
        return "bfloat16" if able else "float32"

    def dataset(self) -> dict[str, Any]:
        """Open the dataset, and draw the test examples that will be decided."""
        from training import training_parts  # noqa: PLC0415

        from distill.dataset import load_dataset  # noqa: PLC0415
        from distill.runs import environment  # noqa: PLC0415
        from distill.training import Parts  # noqa: PLC0415

        dataset = load_dataset(self.args.dataset)
        whole = training_parts(dataset)
        limit = self.args.train_examples
        self.parts = Parts(
            whole.train[:limit], whole.validation[: max(1, limit // 10)], whole.catalogue
        )
        test = list(dataset.examples("test"))
        self.test = random.Random(0).sample(test, min(len(test), self.args.test_examples))
        return {
            "hash": dataset.manifest["hash"],
            "train_examples": len(self.parts.train),
            "train_examples_in_all": len(whole.train),
            "validation_examples": len(self.parts.validation),
            "test_examples": len(self.test),
            "tools": len(self.parts.catalogue),
            "environment": environment(),
        }

    def encoder(self) -> dict[str, Any]:
        self._require_dataset()
        from distill.config import EncoderConfig  # noqa: PLC0415

        return self._train(EncoderConfig(model=self._model("encoder")), 64, share=0.25)

    def decoder(self) -> dict[str, Any]:
        self._require_dataset()
        from distill.config import DecoderConfig  # noqa: PLC0415

        return self._train(DecoderConfig(model=self._model("decoder")), 32, share=0.4)

    def _require_dataset(self) -> None:
        if self.parts is None:
            raise Skip("there is no dataset")

    def _model(self, kind: str) -> str:
        """The base model's name; a model with random weights is made when it is asked for."""
        dry = self.args.dry_run_on_cpu
        name = str(getattr(self.args, kind) or ("random:tiny" if dry else DEFAULTS[kind]))
        if not name.startswith("random:"):
            return name
        import random_models  # noqa: PLC0415

        from distill.config import RenderConfig  # noqa: PLC0415
        from distill.render import render_text  # noqa: PLC0415

        kinds: dict[str, tuple[Any, Callable[..., str]]] = {
            "encoder": (random_models.ENCODERS, random_models.make_encoder),
            "decoder": (random_models.DECODERS, random_models.make_decoder),
        }
        sizes, make = kinds[kind]
        size = name.removeprefix("random:")
        if size not in sizes:
            known = ", ".join(f"random:{size}" for size in sizes)
            raise Skip(f"--{kind}: no model {name}; one of: {known}")
        texts = [render_text(example.context, RenderConfig()) for example in self.parts.train]
        return make(self.folder / f"{kind}-base", size, texts)

    def _train(self, config: Any, batch: int, share: float) -> dict[str, Any]:
        """Speed, then a training in at most `share` of the seconds left, then the test part."""
        import torch  # noqa: PLC0415
        from training import WARM_UP, Meter, measure, train_watched  # noqa: PLC0415

        from distill.routers import load_router  # noqa: PLC0415
        from distill.runs import RunDir, new_folder  # noqa: PLC0415

        batch = min(self.args.batch or batch, len(self.parts.train))
        steps = 2 if self.args.dry_run_on_cpu else SPEED_STEPS
        settings = {"batch_size": batch, "micro_batch": batch, "precision": self.precision()}
        config = _with(config, settings)
        speed = RunDir(self.folder / f"{config.kind}-speed")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        measured = measure(config, self.parts, speed, steps + WARM_UP, phases=False)
        rate, per_epoch = measured["examples_per_s"], len(self.parts.train)
        figures = {
            "model": config.model.rpartition("/")[2],
            "batch": batch,
            "precision": config.train.precision,
            "examples_per_s": rate,
            "tokens_per_s": measured["tokens_per_s"],
            "padding_share": measured["padding_share"],
            "tflops_per_s": measured["flops_per_s"] / 1e12,
            "share_of_peak": self._share(measured["flops_per_s"]),
            "memory_gib": _memory(),
        }
        epochs = min(config.train.epochs, share * self.left * rate / per_epoch)
        if epochs * per_epoch < batch:
            raise Skip(f"{self.left:.0f} seconds are left: raise --minutes to train", figures)
        run = RunDir(self.folder / config.kind)
        trained, _ = train_watched(
            _with(config, {"epochs": epochs}), self.parts, run, Meter(phases=False)
        )
        figures |= {
            "parameters": trained.parameters,
            "trainable_parameters": trained.trainable_parameters,
            "epochs": epochs,
            "train_seconds": trained.seconds,
        }
        with new_folder(run.router) as folder:
            trained.router.save(folder)
        del trained
        return {**figures, **self._decide(load_router(run.router), share * self.left)}

    def _share(self, flops: float) -> float | None:
        peak = self.figures["peak"].get("tflops_per_s")
        return None if peak is None else flops / 1e12 / peak

    def _decide(self, router: Any, seconds: float) -> dict[str, Any]:
        """Decide the test examples, or as many as `seconds` allow, but one batch at least."""
        contexts = [example.context for example in self.test]
        if router.kind == "decoder":
            router.batch = DECIDED_TOGETHER
        router.decide(contexts[:1])
        decisions: list[Any] = []
        start = time.monotonic()
        while len(decisions) < len(contexts):
            done = len(decisions)
            decisions += router.decide(contexts[done : done + DECIDED_TOGETHER])
            if time.monotonic() - start >= seconds:
                break
        elapsed = time.monotonic() - start
        decided = self.test[: len(decisions)]
        hits = sum(
            example.weight
            for decision, example in zip(decisions, decided, strict=True)
            if decision.tools == example.label.tools
        )
        return {
            "decisions": len(decisions),
            "decisions_per_s": len(decisions) / elapsed,
            "tool_accuracy": hits / sum(example.weight for example in decided),
        }


DEFAULTS = {"encoder": "packaged:minilm", "decoder": "packaged:smollm2"}


def _with(config: Any, changes: dict[str, Any]) -> Any:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def _memory() -> float | None:
    """Most GPU memory that torch has held, in GiB."""
    import torch  # noqa: PLC0415

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="a dataset folder, made by distill build")
    parser.add_argument("--encoder", help=f"its base model (default: {DEFAULTS['encoder']})")
    parser.add_argument("--decoder", help=f"its base model (default: {DEFAULTS['decoder']})")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts (default: 7.5)")
    parser.add_argument("--batch", type=int, help="examples a step (default: 64, decoder 32)")
    parser.add_argument(
        "--train-examples", type=int, default=8000, help="learned from (default: 8000)"
    )
    parser.add_argument("--test-examples", type=int, default=256, help="decided (default: 256)")
    parser.add_argument(
        "--dry-run-on-cpu", action="store_true", help="tiny models: shows that the code runs"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if importlib.util.find_spec("torch") is None:
        print("gpu.py: torch is not installed; pip install torch", file=sys.stderr)
        return 2
    import torch  # noqa: PLC0415

    if not args.dry_run_on_cpu and not torch.cuda.is_available():
        print("gpu.py: no GPU that CUDA can use; run it on a machine with one", file=sys.stderr)
        return 2
    if not (args.dataset / "manifest.json").is_file():
        message = f"{args.dataset}: no dataset folder; make one with distill build"
        print(f"gpu.py: {message}", file=sys.stderr)
        return 2
    gpu = "none (dry run)" if args.dry_run_on_cpu else torch.cuda.get_device_name()
    print(f"{gpu}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        bench.all()
    print(json.dumps({"gpu": gpu, "torch": torch.__version__, **bench.figures}))
    return int(any("failed" in part for part in bench.figures.values()))


if __name__ == "__main__":
    sys.exit(main())
