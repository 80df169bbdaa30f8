"""An endpoint's key: from the environment, never from a file of ours."""

import os

from distill.errors import ConfigError


def key_of(key_env: str | None) -> str | None:
    """The key in an environment variable; None where none is named.

    Raises:
        ConfigError: the variable is not set, or holds what no header can carry.
    """
    if key_env is None:
        return None
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise ConfigError("key_env", f"the environment variable {key_env} is not set", "export it")
    if not (key.isascii() and key.isprintable()):
        fault = f"{key_env} holds characters that no key has"
        raise ConfigError("key_env", fault, "export it again")
    return key
