"""What a hub says about the licences of base models, asked when a router is published.

Training may be offline and must not wait for it, so it is asked here, and only where the run does
not know. No answer is an answer, too: nothing here raises.
"""

import re

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's

from distill.hub.record import Record

PATIENCE = 10.0
"""Seconds for one request, at most: a card without this answer is still a card."""

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+_-]*")


def licenses_on_hub(record: Record, api: HfApi, *, timeout: float = PATIENCE) -> dict[str, str]:
    """The licences in the cards of the record's base models, in the hub's words, by their names.

    Args:
        record: a run; only what it does not know is asked for.
        api: the hub to ask, and the token to ask with.
        timeout: seconds; more than `PATIENCE` is not waited.

    Returns:
        Nothing of a model whose licence the run knows, that is on no hub, or of which the hub does
        not answer or does not say.
    """
    found = {}
    for base in record.bases.values():
        if base.repo is not None and base.license is None:
            stated = _stated(base.repo, base.facts.get("revision"), api, timeout)
            if stated is not None:
                found[base.repo] = stated
    return found


def _stated(repo: str, revision: str | None, api: HfApi, timeout: float) -> str | None:
    try:
        info = api.model_info(repo, revision=revision, timeout=min(timeout, PATIENCE))
    except (HTTPError, OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None
    found = info.card_data.license if info.card_data is not None else None
    name = found.lower() if isinstance(found, str) else ""
    return name if _IDENTIFIER.fullmatch(name) else None
