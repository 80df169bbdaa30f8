"""What is asked of vLLM over HTTP: completions, pooled states, adapters, health.

Every answer is checked before it is believed; what goes wrong is an `EngineError`. Nothing is asked
twice: whoever asked has an LLM to fall back on. Knows no router and no process.
"""

import time
from base64 import b64decode
from collections.abc import Callable, Collection, Sequence
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
_MOST_ALLOWED, _LIKELIEST = 1024, 20
"""How many allowed tokens vLLM takes, and of how many it tells the log-probabilities."""
_TOKEN = "token_id:"
"""How it names a token by its id."""
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

    def write(self, model: str, prompt: list[int], most: int) -> Written:
        """A greedy completion of token ids.

        Args:
            model: an adapter's name.
            most: new tokens at most.
        """
        choice = self._choice(model, prompt, {"max_tokens": most, "logprobs": 0})
        try:
            ids = [int(i) for i in choice["token_ids"]]
            found = [float(v) for v in choice["logprobs"]["token_logprobs"]]
        except (KeyError, TypeError, ValueError):
            raise self._fault("a completion without tokens or log-probabilities") from None
        if len(ids) != len(found) or not ids or len(ids) > most or max(found) > _ROUNDING:
            raise self._fault("tokens and log-probabilities that do not fit each other")
        return Written(ids, found)

    def step(
        self, model: str, prompt: list[int], allowed: Collection[int]
    ) -> tuple[int, float] | None:
        """The likeliest allowed token after a prompt, and the model's own log-probability of it.

        vLLM masks after it has looked at probabilities where tokens are listed, and before that
        where a grammar says which: under one a token that alone is allowed would look certain. It
        takes lists of 1,024; of more, None where none is among the likeliest 20 of all.
        """
        if len(allowed) <= _MOST_ALLOWED:
            body = {"max_tokens": 1, "logprobs": 0, "allowed_token_ids": list(allowed)}
        else:
            body = {"max_tokens": 1, "logprobs": _LIKELIEST, "return_tokens_as_token_ids": True}
        choice = self._choice(model, prompt, body)
        try:
            (token,) = choice["token_ids"]
            found = {int(token): float(choice["logprobs"]["token_logprobs"][0])}
            for name, value in (choice["logprobs"].get("top_logprobs") or [{}])[0].items():
                if name.startswith(_TOKEN):
                    found[int(name.removeprefix(_TOKEN))] = float(value)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise self._fault("no token") from None
        if max(found.values()) > _ROUNDING:
            raise self._fault("log-probabilities that are none")
        fit = [token for token in found if token in allowed]
        return max(((t, found[t]) for t in fit), key=lambda pair: pair[1], default=None)

    def _choice(self, model: str, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        body |= {"model": model, "prompt": prompt, "temperature": 0, "return_token_ids": True}
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
        value = self._post("/tokenize", body)
        try:
            return [int(token) for token in value["tokens"]]
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
