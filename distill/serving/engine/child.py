"""The engine's process: started through the warden, its last lines kept, ended with all it started.

Knows nothing of HTTP.
"""

import contextlib
import logging
import re
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread

log = logging.getLogger(__name__)

_WARDEN = Path(__file__).with_name("warden.py")
_LINES, _CHARS = 500, 2000
"""How much of what it says is kept: so many lines, and of each so many bytes."""
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b|\berror:", re.IGNORECASE)
_ERRORS, _LAST = 10, 10
"""How many lines are told of an end."""


class Child:
    """A command in a process group of its own, begun at once.

    Args:
        environment: all of its variables.
        stop_s: seconds from SIGTERM to SIGKILL.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], stop_s: float
    ) -> None:
        self._stop_s = stop_s
        self._said: deque[str] = deque(maxlen=_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WARDEN), str(stop_s), *command],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, name="engine-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The warden's."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, 128 + n for signal n; None while it runs."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """The latest lines that it said."""
        return list(self._said)

    def told(self) -> list[str]:
        """Of these the latest, and the latest that speak of errors: libraries may have said more
        as they ended."""
        said = self.lines()
        errors = [i for i, line in enumerate(said) if _ERROR.search(line)][-_ERRORS:]
        chosen = {*errors, *range(max(0, len(said) - _LAST), len(said))}
        return [said[i] for i in sorted(chosen)]

    def stop(self) -> None:
        """End it and all it started; returns when all is over."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(self._stop_s + 10)
        except subprocess.TimeoutExpired:  # the warden itself does not run
            self._process.kill()
            self._process.wait()
        # What it started holds the other end of its output; all of it is dead by now.
        self._reader.join(10)
        assert self._process.stdout is not None
        if not self._reader.is_alive():
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while line := self._process.stdout.readline(_CHARS):
                said = line.decode(errors="replace").rstrip()
                if said:
                    self._said.append(said)
                    log.debug("%s", said)
