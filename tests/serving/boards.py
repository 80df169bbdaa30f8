"""A dashboard over a store of its own, and the run that its router is from."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from record_values import record
from wires import REPLIES, Says, listening, serve_config

from distill.config import MajorityConfig, StoreConfig
from distill.evaluation.difficulty import Difficulty
from distill.evaluation.predictions import Draft, Prediction
from distill.routers.confidence import Calibration
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.runs import RunDir
from distill.serving.access import key_hash
from distill.serving.dashboard.routes import attach
from distill.serving.gateway import Gateway
from distill.store import Record, Store
from distill.types import Context, Decision, Example, Message, ToolCall

KEY = "dk-admin"


@dataclass(frozen=True)
class Board:
    """A gateway with a dashboard."""

    url: str
    store: Store

    def keep(self, *records: Record) -> None:
        async def put() -> None:
            await asyncio.gather(*map(self.store.put, records))

        asyncio.run(put())

    @property
    def with_key(self) -> str:
        """The address that a browser needs no further key for."""
        return self.url.replace("http://", f"http://admin:{KEY}@") + "/dashboard"


@contextmanager
def board(folder: Path, **changes: Any) -> Iterator[Board]:
    """Mode `shadow`; `changes` are the config's."""
    changes = {"rollout": {"mode": "shadow"}, "access": {"admin_sha256": key_hash(KEY)}} | changes
    store = Store(StoreConfig(url=f"sqlite:///{folder}/gateway.db"))
    gateway = Gateway(
        serve_config("http://127.0.0.1:9/v1", **changes),
        router=Says(lambda context: REPLIES),
        thresholds=(),
        store=store,
    )
    try:
        with listening(gateway, attach=lambda app: attach(app, gateway, store)) as url:
            yield Board(url, store)
    finally:
        store.close()


def lately(number: int, **changes: Any) -> Record:
    """A record of `number` minutes ago."""
    return replace(record(number), at=datetime.now(UTC) - timedelta(minutes=number), **changes)


def calibrated_run(path: Path, decisions: Iterable[tuple[str, float, int]]) -> RunDir:
    """A run whose router decided for a tool (or `reply`) with a raw confidence, in a conversation
    of so many characters; each in a group of its own."""
    run = RunDir(path)
    run.router.mkdir(parents=True)
    calibration = Calibration(1.0, 0.0, 1, 1)
    RouterFile(MajorityConfig(), (), LabelSpace(()), calibration=calibration).save(run.router)
    draft = Draft(run.calibration, {})
    for i, (tool, confidence, length) in enumerate(decisions):
        calls = () if tool == "reply" else (ToolCall(tool, {}),)
        decided = Decision("call" if calls else "reply", calls, confidence)
        context = Context((Message("user", "x" * length),), ())
        made = Example(f"e{i}", f"t{i}", f"g{i}", context, decided)
        draft.add(Prediction(made.id, made.group, decided, decided, 1.0, Difficulty.of(made)))
    draft.finish()
    return run
