"""vLLM as a child process: started, watched, started again, and its adapters.

One thread owns the process. The engine is ready when it lists the model under its name and has
answered the smallest request for it; from then on it is asked for its health every few seconds, and
that request is made again now and then, and at once when another ran out of time: vLLM's own health
stays good when its computation hangs. It is started again, each time after a longer wait, where it
ends or does not answer. One that was never ready is not started again: there its last lines tell
what is wrong with the model, the options or the machine.

Multi-node, tensor- and data-parallel serving are vLLM's own options, passed through.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType

from distill.config import EngineConfig
from distill.errors import EngineError, RouterError
from distill.routers.decoder import ADAPTER_FILES
from distill.serving.engine.attached import Attachment
from distill.serving.engine.child import Child
from distill.serving.engine.client import Client
from distill.serving.engine.installed import installed
from distill.serving.engine.plan import (
    HOST,
    NAME,
    Adapter,
    command,
    content_name,
    model_folder,
    own_name,
    served,
)

log = logging.getLogger(__name__)

_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONSAFEPATH": "1"}


@dataclass(frozen=True)
class Timing:
    """Seconds; the defaults are for use, others for tests."""

    poll: float = 0.25
    """Between looks at the process."""
    health: float = 5.0
    """Between questions for its health."""
    misses: int = 3
    """Bad answers in a row to them until it counts as hung."""
    probe: float = 30.0
    """Between smallest requests."""
    first_wait: float = 1.0
    """Before it is started again; doubled each time in a row."""
    most_wait: float = 60.0
    settled: float = 60.0
    """Ready for so long, its next end is the first in a row."""
    stop: float = 15.0
    """From SIGTERM to SIGKILL."""


class Engine:
    """A router's neural part on vLLM. A context manager, or `start` and `close`.

    Args:
        router: a run directory or a router folder; it must not change while it is served.

    Raises:
        RouterError: no router there, or none that needs an engine.
        ModelError: the base model cannot be had.
        ConfigError: an option that is the engine's to set.
        EngineError: no interpreter with vLLM.
    """

    def __init__(self, router: Path, config: EngineConfig, timing: Timing = Timing()) -> None:
        self.config, self._timing = config, timing
        self.part = served(router)
        self._source = self.part.folder
        self._environment = self._variables()
        self.installed = installed(config.python, self._environment)
        self._work = Path(tempfile.mkdtemp(prefix="distill-engine-")).resolve()
        try:
            self._adapters: dict[str, list[Adapter]] = {}
            self._own = self._model = None
            if self.part.base is None:
                self._model = model_folder(self.part, self._work)
            else:
                self._own = self._snapshot(own_name(self.part), self._source)
                self.part = replace(self.part, folder=self._own.folder)
            self._rank = self._largest_rank()
            self._command()
        except BaseException:
            shutil.rmtree(self._work, ignore_errors=True)
            raise
        self.url = f"http://{HOST}:{config.port}"
        self._key = self._environment["VLLM_API_KEY"]
        self._sign = self._work / "ready"
        self.client = Client(self.url, self._key, config.request_s, on_timeout=self._suspect)
        self._lock = Lock()
        self._ready, self._over, self._closing, self._suspected = (Event() for _ in range(4))
        self._child: Child | None = None
        self._last_error: str | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to start the process; returns at once.

        Raises:
            EngineError: something else is on the port.
        """
        assert self._thread is None, "an engine starts once"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.config.port))
            except OSError:
                cure = "stop what is there, or set engine.port"
                raise EngineError(self.url, "the port is in use", cure) from None
        self._thread = Thread(target=self._supervise, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the process and all it started; returns when all is over."""
        self._closing.set()
        if self._child is not None:
            self._child.stop()  # what is asked of it fails now
        if self._thread is not None:
            self._thread.join()
        self.client.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> "Engine":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def attachment(self) -> Attachment:
        """What `Attached` needs in another process; holds a secret."""
        return Attachment(self.url, self._key, self._source, self._sign)

    @property
    def ready(self) -> bool:
        """Whether it can be asked now."""
        return self._ready.is_set()

    @property
    def over(self) -> bool:
        """Whether it is down and will not be started again."""
        return self._over.is_set()

    @property
    def last_error(self) -> str | None:
        """Why it was last down, with its last lines; it may be ready again since."""
        return self._last_error

    def lines(self) -> list[str]:
        """The latest lines that the process said."""
        child = self._child
        return child.lines() if child else []

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until it is ready.

        Raises:
            EngineError: it is over, or it is not ready in so many seconds.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ready.wait(self._timing.poll):
            if self.over or self._closing.is_set():
                reason, _, lines = (self._last_error or "was stopped").partition("\n")
                raise EngineError(self.url, reason, f"see its last lines:\n{lines}")
            if end is not None and time.monotonic() > end:
                raise EngineError(
                    self.url, f"not ready in {timeout_s:g} s", "see its lines, or wait longer"
                )

    def require_ready(self) -> None:
        """Raise EngineError unless it can be asked now."""
        if not self.ready:
            why = (self._last_error or "it is starting").splitlines()[0]
            raise EngineError(self.url, f"is not ready ({why})", "ask again later")

    # Adapters.

    def model(self, folder: Path) -> str:
        """The name under which vLLM serves a router folder's neural part.

        Raises:
            RouterError: it is not served.
        """
        folder = folder.resolve()
        if folder in (self._source, self.part.folder):
            return self._own.name if self._own else NAME
        with self._lock:
            for versions in self._adapters.values():
                for adapter in versions:
                    if adapter.folder == folder:
                        return adapter.name
        raise RouterError(folder, "is not served by this engine", "load it first")

    def available(self) -> list[str]:
        """The adapters that may be loaded: the router folders in `config.adapters`, by name."""
        folder = self.config.adapters
        if folder is None or not folder.is_dir():
            return []
        return sorted(
            path.name
            for path in folder.iterdir()
            if _ADAPTER.fullmatch(path.name) and (path / "router.json").is_file()
        )

    def load(self, name: str) -> Path:
        """Load an adapter as it is in its folder now, beside or in place of what it was.

        The version before goes on being served, for requests under way, until the next.

        Args:
            name: one of `available`.

        Returns:
            The folder of what is served, for `served_router`: a copy, which does not change.

        Raises:
            RouterError: no such adapter, or one that does not fit the base model.
            EngineError: vLLM did not take it.
        """
        with self._lock:
            adapter = self._checked(name)
            versions = self._adapters.setdefault(name, [])
            if adapter.name in [version.name for version in versions[-1:]]:
                return versions[-1].folder
            self.require_ready()
            self.client.load(adapter.name, str(adapter.folder))
            versions.append(adapter)
            for old in versions[:-2]:
                self.client.unload(old.name)
                versions.remove(old)
            return adapter.folder

    def unload(self, name: str) -> None:
        """Take an adapter out, all versions of it.

        Raises:
            RouterError: it is not loaded.
            EngineError: vLLM did not take it out.
        """
        with self._lock:
            versions = self._adapters.get(name, [])
            if not versions:
                raise RouterError(name, "is not loaded", "name a loaded adapter")
            self.require_ready()
            for old in list(versions):
                self.client.unload(old.name)
                versions.remove(old)

    def _checked(self, name: str) -> Adapter:
        folder = self.config.adapters
        if folder is None or self.part.base is None or name not in self.available():
            raise RouterError(
                f"adapter {name[:100]!r}", "is none that may be loaded", "put it in engine.adapters"
            )
        part = served(folder / name)
        if part.base != self.part.base or part.folder != (folder / name).resolve():
            raise RouterError(
                folder / name, "is no decoder on the engine's base model", "give it another engine"
            )
        adapter = self._snapshot(content_name(name, part.folder), part.folder)
        if adapter.rank > self._rank:
            raise RouterError(
                folder / name,
                f"its rank {adapter.rank} exceeds {self._rank}, which the engine began with",
                "start the engine again with the adapter in its folder",
            )
        return adapter

    def _snapshot(self, name: str, folder: Path) -> Adapter:
        copy = self._work / name
        if not copy.exists():
            shutil.copytree(folder, copy)
        return Adapter(name, copy)

    def _largest_rank(self) -> int:
        ranks = [self._own.rank] if self._own else [1]
        for name in self.available():
            adapter = Adapter(name, (self.config.adapters or Path()) / name)
            whole = all((adapter.folder / file).is_file() for file in ADAPTER_FILES)
            if whole and adapter.is_lora:
                ranks.append(adapter.rank)
        return max(ranks)

    # The process.

    def _variables(self) -> dict[str, str]:
        """The child's environment."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        ours |= _QUIET | {"VLLM_API_KEY": secrets.token_hex(32)}
        if self.part.base is None or Path(self.part.base.source).is_dir():
            ours["HF_HUB_OFFLINE"] = "1"
        if self.config.adapters is not None:
            ours["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        return ours | self.config.environment

    def _command(self) -> list[str]:
        adapters = [] if self._own is None else [self._own]
        for versions in self._adapters.values():
            adapters += versions
        return command(
            self.part, self._model, adapters, self.installed, self.config, rank=self._rank
        )

    def _supervise(self) -> None:
        try:
            self._go_on_living()
        except Exception as error:
            self._last_error = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._over.set()

    def _go_on_living(self) -> None:
        row, ever = 0, False
        while not self._closing.is_set():
            reason, ready_s = self._live()
            ever = ever or ready_s is not None
            if reason is None:
                break
            if ready_s is not None and ready_s > self._timing.settled:
                row = 0
            if not ever or row == self.config.restarts:
                log.error("the engine is over: %s", reason)
                break
            wait = min(self._timing.first_wait * 2**row, self._timing.most_wait)
            row += 1
            log.warning("the engine %s; it is started again in %g s", reason, wait)
            self._closing.wait(wait)

    def _live(self) -> tuple[str | None, float | None]:
        """One life of the process.

        Returns:
            Why it is over, None where the engine is being closed; and the seconds that it was
            ready, None where it never was.
        """
        self._suspected.clear()
        with self._lock:  # an adapter that is being loaded is in this command, or in the next life
            line = self._command()
        child = self._child = Child(line, self._environment, self._timing.stop)
        since: float | None = None
        try:
            reason = self._start(child)
            if reason is None and not self._closing.is_set():
                since = time.monotonic()
                log.info("the engine is ready")
                self._ready.set()
                with contextlib.suppress(OSError):  # other processes then take it for down
                    self._sign.touch()
                reason = self._watch(child)
            ready_s = None if since is None else time.monotonic() - since
        finally:
            self._ready.clear()
            self._sign.unlink(missing_ok=True)
            child.stop()
        if self._closing.is_set():
            return None, ready_s
        if reason is not None:
            self._last_error = "\n".join([reason, *child.told()])
        return reason, ready_s

    def _start(self, child: Child) -> str | None:
        """Wait until it answers; None where it does, or the engine is being closed."""
        end, last = time.monotonic() + self.config.start_s, "nothing said"
        wanted = {NAME} if self._own is None else {NAME, self._own.name}
        while not self._closing.wait(self._timing.poll):
            if child.status is not None:
                return f"ended with status {child.status} before it was ready"
            if time.monotonic() > end:
                return f"was not ready in {self.config.start_s:g} s (engine.start_s): {last}"
            try:
                if wanted <= self.client.models():
                    self._probe()
                    return None
            except EngineError as error:
                last = error.fault
        return None

    def _watch(self, child: Child) -> str | None:
        """Wait until it is down; None where the engine is being closed."""
        missed, asked, probed = 0, time.monotonic(), time.monotonic()
        while not self._closing.wait(self._timing.poll):
            if child.status is not None:
                return f"ended with status {child.status}"
            if self._suspected.is_set() or time.monotonic() - probed > self._timing.probe:
                self._suspected.clear()
                try:
                    self._probe()
                except EngineError as error:
                    if child.status is None:
                        return f"hung: {error.fault}"
                probed = time.monotonic()
            if time.monotonic() - asked >= self._timing.health:
                missed = 0 if self.client.healthy() else missed + 1
                asked = time.monotonic()
                if missed == self._timing.misses:
                    return f"hung: no good health {missed} times in a row"
        return None

    def _probe(self) -> None:
        """The smallest request; raises EngineError where it fails."""
        if self._own is None:
            self.client.pool(NAME, [[1]], self.part.task)
            return
        self.client.write(self._own.name, [1], 1)

    def _suspect(self) -> None:
        self._suspected.set()
