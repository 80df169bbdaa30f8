"""A disk that refuses to write, as each of the libraries that write here reports it.

Python's own errors and Arrow's carry an errno; SQLite has its own codes; the Rust libraries
(safetensors, tokenizers) name the errno in their text; torch says only that a write failed.
"""

import errno
import os
import re
import sqlite3

_REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip
_RUST = re.compile(r"\(os error (\d+)\)$")
_TORCH = re.compile(r"PytorchStreamWriter failed writing|inline_container\.cc.*unexpected pos")


def refusal(error: BaseException) -> str | None:
    """Where and why the disk refused, `place: reason`; None for an error of any other cause."""
    if isinstance(error, OSError):
        if error.errno not in _REFUSALS:
            return None
        return f"{error.filename or 'disk'}: {os.strerror(error.errno)}"
    if isinstance(error, sqlite3.OperationalError):
        full = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        return f"disk: {error}" if full else None
    rust = _RUST.search(str(error))
    if rust and int(rust[1]) in _REFUSALS:
        return f"disk: {os.strerror(int(rust[1]))}"
    if isinstance(error, RuntimeError) and _TORCH.search(str(error)):
        return "disk: a checkpoint could not be written, it is probably full"
    return None
