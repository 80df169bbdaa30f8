"""Addresses in configs: http or https, and never with a secret in them."""

from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError


def check_address(value: str) -> str:
    """The address without a trailing slash; raises for what is none, or holds a key."""
    parts = urlsplit(value)
    if "@" in value or parts.query or parts.fragment:
        # Of a type of its own, so that the value is not repeated.
        raise PydanticCustomError("secret", "holds more than an address")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https address")
    return value.rstrip("/")
