"""Every config class, and `load`: YAML that states only what departs from the defaults.

    base        what all configs are: frozen, finite, strict about keys
    render      what a router reads of a conversation
    data        from traces to a dataset
    training    the optimisation, and LoRA
    endpoint    an LLM behind an endpoint
    routers     every kind of router
    evaluation  how routers are measured, and what they may get wrong
    histories   the history experiment
    policy      which calls are taken locally
    prices      what tokens cost
    run         a job: all of these that it needs
    workflow    how a workflow learns from outcomes
    serve       a gateway: the router, the LLM behind it, the rules between them
    address     http addresses without secrets
    faults      what is wrong with a config, in words
    load        files and overrides -> configs

Everybody else imports from here, not from the modules. Nothing here imports torch, so that
`distill --help` and a config error cost no seconds.
A field's documentation stands under the field; `distill config FILE` prints the resolved whole.
Secrets never stand in a config: they come from the environment.
"""

from distill.config.base import Config
from distill.config.data import DataConfig, SplitConfig
from distill.config.endpoint import EndpointConfig
from distill.config.evaluation import EvaluationConfig, RiskConfig
from distill.config.histories import ArmName, HistoriesConfig
from distill.config.load import (
    dump,
    load,
    load_any,
    load_endpoint,
    load_policy,
    load_prices,
    load_serve,
    parse,
)
from distill.config.outcomes import OutcomesConfig
from distill.config.policy import PolicyConfig
from distill.config.prices import PriceConfig, PricesConfig
from distill.config.render import RenderConfig
from distill.config.routers import (
    AnyRouterConfig,
    AssembledConfig,
    AttentionConfig,
    CascadeConfig,
    DecoderConfig,
    EncoderConfig,
    EnsembleConfig,
    LearnedConfig,
    MajorityConfig,
    MatchConfig,
    RnnConfig,
    RouterConfig,
    ScratchConfig,
    TfidfConfig,
)
from distill.config.run import RunConfig
from distill.config.serve import (
    AccessConfig,
    ClientConfig,
    EngineConfig,
    LimitsConfig,
    RollbackConfig,
    RolloutConfig,
    ServeConfig,
    StoreConfig,
    TelemetryConfig,
    UpstreamConfig,
)
from distill.config.training import LoraConfig, TrainConfig
from distill.config.workflow import LearnConfig

__all__ = [
    "AccessConfig",
    "AnyRouterConfig",
    "ArmName",
    "AssembledConfig",
    "AttentionConfig",
    "CascadeConfig",
    "ClientConfig",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EndpointConfig",
    "EngineConfig",
    "EnsembleConfig",
    "EvaluationConfig",
    "HistoriesConfig",
    "LearnConfig",
    "LearnedConfig",
    "LimitsConfig",
    "LoraConfig",
    "MajorityConfig",
    "MatchConfig",
    "OutcomesConfig",
    "PolicyConfig",
    "PriceConfig",
    "PricesConfig",
    "RenderConfig",
    "RiskConfig",
    "RnnConfig",
    "RollbackConfig",
    "RolloutConfig",
    "RouterConfig",
    "RunConfig",
    "ScratchConfig",
    "ServeConfig",
    "SplitConfig",
    "StoreConfig",
    "TelemetryConfig",
    "TfidfConfig",
    "TrainConfig",
    "UpstreamConfig",
    "dump",
    "load",
    "load_any",
    "load_endpoint",
    "load_policy",
    "load_prices",
    "load_serve",
    "parse",
]
