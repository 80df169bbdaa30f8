"""The gateway's processes: `distill serve` starts them, and each builds its gateway.

The parent hands its children the config's path and overrides through the environment, never what
they resolve to, so that a reload in any of them reads the file again.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import uvicorn
from fastapi import FastAPI

from distill import config as configs
from distill.config import ServeConfig
from distill.endpoint.key import key_of
from distill.errors import ConfigError, InputError, StoreError
from distill.policy import Policy
from distill.routers.folder import read_router_file
from distill.routers.load import load_router, router_folder
from distill.serving.app import create_app
from distill.serving.dashboard.routes import attach
from distill.serving.gateway import Gateway
from distill.serving.logs import log_config
from distill.serving.metrics import shared_folder
from distill.store import Store
from distill.types import Router

if TYPE_CHECKING:
    from distill.serving.engine import AnyEngine

_HANDED = "DISTILL_SERVE"
_ENGINE = "DISTILL_SERVE_ENGINE"
"""The `Attachment` of the parent's engine."""
_PRUNE_S = 3600.0
_GRACE_S = 10
"""Seconds for requests under way when the gateway is told to end."""


def serve(path: Path, overrides: Sequence[str]) -> None:
    """Run the gateway until it is told to end.

    Raises:
        ConfigError: the config, or what it asks of the router or the store, is at fault.
        RouterError: there is no router, or it is damaged.
    """
    config = configs.load_serve(path, overrides)
    check(config)
    os.environ[_HANDED] = orjson.dumps([str(path.resolve()), list(overrides)]).decode()
    with _shared(config) if config.workers > 1 else contextlib.nullcontext():
        uvicorn.run(
            f"{__name__}:app",
            factory=True,
            host=config.host,
            port=config.port,
            workers=config.workers,
            access_log=False,
            server_header=False,
            log_config=log_config(config.telemetry),
            timeout_graceful_shutdown=_GRACE_S,
        )


@contextmanager
def _shared(config: ServeConfig) -> Iterator[None]:
    """What several children have in common: their metrics and their engine."""
    with shared_folder():
        if config.engine is None:
            yield
            return
        # Not above: most gateways have none, and torch takes its seconds.
        from distill.serving.engine import Engine  # noqa: PLC0415

        with Engine(router_folder(config.router), config.engine) as engine:
            os.environ[_ENGINE] = engine.attachment.dump()
            yield


def check(config: ServeConfig) -> None:
    """Raise what is wrong before a process is started: its words would be lost in a log."""
    file = read_router_file(router_folder(config.router))
    Policy(config.policy, file.thresholds)
    if config.policy.threshold is None and not file.thresholds:
        raise ConfigError(
            "policy", "the router has no promises", "calibrate it, or set policy.threshold"
        )
    key_of(config.upstream.key_env)
    if config.prices is not None:
        configs.load_prices(config.prices)
    Store(config.store).close()
    with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            place = f"{config.host}:{config.port}"
            fault = f"cannot be listened on ({error.strerror})"
            raise ConfigError(place, fault, "name another port, e.g. port=8020") from None


def app() -> FastAPI:
    """The app of one process, from what the parent handed over."""
    path, overrides = orjson.loads(os.environ[_HANDED])

    def read() -> ServeConfig:
        return configs.load_serve(Path(path), overrides)

    config = read()
    folder = router_folder(config.router)
    engine, router = _engine_and_router(folder, config)
    store = Store(config.store)
    gateway = Gateway(
        config,
        router=router,
        thresholds=read_router_file(folder).thresholds,
        store=store,
        reload=read,
        engine=engine,
    )

    @asynccontextmanager
    async def around(app: FastAPI) -> AsyncIterator[None]:
        if engine is not None:
            engine.start()  # until it is ready, the upstream is asked
        pruning = asyncio.create_task(_prune(store))
        if config.workers == 1:  # else the parent restarts its children, who read the file anew
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, gateway)
        try:
            yield
        finally:
            pruning.cancel()
            await asyncio.to_thread(store.close)
            if engine is not None:
                await asyncio.to_thread(engine.close)

    made = create_app(gateway, around)
    attach(made, gateway, store)
    return made


def _engine_and_router(folder: Path, config: ServeConfig) -> tuple["AnyEngine | None", Router]:
    if config.engine is None:
        return None, load_router(folder)
    # Not above: most gateways have none, and torch takes its seconds.
    from distill.serving.engine import Attached, Attachment, Engine, served_router  # noqa: PLC0415

    engine: AnyEngine
    if config.workers == 1:
        engine = Engine(folder, config.engine)
    elif _ENGINE in os.environ:
        attachment = Attachment.parse(os.environ[_ENGINE])
        engine = Attached(folder, attachment, config.engine.request_s)
    else:  # the file has changed since the parent read it
        raise ConfigError("engine", "was not there at the start", "start the gateway again")
    return engine, served_router(folder, engine)


def _reload(gateway: Gateway) -> None:
    with contextlib.suppress(InputError):  # it goes on as it was
        gateway.reload()


async def _prune(store: Store) -> None:
    while True:
        with contextlib.suppress(StoreError):  # tried again in an hour
            await asyncio.to_thread(store.prune, datetime.now(UTC))
        await asyncio.sleep(_PRUNE_S)
