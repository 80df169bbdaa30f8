"""Who may see the dashboard and judge on it, and that it says what it does not know."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from boards import KEY, board, calibrated_run, lately
from record_values import answer, ask, says, user

from distill.types import Decision, ToolCall, Usage

ADMIN = ("anybody", KEY)
OWN = {"sec-fetch-site": "same-origin"}
WRONG = Decision("call", (ToolCall("switch", {"on": False}),), 0.8)


def text(html: str) -> str:
    """What a reader sees, words by single spaces."""
    return " ".join(re.sub(r"<style.*?</style>|<title>.*?</title>|<[^>]+>", " ", html).split())


@pytest.fixture
def shown(tmp_path: Path):
    with board(tmp_path) as made:
        yield made


def page(made, query: str = "") -> str:
    answered = httpx.get(f"{made.url}/dashboard{query}", auth=ADMIN)
    assert answer_is_html(answered)
    return text(answered.text)


def answer_is_html(answered: httpx.Response) -> bool:
    return (answered.status_code, answered.headers["content-type"]) == (
        200,
        "text/html; charset=utf-8",
    )


def test_it_asks_for_the_admin_key_the_way_browsers_know(shown):
    for auth in (None, ("admin", "wrong"), (KEY, "")):
        answered = httpx.get(f"{shown.url}/dashboard", auth=auth)
        assert answered.status_code == 401
        assert answered.headers["www-authenticate"].startswith("Basic ")
    for value in ("Basic", "Basic %%%", "Basic /////w==", f"Bearer {KEY}"):
        headers = {"authorization": value}
        assert httpx.get(f"{shown.url}/dashboard", headers=headers).status_code == 401
    assert "distill gateway" in page(shown)


def test_without_an_admin_key_there_is_none(tmp_path):
    with board(tmp_path, access={}) as made:
        assert httpx.get(f"{made.url}/dashboard", auth=ADMIN).status_code == 404
        assert httpx.post(f"{made.url}/dashboard", auth=ADMIN, headers=OWN).status_code == 404


def test_it_may_load_nothing_and_run_nothing(shown):
    headers = httpx.get(f"{shown.url}/dashboard", auth=ADMIN).headers
    parts = headers["content-security-policy"].split("; ")
    policy = dict(part.split(" ", 1) for part in parts)
    assert policy["default-src"] == "'none'"
    assert "script-src" not in policy
    assert policy["frame-ancestors"] == "'none'"
    assert headers["cache-control"] == "no-store"


def test_an_empty_store_is_told_as_unknown_and_not_as_nothing_saved(shown):
    said = page(shown)
    assert "Requests 0" in said
    for figure in ("Coverage unknown", "Agreement unknown", "Latency saved unknown"):
        assert figure in said
    assert "Money saved unknown no table of prices" in said


def test_coverage_and_agreement_are_of_what_could_be_covered(shown):
    shown.keep(
        *(lately(i) for i in range(6)),
        *(lately(i, agreed=False) for i in range(10, 12)),
        *(lately(i, reason="reply", agreed=None) for i in range(20, 24)),
        *(lately(i, reason="router not asked", decision=None, agreed=None, mode="off")
          for i in range(30, 38)),
    )  # fmt: skip
    said = page(shown)
    assert "Requests 20" in said
    assert "Coverage 66.7% would be taken by the policy, of 12 requests" in said
    assert "Agreement 75.0% of 8 decisions" in said
    assert "router not asked 8 40.0%" in said


def test_a_record_is_shown_in_the_spans_that_it_is_of(shown):
    shown.keep(lately(5), lately(3 * 24 * 60), lately(20 * 24 * 60))
    requests = [re.search(r"Requests (\d+)", page(shown, f"?days={d}"))[1] for d in (1, 7, 30)]
    assert requests == ["1", "2", "3"]
    assert "Requests 2" in page(shown, "?days=1e9")


PRICES = """
currency: EUR
models: {large-1: {input: 2.0, output: 10.0, date: 2030-01-01}}
"""


def local(number: int):
    return lately(
        number, decided_by="local", mode="on", upstream_ms=None, usage=Usage(), agreed=None
    )


def test_savings_are_what_the_llm_took_for_requests_like_those(tmp_path):
    """Medians of 500 and 2 ms, and 0.0003 EUR a request, for 10 local answers."""
    (tmp_path / "prices.yaml").write_text(PRICES)
    with board(tmp_path, prices=str(tmp_path / "prices.yaml")) as made:
        made.keep(*(lately(i) for i in range(20)), *(local(30 + i) for i in range(10)))
        made.keep(*(lately(50 + i, reason="reply", upstream_ms=9e4) for i in range(40)))
        said = page(made)
    assert "Latency saved 4.98 s" in said
    assert "Money saved 0.0030 EUR" in said


def test_savings_are_unknown_where_the_llm_answered_too_few_of_those(tmp_path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    with board(tmp_path, prices=str(tmp_path / "prices.yaml")) as made:
        made.keep(*(lately(i) for i in range(19)), *(local(30 + i) for i in range(10)))
        said = page(made)
        assert "Latency saved unknown fewer than 20 requests" in said
        assert "Money saved unknown fewer than 20 requests" in said
        made.keep(lately(20, response=answer(says("x"), model="other-1")))
        assert "Money saved unknown no price for other-1" in page(made)


def test_drift_is_told_against_the_routers_run(tmp_path):
    run = calibrated_run(tmp_path / "run", [("switch", 0.9, 20), ("reply", 0.3, 200)] * 50)
    with board(tmp_path, router=str(run.path)) as made:
        made.keep(*(lately(i, session=f"s{i}", request=ask(user("x" * 20))) for i in range(40)))
        said = page(made)
    assert "Tools decided: large" in said
    assert "Length of conversations, characters: large" in said
    assert "40 decisions in 40 conversations" in said


def test_one_long_conversation_is_too_few(tmp_path):
    run = calibrated_run(tmp_path / "run", [("switch", 0.9, 20), ("reply", 0.3, 200)] * 50)
    with board(tmp_path, router=str(run.path)) as made:
        made.keep(*(lately(i) for i in range(100)))
        assert "Tools decided: too few to tell" in page(made)


def test_without_the_run_drift_is_unknown(shown):
    said = page(shown)
    assert "Drift from the training set missing: the run is not evaluated" in said


def judge(made, record: str | list[str], judgement: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{made.url}/dashboard?days=30",
        auth=ADMIN,
        data={"id": record, "judgement": judgement},
        headers=headers,
    )


def test_a_disagreement_is_judged_and_the_judgement_taken_back(shown):
    made = lately(1, agreed=False, decision=WRONG)
    shown.keep(made)
    for judgement, accepted, said in [
        ("accept", True, "Accepted. Undo"),
        ("reject", False, "Rejected. Undo"),
        ("undo", None, "Accept as a training example Reject"),
    ]:
        answered = judge(shown, made.id, judgement, **OWN)
        assert answered.status_code == 303
        assert answered.headers["location"] == "/dashboard?days=30#disagreements"
        assert shown.store.get(made.id).accepted is accepted
        assert said in page(shown)


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({}, False),
        ({"sec-fetch-site": "cross-site", "origin": "HERE"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "HERE"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
    ],
)
def test_only_the_page_itself_may_judge(shown, headers, own):
    made = lately(1, agreed=False)
    shown.keep(made)
    headers = {key: shown.url if value == "HERE" else value for key, value in headers.items()}
    assert judge(shown, made.id, "accept", **headers).status_code == (303 if own else 403)
    assert shown.store.get(made.id).accepted is (True if own else None)


def test_a_judgement_that_is_none_is_refused(shown):
    made = lately(1, agreed=False)
    shown.keep(made)
    assert judge(shown, made.id, "delete", **OWN).status_code == 400
    assert judge(shown, "0" * 32, "accept", **OWN).status_code == 404
    assert judge(shown, "\0", "accept", **OWN).status_code == 400
    assert judge(shown, "x" * 2000, "accept", **OWN).status_code == 413
    twice = [made.id, made.id]
    assert judge(shown, twice, "delete", **OWN).status_code == 400
    assert shown.store.get(made.id).accepted is None


def test_a_gateway_that_nobody_looks_at_loads_none_of_it():
    """Seconds of its start, and memory that it keeps."""
    heavy = "{'datasets', 'scipy', 'sklearn', 'matplotlib', 'opentelemetry.sdk'}"
    script = f"import sys, distill.serving.process; print({heavy} & sys.modules.keys())"
    command = [sys.executable, "-c", script]
    assert subprocess.check_output(command, text=True).strip() == "set()"


HOSTILE = "</pre><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"


def test_hostile_text_is_shown_as_text_even_half_a_character(shown):
    decision = Decision("call", (ToolCall(HOSTILE, {HOSTILE: [HOSTILE]}),), 0.9)
    content = [{"type": "text", "text": f"{HOSTILE}\ud800"}]
    request = ask({"role": HOSTILE, "content": content})
    response = answer(says(HOSTILE), model=HOSTILE)
    shown.keep(lately(1, agreed=False, decision=decision, request=request, response=response,
                      client=HOSTILE, reason=HOSTILE))  # fmt: skip
    html = httpx.get(f"{shown.url}/dashboard", auth=ADMIN).text
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") >= 4
    assert "49" not in re.findall(r"onerror=alert\(1\)&gt;(.{2})", html)


@pytest.mark.parametrize("messages", [None, 3, ["x", None], [{"role": None, "tool_calls": [3]}]])
def test_a_record_of_any_shape_can_be_shown(shown, messages):
    shown.keep(lately(1, agreed=False, request={"messages": messages}, response={"choices": [3]}))
    assert "Latest disagreements" in page(shown)


def test_a_store_that_cannot_be_read_is_told(shown, tmp_path):
    shown.keep(lately(1))
    (tmp_path / "gateway.db").unlink()
    (tmp_path / "gateway.db").mkdir()
    assert httpx.get(f"{shown.url}/dashboard", auth=ADMIN).status_code == 503
