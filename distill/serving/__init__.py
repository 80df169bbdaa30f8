"""The gateway: an OpenAI-compatible door that answers what the router is sure of.

    wire        the API's JSON <-> contexts and decisions; which requests may be decided locally
    chooser     the router in a thread of its own, in batches, within a time
    rollout     how much is decided locally: modes, sessions, budget, the way back to shadow
    shared      the mode as all processes share it
    upstream    bytes to the large LLM and back, untouched
    access      who may ask
    answering   one request, from its body to its record
    attended    a response that ends when its client leaves
    gateway     what the requests of one process share
    app         its routes
    admin       those for the admin's key
    openapi     what its OpenAPI says
    process     the processes that `distill serve` starts
    engine/     vLLM as a child process, and routers that ask it
    words       the fixed words that reasons and errors are counted and logged by
    watching    what is known of an HTTP request when it is over
    metrics     for Prometheus
    logs        JSON lines
    telemetry   spans for OpenTelemetry
    dashboard/  one page of what the store holds

Whatever is not decided locally passes through unchanged. Everything here needs the extra `serve`.
"""

from distill.errors import MissingExtraError

try:
    import fastapi  # noqa: F401
    import sqlalchemy  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError:
    raise MissingExtraError("serve", "the gateway") from None
