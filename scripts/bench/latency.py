"""How long a routing decision takes, by router kind and length of the conversation.

Every kind decides the same conversations: 64, 256 and 512 tokens as the encoder's tokenizer
counts them, with the dataset's whole catalogue on offer. Routers have untrained weights (what they
decide does not matter), and are saved and loaded as a server loads them; they decide one at a time,
then in batches. `reads` is what the router itself reads, in its own tokens; the decoder reads the
tools' signatures besides the conversation. How long a decoder takes follows from what it writes,
so it is measured twice: writing as much as the dataset's median reply, and as its median call.

`encoder-int8` is the encoder exported with int8 weights, computed by ONNX Runtime (`distill
export`). For both, `forward` is the p50 of the model alone, without the text and its tokens, and
`of peak` the share of the matrix multiplication that this machine reaches just before in the same
number format (`machine.py`; the work by the formulas in `flops.py`).

The column `ratio` is p50 over that of the encoder at the shortest conversation. A percentile that
the samples are too few for (p99 of fewer than 100) is left out. All routers take half an hour on
two cores, nearly all of it the decoder's.

Example:
    python scripts/bench/latency.py --routers tfidf rnn attention encoder --samples 200
"""

import argparse
import bisect
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flops import forward_cost
from llguidance import LLMatcher
from machine import describe, int8_peak, matmul_peak
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from training import open_dataset, training_parts

from distill.config import (
    AttentionConfig,
    DecoderConfig,
    EncoderConfig,
    MajorityConfig,
    RenderConfig,
    RnnConfig,
    ScratchConfig,
    TfidfConfig,
)
from distill.errors import InputError
from distill.evaluation.latency import measure, supported
from distill.progress import silent
from distill.render import completion, render_text
from distill.routers import load_router, pretrained
from distill.routers.attention import AttentionRouter
from distill.routers.decoder import DecoderRouter
from distill.routers.decoding import PromptFormat
from distill.routers.encoder import EncoderClassifier, EncoderRouter
from distill.routers.encoding import EncodingRouter
from distill.routers.export import export
from distill.routers.folder import RouterFile
from distill.routers.grammar import Grammars
from distill.routers.labels import LabelSpace
from distill.routers.rnn import RnnRouter
from distill.routers.scratch import ScratchRouter, learn_tokenizer
from distill.runs import RunDir, hardware, new_folder, write_json
from distill.training import Job, Parts, train
from distill.types import Context, Message, Router

WHOLE = RenderConfig(first_chars=1_000_000)
"""Nothing of the conversation is cut, so that every router reads all of it."""

_PEAK_SIZE = 2048

KINDS = ["majority", "tfidf", "rnn", "attention", "encoder", "encoder-int8", "decoder"]


class Anything:
    """A grammar as costly as others to follow, and as long as one likes to write."""

    def __init__(self, grammars: Grammars) -> None:
        self.grammars = grammars

    def matcher(self, text: str) -> LLMatcher:
        return self.grammars.matcher(r"start: /(.|\n)*/")


@dataclass
class Bench:
    """The routers to measure and what they decide about."""

    parts: Parts
    folder: Path
    encoder: str
    decoder: str

    def __post_init__(self) -> None:
        self.labels = LabelSpace.of(example.label for example in self.parts.train)
        self.ruler = pretrained.load_tokenizer(pretrained.resolve(self.encoder))

    def contexts(self, tokens: int, count: int) -> list[Context]:
        """Conversations of one user message, all different, of at most `tokens` tokens."""
        draw = random.Random(tokens)
        words = [
            word
            for example in self.parts.train
            for message in example.context.messages
            if message.role == "user"
            for word in (message.content or "").split()
        ]
        tools = self.parts.catalogue
        contexts = []
        for _ in range(count):
            drawn = draw.choices(words, k=tokens)

            def context(n: int, drawn: list[str] = drawn) -> Context:
                return Context((Message("user", " ".join(drawn[:n])),), tools)

            fitting = bisect.bisect_right(
                range(1, tokens + 1), tokens, key=lambda n: self.length(context(n))
            )
            contexts.append(context(fitting))
        return contexts

    def length(self, context: Context) -> int:
        """Tokens of a conversation as the encoder's tokenizer counts them."""
        return len(
            cast(list[int], self.ruler(render_text(context, WHOLE), verbose=False).input_ids)
        )

    def routers(self, kind: str, longest: int) -> dict[str, Router]:
        """Routers of a kind by their name in the table, loaded from their folders."""
        # Room for a tokenizer that needs more tokens than the encoder's, and for a prompt's tools.
        limit = 4 * longest + 2048
        match kind:
            case "majority" | "tfidf":
                config = (
                    MajorityConfig()
                    if kind == "majority"
                    else TfidfConfig(render=WHOLE, regularisation=[10.0])
                )
                job = Job(self.parts, RunDir(self.folder / kind), 0, [], silent)
                return {kind: self._loaded(kind, train(config, job).router)}
            case "rnn":
                rnn = RnnConfig(render=WHOLE, max_tokens=limit)
                return {kind: self._loaded(kind, self._from_scratch(rnn, RnnRouter))}
            case "attention":
                attention = AttentionConfig(render=WHOLE, max_tokens=limit)
                return {kind: self._loaded(kind, self._from_scratch(attention, AttentionRouter))}
            case "encoder":
                encoder = EncoderConfig(model=self.encoder, render=WHOLE, max_tokens=longest)
                base = pretrained.resolve(self.encoder)
                classifier = EncoderClassifier(pretrained.load_encoder(base), len(self.labels))
                router = EncoderRouter(
                    self._file(encoder, base), pretrained.load_tokenizer(base), classifier
                )
                return {kind: self._loaded(kind, router)}
            case "encoder-int8":
                if not (self.folder / "encoder").is_dir():
                    self.routers("encoder", longest)
                export(self.folder / "encoder", self.folder / kind, "int8")
                return {kind: load_router(self.folder / kind)}
            case _:
                return self._decoders(DecoderConfig(model=self.decoder, render=WHOLE), limit)

    def _from_scratch(self, config: ScratchConfig, kind: type[ScratchRouter]) -> ScratchRouter:
        texts = [render_text(example.context, WHOLE) for example in self.parts.train]
        tokenizer = learn_tokenizer(texts, config.vocabulary)
        return kind.untrained(self._file(config), tokenizer)

    def _decoders(self, config: DecoderConfig, limit: int) -> dict[str, Router]:
        config = config.model_copy(update={"max_tokens": limit})
        base = pretrained.resolve(self.decoder)
        settings = PeftLoraConfig(r=config.lora.rank, target_modules=config.lora.targets)
        model = get_peft_model(pretrained.load_decoder(base), settings)
        tokenizer = PromptFormat.new(pretrained.load_tokenizer(base), config).tokenizer
        made = DecoderRouter(self._file(config, base), tokenizer, model)
        answers: dict[str, list[int]] = {"reply": [], "call": []}
        for example in self.parts.train:
            text = completion(example.label, example.context.tools)
            answers[example.label.action].append(len(made.format.ids(text)) + 1)
        self._loaded("decoder", made)
        routers = {}
        for action, lengths in answers.items():
            router = cast(DecoderRouter, load_router(self.folder / "decoder"))
            length = int(statistics.median(lengths))
            # Untrained, it would write until it happens to stop.
            router.config = router.config.model_copy(update={"max_new_tokens": length})
            router.model.generation_config.min_new_tokens = length
            router.format.grammars = cast(Grammars, Anything(router.format.grammars))
            routers[f"decoder, {action} of {length}"] = cast(Router, router)
        return routers

    def _file(self, config: Any, base: pretrained.BaseModel | None = None) -> RouterFile:
        described = None if base is None else base.describe()
        return RouterFile(config, self.parts.catalogue, self.labels, described)

    def _loaded(self, kind: str, router: Router) -> Router:
        with new_folder(self.folder / kind) as folder:
            router.save(folder)
        return load_router(self.folder / kind)


def reads(router: Any, context: Context) -> int:
    """Tokens that a router reads of a context, in its own tokenizer; 0 where it has none."""
    match router:
        case ScratchRouter():
            return len(router.tokens(router.text(context)))
        case EncodingRouter():
            return len(router.tokenizer(router.text(context)).input_ids)
        case DecoderRouter():
            return len(router.format.ids(router.format.prompt(context)))
    return 0


@dataclass
class Forward:
    """What the encoders' forward passes are measured against: their work, and this machine."""

    bench: Bench

    def __post_init__(self) -> None:
        base = pretrained.resolve(self.bench.encoder)
        model = EncoderClassifier(pretrained.load_encoder(base), len(self.bench.labels))
        self.cost = forward_cost(model)
        self.peaks = {"encoder": matmul_peak("float32", _PEAK_SIZE)}

    def measure(self, kind: str, router: EncodingRouter, context: Context, samples: int) -> Any:
        """`forward_ms` (p50), and `share_of_peak`, where the peak is the kind's."""
        if kind not in self.peaks:
            self.peaks[kind] = int8_peak(_PEAK_SIZE)
        tokens = router.tokenizer([router.text(context)], return_tensors="np")
        arguments = tokens["input_ids"], tokens["attention_mask"]
        seconds = []
        for _ in range(samples + 3):
            start = time.perf_counter()
            router.logits(*arguments)
            seconds.append(time.perf_counter() - start)
        typical = statistics.median(seconds[3:])
        work = self.cost.of([arguments[0].shape[1]], 0)
        return {
            "forward_ms": 1000 * typical,
            "peak_ops_per_s": self.peaks[kind],
            "share_of_peak": work / typical / self.peaks[kind],
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--routers", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, 256, 512])
    parser.add_argument("--samples", type=int, default=100, help="decisions timed one at a time")
    parser.add_argument("--batch", type=int, default=16, help="decisions in a batch")
    parser.add_argument("--dataset", type=Path, help="a dataset folder (default: the sample)")
    parser.add_argument("--encoder", default="packaged:minilm", help="its base model")
    parser.add_argument("--decoder", default="packaged:smollm2", help="its base model")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    args = parser.parse_args(arguments)
    machine = hardware()
    print(describe(machine), flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        parts = training_parts(open_dataset(args.dataset, Path(temporary)))
        bench = Bench(parts, Path(temporary) / "routers", args.encoder, args.decoder)
        contexts = {tokens: bench.contexts(tokens, args.batch) for tokens in args.tokens}
        # The encoder comes first: the others are measured against it.
        kinds = sorted(args.routers, key=lambda kind: kind != "encoder")
        print(f"{len(parts.catalogue)} tools", flush=True)
        print(
            f"{'router':<22} context  reads  p50 ms  p95 ms  p99 ms  batched/s  ratio"
            "  forward  of peak"
        )
        forward = Forward(bench) if "encoder" in " ".join(kinds) else None
        for kind in kinds:
            for name, router in bench.routers(kind, max(args.tokens)).items():
                for tokens, asked in contexts.items():
                    timing = supported(measure(router, asked, args.samples, args.batch))
                    row = {
                        "router": name,
                        "context_tokens": tokens,
                        "reads": reads(router, asked[0]),
                        **timing,
                    }
                    if forward is not None and isinstance(router, EncodingRouter):
                        row |= forward.measure(kind, router, asked[0], args.samples)
                    rows.append(row)
                    first = rows[0]["latency_ms"]["p50"] if kinds[0] == "encoder" else None
                    row["ratio"] = None if first is None else row["latency_ms"]["p50"] / first
                    print(_line(row), flush=True)
    if args.output is not None:
        write_json(args.output, {"hardware": machine, "rows": rows})


def _line(row: dict[str, Any]) -> str:
    found = (row["latency_ms"][key] for key in ("p50", "p95", "p99"))
    p50, p95, p99 = ("–" if ms is None else f"{ms:.1f}" for ms in found)
    ratio = "" if row["ratio"] is None else f"{row['ratio']:>6.2f}"
    if "forward_ms" in row:
        ratio = f"{ratio:>6} {row['forward_ms']:>8.1f} {row['share_of_peak']:>8.0%}"
    return (
        f"{row['router']:<22} {row['context_tokens']:>7} {row['reads'] or '':>6}"
        f" {p50:>7} {p95:>7} {p99:>7} {row['decisions_per_s']:>10.1f} {ratio}"
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"latency.py: {error}")
