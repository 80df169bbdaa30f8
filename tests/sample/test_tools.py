"""The tools: schemas from signatures, every business rule, and harmless bad calls."""

import inspect
import json
import sqlite3
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.sample import tools
from distill.sample.desk import TOOLS, call
from distill.sample.shop import diff, open_shop, shop_state
from distill.types import ToolCall

SPECS = {spec.name: spec for spec in TOOLS}


@pytest.fixture
def conn() -> sqlite3.Connection:
    return open_shop()


def do(conn: sqlite3.Connection, tool: str, /, **arguments: Any) -> dict[str, Any]:
    return call(conn, ToolCall(tool, arguments))


def refused(conn: sqlite3.Connection, tool: str, /, **arguments: Any) -> str:
    """The reason of a refusal, which must leave the shop as it was."""
    before = shop_state(conn)
    result = do(conn, tool, **arguments)
    assert list(result) == ["error"]
    assert shop_state(conn) == before
    return str(result["error"])


@pytest.mark.parametrize("spec", TOOLS, ids=lambda spec: spec.name)
def test_schema_is_valid_and_comes_from_the_function(spec: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(spec.parameters)
    function = getattr(tools, spec.name)
    doc = inspect.getdoc(function) or ""
    assert spec.description == doc.partition("\n")[0]
    parameters = dict(list(inspect.signature(function).parameters.items())[1:])
    assert list(spec.parameters["properties"]) == list(parameters)
    assert spec.parameters["required"] == [
        name for name, parameter in parameters.items() if parameter.default is parameter.empty
    ]
    assert spec.parameters["additionalProperties"] is False
    for name, schema in spec.parameters["properties"].items():
        assert f"{name}: {schema['description']}" in doc


def test_schema_types() -> None:
    search = SPECS["search_products"].parameters
    assert {name: schema["type"] for name, schema in search["properties"].items()} == {
        "query": "string",
        "max_price": "number",
        "in_stock": "boolean",
    }
    assert search["required"] == ["query"]
    assert SPECS["open_ticket"].parameters["properties"]["priority"]["enum"] == [
        "low",
        "normal",
        "high",
    ]
    assert SPECS["list_orders"].parameters["properties"]["status"]["type"] == "string"
    assert SPECS["get_order"].parameters["properties"]["order_id"]["type"] == "integer"


def test_find_customer(conn: sqlite3.Connection) -> None:
    by_mail = do(conn, "find_customer", email=" Mei.Chen@inbox.example")
    assert [match["customer_id"] for match in by_mail["matches"]] == ["C-113"]
    for phone in ("+44 7700 900477", "07700900477", "0044-7700-900477"):
        found = do(conn, "find_customer", phone=phone)
        assert [match["customer_id"] for match in found["matches"]] == ["C-160"]
    assert do(conn, "find_customer", name="anna schmidt")["count"] == 2
    assert refused(conn, "find_customer", name="anna schmidt", email="mei.chen@inbox.example")
    assert refused(conn, "find_customer", phone="477")
    assert refused(conn, "find_customer", name=" ")
    assert "give" in refused(conn, "find_customer")


def test_get_customer_shows_open_tickets(conn: sqlite3.Connection) -> None:
    assert do(conn, "get_customer", customer_id="C-121")["open_tickets"] == ["T-492 billing"]
    assert do(conn, "get_customer", customer_id="C-102")["open_tickets"] == []
    assert "C-999" in refused(conn, "get_customer", customer_id="C-999")


def test_list_orders_newest_first_and_by_status(conn: sqlite3.Connection) -> None:
    listed = do(conn, "list_orders", customer_id="C-115")
    numbers = [order["order_id"] for order in listed["orders"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 5 < listed["count"]
    pending = do(conn, "list_orders", customer_id="C-115", status="pending")
    assert {order["status"] for order in pending["orders"]} == {"pending"}
    assert refused(conn, "list_orders", customer_id="nobody")


def test_get_order_and_tracking(conn: sqlite3.Connection) -> None:
    order = do(conn, "get_order", order_id=1115)
    assert (order["customer_id"], order["status"]) == ("C-136", "shipped")
    assert [item["sku"] for item in order["items"]] == ["POT-243", "TEA-228"]
    assert do(conn, "track_shipment", order_id=1115)["state"] == "lost"
    assert "not been shipped" in refused(conn, "track_shipment", order_id=1163)
    for tool in ("get_order", "track_shipment"):
        for wrong in (1, -1, 10**30):
            assert "no order" in refused(conn, tool, order_id=wrong)


def test_cancelling_restocks_and_refunds(conn: sqlite3.Connection) -> None:
    before = shop_state(conn)
    result = do(conn, "cancel_order", order_id=1163, reason="other")
    assert result["refund"] == 119.8
    assert diff(before, shop_state(conn)) == {
        "products.KET-201.stock": 14,
        "orders.1163.status": "cancelled",
        "payments.1163.status": "refunded",
        "payments.1163.refunded": 119.8,
    }
    assert "cancelled" in refused(conn, "cancel_order", order_id=1163, reason="other")


def test_cancelling_an_unpaid_order_voids_the_payment(conn: sqlite3.Connection) -> None:
    assert do(conn, "cancel_order", order_id=1167, reason="other")["refund"] == 0
    assert shop_state(conn)["payments"]["1167"]["status"] == "void"


@pytest.mark.parametrize("order_id", [1132, 1136, 1147, 1109])
def test_nothing_is_cancelled_or_redirected_after_shipping(
    conn: sqlite3.Connection, order_id: int
) -> None:
    assert "cannot" in refused(conn, "cancel_order", order_id=order_id, reason="too_slow")
    address = {"street": "Way 1", "city": "Cork", "postcode": "T12"}
    assert "fixed" in refused(conn, "change_address", order_id=order_id, **address)


@pytest.mark.parametrize("order_id", [1163, 1137])
def test_address_changes_before_shipping(conn: sqlite3.Connection, order_id: int) -> None:
    result = do(
        conn, "change_address", order_id=order_id, street=" Way 1 ", city="Cork", postcode="T12"
    )
    assert result["ship_to"] == "Way 1, T12 Cork"
    assert shop_state(conn)["orders"][str(order_id)]["street"] == "Way 1"
    empty = refused(
        conn, "change_address", order_id=order_id, street=" ", city="Cork", postcode="T12"
    )
    assert "empty" in empty


def test_returns(conn: sqlite3.Connection) -> None:
    result = do(conn, "create_return", order_id=1091, sku="TAB-268", reason="changed_mind")
    assert (result["return_id"], result["label_fee"], result["value"]) == ("R-301", 3.9, 27.0)
    again = refused(conn, "create_return", order_id=1091, sku="TAB-268", reason="damaged")
    assert "already has a return" in again
    faulty = do(conn, "create_return", order_id=1091, sku="TAB-267", reason="damaged")
    assert (faulty["return_id"], faulty["label_fee"]) == ("R-302", 0.0)


@pytest.mark.parametrize(
    ("order_id", "sku", "reason", "why"),
    [
        (1063, "POT-250", "damaged", "more than 30 days"),
        (1132, "BAK-235", "changed_mind", "not delivered"),
        (1115, "POT-243", "changed_mind", "not delivered"),
        (1110, "TEA-222", "changed_mind", "food"),
        (1110, "TEA-222", "not_as_described", "food"),
        (1110, "KET-204", "damaged", "has no KET-204"),
        (1, "KET-204", "damaged", "no order"),
    ],
)
def test_refused_returns(
    conn: sqlite3.Connection, order_id: int, sku: str, reason: str, why: str
) -> None:
    assert why in refused(conn, "create_return", order_id=order_id, sku=sku, reason=reason)


def test_the_last_day_for_returns(conn: sqlite3.Connection) -> None:
    # 1062 arrived exactly 30 days ago.
    assert "return_id" in do(
        conn, "create_return", order_id=1062, sku="POT-243", reason="changed_mind"
    )


def test_damaged_food_comes_back(conn: sqlite3.Connection) -> None:
    assert "return_id" in do(conn, "create_return", order_id=1110, sku="TEA-222", reason="damaged")


def test_refunds_add_up_to_the_payment(conn: sqlite3.Connection) -> None:
    first = do(conn, "refund", order_id=1115, amount=31.8, reason="lost")
    assert first == {"refund_id": "F-401", "amount": 31.8, "to": "paypal"}
    assert "54.90" in refused(conn, "refund", order_id=1115, amount=55, reason="lost")
    assert do(conn, "refund", order_id=1115, amount=54.9, reason="lost")["refund_id"] == "F-402"
    payment = shop_state(conn)["payments"]["1115"]
    assert (payment["status"], payment["refunded"]) == ("refunded", 86.7)
    assert "nothing to refund" in refused(conn, "refund", order_id=1115, amount=1, reason="lost")


def test_refunds_above_the_limit_need_approval_even_in_parts(conn: sqlite3.Connection) -> None:
    approval = "needs approval: open a ticket for the billing team"
    arguments = {"order_id": 1136, "reason": "damaged"}
    assert refused(conn, "refund", amount=100.01, **arguments) == approval
    assert "refund_id" in do(conn, "refund", amount=60.0, **arguments)
    assert refused(conn, "refund", amount=40.01, **arguments) == approval
    assert "refund_id" in do(conn, "refund", amount=40, **arguments)


@pytest.mark.parametrize(
    ("order_id", "amount", "reason", "why"),
    [
        (1115, 0, "lost", "above 0"),
        (1115, -5, "lost", "above 0"),
        (1115, 0.001, "lost", "above 0"),
        (1112, 10, "lost", "payment is pending"),
        (1160, 10, "goodwill", "payment is failed"),
        (1115, 10, "damaged", "needs a delivered parcel"),
        (1163, 10, "missing_item", "not shipped"),
        (1136, 10, "lost", "not marked lost"),
        (1120, 10.5, "late", "limited to 10.00"),
        (1136, 11, "goodwill", "limited to 10.00"),
        (1132, 5, "late", "not late"),
        (1163, 5, "late", "not late"),
        (1, 5, "late", "no order"),
    ],
)
def test_refused_refunds(
    conn: sqlite3.Connection, order_id: int, amount: float, reason: str, why: str
) -> None:
    assert why in refused(conn, "refund", order_id=order_id, amount=amount, reason=reason)


def test_replacement_takes_from_the_stock(conn: sqlite3.Connection) -> None:
    before = shop_state(conn)
    result = do(conn, "replace_item", order_id=1115, sku="POT-243")
    assert result["replacement_id"] == "X-601"
    assert diff(before, shop_state(conn))["products.POT-243.stock"] == 8
    again = refused(conn, "replace_item", order_id=1115, sku="POT-243")
    assert "already has a replacement" in again


@pytest.mark.parametrize(
    ("order_id", "sku", "why"),
    [
        (1115, "TEA-228", "1 in stock, 2 needed"),
        (1068, "COF-218", "0 in stock"),
        (1132, "BAK-235", "not delivered"),
        (1063, "POT-250", "more than 30 days"),
        (1115, "KET-204", "has no"),
    ],
)
def test_refused_replacements(conn: sqlite3.Connection, order_id: int, sku: str, why: str) -> None:
    assert why in refused(conn, "replace_item", order_id=order_id, sku=sku)


def test_a_returned_item_is_not_replaced(conn: sqlite3.Connection) -> None:
    do(conn, "create_return", order_id=1136, sku="POT-241", reason="damaged")
    assert "already has a return" in refused(conn, "replace_item", order_id=1136, sku="POT-241")


def test_products(conn: sqlite3.Connection) -> None:
    assert do(conn, "check_stock", sku="BAK-232")["restock_on"] == "2025-03-25"
    assert do(conn, "check_stock", sku="BAK-236")["restock_on"] is None
    assert "restock_on" not in do(conn, "check_stock", sku="BAK-231")
    assert refused(conn, "check_stock", sku="XXX-1")
    found = do(conn, "search_products", query="coffee", max_price=40, in_stock=True)["products"]
    assert found[0]["sku"] == "COF-219"
    assert all(product["price"] <= 40 and product["stock"] for product in found)
    assert refused(conn, "search_products", query="unicorn")


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("return policy", "Returns"),
        ("do you ship to norway", "Countries we ship to"),
        ("rusty skillet", "Caring for cast iron"),
        ("invoice with vat number", "Invoices and VAT"),
        ("delete my data", "Personal data"),
    ],
)
def test_help(conn: sqlite3.Connection, query: str, title: str) -> None:
    assert do(conn, "search_help", query=query)["articles"][0]["title"] == title


def test_help_without_a_match(conn: sqlite3.Connection) -> None:
    assert refused(conn, "search_help", query="the of")


def test_tickets_once_per_team(conn: sqlite3.Connection) -> None:
    arguments = {"customer_id": "C-121", "subject": "x", "priority": "low"}
    assert "T-492" in refused(conn, "open_ticket", team="billing", **arguments)
    assert do(conn, "open_ticket", team="quality", **arguments)["ticket_id"] == "T-501"
    assert do(conn, "open_ticket", team="general", **arguments)["ticket_id"] == "T-502"
    assert refused(conn, "open_ticket", team="logistics", **{**arguments, "subject": " "})
    assert refused(conn, "open_ticket", team="logistics", **{**arguments, "customer_id": "C-1"})


def test_notes(conn: sqlite3.Connection) -> None:
    assert do(conn, "add_note", order_id=1157, text=" knock ") == {"note_id": "N-701"}
    assert shop_state(conn)["notes"]["N-701"]["text"] == "knock"
    assert refused(conn, "add_note", order_id=1157, text="")
    assert refused(conn, "add_note", order_id=1, text="knock")


def test_contact(conn: sqlite3.Connection) -> None:
    result = do(conn, "update_contact", customer_id="C-149", email=" Will@Mail.example ")
    assert result["email"] == "will@mail.example"
    assert do(conn, "update_contact", customer_id="C-149", phone="+44 7700 900001")["email"]
    for wrong in (
        {},
        {"email": "nonsense"},
        {"phone": "12"},
        {"email": "mei.chen@inbox.example"},
    ):
        assert refused(conn, "update_contact", customer_id="C-149", **wrong)
    assert refused(conn, "update_contact", customer_id="C-1", phone="+44 7700 900001")


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        (ToolCall("explode", {}), "no tool"),
        (ToolCall("get_order"), "no arguments"),
        (ToolCall("get_order", {}), "'order_id' is a required property"),
        (ToolCall("get_order", {"order_id": "1042"}), "integer"),
        (ToolCall("get_order", {"order_id": True}), "integer"),
        (ToolCall("get_order", {"order_id": 1042.0}), "integer"),
        (ToolCall("get_order", {"order_id": "9" * 10_000}), "…"),
        (ToolCall("get_order", {"order_id": 1042, "x": 1}), "'x' was unexpected"),
        (
            ToolCall("refund", {"order_id": 1115, "amount": float("nan"), "reason": "lost"}),
            "number",
        ),
        (ToolCall("cancel_order", {"order_id": 1163, "reason": "why not"}), "one of"),
        (ToolCall("search_help", {"query": "\ud800"}), "string"),
        (ToolCall("search_products", {"query": "tea", "in_stock": 1}), "boolean"),
    ],
)
def test_malformed_calls(conn: sqlite3.Connection, chosen: ToolCall, why: str) -> None:
    before = shop_state(conn)
    assert why in call(conn, chosen)["error"]
    assert shop_state(conn) == before


_VALUES = st.one_of(
    st.text(max_size=8),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(["C-101", "KET-204", "lost", "high", "billing", 1001, 1115, 1163]),
)
_EXTRA = {"email", "phone", "status", "query"}


def _calls(name: str) -> st.SearchStrategy[tuple[str, dict[str, Any] | None]]:
    required = SPECS[name].parameters["required"] if name in SPECS else []
    arguments = st.fixed_dictionaries(
        dict.fromkeys(required, _VALUES),
        optional=dict.fromkeys(sorted(_EXTRA - set(required)), _VALUES),
    )
    return st.tuples(st.just(name), st.none() | arguments)


# A machine with busy cores must not fail the test for being slow.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*SPECS, "nothing"]).flatmap(_calls))
def test_any_call_answers_json_and_errors_change_nothing(
    chosen: tuple[str, dict[str, Any] | None],
) -> None:
    name, arguments = chosen
    conn = open_shop()
    before = shop_state(conn)
    result = call(conn, ToolCall(name, arguments))
    json.dumps(result, allow_nan=False)
    valid = (
        name in SPECS
        and arguments is not None
        and jsonschema.Draft202012Validator(SPECS[name].parameters).is_valid(arguments)
    )
    if not valid:
        assert "error" in result
    if "error" in result:
        assert shop_state(conn) == before


def test_results_are_small(conn: sqlite3.Connection) -> None:
    sizes = [
        len(json.dumps(do(conn, "get_order", order_id=number))) for number in range(1001, 1171)
    ]
    assert max(sizes) < 600
    assert sum(sizes) / len(sizes) < 400
