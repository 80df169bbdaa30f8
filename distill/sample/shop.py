"""The shop behind `orderdesk`: a seeded SQLite database, the same every time it is opened.

`python -m distill.sample.shop` prints all of it for people who write conversations.
"""

import random
import sqlite3
import unicodedata
from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from distill.sample import catalogue

_T = TypeVar("_T")

SHOP_NAME = "Kettle & Rye"
TODAY = date(2025, 3, 14)
_SEED = 20250314
_SHIPPING_FEE, _FREE_FROM = 4.90, 60.0

# table -> the columns of its primary key
KEYS: dict[str, tuple[str, ...]] = {
    "customers": ("customer_id",),
    "products": ("sku",),
    "orders": ("order_id",),
    "items": ("order_id", "sku"),
    "payments": ("order_id",),
    "shipments": ("order_id",),
    "returns": ("return_id",),
    "refunds": ("refund_id",),
    "replacements": ("replacement_id",),
    "tickets": ("ticket_id",),
    "notes": ("note_id",),
    "help_articles": ("article_id",),
}

_SCHEMA = """
CREATE TABLE customers (customer_id TEXT PRIMARY KEY, name TEXT, email TEXT, phone TEXT,
    street TEXT, city TEXT, postcode TEXT, country TEXT);
CREATE TABLE products (sku TEXT PRIMARY KEY, name TEXT, category TEXT, price REAL,
    stock INTEGER, restock_on TEXT);
CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer_id TEXT, status TEXT,
    placed_on TEXT, street TEXT, city TEXT, postcode TEXT, total REAL);
CREATE TABLE items (order_id INTEGER, sku TEXT, quantity INTEGER, price REAL,
    PRIMARY KEY (order_id, sku));
CREATE TABLE payments (order_id INTEGER PRIMARY KEY, method TEXT, status TEXT,
    amount REAL, refunded REAL);
CREATE TABLE shipments (order_id INTEGER PRIMARY KEY, carrier TEXT, tracking TEXT,
    state TEXT, shipped_on TEXT, expected_on TEXT, delivered_on TEXT);
CREATE TABLE returns (return_id TEXT PRIMARY KEY, order_id INTEGER, sku TEXT, reason TEXT,
    status TEXT);
CREATE TABLE refunds (refund_id TEXT PRIMARY KEY, order_id INTEGER, amount REAL, reason TEXT);
CREATE TABLE replacements (replacement_id TEXT PRIMARY KEY, order_id INTEGER, sku TEXT,
    quantity INTEGER);
CREATE TABLE tickets (ticket_id TEXT PRIMARY KEY, customer_id TEXT, team TEXT, priority TEXT,
    status TEXT, opened_on TEXT, subject TEXT);
CREATE TABLE notes (note_id TEXT PRIMARY KEY, order_id INTEGER, text TEXT);
CREATE TABLE help_articles (article_id TEXT PRIMARY KEY, title TEXT, body TEXT, words TEXT);
"""


class _Dice(random.Random):
    """Only `random()` is promised to be the same in every Python, so all else builds on it."""

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def pick(self, options: Sequence[_T]) -> _T:
        return options[self.below(len(options))]

    def weighted(self, **shares: int) -> str:
        return self.pick([name for name, share in shares.items() for _ in range(share)])

    def fill(self, pattern: str) -> str:
        return "".join(str(self.below(10)) if c == "#" else c for c in pattern)


def open_shop() -> sqlite3.Connection:
    """A fresh in-memory shop; every call gives an identical one."""
    conn = sqlite3.connect(":memory:")
    conn.deserialize(_image())
    conn.row_factory = sqlite3.Row
    return conn


def shop_state(conn: sqlite3.Connection) -> dict[str, dict[str, dict[str, Any]]]:
    """All rows as table -> primary key -> column -> value."""
    state: dict[str, dict[str, dict[str, Any]]] = {}
    for table, keys in KEYS.items():
        rows = conn.execute(f"SELECT * FROM {table} ORDER BY {', '.join(keys)}")
        state[table] = {"/".join(str(row[key]) for key in keys): dict(row) for row in rows}
    return state


def diff(
    before: dict[str, dict[str, dict[str, Any]]], after: dict[str, dict[str, dict[str, Any]]]
) -> dict[str, object]:
    """What changed: `table.key.column` -> new value, `table.key` -> a new row (None: deleted)."""
    changes: dict[str, object] = {}
    for table, old in before.items():
        new = after[table]
        for key in sorted(old.keys() | new.keys()):
            if key not in new:
                changes[f"{table}.{key}"] = None
            elif key not in old:
                changes[f"{table}.{key}"] = new[key]
            else:
                changes.update(
                    (f"{table}.{key}.{column}", value)
                    for column, value in new[key].items()
                    if value != old[key][column]
                )
    return changes


@lru_cache(maxsize=1)
def _image() -> bytes:
    conn = sqlite3.connect(":memory:")
    conn.row_factory = sqlite3.Row
    conn.executescript(_SCHEMA)
    dice = _Dice(_SEED)
    _add_products(conn)
    _add_customers(conn, dice)
    for number in range(170):
        _add_order(conn, dice, number)
    _add_returns(conn)
    _add_texts(conn)
    conn.commit()
    return conn.serialize()


def _lines(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.strip().splitlines()]


def _insert(conn: sqlite3.Connection, table: str, *values: object) -> None:
    conn.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def _add_products(conn: sqlite3.Connection) -> None:
    for sku, name, price, stock, *restock in _lines(catalogue.PRODUCTS):
        category = catalogue.CATEGORIES[sku[:3]]
        restock_on = restock[0] if restock else None
        _insert(conn, "products", sku, name, category, float(price), int(stock), restock_on)


def _add_customers(conn: sqlite3.Connection, dice: _Dice) -> None:
    places = {place[0]: place[1:] for place in _lines(catalogue.PLACES)}
    taken: set[str] = set()
    for number, (name, city) in enumerate(_lines(catalogue.PEOPLE), start=101):
        country, postcode, phone, streets = places[city]
        house = 1 + dice.below(120)
        street = dice.pick(streets.split(";"))
        address = f"{street} {house}" if country in ("DE", "SE") else f"{house} {street}"
        email = _email(name, dice.pick(("postbox.example", "mail.example", "inbox.example")))
        if email in taken:
            email = email.replace("@", f"{number}@")
        taken.add(email)
        _insert(
            conn, "customers", f"C-{number}", name, email, dice.fill(phone),
            address, city, dice.fill(postcode), country,
        )  # fmt: skip


def _email(name: str, domain: str) -> str:
    plain = unicodedata.normalize("NFKD", name.lower().replace("ø", "o").replace("'", ""))
    words = "".join(c for c in plain if c.isascii()).split()
    return f"{words[0]}.{words[-1]}@{domain}"


def _placed_on(number: int) -> date:
    # Old orders (no return possible), recent ones, and a crowd of the last ten days.
    if number < 60:
        return date(2024, 11, 18) + timedelta(days=number * 80 // 60)
    if number < 110:
        return date(2025, 2, 6) + timedelta(days=(number - 60) * 26 // 50)
    return TODAY - timedelta(days=int(11 * ((170 - number) / 60) ** 1.5))


def _add_order(conn: sqlite3.Connection, dice: _Dice, number: int) -> None:
    order_id = 1001 + number
    placed = _placed_on(number)
    age = (TODAY - placed).days
    if age >= 12:
        status = dice.weighted(delivered=15, cancelled=2, returned=2, shipped=2)
    elif age >= 3:
        status = dice.weighted(shipped=12, delivered=5, cancelled=1, packed=3, pending=3)
    else:
        status = dice.weighted(pending=9, packed=7, cancelled=1, shipped=1)
    # The power makes some customers regulars and leaves a few without any order.
    customers = conn.execute("SELECT * FROM customers ORDER BY customer_id").fetchall()
    customer = customers[(int(dice.random() ** 1.6 * 60) * 7) % 60]
    # Gift cards are sold by e-mail, so no parcel holds one; nobody orders only wrapping.
    products = conn.execute(
        "SELECT * FROM products WHERE name NOT LIKE 'Gift %' ORDER BY sku"
    ).fetchall()
    subtotal = 0.0
    chosen: set[str] = set()
    for _ in range(int(dice.weighted(**{"1": 5, "2": 4, "3": 2}))):
        product = dice.pick(products)
        if product["sku"] in chosen:
            continue
        chosen.add(product["sku"])
        quantity = 1 if product["price"] > 60 else int(dice.weighted(**{"1": 14, "2": 6, "4": 1}))
        _insert(conn, "items", order_id, product["sku"], quantity, product["price"])
        subtotal += quantity * product["price"]
    total = round(subtotal + (0 if subtotal >= _FREE_FROM else _SHIPPING_FEE), 2)
    _insert(
        conn, "orders", order_id, customer["customer_id"], status, placed.isoformat(),
        customer["street"], customer["city"], customer["postcode"], total,
    )  # fmt: skip
    _add_payment(conn, dice, order_id, status, total)
    if status in ("shipped", "delivered", "returned"):
        _add_shipment(conn, dice, order_id, status, placed)


def _add_payment(
    conn: sqlite3.Connection, dice: _Dice, order_id: int, status: str, total: float
) -> None:
    method = dice.weighted(**{"card": 9, "paypal": 5, "invoice": 4, "gift card": 2})
    paid = "paid"
    if status in ("cancelled", "returned"):
        paid = "refunded"
    elif method == "invoice" and dice.random() < 0.7:
        paid = "pending"
    elif status == "pending" and method != "gift card":
        paid = dice.weighted(paid=5, failed=3, pending=2)
    refunded = total if paid == "refunded" else 0.0
    _insert(conn, "payments", order_id, method, paid, total, refunded)


def _add_shipment(
    conn: sqlite3.Connection, dice: _Dice, order_id: int, status: str, placed: date
) -> None:
    shipped = min(placed + timedelta(days=dice.below(3)), TODAY)
    expected = shipped + timedelta(days=2 + dice.below(4))
    delivered = None
    state = "delivered"
    if status == "shipped":
        if (TODAY - placed).days >= 12:
            state = dice.weighted(lost=2, delayed=1)
        elif expected < TODAY:
            state = dice.weighted(lost=3, delayed=5, at_pickup_point=2)
        else:
            state = dice.weighted(in_transit=4, out_for_delivery=3, delayed=1)
    else:
        delivered = min(expected + timedelta(days=dice.below(3) - 1), TODAY)
    carrier, prefix = dice.pick((("Swift Parcel", "SP"), ("NordPost", "NP"), ("GreenVan", "GV")))
    _insert(
        conn, "shipments", order_id, carrier, prefix + dice.fill("########"),
        state.replace("_", " "), shipped.isoformat(), expected.isoformat(),
        delivered and delivered.isoformat(),
    )  # fmt: skip


def _add_returns(conn: sqlite3.Connection) -> None:
    rows = conn.execute(
        "SELECT order_id, sku, category FROM orders NATURAL JOIN items JOIN products USING (sku)"
        " WHERE status = 'returned' ORDER BY order_id, sku"
    ).fetchall()
    for number, (order_id, sku, category) in enumerate(rows, start=301 - len(rows)):
        reason = "damaged" if category in catalogue.FOOD else "changed_mind"
        _insert(conn, "returns", f"R-{number}", order_id, sku, reason, "received")


def _add_texts(conn: sqlite3.Connection) -> None:
    for number, (title, body, words) in enumerate(_lines(catalogue.HELP), start=1):
        _insert(conn, "help_articles", f"H-{number:02}", title, body, words)
    rows = _lines(catalogue.TICKETS)
    first = 501 - len(rows)
    for number, (customer_id, team, priority, status, opened, subject) in enumerate(rows, first):
        _insert(
            conn, "tickets", f"T-{number}", customer_id, team, priority, status, opened, subject
        )


def _dump() -> str:
    conn = open_shop()
    lines = [f"{SHOP_NAME}, {TODAY.isoformat()}"]
    for table, rows in shop_state(conn).items():
        if rows and table not in ("items", "payments", "shipments"):
            lines.append(f"\n# {table}: {' | '.join(next(iter(rows.values())))}")
        for key, row in rows.items():
            if table in ("items", "payments", "shipments"):
                continue
            lines.append(" | ".join("-" if cell is None else str(cell) for cell in row.values()))
            if table == "orders":
                lines[-1] += "".join(_order_tail(conn, int(key)))
    return "\n".join(lines)


def _order_tail(conn: sqlite3.Connection, order_id: int) -> list[str]:
    """The lines that belong to an order, so that a dump shows it in one place."""
    items = conn.execute("SELECT * FROM items WHERE order_id = ?", (order_id,)).fetchall()
    pay = conn.execute("SELECT * FROM payments WHERE order_id = ?", (order_id,)).fetchone()
    sent = conn.execute("SELECT * FROM shipments WHERE order_id = ?", (order_id,)).fetchone()
    tail = [" | " + ", ".join(f"{row['quantity']}x {row['sku']}" for row in items)]
    tail.append(f" | {pay['method']} {pay['status']}")
    if sent:
        when = f"delivered {sent['delivered_on']}" if sent["delivered_on"] else sent["state"]
        tail.append(f" | {sent['carrier']} {sent['tracking']}, {when}, due {sent['expected_on']}")
    return tail


if __name__ == "__main__":
    print(_dump())
