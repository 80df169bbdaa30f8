"""What a hub says about the licence of a base model, asked when a router is published.

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


def license_on_hub(record: Record, api: HfApi, *, timeout: float = PATIENCE) -> str | None:
    """The licence in the card of the record's base model, in the hub's words.

    Args:
        record: a run; only what it does not know is asked for.
        api: the hub to ask, and the token to ask with.
        timeout: seconds; more than `PATIENCE` is not waited.

    Returns:
        None where the run knows it, where the model is on no hub, and where the hub does not
        answer or does not say.
    """
    repo = record.base_repo
    if repo is None or record.license is not None:
        return None
    revision = (record.base_model or {}).get("revision")
    try:
        info = api.model_info(repo, revision=revision, timeout=min(timeout, PATIENCE))
    except (HTTPError, OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None
    found = info.card_data.license if info.card_data is not None else None
    name = found.lower() if isinstance(found, str) else ""
    return name if _IDENTIFIER.fullmatch(name) else None
