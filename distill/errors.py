"""The errors a user can meet, each one line: place, fault, cure.

    DistillError                 anything this package raises on purpose
    ├── StoreError               the gateway's database did not do what was asked of it
    └── InputError (ValueError)  the user's input is at fault; the command line exits with 2
        ├── ConfigError          a config file, an override or a value in them
        ├── TraceError           a trace file that cannot be read, or one line of it
        ├── DatasetError         traces that leave no usable dataset
        ├── ModelError           a model that is not there or is not what it should be
        ├── RouterError          a router folder or run directory that is incomplete or foreign
        ├── HubError             the model hub refused or could not be reached
        ├── EndpointError        an LLM's endpoint that gave no answer at all
        ├── EngineError          an engine that is not installed, does not start or does not answer
        ├── WorkflowError        a workflow that is not whole, or that cannot be learned from
        └── MissingExtraError         an optional dependency; the cure is its install command

Our own faults are `assert`s: they exit with 1 and a traceback.
"""


class DistillError(Exception):
    """Base of every error this package raises on purpose."""


class StoreError(DistillError):
    """The gateway's database is locked, full, gone or too slow: a record could not be kept."""


class InputError(DistillError, ValueError):
    """The user's input is at fault: `place` says where, `fault` what, `cure` what to do now."""

    def __init__(self, place: object, fault: str, cure: str) -> None:
        self.place, self.fault, self.cure = str(place), fault, cure
        super().__init__(f"{place}: {fault}; {cure}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        # The default would call __init__ with the one joined line after unpickling.
        return type(self), (self.place, self.fault, self.cure)


class ConfigError(InputError):
    """A config file, an override, or a value in one of them."""


class TraceError(InputError):
    """A trace file that cannot be read, or one line of it."""


class DatasetError(InputError):
    """Traces that leave no usable dataset, or a dataset folder that is not whole."""


class ModelError(InputError):
    """A model that is not there, or whose weights are not what they should be."""


class RouterError(InputError):
    """A router folder or a run directory that is incomplete or of a foreign kind."""


class HubError(InputError):
    """The model hub refused, or could not be reached."""


class EndpointError(InputError):
    """An LLM's endpoint that gave no answer at all."""


class EngineError(InputError):
    """An engine that serves models is not installed, does not start, or does not answer."""


class WorkflowError(InputError):
    """A workflow whose graph is not whole, or whose outcomes cannot be learned from."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra, self.needed_for = extra, needed_for
        super().__init__(
            needed_for,
            f"needs the extra {extra!r}",
            f"install it with: pip install 'tool-router-distill[{extra}]'",
        )

    def __reduce__(self) -> tuple[type[InputError], tuple[str, ...]]:  # type: ignore[override]
        return type(self), (self.extra, self.needed_for)
