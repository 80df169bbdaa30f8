"""vLLM as a child process for a router's neural part, and routers that ask it.

    with Engine(run, EngineConfig(python=Path("vllm/bin/python"))) as engine:
        engine.wait_ready()
        router = served_router(run, engine)

`plan` says what is served of which router and by which command line, `engine` starts and watches
the process, `client` asks it over HTTP, `routers` are the routers, and `attached` is what a further
gateway process has in place of an engine of its own.
"""

from distill.serving.engine.attached import Attached, Attachment
from distill.serving.engine.engine import Engine, Timing
from distill.serving.engine.routers import AnyEngine, ServedRouter, served_router

__all__ = [
    "AnyEngine",
    "Attached",
    "Attachment",
    "Engine",
    "ServedRouter",
    "Timing",
    "served_router",
]
