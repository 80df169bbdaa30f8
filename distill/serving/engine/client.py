"""What is asked of vLLM over HTTP: completions, scores, pooled states, adapters, health.

Every answer is checked before it is believed; what goes wrong is an `EngineError`. Nothing is asked
twice: whoever asked has an LLM to fall back on. Knows no router and no process.
"""

import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx
import numpy as np
import numpy.typing as npt
import orjson

from distill.errors import EngineError

_CONNECT_S = 5.0
_MOST_BYTES = 256 * 1024 * 1024
"""Of an answer: 32 contexts' states in an encoder of 1,024 are a tenth of it."""
_KEPT_S = 2.0
"""Less than vLLM keeps an idle connection, so that none is used as it closes."""
_DETAIL = 300
_ROUNDING = 1e-3
"""By how much a logarithm may exceed 0."""

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Written:
    """Token ids, the end token included where it was reached, and the model's log-probabilities."""

    ids: list[int]
    log_probabilities: list[float]
    ended: bool
    """Whether it ended by itself, and not at the most tokens allowed."""


class Client:
    """Use it from any number of threads.

    Args:
        url: where vLLM is, without `/v1`.
        key: what it asks of `/v1`.
        request_s: for one answer, all of it.
        together: requests under way at once in `each`.
        on_timeout: told of each answer that did not come in time.
        transport: what carries requests, in place of the network.
    """

    def __init__(
        self,
        url: str,
        key: str,
        request_s: float,
        *,
        together: int = 64,
        on_timeout: Callable[[], object] = lambda: None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url, self.request_s, self._on_timeout = url, request_s, on_timeout
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEPT_S),
            transport=transport,
            trust_env=False,  # no proxy stands between us and loopback
        )
        self._pool = ThreadPoolExecutor(together, thread_name_prefix="engine-request")

    def close(self) -> None:
        """End connections; requests under way fail."""
        self._http.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def each(
        self, ask: Callable[[A, B], T], ones: Sequence[A], others: Sequence[B]
    ) -> list[T | EngineError]:
        """`ask` of each pair, all at once, or the error that it raised."""

        def asked(one: A, other: B) -> T | EngineError:
            try:
                return ask(one, other)
            except EngineError as error:
                return error

        try:
            return list(self._pool.map(asked, ones, others))
        except (RuntimeError, CancelledError):  # it was closed
            return [EngineError(self.url, "was stopped", "start it again")] * len(ones)

    def write(
        self, model: str, prompt: list[int], most: int, grammar: str | None = None
    ) -> Written:
        """A greedy completion of token ids.

        Args:
            model: an adapter's name.
            most: new tokens at most.
            grammar: a Lark grammar that it is held to. Its log-probabilities are then those among
                the allowed tokens alone, since vLLM masks before it looks: `score` has the others.
        """
        held = {} if grammar is None else {"structured_outputs": {"grammar": grammar}}
        body = {"model": model, "prompt": prompt, "max_tokens": most, "temperature": 0}
        body |= {"logprobs": 0, "return_token_ids": True, **held}
        choice = self._choice(body)
        try:
            ids = [int(i) for i in choice["token_ids"]]
            found = [float(v) for v in choice["logprobs"]["token_logprobs"]]
            reason = choice["finish_reason"]
        except (KeyError, TypeError, ValueError):
            raise self._fault("a completion without tokens or log-probabilities") from None
        if len(ids) != len(found) or not ids or len(ids) > most or max(found) > _ROUNDING:
            raise self._fault("tokens and log-probabilities that do not fit each other")
        return Written(ids, found, reason == "stop")

    def score(self, model: str, prompt: list[int], ids: list[int]) -> list[float]:
        """The model's own log-probabilities of `ids` after the prompt, in one more reading."""
        body = {"model": model, "prompt": [*prompt, *ids], "max_tokens": 0, "temperature": 0}
        body |= {"logprobs": 0, "return_token_ids": True, "echo": True}
        choice = self._choice(body)
        try:
            whole = choice["logprobs"]["token_logprobs"]
            found = [float(v) for v in whole[len(prompt) :]]
        except (KeyError, TypeError, ValueError):
            raise self._fault("no log-probabilities") from None
        if len(found) != len(ids) or max(found) > _ROUNDING:
            raise self._fault("log-probabilities that do not fit what was asked")
        return found

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        value = self._post("/v1/completions", body)
        try:
            (choice,) = value["choices"]
        except (KeyError, TypeError, ValueError):
            raise self._fault("no completion") from None
        return cast(dict[str, Any], choice)

    def pool(self, model: str, rows: Sequence[list[int]], task: str) -> list[Vectors]:
        """What vLLM's pooling runner makes of rows of token ids: the floats of each, flat.

        Args:
            task: `embed` for one vector a row, `token_embed` for one a token.
        """
        value = self._post(
            "/pooling",
            {
                "model": model,
                "input": list(rows),
                "task": task,
                "use_activation": False,
                "encoding_format": "base64",
                "embed_dtype": "float32",
                "endianness": "little",
            },
        )
        try:
            data = sorted(value["data"], key=lambda entry: cast(int, entry["index"]))
            found = [np.frombuffer(b64decode(entry["data"]), dtype="<f4") for entry in data]
        except (KeyError, TypeError, ValueError):
            raise self._fault("no vectors") from None
        if len(found) != len(rows) or not all(np.isfinite(row).all() for row in found):
            raise self._fault("vectors that are missing or no numbers")
        return found

    def tokenize(
        self, model: str, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
    ) -> list[int]:
        """The token ids that vLLM's own chat template makes of a request."""
        body = {"model": model, "messages": list(messages), "tools": list(tools) or None}
        try:
            return [int(token) for token in self._post("/tokenize", body)["tokens"]]
        except (KeyError, TypeError, ValueError):
            raise self._fault("no tokens") from None

    def models(self) -> set[str]:
        """The names under which it serves models."""
        value = _json(self._send("GET", "/v1/models", None, _CONNECT_S))
        try:
            return {entry["id"] for entry in value["data"]}
        except (KeyError, TypeError):
            raise self._fault("no list of models") from None

    def healthy(self) -> bool:
        """Whether it says so."""
        try:
            self._send("GET", "/health", None, _CONNECT_S)
        except EngineError:
            return False
        return True

    def load(self, name: str, folder: str) -> None:
        """Load an adapter."""
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def unload(self, name: str) -> None:
        """Take an adapter out."""
        self._post("/v1/unload_lora_adapter", {"lora_name": name})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _json(self._send("POST", path, orjson.dumps(body), self.request_s))

    def _send(self, method: str, path: str, content: bytes | None, seconds: float) -> bytes:
        """The body of an answer of status 200."""
        end = time.monotonic() + seconds
        parts, size = [], 0
        timeout = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_S))
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            with self._http.stream(
                method, path, content=content, headers=headers, timeout=timeout
            ) as reply:
                for part in reply.iter_bytes():
                    size += len(part)
                    parts.append(part)
                    if size > _MOST_BYTES:
                        raise self._fault("an answer that is too long")
                    if time.monotonic() > end:
                        raise self._late(seconds)
        except httpx.TimeoutException:
            raise self._late(seconds) from None
        except (httpx.HTTPError, RuntimeError) as error:
            # httpx's RuntimeError: the client was closed meanwhile.
            raise EngineError(
                self.url, f"no connection ({_short(error)})", "see the engine's log"
            ) from None
        body = b"".join(parts)
        if reply.status_code != 200:
            raise self._refused(reply.status_code, body)
        return body

    def _late(self, seconds: float) -> EngineError:
        self._on_timeout()
        return EngineError(self.url, f"no answer in {seconds:g} s", "see the engine's log")

    def _refused(self, status: int, body: bytes) -> EngineError:
        value = _json(body)
        stated = value.get("error", value) if isinstance(value, dict) else None
        stated = stated.get("message") if isinstance(stated, dict) else stated
        detail = f": {_short(stated)}" if isinstance(stated, str) else ""
        return EngineError(self.url, f"HTTP {status}{detail}", "see the engine's log")

    def _fault(self, what: str) -> EngineError:
        return EngineError(self.url, f"answered with {what}", "use a vLLM of a supported version")


def _json(body: bytes) -> Any:
    """The body's JSON; an empty object where it is none, which no answer is read from."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}


def _short(what: object) -> str:
    return " ".join(str(what).split())[:_DETAIL]
