"""schemathesis asks the gateway whatever its own OpenAPI allows, and what it does not."""

import httpx
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from test_gateway_fuzz import first_tool, upstream
from wires import Memory, Says, listening, serve_config

from distill.serving.access import key_hash
from distill.serving.gateway import Gateway

OPERATIONS = [
    ("post", "/v1/chat/completions"),
    ("get", "/v1/models"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/admin/rollout"),
    ("put", "/admin/rollout"),
    ("post", "/admin/reload"),
]
WITH_BODIES = [("post", "/v1/chat/completions"), ("put", "/admin/rollout")]


@pytest.fixture(scope="module")
def described():
    gateway = Gateway(
        serve_config("http://upstream/v1", access={"admin_sha256": key_hash("dk-admin")}),
        router=Says(first_tool),
        thresholds=(),
        store=Memory(),
        transport=httpx.MockTransport(upstream),
    )
    with listening(gateway) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        found = [result.ok() for result in schema.get_all_operations()]
        yield {(operation.method, operation.path): operation for operation in found}


def test_every_route_is_asked(described):
    assert set(described) == set(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        *((*operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
        *((*operation, GenerationMode.NEGATIVE) for operation in WITH_BODIES),
    ],
)
def test_no_request_is_the_gateways_own_fault(described, method, path, mode):
    asked = described[method, path]
    strategy = asked.as_strategy(generation_mode=mode)

    @given(st.data())
    @settings(max_examples=30)
    def ask(data):
        case = data.draw(strategy)
        answer = case.call(headers={"authorization": "Bearer dk-admin"})
        case.validate_response(answer, checks=(not_a_server_error,))
        assert str(answer.status_code) in asked.definition.raw["responses"], answer.status_code

    ask()
