"""Modes as a client and an admin see them: shadow, canary, budget, rollback, reload."""

import asyncio
import time
from typing import Any

import pytest
from stands import HELLO, post
from wires import REPLIES, answer_of, body, calls, http, serve_config

from distill.serving.access import key_hash
from distill.serving.gateway import Gateway
from distill.types import Message, ToolCall

SURE = calls("get_order", order=7)
SAME = answer_of(Message("assistant", None, (ToolCall("get_order", {"order": 7}, "x"),)))
OTHER = answer_of(Message("assistant", None, (ToolCall("cancel_order", {}, "x"),)))
ADMIN = {"authorization": "Bearer dk-admin"}
ACCESS = {"admin_sha256": key_hash("dk-admin")}


@pytest.mark.parametrize(("said", "agreed"), [(SAME, True), (OTHER, False), (HELLO, False)])
def test_shadow_compares_and_never_answers(stand, said, agreed):
    client = stand(http(said), SURE, rollout={"mode": "shadow"})
    assert post(client, body()).content == said
    record = stand.store.last()
    assert (record.decided_by, record.reason, record.agreed) == ("upstream", "taken", agreed)
    assert record.decision == SURE
    assert record.usage.input_tokens == 100


def test_what_the_policy_would_not_take_is_not_compared(stand):
    client = stand(http(HELLO), REPLIES, rollout={"mode": "shadow"})
    post(client, body())
    assert stand.store.last().agreed is None


def test_an_error_of_the_upstream_is_no_disagreement(stand):
    client = stand(http(b"{}", "500 Oops"), SURE, rollout={"mode": "shadow"})
    post(client, body())
    assert stand.store.last().agreed is None


def test_off_asks_no_router(stand):
    client = stand(http(HELLO), SURE, rollout={"mode": "off"})
    assert post(client, body()).content == HELLO
    assert stand.router.asked == []
    assert stand.store.last().reason == "router not asked"


def by(answer: Any) -> str:
    return str(answer.headers["x-distill-decided-by"])


def test_a_canarys_sessions_stay_on_their_side(stand):
    client = stand(http(HELLO), SURE, rollout={"mode": "canary", "share": 0.5})
    sides = {}
    for session in map(str, range(60)):
        answers = {by(post(client, body(f"{i}"), **{"x-session-id": session})) for i in range(3)}
        assert len(answers) == 1
        sides[session] = answers.pop()
    local = sum(side == "local" for side in sides.values())
    assert 10 < local < 50, "0.5 of 60, give or take five deviations"


def test_a_conversation_is_a_session_by_itself(stand):
    """Its later requests fall to the same side as the first; other conversations may not."""
    client = stand(http(HELLO), SURE, rollout={"mode": "canary", "share": 0.5})
    seen = set()
    for i in range(30):
        first = body(f"order {i}")
        later = [*first["messages"], {"role": "assistant", "content": "?"}, first["messages"][0]]
        a, b = post(client, first), post(client, first | {"messages": later})
        assert by(a) == by(b)
        seen.add(by(a))
    assert seen == {"local", "upstream"}


def test_a_share_is_compared_in_mode_on(stand):
    client = stand(http(SAME), SURE, rollout={"mode": "on", "compare": 1.0})
    assert by(post(client, body())) == "upstream"
    assert stand.store.last().agreed is True


def test_the_budget_is_kept(stand):
    client = stand(http(HELLO), SURE, rollout={"per_minute": 3})
    assert [by(post(client, body())) for _ in range(5)] == ["local"] * 3 + ["upstream"] * 2
    assert stand.store.last().reason == "over the budget"


def test_disagreement_takes_the_gateway_back_to_shadow(stand):
    rollback = {"window": 10, "least": 5, "agreement": 0.8}
    client = stand(http(OTHER), SURE, rollout={"mode": "on", "compare": 1.0, "rollback": rollback})
    for _ in range(4):
        post(client, body())
    assert stand.gateway.rollout.mode == "on"
    post(client, body())
    assert stand.gateway.rollout.mode == "shadow"
    assert stand.rollbacks == ["agreement 0.00 is below 0.80"]


def test_a_failing_router_takes_the_gateway_back_to_shadow(stand):
    def fail(context: object) -> Any:
        raise RuntimeError

    client = stand(http(OTHER), fail, rollout={"rollback": {"window": 10, "least": 5}})
    for _ in range(5):
        assert post(client, body()).status_code == 200
    assert stand.gateway.rollout.mode == "shadow"


def test_an_admin_switches_the_mode_at_run_time(stand):
    client = stand(http(HELLO), SURE, access=ACCESS)
    assert by(post(client, body())) == "local"
    said = client.put("/admin/rollout", json={"mode": "off"}, headers=ADMIN)
    assert said.json() == {"mode": "off", "configured": "on"}
    assert by(post(client, body())) == "upstream"


def test_a_mode_is_shared_by_all_processes_and_outlives_them(stand):
    """Until the config's own mode is another one."""
    client = stand(http(HELLO), SURE, access=ACCESS)
    config = stand.gateway.config

    def another(mode: str) -> Gateway:
        rollout = config.rollout.model_copy(update={"mode": mode})
        changed = config.model_copy(update={"rollout": rollout})
        return Gateway(changed, router=stand.router, thresholds=(), store=stand.store)

    running = another("on")
    client.put("/admin/rollout", json={"mode": "off"}, headers=ADMIN)
    asyncio.run(running.mode.look())
    later, changed = another("on"), another("canary")
    for gateway in (later, changed):
        asyncio.run(gateway.mode.look())
    modes = [gateway.rollout.mode for gateway in (running, later, changed)]
    assert modes == ["off", "off", "canary"]


def test_a_rollback_is_shared_too(stand):
    rollback = {"window": 10, "least": 5, "agreement": 0.8}
    client = stand(http(OTHER), SURE, rollout={"mode": "on", "compare": 1.0, "rollback": rollback})
    for _ in range(5):
        post(client, body())
    end = time.monotonic() + 20
    while not stand.store.settings:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert '"mode":"shadow"' in stand.store.settings["rollout.mode"]


def test_a_switch_that_cannot_be_stored_is_none(stand):
    client = stand(http(HELLO), SURE, access=ACCESS)
    stand.store.broken = True
    answer = client.put("/admin/rollout", json={"mode": "off"}, headers=ADMIN)
    assert answer.status_code == 503
    assert stand.gateway.rollout.mode == "on"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/admin/rollout"), ("PUT", "/admin/rollout"), ("POST", "/admin/reload")],
)
@pytest.mark.parametrize("access", [ACCESS, {}], ids=["a key", "no key"])
def test_nobody_else_reaches_the_admins_endpoints(stand, method, path, access):
    client = stand(http(HELLO), SURE, access=access)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic dk-admin"}):
        answer = client.request(method, path, json={"mode": "off"}, headers=headers)
        assert answer.status_code == 401
    assert stand.gateway.rollout.mode == "on"


@pytest.mark.parametrize("change", [{"mode": "full"}, {}, {"mode": "on", "share": 1}, [1]])
def test_a_switch_that_is_none_is_refused(stand, change):
    client = stand(http(HELLO), SURE, access=ACCESS)
    answer = client.put("/admin/rollout", json=change, headers=ADMIN)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]
    assert stand.gateway.rollout.mode == "on"


def test_a_reload_changes_policy_mode_limits_and_keys(stand):
    def again() -> Any:
        url = stand.upstream.url
        new = {"policy": {"sensitive": ["get_order"]}, "limits": {"messages": 1}}
        return serve_config(url, rollout={"mode": "canary", "share": 1.0}, **new)

    client = stand(http(HELLO), SURE, access=ACCESS, reload=again)
    assert client.post("/admin/reload", headers=ADMIN).json()["mode"] == "canary"
    answer = post(client, body())
    assert answer.headers["x-distill-reason"] == "sensitive tool"
    two = body() | {"messages": body()["messages"] * 2}
    assert post(client, two).status_code == 413
    assert client.get("/admin/rollout", headers=ADMIN).status_code == 401, "the new file has no key"


def test_a_reload_of_a_faulty_file_changes_nothing(stand, tmp_path):
    from distill.config import load_serve  # noqa: PLC0415

    file = tmp_path / "serve.yaml"
    file.write_text("router: x\nupstream: {base_url: http://x}\nnonsense: 1\n")
    client = stand(http(HELLO), SURE, access=ACCESS, reload=lambda: load_serve(file))
    answer = client.post("/admin/reload", headers=ADMIN)
    assert answer.status_code == 400
    assert "nonsense" in answer.json()["error"]["message"]
    assert by(post(client, body())) == "local"
