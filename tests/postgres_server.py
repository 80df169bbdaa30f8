"""A PostgreSQL server of the tests' own, in a temporary folder and on a socket there."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

_START_S = 60


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    folder: Path
    pid: int

    def new_database(self) -> str:
        """The address of a database made now."""
        name = f"d{uuid.uuid4().hex}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://tests@/{name}?host={self.folder}"

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.folder), dbname=database, user="tests", autocommit=True
        )


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    # Debian leaves the server's programs out of the path.
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@contextmanager
def server(programs: Path) -> Iterator[Postgres]:
    """A server while the block lasts."""
    # Not pytest's folder: a socket's path is short, and the server's user must get there.
    with tempfile.TemporaryDirectory(prefix="pg") as temporary:
        folder = Path(temporary)
        as_user: dict[str, Any] = {}
        if os.getuid() == 0:  # which PostgreSQL refuses to run as
            user = next(user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody"))
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = folder / "data"
        options = ["-D", str(data), "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": folder, **as_user}
        subprocess.run([programs / "initdb", *options, "--locale=C"], check=True, **quiet)
        settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off"}
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, *flags], stderr=log, **quiet
            )
        try:
            yield _started(Postgres(folder, process.pid), process)
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown, clients or not
            process.wait(_START_S)


def _started(postgres: Postgres, process: "subprocess.Popen[bytes]") -> Postgres:
    until = time.monotonic() + _START_S
    while True:
        try:
            postgres.connect("postgres").close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > until:
                log = (postgres.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL did not start: {log[-2000:]}") from None
            time.sleep(0.1)
        else:
            return postgres
