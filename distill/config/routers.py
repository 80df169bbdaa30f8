"""The kinds of routers that a job trains or puts together, and their union by `kind`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from distill.config.base import Config
from distill.config.endpoint import EndpointConfig
from distill.config.render import RenderConfig
from distill.config.training import LoraConfig, TrainConfig


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
    """Tokens read to fill a call: the tool's parameters in words, then passages of the context. 320
    hold a request, 512 some search results, too."""
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
    """A pretrained causal LM with LoRA, a soft prompt or both, that writes Hermes-style calls."""

    kind: Literal["decoder"] = "decoder"
    model: str = "packaged:smollm2"
    """`packaged:smollm2`, a hub name (`Qwen/Qwen3-0.6B`) or a local folder."""
    revision: str | None = None
    """Commit or tag on the hub."""
    render: RenderConfig = RenderConfig()
    train: TrainConfig = TrainConfig(epochs=2, batch_size=8, micro_batch=4, learning_rate=1e-3)
    lora: LoraConfig | None = LoraConfig()
    """null trains a soft prompt alone."""
    soft_prompt: int = Field(0, ge=0)
    """Learned vectors at the very start of each prompt (Lester et al. 2021, arXiv:2104.08691); they
    count as its tokens. No engine serves them."""
    soft_prompt_learning_rate: float = Field(1e-2, gt=0)
    """Peak learning rate of the soft prompt, whose vectors have further to go than LoRA's weights:
    at LoRA's rate they hardly move."""
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

    @model_validator(mode="after")
    def _something_is_trained(self) -> "DecoderConfig":
        if self.lora is None and not self.soft_prompt:
            raise ValueError("lora: null leaves nothing to train without a soft_prompt")
        return self


class CascadeConfig(Config):
    """An encoder that decides, and a decoder for the arguments that the encoder cannot fill.

    Nothing is trained for it: it is put together from two routers of the same job.
    """

    kind: Literal["cascade"] = "cascade"
    encoder: str = "encoder"
    """The name of the job's router of kind `encoder` that decides."""
    decoder: str = "decoder"
    """The name of the job's router of kind `decoder` that fills arguments."""

    def stages(self) -> dict[str, str]:
        """The folder of each stage within the router's, and the job's router that it is."""
        return {"encoder": self.encoder, "decoder": self.decoder}


class EnsembleConfig(Config):
    """Several closed routers that decide together, such as an encoder, an RNN and TF-IDF.

    Nothing is trained for it: it is put together from routers of the same job.
    """

    kind: Literal["ensemble"] = "ensemble"
    members: list[str] = Field(min_length=2, max_length=8)
    """The names of the job's routers: each of kind `tfidf`, `rnn`, `attention`, or `encoder` with
    `catalogue: closed`. Where some fill arguments, the first such one fills the ensemble's."""

    @field_validator("members")
    @classmethod
    def _are_different(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("names a router twice")
        return value

    def stages(self) -> dict[str, str]:
        """The folder of each member within the router's, and the job's router that it is."""
        return {name: name for name in self.members}


LearnedConfig = (
    MajorityConfig | TfidfConfig | RnnConfig | AttentionConfig | EncoderConfig | DecoderConfig
)
"""The routers that learn from examples themselves."""
AssembledConfig = CascadeConfig | EnsembleConfig
"""The routers that are put together from others of the same job."""
AnyRouterConfig = LearnedConfig | AssembledConfig | EndpointConfig
RouterConfig = Annotated[AnyRouterConfig, Field(discriminator="kind")]
