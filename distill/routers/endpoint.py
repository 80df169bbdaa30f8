"""A large LLM as a router: each context is a request to an endpoint, and nothing is learned.

    router.json     kind `endpoint`: which model, where, and how it is asked

An application's request is made of the whole context: the system prompt, every message, every
tool's schema. The LLM states no confidence. What it does not decide (no answer, or one that is no
decision) is a decision with an `error`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from distill.config import EndpointConfig
from distill.endpoint import Answer, Endpoint
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.types import Context, Decision


class EndpointRouter:
    """Args: settings: the endpoint; its key is asked for at the first decision."""

    def __init__(self, settings: EndpointConfig) -> None:
        self.settings = settings

    @property
    def kind(self) -> str:
        return "endpoint"

    @property
    def file(self) -> RouterFile:
        """What `router.json` says."""
        return RouterFile(self.settings, (), LabelSpace(()), {"name": self.settings.model})

    @cached_property
    def endpoint(self) -> Endpoint:
        """The client.

        Raises:
            ConfigError: the key's environment variable is not set.
        """
        return Endpoint(self.settings)

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        """The LLM's answers, `concurrency` requests at a time; errors as `endpoint`."""
        answers = self.endpoint.complete_all(
            contexts,
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=self.settings.seed,
        )
        return [_decision(answer) for answer in answers]

    def save(self, path: Path) -> None:
        self.file.save(path)

    @classmethod
    def load(cls, folder: Path, file: RouterFile) -> "EndpointRouter":
        assert isinstance(file.config, EndpointConfig)
        return cls(file.config)


def _decision(answer: Answer) -> Decision:
    if answer.decision is None:
        return Decision("reply", error=answer.error, usage=answer.spent)
    return replace(answer.decision, usage=answer.spent)
