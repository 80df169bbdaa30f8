"""The dashboard's figures, and what is to be said of them; it knows nothing of HTML.

What is not known is None, with the reason beside it, and never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from distill.config import PricesConfig
from distill.evaluation.cost import money
from distill.evaluation.formats import count
from distill.policy import Reason
from distill.serving.dashboard.drift import Drift, drift, drift_of_names
from distill.serving.dashboard.reference import Reference
from distill.serving.words import NOT_ASKED, OVER_BUDGET
from distill.store import Decided, Figures, Hour, Instead, Reader, Record
from distill.types import Decision

TAKEN = (str(Reason.TAKEN), OVER_BUDGET)
"""Reasons of decisions that the policy takes, whoever answered."""

_WIDTHS = {1: timedelta(hours=1), 7: timedelta(hours=6), 30: timedelta(days=1)}
"""How wide a bar is where so many days are looked at."""

LEAST = 20
"""Requests from which on a median or a mean stands for others."""

_DISAGREEMENTS = 8
_LAST_MESSAGES = 3
_MOST_CHARACTERS = 800
_MOST_NAMES = 10


@dataclass
class Sums:
    """Requests of a span of time."""

    begins: datetime
    requests: int = 0
    local: int = 0
    failed: int = 0
    """Answers that were not whole: the upstream failed, or the client left."""
    asked: int = 0
    """Those in any mode but off."""
    taken: int = 0
    """Those whose decision the policy takes, whoever answered."""
    compared: int = 0
    agreed: int = 0

    def add(self, hour: Hour) -> None:
        self.requests += hour.requests
        self.local += hour.requests - hour.failed if hour.decided_by == "local" else 0
        self.failed += hour.failed
        self.asked += 0 if hour.reason == NOT_ASKED else hour.requests
        self.taken += hour.requests if hour.reason in TAKEN else 0
        self.compared += hour.compared
        self.agreed += hour.agreed

    @property
    def upstream(self) -> int:
        return self.requests - self.local - self.failed

    @property
    def coverage(self) -> float | None:
        return self.taken / self.asked if self.asked else None

    @property
    def agreement(self) -> float | None:
        return self.agreed / self.compared if self.compared else None


@dataclass(frozen=True)
class Saving:
    """An amount per local answer and of all of them, or why it is not known."""

    each: float | None
    total: float | None
    said: str


@dataclass(frozen=True)
class Said:
    """A message, or a part of one."""

    role: str
    text: str


@dataclass(frozen=True)
class Disagreed:
    """A request that router and upstream answered otherwise."""

    id: str
    at: datetime
    about: str
    messages: list[Said]
    router: Decision | None
    upstream: Decision | None
    words: str
    """The upstream's, beside its calls or in their place."""
    accepted: bool | None


@dataclass(frozen=True)
class View:
    """All that the page shows."""

    days: int
    now: datetime
    bars: list[Sums]
    total: Sums
    figures: Figures
    seconds: Saving
    money: Saving
    currency: str
    reasons: list[tuple[str, int]]
    drifts: Mapping[str, Drift]
    drift_note: str
    """Why there is no drift to be told, or what it is of."""
    unknown_tools: list[tuple[str, int]]
    """Tools that the upstream called and the teacher never did in training."""
    disagreements: list[Disagreed]


def view(
    reader: Reader,
    days: int,
    now: datetime,
    *,
    prices: PricesConfig | None,
    reference: Reference | str,
) -> View:
    """Read the figures of the latest days.

    Args:
        days: 1, 7 or 30.
        reference: or why there is none.

    Raises:
        StoreError: the store cannot be read.
    """
    width = _WIDTHS[days]
    begins = _floor(now, width) - timedelta(days=days) + width
    found = reader.figures(begins)
    bars = [Sums(begins + i * width) for i in range(int(timedelta(days=days) / width))]
    total = Sums(begins)
    reasons: dict[str, int] = {}
    for hour in found.hours:
        # A clock that was set back leaves records of a time to come.
        bars[min(int((hour.hour - begins) / width), len(bars) - 1)].add(hour)
        total.add(hour)
        reasons[hour.reason] = reasons.get(hour.reason, 0) + hour.requests
    instead = reader.instead(begins, TAKEN)
    drifts, note, unknown = _drifts(reader, begins, found, reference)
    return View(
        days=days,
        now=now,
        bars=bars,
        total=total,
        figures=found,
        seconds=_seconds(found, instead, total.local),
        money=_money(instead, prices, total.local),
        currency="" if prices is None else prices.currency,
        reasons=sorted(reasons.items(), key=lambda item: -item[1]),
        drifts=drifts,
        drift_note=note,
        unknown_tools=unknown,
        disagreements=_disagreements(reader),
    )


def _floor(now: datetime, width: timedelta) -> datetime:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (now - midnight) // width * width


def _seconds(found: Figures, instead: Instead, local: int) -> Saving:
    if found.router is None:
        return Saving(None, None, "the router has decided nothing")
    upstream = instead.latency
    if upstream is None or upstream.requests < LEAST:
        return Saving(None, None, _NOTHING_LIKE_IT)
    each = (upstream.p50 - found.router.p50) / 1000
    said = (
        f"the LLM's median over {count(upstream.requests)} requests that the policy would have "
        "taken, less the router's"
    )
    return Saving(each, each * local, said)


def _money(instead: Instead, prices: PricesConfig | None, local: int) -> Saving:
    if prices is None:
        return Saving(None, None, "no table of prices: set prices in the config")
    stated, cost = 0, 0.0
    for spent in instead.spent:
        price = prices.models.get(spent.model or "")
        if spent.stated and price is None:
            return Saving(None, None, f"no price for {(spent.model or 'a nameless model')[:80]}")
        if price is not None:
            stated += spent.stated
            tokens = (spent.input_tokens, spent.output_tokens, spent.cached_tokens)
            cost += money(price, *tokens)
    if stated < LEAST:
        return Saving(None, None, _NOTHING_LIKE_IT)
    said = f"the LLM's mean over {count(stated)} requests that the policy would have taken"
    return Saving(cost / stated, local * cost / stated, said)


_NOTHING_LIKE_IT = (
    f"fewer than {LEAST} requests that the policy would have taken were answered by the LLM: "
    "shadow mode, or rollout.compare, has it answer some"
)


def _drifts(
    reader: Reader, begins: datetime, found: Figures, reference: Reference | str
) -> tuple[Mapping[str, Drift], str, list[tuple[str, int]]]:
    if isinstance(reference, str):
        return {}, reference, []
    confidences, lengths = reference.confidences, reference.lengths
    live = reader.decided(
        begins,
        confidences=[] if confidences is None else confidences.edges,
        lengths=[] if lengths is None else lengths.edges,
    )
    sizes = reference.groups, live.sessions
    drifts = {"Tools decided": drift_of_names(reference.tools, live.tools, sizes)}
    for name, histogram, now, form in (
        ("Confidence", confidences, live.confidences, "{:.2f}".format),
        ("Length of conversations, characters", lengths, live.lengths, count),
    ):
        if histogram is not None:
            drifts[name] = drift(histogram.labels(form), histogram.counts, now, sizes)
    unknown = [(n, c) for n, c in found.answered.items() if n not in reference.taught | {"reply"}]
    return drifts, _of(live, reference), unknown[:_MOST_NAMES]


def _of(live: Decided, reference: Reference) -> str:
    return (
        f"{count(live.decisions)} decisions in {count(live.sessions)} conversations, against the "
        f"router's own on the calibration part, {count(reference.groups)} groups"
    )


def _disagreements(reader: Reader) -> list[Disagreed]:
    shown = []
    for item in reader.disagreements(_DISAGREEMENTS):
        record = reader.get(item.id)
        if record is None:
            continue  # deleted meanwhile
        shown.append(
            Disagreed(
                id=item.id,
                at=item.at,
                about=", ".join(word for word in (item.client, item.mode) if word),
                messages=_latest(record),
                router=item.decision,
                upstream=item.answer,
                words=_words(record),
                accepted=item.accepted,
            )
        )
    return shown


def _latest(record: Record) -> list[Said]:
    """The last messages of a request, cut short."""
    messages = (record.request or {}).get("messages")
    said = [
        Said(str(message.get("role")), _text(message))
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict) and message.get("role") not in ("system", "developer")
    ]
    return [Said(m.role[:20], _short(m.text)) for m in said[-_LAST_MESSAGES:]]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [str(p["text"]) for p in parts if isinstance(p, dict) and p.get("text") is not None]
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            texts.append(f"{function.get('name')}({function.get('arguments')})")
    return "\n".join(texts)


def _words(record: Record) -> str:
    try:
        content = (record.response or {})["choices"][0]["message"].get("content")
    except (LookupError, TypeError, AttributeError):
        return ""
    return _short(content) if isinstance(content, str) else ""


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"
