"""What the gateway's OpenAPI says of requests and statuses."""

from typing import Any


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": _WORDS[status]} for status in statuses}


_WORDS = {
    400: "A request that the gateway or the upstream refuses.",
    401: "No such key.",
    408: "The body did not come in time.",
    413: "Beyond a limit.",
    422: "Not what is asked for.",
    502: "The upstream gave no whole answer.",
    503: "Too much under way, or no record can be kept.",
    504: "The upstream was too late.",
}
RESPONSES = described(400, 401, 408, 413, 502, 503, 504)
OF_ADMINS = described(400, 401, 422, 503)
COMPLETION = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "properties": {
                        "model": {"type": "string"},
                        "messages": {"type": "array", "items": {"type": "object"}},
                        "tools": {"type": "array", "items": {"type": "object"}},
                        "stream": {"type": "boolean"},
                    },
                    "additionalProperties": True,
                }
            }
        },
    }
}
