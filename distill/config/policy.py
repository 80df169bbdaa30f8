"""Which calls are taken locally."""

from pydantic import Field

from distill.config.base import Config


class PolicyConfig(Config):
    """Which calls of a router are made without asking the LLM (`distill.policy`)."""

    alpha: float = Field(0.1, gt=0, lt=1)
    """Calls are taken from the threshold of this promise on: at most this share is wrong. One of
    the alphas that the router was calibrated for."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Probability with which that promise may fail; the delta of the calibration."""
    threshold: float | None = Field(None, ge=0, le=1)
    """A confidence of your own to take calls from, in place of any promise; 0 takes every call that
    has a confidence."""
    per_tool: bool = True
    """Hold each call to the promise for its tool alone, where the router has such promises; a tool
    for which the data supports none is then never taken. False: to that of all decisions, which
    holds for calls and replies mixed as in the calibration part."""
    allow: list[str] | None = None
    """Only calls of these tools are taken; null: of all that are offered."""
    sensitive: list[str] = []
    """Tools whose calls are never taken, whatever `allow` says and however confident the router is:
    the LLM is asked, and may still call them."""
    untrusted: list[str] = []
    """Tools whose results may carry text of strangers; what follows such a result is taken under
    further conditions (`distill.policy`)."""
    read_only: list[str] = []
    """Tools that change nothing. After the result of an untrusted tool no other is taken."""

    def unguarded(self) -> "PolicyConfig":
        """The same without any rule about tools: confidence and schema alone decide."""
        kept = ("alpha", "delta", "threshold", "per_tool")
        return PolicyConfig(**{name: getattr(self, name) for name in kept})

    @property
    def guards(self) -> bool:
        """Whether there is a rule about tools."""
        return self != self.unguarded()
