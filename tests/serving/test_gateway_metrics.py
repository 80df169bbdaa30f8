"""What Prometheus reads of a gateway, of one process and of several."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from stands import HELLO, post
from wires import Wire, answer_of, body, calls, http

from distill import serving
from distill.serving import words
from distill.serving.access import key_hash
from distill.types import Decision, Message, ToolCall

AGREES = http(answer_of(Message("assistant", None, (ToolCall("get_order", {"order": 7}),))))


def scrape(client: httpx.Client, **headers: str) -> dict[str, float]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    return read(answer.text)


def read(text: str) -> dict[str, float]:
    """Samples by name and labels: `distill_requests_total client=app mode=on`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = (f" {key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name + "".join(labels)] = sample.value
    return found


def test_a_local_answer_is_counted_with_its_time(stand):
    client = stand(http(HELLO), calls("get_order", order=7))
    post(client, body())
    found = scrape(client)
    assert found["distill_requests_total client=anybody decided_by=local mode=on status=2xx"] == 1
    assert found["distill_reasons_total mode=on reason=taken"] == 1
    assert found["distill_router_seconds_count"] == 1
    assert found["distill_added_seconds_count"] == 1
    assert found["distill_upstream_seconds_count"] == 0
    assert found["distill_http_requests_total route=/v1/chat/completions status=2xx"] == 1


def test_shadow_counts_agreement_and_the_upstreams_tokens(stand):
    client = stand(AGREES, calls("get_order", order=7), rollout={"mode": "shadow"})
    post(client, body())
    stand.router.answer = lambda context: calls("get_order", order=8)
    post(client, body())
    found = scrape(client)
    assert found["distill_compared_total mode=shadow"] == 2
    assert found["distill_agreed_total mode=shadow"] == 1
    assert found["distill_tokens_total direction=input"] == 200
    assert found["distill_tokens_total direction=output"] == 40
    assert found["distill_upstream_seconds_count"] == 2


def test_what_is_not_recorded_and_what_is_under_way_is_counted(stand):
    client = stand(http(HELLO), store={"on_failure": "serve"})
    stand.store.broken = True
    post(client, body())
    found = scrape(client)
    assert found["distill_unrecorded_total"] == 1
    assert found["distill_requests_under_way"] == 0


def test_the_mode_is_told_after_a_switch_and_after_a_rollback(stand):
    key = "k"
    client = stand(
        http(HELLO),
        calls("get_order", order=7),
        rollout={"compare": 1.0, "rollback": {"window": 10, "least": 2}},
        access={"admin_sha256": key_hash(key)},
    )

    def mode() -> list[str]:
        found = scrape(client)
        return [
            mode
            for mode in ("off", "shadow", "canary", "on")
            if found[f"distill_rollout_mode mode={mode}"]
        ]

    assert mode() == ["on"]
    headers = {"authorization": f"Bearer {key}"}
    client.put("/admin/rollout", json={"mode": "canary"}, headers=headers)
    assert mode() == ["canary"]
    for _ in range(2):
        post(client, body())
    assert mode() == ["shadow"]
    assert scrape(client)["distill_rollbacks_total"] == 1


def test_who_reads_it_has_the_admin_key_where_clients_have_keys(stand):
    access = {
        "clients": [{"name": "app", "sha256": key_hash("c")}],
        "admin_sha256": key_hash("a"),
    }
    client = stand(http(HELLO), access=access)
    for headers in ({}, {"authorization": "Bearer c"}, {"authorization": "Bearer x"}):
        assert client.get("/metrics", headers=headers).status_code == 401
    scrape(client, authorization="Bearer a")


def test_no_request_makes_a_time_series(stand):
    """Tools, models, paths, methods and errors that a request or an answer names are not labels."""
    said: list[Wire] = []
    client = stand(lambda sent: said[-1], lambda context: Decision("call", (next_call(),), 0.9))

    def next_call() -> ToolCall:
        if len(said) % 2:
            raise ValueError(f"no such thing: {said}")
        return ToolCall(f"made_up_{len(said)}", {})

    scrape(client)  # it is counted itself
    names = []
    for round_ in range(2):
        for i in range(round_ * 20, round_ * 20 + 20):
            said.append(http(answer_of(Message("assistant", None, (ToolCall(f"t{i}", {}),)))))
            post(client, body(model=f"m{i}"))
            client.get(f"/v1/p{i}")
            client.get(f"/nowhere/{i}")
            client.request("PROPFIND" if i % 2 else "PATCH", f"/v1/q{i}")
        found = scrape(client)
        names.append(set(found))
    first, second = names
    assert first == second
    assert "distill_errors_total error=unknown tool" in found
    assert "distill_reasons_total mode=on reason=router failed" in found


def test_every_word_that_the_gateway_gives_for_a_fault_is_counted_by_itself():
    """Else a new one would hide among the others."""
    package = Path(serving.__file__).parent
    said = set()
    for path in package.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in ("UpstreamError", "ChooserError", "_Had", "_Asked"):
                values = [*node.args, *(k.value for k in node.keywords if k.arg == "error")]
                said |= {
                    (name, value.value)
                    for value in values
                    if isinstance(value, ast.Constant) and isinstance(value.value, str)
                }
    assert len(said) > 8
    for name, text in said:
        kind = words.reason(text) if name == "ChooserError" else words.error(text)
        assert kind == text, f"{name}: {text!r} is not among the words"


PROCESS = """
import sys
from datetime import UTC, datetime
from distill.serving.metrics import Metrics
from distill.store.record import Record
from distill.types import Usage

metrics = Metrics()
metrics.mode("shadow")
metrics.under_way(1)
record = Record("0" * 32, datetime.now(UTC), "app", "s", "shadow", "upstream", "taken", None, None,
                None, 200, True, 1.0, 2.0, Usage(10, 5), None)
metrics.record(record, True, 0.1)
for _ in sys.stdin:
    print(metrics.text().decode() + "end", flush=True)
"""


class Process:
    """A gateway's process, as far as it counts one request that is still under way."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        return read("".join(iter(self._process.stdout.readline, "end\n")))

    def end(self) -> None:
        self._process.communicate()


def test_several_processes_are_told_as_one_and_dead_ones_are_in_no_mode(tmp_path: Path):
    one, other = Process(tmp_path), Process(tmp_path)
    other.told()  # it has counted by now
    both = one.told()
    other.end()
    after = one.told()
    one.end()
    request = "distill_requests_total client=app decided_by=upstream mode=shadow status=2xx"
    assert (both[request], after[request]) == (2, 2)
    for gauge in ("distill_rollout_mode mode=shadow", "distill_requests_under_way"):
        assert (both[gauge], after[gauge]) == (2, 1)


@pytest.mark.parametrize(("status", "told"), [(200, "2xx"), (499, "4xx"), (42, "other")])
def test_a_status_is_counted_by_its_class(status, told):
    assert words.status_class(status) == told
