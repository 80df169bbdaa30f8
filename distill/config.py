"""Every config class, and `load`: YAML that states only what departs from the defaults.

This module never imports torch, so that `distill --help` and a config error cost no seconds.
A field's documentation stands under the field; `distill config FILE` prints the resolved whole.
Secrets never stand in a config: they come from the environment.
"""

from collections.abc import Iterable, Sequence
from datetime import date as Date  # noqa: N812  (a field is called `date`)
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from distill.errors import ConfigError


class Config(BaseModel):
    """Base of all configs: frozen, finite, and a key that no field has is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _departs_from_the_fields_own_default(cls, value: Any) -> Any:
        """`train: {epochs: 1}` keeps the other values that this kind's `train` has by default."""
        if not isinstance(value, dict):
            return value
        defaults = {
            name: field.default.model_dump()
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Config) and isinstance(value.get(name), dict)
        }
        return value | {name: _merged(default, value[name]) for name, default in defaults.items()}


def _merged(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` over `default`, dictionary by dictionary."""
    merged = default | given
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(default.get(key), dict):
            merged[key] = _merged(default[key], value)
    return merged


class RenderConfig(Config):
    """How much of a conversation a router reads (`distill.render`)."""

    system_chars: int = Field(0, ge=0)
    """Characters kept of the system prompt; 0 leaves it out."""
    first_chars: int = Field(600, ge=16)
    """Characters kept of the first user message."""
    turn_chars: int = Field(240, ge=16)
    """Characters kept of each later message, and of a call's arguments in texts."""
    turns: int = Field(4, ge=1)
    """Latest messages kept; of those before, only the names of the called tools."""
    order: Literal["oldest_first", "newest_first"] = "oldest_first"
    """Order of a text's lines (`distill.render.render_text`); a decoder's chat keeps its own.
    Newest first, the latest message, on which most depends, always stands at the same place."""


class SplitConfig(Config):
    """Shares of the groups in each part; what train, validation and calibration leave is test."""

    train: float = Field(0.6, gt=0, lt=1)
    """Share of groups that routers are trained on."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of groups for early stopping and the choice of hyperparameters."""
    calibration: float = Field(0.1, ge=0, lt=1)
    """Share of groups that thresholds are fitted on."""
    merge_jaccard: float | None = Field(0.8, gt=0, le=1)
    """Groups whose first requests are at least this similar (MinHash) are one group, for splits and
    intervals; null merges none."""

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> "SplitConfig":
        if self.train + self.validation + self.calibration >= 1:
            raise ValueError("train + validation + calibration must leave a share for test")
        return self


class DataConfig(Config):
    """From traces to a dataset."""

    traces: str = "sample:orderdesk"
    """A trace file (JSON lines, plain, .gz or .zst), or `sample:orderdesk`."""
    format: Literal["auto", "traces", "openai"] = "auto"
    """`traces`: the canonical format; `openai`: logged request/response pairs."""
    group_by: str | None = None
    """The key of a trace by which splits are made; default: `group`, else `task_id`, else `id`."""
    outcome: Literal["any", "not_failed", "succeeded"] = "not_failed"
    """Which traces teach: all, those not graded as failed, or only those graded as successes."""
    invalid_arguments: Literal["drop", "keep"] = "drop"
    """Decisions whose arguments break the tool's JSON Schema (a number sent as a string, a missing
    key): drop and count them, or keep them because the choice of tool still teaches."""
    where: dict[str, str] = {}
    """Keep only traces whose top-level keys have these values, e.g. `toolset: all`."""
    drop_duplicates: float | None = Field(0.95, gt=0, le=1)
    """Among traces of one group key, merge an example into a kept one with the same label whose
    context is at least this similar; 1 merges exact copies only, null keeps all."""
    split: SplitConfig = SplitConfig()
    max_line_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """A longer line of a trace file is rejected."""


class TrainConfig(Config):
    """The optimisation that every trained router shares."""

    epochs: float = Field(5, gt=0)
    """Passes over the training part."""
    batch_size: int = Field(16, ge=1)
    """Examples per optimiser step, over all processes together."""
    micro_batch: int = Field(16, ge=1)
    """Examples computed at once on one device; fewer need less memory and give the same step."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate, reached after `warmup` and then decayed to zero along a cosine."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    evaluations: int = Field(5, ge=1)
    """Evaluations on validation, and checkpoints, spread evenly over the run."""
    patience: int = Field(3, ge=1)
    """Stop after this many evaluations without a new best. Kept is the latest checkpoint within
    one standard error of the best (`distill.training.loop.trainer_class`)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the GPU computes in it, else float32."""


class LoraConfig(Config):
    """LoRA (Hu et al. 2021, arXiv:2106.09685) on linear layers, through PEFT."""

    rank: int = Field(16, ge=1)
    """Rank r of the update B·A."""
    alpha: float = Field(32, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the update's input."""
    targets: str | list[str] = "all-linear"
    """Layers that get an update, as PEFT's `target_modules`."""


class MajorityConfig(Config):
    """Always the most frequent decision of the training part."""

    kind: Literal["majority"] = "majority"


class TfidfConfig(Config):
    """Word and character TF-IDF with logistic regression, chosen on validation."""

    kind: Literal["tfidf"] = "tfidf"
    render: RenderConfig = RenderConfig(first_chars=2000, turn_chars=600)
    regularisation: list[Annotated[float, Field(gt=0)]] = Field([1.0, 10.0, 100.0], min_length=1)
    """Candidates for scikit-learn's C (inverse strength); the best on validation is kept."""


class ScratchConfig(Config):
    """What the networks trained from scratch share."""

    kind: str
    render: RenderConfig = RenderConfig()
    train: TrainConfig
    vocabulary: int = Field(4000, ge=300)
    """Byte-level BPE tokens, learned from the training part."""
    max_tokens: int = Field(192, ge=8)
    """Tokens read of each context."""


class RnnConfig(ScratchConfig):
    """A tiny GRU from scratch, on a small tokenizer of its own."""

    kind: Literal["rnn"] = "rnn"
    train: TrainConfig = TrainConfig(epochs=15, learning_rate=3e-3)
    embedding: int = Field(96, ge=1)
    """Width of the token embedding."""
    hidden: int = Field(128, ge=1)
    """Width of the GRU in each of its two directions."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout on embeddings and on the pooled state."""


class AttentionConfig(ScratchConfig):
    """A small transformer from scratch over the conversation and the tool catalogue."""

    kind: Literal["attention"] = "attention"
    train: TrainConfig = TrainConfig(epochs=15, learning_rate=1e-3)
    width: int = Field(128, ge=2)
    """Width of the token embedding and of every layer."""
    layers: int = Field(2, ge=1)
    """Transformer layers over the conversation."""
    heads: int = Field(4, ge=1)
    """Attention heads, which share the width evenly."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout on embeddings, on what each layer adds and on what classes are answered."""

    @model_validator(mode="after")
    def _heads_are_of_even_width(self) -> "AttentionConfig":
        if self.width % (2 * self.heads):
            raise ValueError("width: rotary positions need a multiple of 2 * heads")
        return self


class MatchConfig(Config):
    """How an encoder reads tools and learns to match contexts with them (`catalogue: open`)."""

    tool_chars: int = Field(120, ge=16)
    """Characters read of a tool's description, and of its parameters' names together."""
    negatives: int = Field(4, ge=0)
    """Tools that an example offers and does not call, those most like its context before training,
    that it learns to tell from those it calls."""
    others: int = Field(1, ge=0)
    """Tools drawn from other examples' calls, for the same."""
    rename: float = Field(0.25, ge=0, le=1)
    """Share of the examples whose functions and parameters get meaningless names, so that
    descriptions are read and names are not learned by heart (`distill.training.rename`)."""


class EncoderConfig(Config):
    """A pretrained encoder with LoRA and a tool head, merged on save."""

    kind: Literal["encoder"] = "encoder"
    model: str = "packaged:minilm"
    """`packaged:minilm`, a hub name (`answerdotai/ModernBERT-base`) or a local folder."""
    revision: str | None = None
    """Commit or tag on the hub."""
    render: RenderConfig = RenderConfig(order="newest_first")
    train: TrainConfig = TrainConfig(learning_rate=1e-3)
    """On groups held out of training, 5e-4 learned less (WorkBench), 2e-3 overfitted (Home
    Assistant)."""
    lora: LoraConfig = LoraConfig()
    head_learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of the head."""
    max_tokens: int = Field(192, ge=16)
    """Tokens read of each context."""
    arguments: Literal["none", "extract"] = "none"
    """`extract`: a second encoder fills the arguments of the chosen tools from what stands in the
    context (`distill.routers.arguments`)."""
    argument_tokens: int = Field(320, ge=64)
    """Tokens read to fill a call: the tool's parameters in words, then passages of the context."""
    argument_train: TrainConfig = TrainConfig(
        epochs=12, batch_size=8, micro_batch=8, learning_rate=2e-4
    )
    """The optimisation of that second encoder. Its new head needs many steps on few rows. After
    four epochs 67% of Home Assistant's validation calls were right; at 1e-3, with a simpler head,
    14%."""
    catalogue: Literal["closed", "open"] = "closed"
    """`closed`: a class for each decision of training, over its tools. `open`: contexts are matched
    with the texts of whatever tools they offer, those that training never saw, too; a
    `train.learning_rate` of 1e-3 then unlearns more than it learns of tools left out (TRAJECT)."""
    match: MatchConfig = MatchConfig()
    """Read where the catalogue is open."""


class DecoderConfig(Config):
    """A pretrained causal LM with LoRA that writes Hermes-style tool calls."""

    kind: Literal["decoder"] = "decoder"
    model: str = "packaged:smollm2"
    """`packaged:smollm2`, a hub name (`Qwen/Qwen3-0.6B`) or a local folder."""
    revision: str | None = None
    """Commit or tag on the hub."""
    render: RenderConfig = RenderConfig()
    train: TrainConfig = TrainConfig(epochs=2, batch_size=8, micro_batch=4, learning_rate=1e-3)
    lora: LoraConfig = LoraConfig()
    tools: Literal["none", "names", "signatures", "schemas"] = "signatures"
    """How the prompt words the offered tools: not at all (a fixed catalogue is learned by heart),
    names, names with parameter names, or full JSON Schemas."""
    max_tokens: int = Field(768, ge=32)
    """Tokens of the prompt."""
    max_examples: int | None = Field(None, ge=1)
    """Train on at most this many examples, drawn by the seed, and validate on a fifth as many;
    null takes all."""
    max_new_tokens: int = Field(192, ge=8)
    """Tokens a decision may take; training leaves out labels that need more, and counts them."""


class CascadeConfig(Config):
    """An encoder that decides, and a decoder for the arguments that the encoder cannot fill.

    Nothing is trained for it: it is put together from two routers of the same job.
    """

    kind: Literal["cascade"] = "cascade"
    encoder: str = "encoder"
    """The name of the job's router of kind `encoder` that decides."""
    decoder: str = "decoder"
    """The name of the job's router of kind `decoder` that fills arguments."""


class EndpointConfig(Config):
    """A large LLM behind an OpenAI-compatible endpoint, as a router of the same job.

    Nothing is trained: it is asked when it is measured, and its answers are kept in `cache`.
    """

    kind: Literal["endpoint"] = "endpoint"
    model: str = Field(min_length=1)
    """The model's name, as the endpoint knows it and a table of prices lists it."""
    base_url: str
    """Where `/chat/completions` is, e.g. `http://127.0.0.1:8000/v1`."""
    key_env: str | None = None
    """The environment variable that holds the key; null: the endpoint needs none."""
    max_tokens: int = Field(1024, ge=1)
    """Tokens an answer may take; one that is cut off within its calls is no decision."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature."""
    seed: int | None = None
    """The endpoint's own sampling seed; null sends none."""
    extra: dict[str, Any] = {}
    """Further keys of the request, e.g. `reasoning_effort: low`; one that is null is left out, e.g.
    `{max_tokens: null, max_completion_tokens: 1024}` where a model wants that name."""
    connect_s: float = Field(10, gt=0)
    """Seconds to connect."""
    read_s: float = Field(60, gt=0)
    """Seconds without a byte of the answer."""
    total_s: float = Field(120, gt=0)
    """Seconds for the whole answer, looked at whenever a piece of it comes."""
    retries: int = Field(5, ge=0)
    """Further attempts after a timeout, a lost connection, or HTTP 408, 409, 429 or 5xx."""
    max_wait_s: float = Field(60, gt=0)
    """Longest wait before an attempt. Where the endpoint asks for more, the request has failed."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Requests go out evenly, no faster than this; null: as fast as they can."""
    concurrency: int = Field(4, ge=1, le=256)
    """Requests under way at once."""
    max_answer_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """A longer answer is not read to its end, and has failed."""
    cache: Path | None = Path("llm-cache")
    """Folder of the answers had so far, shared by all jobs that name it; null keeps none."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address_without_secrets(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in value or parts.query or parts.fragment:
            # Of a type of its own, so that the value is not repeated.
            raise PydanticCustomError("secret", "holds more than an address")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https address")
        return value.rstrip("/")


LearnedConfig = (
    MajorityConfig | TfidfConfig | RnnConfig | AttentionConfig | EncoderConfig | DecoderConfig
)
"""The routers that learn from examples themselves."""
AnyRouterConfig = LearnedConfig | CascadeConfig | EndpointConfig
RouterConfig = Annotated[AnyRouterConfig, Field(discriminator="kind")]


class EvaluationConfig(Config):
    """How a trained router is measured."""

    bootstrap: int = Field(2000, ge=100)
    """Resamples of groups behind every interval."""
    batch_size: int = Field(32, ge=1)
    """Contexts decided together when throughput is measured."""
    latency_samples: int = Field(40, ge=2)
    """Decisions timed one at a time."""
    max_examples: int | None = Field(None, ge=1)
    """Evaluate at most this many test examples, whole groups drawn by the seed; null takes all."""
    target_accuracy: float | None = Field(None, gt=0, lt=1)
    """The report recommends the cheapest router that holds this tool accuracy, and says up to which
    complexity each holds it; null recommends none."""


class RiskConfig(Config):
    """What a router may get wrong where it decides alone (`distill.evaluation.risk`)."""

    alphas: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.05, 0.1, 0.2], min_length=1)
    """Shares of wrong decisions among those taken locally; each gets a threshold of its own."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Probability with which a threshold may fail its promise."""
    max_examples: int | None = Field(None, ge=1)
    """Decide at most this many calibration examples, whole groups drawn by the seed."""


ArmName = Literal[
    "own", "own-no-tools", "handed", "handed-with-tools", "synthetic", "synthetic-no-tools"
]
"""What an LLM is shown of tool calls (`distill.evaluation.arms`)."""


class HistoriesConfig(Config):
    """The history experiment without an endpoint (`distill.evaluation.likelihood`)."""

    arms: list[ArmName] = Field(["own", "handed", "synthetic", "synthetic-no-tools"], min_length=1)
    """Histories of which each reply is told the likelihood under."""
    model: str = "packaged:smollm2"
    """A causal LM: `packaged:smollm2`, a hub name or a local folder."""
    revision: str | None = None
    """Commit or tag on the hub."""
    part: Literal["train", "validation", "calibration", "test"] = "test"
    """The dataset's part whose traces are measured."""
    limit: int | None = Field(None, ge=1)
    """Measure at most this many replies, drawn by the seed; null takes all."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Draws the replies that `limit` keeps."""
    tools: Literal["names", "signatures", "schemas"] = "schemas"
    """How the prompt words offered tools, as for a decoder."""
    max_tokens: int = Field(4096, ge=64)
    """Tokens of prompt and reply together. Of a longer conversation less is kept, the same in all
    arms; where the tools and the reply alone are too long, the reply is left out and counted."""
    render: RenderConfig = RenderConfig(
        system_chars=4000, first_chars=4000, turn_chars=2000, turns=16
    )
    """What is kept of a conversation: the first user message and the latest turns."""
    batch_size: int = Field(1, ge=1)
    """Prompts computed at once; a processor gains nothing from more."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of groups behind every interval."""

    @model_validator(mode="after")
    def _names_distinct_arms(self) -> "HistoriesConfig":
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("arms: one of them comes twice")
        return self


class PolicyConfig(Config):
    """Which calls of a router are made without asking the LLM (`distill.policy`)."""

    alpha: float = Field(0.1, gt=0, lt=1)
    """Calls are taken from the threshold of this promise on: at most this share is wrong. One of
    the alphas that the router was calibrated for."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Probability with which that promise may fail; the delta of the calibration."""
    threshold: float | None = Field(None, ge=0, le=1)
    """A confidence of your own to take calls from, in place of any promise; 0 takes every call that
    has a confidence."""
    per_tool: bool = True
    """Hold each call to the promise for its tool alone, where the router has such promises; a tool
    for which the data supports none is then never taken. False: to that of all decisions, which
    holds for calls and replies mixed as in the calibration part."""
    allow: list[str] | None = None
    """Only these tools are taken; null: all that are offered."""
    deny: list[str] = []
    """These tools are not taken, whatever `allow` says."""
    sensitive: list[str] = []
    """Tools that are never taken locally, however confident the router is."""
    untrusted: list[str] = []
    """Tools whose results may carry text of strangers; what follows such a result is taken under
    further conditions (`distill.policy`)."""
    read_only: list[str] = []
    """Tools that change nothing. After the result of an untrusted tool no other is taken."""

    def unguarded(self) -> "PolicyConfig":
        """The same without any rule about tools: confidence and schema alone decide."""
        kept = ("alpha", "delta", "threshold", "per_tool")
        return PolicyConfig(**{name: getattr(self, name) for name in kept})

    @property
    def guards(self) -> bool:
        """Whether there is a rule about tools."""
        return self != self.unguarded()


class RunConfig(Config):
    """One job: traces -> dataset -> trained routers -> one comparison."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the folder under `output`."""
    output: Path = Path("runs")
    """Where run directories go: `output/name/router-sSEED`."""
    data: DataConfig = DataConfig()
    routers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], RouterConfig] = (
        Field(min_length=1)
    )
    """The routers to train and compare, by name (no dots: overrides divide keys by them)."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0], min_length=1)
    """Each seed makes its own split and its own training of every router."""
    risk: RiskConfig = RiskConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = []
    """Where training metrics go besides `log.jsonl`."""
    prices: Path | None = None
    """A table of prices like `configs/prices.yaml`; without one the report knows no money."""

    @model_validator(mode="after")
    def _names_distinct_folders(self) -> "RunConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one of them comes twice")
        if "dataset" in self.routers:
            raise ValueError("routers: 'dataset' is the name of the dataset's folder")
        return self


class PriceConfig(Config):
    """What a model's tokens cost, per million, in the table's currency."""

    input: float = Field(ge=0)
    """Prompt tokens."""
    output: float = Field(ge=0)
    """Tokens of the answer."""
    cached: float | None = Field(None, ge=0)
    """Prompt tokens that the endpoint had kept; null: as much as others."""
    date: Date
    """When the prices were looked up."""


class PricesConfig(Config):
    """A table of prices, by the models' names."""

    currency: str = Field("USD", min_length=1)
    """Of every price in the table."""
    models: dict[str, PriceConfig]
    """By the name that traces (their `model`) or an endpoint router (its `model`) give."""
    training_per_hour: float | None = Field(None, ge=0)
    """What an hour of the machine that trains costs; null: not known."""


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML where a key that comes twice is a fault, not a silent loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    problem = f"{key.value!r} stands in line {lines[key.value]} already"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run config and apply `key.sub=value` overrides (values are YAML).

    Raises:
        ConfigError: the file is missing, not YAML, or has unknown keys or bad values.
    """
    return parse(_read(path, "see configs/run/"), path, RunConfig, overrides)


def load_prices(path: Path) -> PricesConfig:
    """Read a table of prices; errors as `load`."""
    return parse(_read(path, "see configs/prices.yaml"), path, PricesConfig)


def load_policy(path: Path | None, overrides: Sequence[str] = ()) -> PolicyConfig:
    """A policy from a file, or the default one, and overrides; errors as `load`."""
    if path is None:
        return parse({}, "command line", PolicyConfig, overrides)
    return parse(_read(path, "write it like `threshold: 0.9`"), path, PolicyConfig, overrides)


def load_endpoint(path: Path) -> EndpointConfig:
    """Read an LLM's endpoint; errors as `load`."""
    return parse(_read(path, "see configs/endpoint/"), path, EndpointConfig)


def _read(path: Path, example: str) -> dict[str, Any]:
    """A YAML file's mapping; `example` is the cure for one that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(path, f"cannot be read ({reason})", "give a config file") from None
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "unreadable")
        raise ConfigError(place, f"not YAML ({problem})", "mend the line") from None
    except (ValueError, RecursionError) as error:  # a date like 2020-13-45; a thousand brackets
        raise ConfigError(path, f"not YAML ({error})", "mend or quote the value") from None
    if not isinstance(value, dict):
        raise ConfigError(path, "not a mapping of keys to values", example)
    return value


def parse(value: dict[str, Any], place: object, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Validate a mapping as a config of class `kind`; `place` names it in errors.

    Raises:
        ConfigError: unknown keys, bad values, or an override that is none.
    """
    for override in overrides:
        _apply(value, override)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _explain(error, place, kind) from None


def dump(config: Config) -> str:
    """The resolved config as YAML, every default spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(override, "not an override", "write key.sub=value")
    *parents, leaf = key.split(".")
    node = value
    for parent in parents:
        child = node.get(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(key, f"{parent!r} holds no keys", "name a key of the config")
        # A copy: what YAML anchors share is one object, and only this key is meant.
        node[parent] = dict(child)
        node = node[parent]
    try:
        node[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(key, f"{text!r} is not a YAML value", "quote it") from None


def _explain(error: ValidationError, place: object, kind: type[Config]) -> ConfigError:
    """The first fault in words: dotted path, what is wrong, what would be right."""
    fault = error.errors()[0]
    # A discriminated union puts the chosen kind into the path; it is no key of the file.
    path, names = _walk(kind, fault["loc"])
    if fault["type"] == "extra_forbidden":
        return ConfigError(place, f"unknown key {path!r}", f"valid names: {', '.join(names)}")
    if fault["type"] == "missing":
        return ConfigError(place, f"{path!r} is missing", "add it")
    if fault["type"] == "union_tag_not_found":
        return ConfigError(
            place, f"'{path}.kind' is missing", f"one of: {', '.join(_ROUTER_KINDS)}"
        )
    if fault["type"] == "union_tag_invalid":
        unknown = f"{path}.kind: unknown kind {fault['ctx']['tag']!r}"
        return ConfigError(place, unknown, f"one of: {', '.join(_ROUTER_KINDS)}")
    if fault["type"] == "secret":
        cure = "leave that out; a key belongs into the environment (key_env)"
        return ConfigError(place, f"{path}: {fault['msg']}", cure)
    message = fault["msg"].removeprefix("Value error, ")
    return ConfigError(place, f"{path}: {message}", f"got {fault['input']!r}"[:300])


def _walk(root: Any, location: Iterable[int | str]) -> tuple[str, list[str]]:
    """The dotted path without union tags, and the field names valid at its parent."""
    keys: list[str] = []
    node: Any = root
    names: list[str] = []
    for part in location:
        if isinstance(node, dict):  # a union by kind: this part is the tag
            node = node.get(str(part))
            continue
        keys.append(str(part))
        fields = getattr(node, "model_fields", None)
        if fields is None:
            node = _ROUTER_KINDS if node is dict else None
            continue
        names = list(fields)
        annotation = fields[part].annotation if part in fields else None
        if part == "routers":
            node = dict
        elif get_origin(annotation) is UnionType:
            node = {}  # its members' types stand in the path, too
        else:
            node = annotation if hasattr(annotation, "model_fields") else None
    return ".".join(keys), names


_ROUTER_KINDS: dict[str, Any] = {
    "majority": MajorityConfig,
    "tfidf": TfidfConfig,
    "rnn": RnnConfig,
    "attention": AttentionConfig,
    "encoder": EncoderConfig,
    "decoder": DecoderConfig,
    "cascade": CascadeConfig,
    "endpoint": EndpointConfig,
}
