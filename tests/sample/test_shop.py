"""The shop: the same every time, rich enough, and `diff` sees every change."""

import json
import re

from distill.sample.replay import load_conversations
from distill.sample.shop import KEYS, TODAY, _dump, diff, open_shop, shop_state


def test_fresh_shops_are_identical_and_independent() -> None:
    first, second = open_shop(), open_shop()
    assert list(first.iterdump()) == list(second.iterdump())
    first.execute("UPDATE products SET stock = 0")
    assert shop_state(open_shop()) == shop_state(second)


def test_every_table_has_its_key_and_size() -> None:
    state = shop_state(open_shop())
    tables = open_shop().execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    assert {name for (name,) in tables} == set(KEYS)
    sizes = {table: len(rows) for table, rows in state.items()}
    assert (sizes["customers"], sizes["products"], sizes["orders"]) == (60, 90, 170)
    assert (sizes["help_articles"], sizes["tickets"]) == (25, 15)
    assert (min(state["orders"]), max(state["orders"])) == ("1001", "1170")


def test_every_case_occurs_more_than_once() -> None:
    conn = open_shop()
    for column, table, kinds in (
        ("status", "orders", 6),
        ("state", "shipments", 6),
        ("status", "payments", 4),
        ("method", "payments", 4),
        ("status", "tickets", 2),
    ):
        counts = conn.execute(f"SELECT {column}, count(*) FROM {table} GROUP BY 1").fetchall()
        assert len(counts) == kinds
        assert min(count for _, count in counts) >= 2


def test_orders_make_sense() -> None:
    conn = open_shop()
    today = TODAY.isoformat()
    assert not conn.execute(
        "SELECT 1 FROM shipments JOIN orders USING (order_id) WHERE shipped_on < placed_on"
        " OR shipped_on > ? OR delivered_on > ? OR delivered_on < shipped_on",
        (today, today),
    ).fetchall()
    assert not conn.execute(
        "SELECT 1 FROM orders LEFT JOIN shipments USING (order_id)"
        " WHERE (status IN ('shipped', 'delivered', 'returned')) != (state IS NOT NULL)"
    ).fetchall()
    assert not conn.execute(
        "SELECT 1 FROM orders JOIN (SELECT order_id, sum(quantity * price) AS goods FROM items"
        " GROUP BY order_id) USING (order_id)"
        " WHERE abs(total - goods - (goods < 60) * 4.9) > 0.001"
    ).fetchall()


# National numbers without the leading 0, in ranges that are kept free for fiction.
FICTION = {
    "44": r"7700900\d{3}",  # Ofcom
    "49": r"(3023125|4066969|2214710|8999998)\d{3}",  # Bundesnetzagentur
    "33": r"(19900|26191|46571)\d{4}",  # ARCEP
    "46": r"(4062804|3139006|8465004)\d{2}",  # PTS
    "353": r"2091\d{5}",  # ComReg
}


def test_people_cannot_be_reached() -> None:
    rows = open_shop().execute("SELECT email, phone FROM customers").fetchall()
    assert all(row["email"].endswith(".example") for row in rows)
    assert len({row["email"] for row in rows}) == len(rows)
    free = "|".join(rf"\+{code}{number}" for code, number in FICTION.items())
    phones = [re.sub(r"\s", "", row["phone"]) for row in rows]
    assert [phone for phone in phones if not re.fullmatch(free, phone)] == []


def test_nobody_in_a_conversation_can_be_reached() -> None:
    free = "|".join(rf"(\+{code}|0){number}" for code, number in FICTION.items())
    for conversation in load_conversations():
        domains = re.findall(r"@([\w-]+(?:\.[\w-]+)+)", conversation.model_dump_json())
        assert all(domain.endswith(".example") for domain in domains), conversation.id
        for turn in conversation.turns:
            for _, arguments in turn.chosen:
                phone = re.sub(r"[\s-]", "", arguments.get("phone", ""))
                # A slip of the fingers is too short to ring, or goes on after a free number.
                assert len(phone) < 7 or re.match(free, phone), conversation.id


def test_diff_names_cells_new_rows_and_deleted_rows() -> None:
    conn = open_shop()
    before = shop_state(conn)
    assert diff(before, shop_state(conn)) == {}
    conn.execute("UPDATE products SET stock = 99 WHERE sku = 'KET-204'")
    conn.execute("INSERT INTO notes VALUES ('N-701', 1001, 'x')")
    conn.execute("DELETE FROM tickets WHERE ticket_id = 'T-486'")
    conn.execute("UPDATE items SET quantity = 9 WHERE order_id = 1115 AND sku = 'POT-243'")
    changes = diff(before, shop_state(conn))
    assert changes == {
        "items.1115/POT-243.quantity": 9,
        "notes.N-701": {"note_id": "N-701", "order_id": 1001, "text": "x"},
        "products.KET-204.stock": 99,
        "tickets.T-486": None,
    }
    assert json.loads(json.dumps(changes)) == changes


def test_the_dump_shows_every_order() -> None:
    lines = _dump().splitlines()
    assert sum(line[:4].isdigit() and " | C-" in line for line in lines) == 170
