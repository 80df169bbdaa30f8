"""Who may ask: keys, known by their hashes alone.

A key is 32 random bytes, so a plain SHA-256 is as strong as the key; nothing here is a password
that somebody chose.
"""

import hmac
import secrets
from hashlib import sha256

from distill.config import AccessConfig

ANYBODY = "anybody"
"""The client's name where the config names none."""


def new_key() -> tuple[str, str]:
    """A fresh key, and the hash of it that a config holds."""
    key = f"dk-{secrets.token_urlsafe(32)}"
    return key, key_hash(key)


def key_hash(key: str) -> str:
    """SHA-256 in hex."""
    return sha256(key.encode()).hexdigest()


class Access:
    """The config's keys."""

    def __init__(self, config: AccessConfig) -> None:
        self.config = config

    def client(self, authorization: str | None) -> str | None:
        """The name of the client with this `Authorization` header; None: nobody we know."""
        if not self.config.clients:
            return ANYBODY
        found = None
        given = key_hash(bearer(authorization))
        # All are looked at, so that the time tells nothing.
        for client in self.config.clients:
            if hmac.compare_digest(given, client.sha256):
                found = client.name
        return found

    def is_admin(self, key: str) -> bool:
        """Whether the key opens the dashboard and the admin endpoints."""
        stored = self.config.admin_sha256
        return stored is not None and hmac.compare_digest(key_hash(key), stored)


def bearer(authorization: str | None) -> str:
    """The key in an `Authorization` header, empty where there is none."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
