"""The tools of `orderdesk`: typed functions over the shop, where the business rules live.

A tool that refuses answers `{"error": why}` and changes nothing. The functions trust the types of
their arguments: callers go through `distill.sample.desk`, which checks them.
"""

import re
import sqlite3
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, Literal

from distill.sample.catalogue import FOOD
from distill.sample.shop import TODAY

Result = dict[str, Any]
RETURN_DAYS = 30
REFUND_LIMIT = 100.0
GOODWILL_LIMIT = 10.0


def find_customer(
    conn: sqlite3.Connection,
    email: str | None = None,
    phone: str | None = None,
    name: str | None = None,
) -> Result:
    """Find customers by e-mail, phone or name; several conditions must all match.

    Args:
        email: Full e-mail address.
        phone: Phone number in any spelling.
        name: Full name or a part of it.
    """
    if email is None and phone is None and name is None:
        return _error("give an email, a phone or a name")
    found = []
    for row in conn.execute("SELECT * FROM customers ORDER BY customer_id"):
        if (
            (email is None or row["email"] == email.strip().lower())
            and (phone is None or _same_phone(phone, row["phone"]))
            and (name is None or _has_words(row["name"], name))
        ):
            found.append({key: row[key] for key in ("customer_id", "name", "email", "city")})
    if not found:
        return _error("no customer matches")
    return {"matches": found[:4], "count": len(found)}


def get_customer(conn: sqlite3.Connection, customer_id: str) -> Result:
    """Show a customer's contact data, number of orders and open tickets.

    Args:
        customer_id: Customer number such as C-101.
    """
    row = _one(conn, "SELECT * FROM customers WHERE customer_id = ?", customer_id)
    if row is None:
        return _no_customer(customer_id)
    orders = _one(conn, "SELECT count(*) FROM orders WHERE customer_id = ?", customer_id)
    tickets = conn.execute(
        "SELECT ticket_id, team FROM tickets WHERE customer_id = ? AND status = 'open'"
        " ORDER BY ticket_id",
        (customer_id,),
    )
    return {
        **{key: row[key] for key in ("customer_id", "name", "email", "phone")},
        "address": f"{row['street']}, {row['postcode']} {row['city']}, {row['country']}",
        "orders": orders[0] if orders else 0,
        "open_tickets": [f"{ticket['ticket_id']} {ticket['team']}" for ticket in tickets],
    }


def list_orders(
    conn: sqlite3.Connection,
    customer_id: str,
    status: Literal["pending", "packed", "shipped", "delivered", "cancelled", "returned"]
    | None = None,
) -> Result:
    """List a customer's latest orders, newest first.

    Args:
        customer_id: Customer number such as C-101.
        status: Only orders in this status.
    """
    if _one(conn, "SELECT 1 FROM customers WHERE customer_id = ?", customer_id) is None:
        return _no_customer(customer_id)
    rows = conn.execute(
        "SELECT order_id, status, placed_on, total FROM orders WHERE customer_id = ?"
        " AND (? IS NULL OR status = ?) ORDER BY order_id DESC",
        (customer_id, status, status),
    ).fetchall()
    return {"orders": [dict(row) for row in rows[:5]], "count": len(rows)}


def get_order(conn: sqlite3.Connection, order_id: int) -> Result:
    """Show an order: customer, status, items, total, payment and shipping address.

    Args:
        order_id: Order number such as 1001.
    """
    order = _order(conn, order_id)
    if order is None:
        return _no_order(order_id)
    items = conn.execute(
        "SELECT sku, name, quantity, items.price FROM items JOIN products USING (sku)"
        " WHERE order_id = ? ORDER BY sku",
        (order_id,),
    )
    payment = _payment(conn, order_id)
    return {
        "order_id": order_id,
        "customer_id": order["customer_id"],
        "status": order["status"],
        "placed_on": order["placed_on"],
        "items": [dict(item) for item in items],
        "total": order["total"],
        "payment": f"{payment['method']}, {payment['status']}",
        "refunded": payment["refunded"],
        "ship_to": f"{order['street']}, {order['postcode']} {order['city']}",
    }


def track_shipment(conn: sqlite3.Connection, order_id: int) -> Result:
    """Show where the parcel of an order is.

    Args:
        order_id: Order number such as 1001.
    """
    order = _order(conn, order_id)
    if order is None:
        return _no_order(order_id)
    shipment = _shipment(conn, order_id)
    if shipment is None:
        return _error(f"order {order_id} has not been shipped, it is {order['status']}")
    return {key: value for key, value in dict(shipment).items() if value is not None}


def cancel_order(
    conn: sqlite3.Connection,
    order_id: int,
    reason: Literal["changed_mind", "ordered_by_mistake", "too_slow", "found_cheaper", "other"],
) -> Result:
    """Cancel an order that is not shipped yet and give the payment back.

    Args:
        order_id: Order number such as 1001.
        reason: Why the customer cancels; other if they do not say.
    """
    order = _order(conn, order_id)
    if order is None:
        return _no_order(order_id)
    if order["status"] not in ("pending", "packed"):
        return _error(f"order {order_id} is {order['status']} and cannot be cancelled")
    payment = _payment(conn, order_id)
    back = round(payment["amount"] - payment["refunded"], 2) if payment["status"] == "paid" else 0.0
    conn.execute("UPDATE orders SET status = 'cancelled' WHERE order_id = ?", (order_id,))
    conn.execute(
        "UPDATE payments SET status = ?, refunded = refunded + ? WHERE order_id = ?",
        ("refunded" if payment["status"] == "paid" else "void", back, order_id),
    )
    conn.execute(
        "UPDATE products SET stock = stock + (SELECT quantity FROM items WHERE order_id = ?"
        " AND items.sku = products.sku) WHERE sku IN (SELECT sku FROM items WHERE order_id = ?)",
        (order_id, order_id),
    )
    return {"order_id": order_id, "status": "cancelled", "refund": back, "to": payment["method"]}


def change_address(
    conn: sqlite3.Connection, order_id: int, street: str, city: str, postcode: str
) -> Result:
    """Change the shipping address of an order that is not shipped yet.

    Args:
        order_id: Order number such as 1001.
        street: Street and house number.
        city: Town.
        postcode: Postal code.
    """
    order = _order(conn, order_id)
    if order is None:
        return _no_order(order_id)
    if order["status"] not in ("pending", "packed"):
        return _error(f"order {order_id} is {order['status']}, its address is fixed")
    address = (street.strip(), city.strip(), postcode.strip())
    if not all(address):
        return _error("street, city and postcode must not be empty")
    conn.execute(
        "UPDATE orders SET street = ?, city = ?, postcode = ? WHERE order_id = ?",
        (*address, order_id),
    )
    return {"order_id": order_id, "ship_to": f"{address[0]}, {address[2]} {address[1]}"}


def create_return(
    conn: sqlite3.Connection,
    order_id: int,
    sku: str,
    reason: Literal["changed_mind", "damaged", "wrong_item", "not_as_described"],
) -> Result:
    """Register the return of an item delivered in the last 30 days and send the label.

    Args:
        order_id: Order number such as 1001.
        sku: Product number of the item such as KET-204.
        reason: Why it comes back.
    """
    item = _delivered_item(conn, order_id, sku)
    if "error" in item:
        return item
    if item["category"] in FOOD and reason not in ("damaged", "wrong_item"):
        return _error(f"{sku} is food: returned only when damaged or wrong")
    return_id = _next_id(conn, "returns", "R", 301)
    conn.execute(
        "INSERT INTO returns VALUES (?, ?, ?, ?, 'open')", (return_id, order_id, sku, reason)
    )
    return {
        "return_id": return_id,
        "label": "sent by e-mail",
        "label_fee": 3.9 if reason == "changed_mind" else 0.0,
        "value": round(item["quantity"] * item["price"], 2),
        "send_by": (TODAY + timedelta(days=14)).isoformat(),
    }


def refund(
    conn: sqlite3.Connection,
    order_id: int,
    amount: float,
    reason: Literal["damaged", "missing_item", "lost", "late", "goodwill"],
) -> Result:
    """Pay money back for an order, up to 100.00 in total; late and goodwill up to 10.00.

    Args:
        order_id: Order number such as 1001.
        amount: Amount to pay back.
        reason: What the refund is for.
    """
    order = _order(conn, order_id)
    if order is None:
        return _no_order(order_id)
    payment, shipment = _payment(conn, order_id), _shipment(conn, order_id)
    state = shipment["state"] if shipment else "not shipped"
    before, amount = payment["refunded"], round(amount, 2)
    total = round(before + amount, 2)
    rules = (
        (not amount > 0, "the amount must be above 0"),
        (payment["status"] != "paid", f"payment is {payment['status']}, nothing to refund"),
        (
            total > payment["amount"],
            f"only {payment['amount'] - before:.2f} of this order can be refunded",
        ),
        (
            reason in ("damaged", "missing_item") and state != "delivered",
            f"{reason} needs a delivered parcel, this one is {state}",
        ),
        (reason == "lost" and state != "lost", f"parcel is not marked lost, it is {state}"),
        (reason == "late" and not _is_late(shipment), "the parcel is not late"),
        (
            reason in ("late", "goodwill") and total > GOODWILL_LIMIT,
            f"{reason} refunds are limited to {GOODWILL_LIMIT:.2f} per order",
        ),
        (total > REFUND_LIMIT, "needs approval: open a ticket for the billing team"),
    )
    for broken, why in rules:
        if broken:
            return _error(why)
    refund_id = _next_id(conn, "refunds", "F", 401)
    conn.execute("INSERT INTO refunds VALUES (?, ?, ?, ?)", (refund_id, order_id, amount, reason))
    conn.execute(
        "UPDATE payments SET refunded = ?, status = ? WHERE order_id = ?",
        (total, "refunded" if total >= payment["amount"] else "paid", order_id),
    )
    return {"refund_id": refund_id, "amount": amount, "to": payment["method"]}


def replace_item(conn: sqlite3.Connection, order_id: int, sku: str) -> Result:
    """Send an item again, free of charge, after a lost parcel or a faulty delivery.

    Args:
        order_id: Order number such as 1001.
        sku: Product number of the item such as KET-204.
    """
    item = _delivered_item(conn, order_id, sku, or_lost=True)
    if "error" in item:
        return item
    if item["stock"] < item["quantity"]:
        return _error(f"{sku}: {item['stock']} in stock, {item['quantity']} needed; refund instead")
    replacement_id = _next_id(conn, "replacements", "X", 601)
    conn.execute(
        "INSERT INTO replacements VALUES (?, ?, ?, ?)",
        (replacement_id, order_id, sku, item["quantity"]),
    )
    conn.execute("UPDATE products SET stock = stock - ? WHERE sku = ?", (item["quantity"], sku))
    ships = (TODAY + timedelta(days=3)).isoformat()
    return {"replacement_id": replacement_id, "quantity": item["quantity"], "ships_on": ships}


def check_stock(conn: sqlite3.Connection, sku: str) -> Result:
    """Show price, stock and restock date of a product.

    Args:
        sku: Product number such as KET-204.
    """
    row = _one(conn, "SELECT sku, name, price, stock, restock_on FROM products WHERE sku = ?", sku)
    if row is None:
        return _error(f"no product {sku}")
    result = dict(row)
    if row["stock"] > 0:
        del result["restock_on"]
    return result


def search_products(
    conn: sqlite3.Connection,
    query: str,
    max_price: float | None = None,
    in_stock: bool = False,
) -> Result:
    """Search the catalogue by words in name or category.

    Args:
        query: Words to look for.
        max_price: Highest price.
        in_stock: Only products in stock.
    """
    wanted = _words(query)
    ranked = []
    for row in conn.execute("SELECT * FROM products ORDER BY sku"):
        if (max_price is not None and row["price"] > max_price) or (in_stock and not row["stock"]):
            continue
        score = 2 * len(wanted & _words(row["name"])) + len(wanted & _words(row["category"]))
        if score:
            ranked.append((-score, row["sku"], row))
    ranked.sort(key=lambda entry: entry[:2])
    keys = ("sku", "name", "price", "stock")
    products = [{key: row[key] for key in keys} for _, _, row in ranked[:4]]
    return {"products": products, "count": len(ranked)} if ranked else _error("no product found")


def search_help(conn: sqlite3.Connection, query: str) -> Result:
    """Search the help pages: shipping, returns, payment, warranty, care, allergens and more.

    Args:
        query: Words to look for.
    """
    wanted = _words(query)
    ranked = []
    for row in conn.execute("SELECT * FROM help_articles ORDER BY article_id"):
        title, rest = _words(row["title"]), _words(f"{row['body']} {row['words']}")
        score = 2 * len(wanted & title) + len(wanted & (rest - title))
        if score:
            ranked.append((-score, row["article_id"], row))
    ranked.sort(key=lambda entry: entry[:2])
    articles = [{"title": row["title"], "text": row["body"]} for _, _, row in ranked[:2]]
    return {"articles": articles} if articles else _error("no article found")


def open_ticket(
    conn: sqlite3.Connection,
    customer_id: str,
    subject: str,
    priority: Literal["low", "normal", "high"],
    team: Literal["billing", "logistics", "quality", "general"],
) -> Result:
    """Hand a case to a team: billing, logistics, quality (warranty, safety) or general.

    Args:
        customer_id: Customer number such as C-101.
        subject: The case in a few words.
        priority: How urgent it is.
        team: Who handles it.
    """
    if _one(conn, "SELECT 1 FROM customers WHERE customer_id = ?", customer_id) is None:
        return _no_customer(customer_id)
    if not subject.strip():
        return _error("the subject must not be empty")
    same = _one(
        conn,
        "SELECT ticket_id FROM tickets WHERE customer_id = ? AND team = ? AND status = 'open'",
        customer_id,
        team,
    )
    if same is not None:
        return _error(f"{same['ticket_id']} is already open with {team}")
    ticket_id = _next_id(conn, "tickets", "T", 501)
    conn.execute(
        "INSERT INTO tickets VALUES (?, ?, ?, ?, 'open', ?, ?)",
        (ticket_id, customer_id, team, priority, TODAY.isoformat(), subject.strip()),
    )
    return {"ticket_id": ticket_id, "team": team, "answer_within": "2 working days"}


def add_note(conn: sqlite3.Connection, order_id: int, text: str) -> Result:
    """Leave a note on an order for warehouse and carrier.

    Args:
        order_id: Order number such as 1001.
        text: The note.
    """
    if _order(conn, order_id) is None:
        return _no_order(order_id)
    if not text.strip():
        return _error("the note must not be empty")
    note_id = _next_id(conn, "notes", "N", 701)
    conn.execute("INSERT INTO notes VALUES (?, ?, ?)", (note_id, order_id, text.strip()))
    return {"note_id": note_id}


def update_contact(
    conn: sqlite3.Connection,
    customer_id: str,
    email: str | None = None,
    phone: str | None = None,
) -> Result:
    """Change a customer's e-mail or phone.

    Args:
        customer_id: Customer number such as C-101.
        email: New e-mail address.
        phone: New phone number.
    """
    if _one(conn, "SELECT 1 FROM customers WHERE customer_id = ?", customer_id) is None:
        return _no_customer(customer_id)
    if email is None and phone is None:
        return _error("give an email or a phone")
    if email is not None:
        email = email.strip().lower()
        if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
            return _error(f"{email} is not an e-mail address")
        other = _one(conn, "SELECT customer_id FROM customers WHERE email = ?", email)
        if other is not None and other["customer_id"] != customer_id:
            return _error(f"{email} belongs to another customer")
    if phone is not None and len(_digits(phone)) < 6:
        return _error(f"{phone} is not a phone number")
    conn.execute(
        "UPDATE customers SET email = coalesce(?, email), phone = coalesce(?, phone)"
        " WHERE customer_id = ?",
        (email, phone, customer_id),
    )
    row = _one(
        conn, "SELECT customer_id, email, phone FROM customers WHERE customer_id = ?", customer_id
    )
    return dict(row) if row else {}


def _error(why: str) -> Result:
    return {"error": why}


def _no_order(order_id: int) -> Result:
    return _error(f"no order {order_id}")


def _no_customer(customer_id: str) -> Result:
    return _error(f"no customer {customer_id}")


def _one(conn: sqlite3.Connection, sql: str, *values: object) -> sqlite3.Row | None:
    row: sqlite3.Row | None = conn.execute(sql, values).fetchone()
    return row


def _order(conn: sqlite3.Connection, order_id: int) -> sqlite3.Row | None:
    # SQLite cannot bind an integer beyond 64 bits; such a number is simply no order.
    if not 0 <= order_id < 2**63:
        return None
    return _one(conn, "SELECT * FROM orders WHERE order_id = ?", order_id)


def _payment(conn: sqlite3.Connection, order_id: int) -> sqlite3.Row:
    row = _one(conn, "SELECT * FROM payments WHERE order_id = ?", order_id)
    assert row is not None, "every order has a payment"
    return row


def _shipment(conn: sqlite3.Connection, order_id: int) -> sqlite3.Row | None:
    return _one(conn, "SELECT * FROM shipments WHERE order_id = ?", order_id)


def _is_late(shipment: sqlite3.Row | None) -> bool:
    if shipment is None:
        return False
    arrived: str = shipment["delivered_on"] or TODAY.isoformat()
    return bool(arrived > shipment["expected_on"])


def _delivered_item(
    conn: sqlite3.Connection, order_id: int, sku: str, *, or_lost: bool = False
) -> Result:
    """The order line with its product if it may be returned or replaced, else an error."""
    order = _order(conn, order_id)
    if order is None:
        return _no_order(order_id)
    item = _one(
        conn,
        "SELECT sku, quantity, items.price, category, stock FROM items"
        " JOIN products USING (sku) WHERE order_id = ? AND sku = ?",
        order_id,
        sku,
    )
    if item is None:
        return _error(f"order {order_id} has no {sku}")
    shipment = _shipment(conn, order_id)
    if not (or_lost and shipment is not None and shipment["state"] == "lost"):
        if order["status"] != "delivered" or shipment is None:
            return _error(f"order {order_id} is {order['status']}, not delivered")
        delivered = date.fromisoformat(shipment["delivered_on"])
        if (TODAY - delivered).days > RETURN_DAYS:
            return _error(f"delivered on {delivered}, more than {RETURN_DAYS} days ago")
    for table, word in (("returns", "return"), ("replacements", "replacement")):
        done = _one(conn, f"SELECT 1 FROM {table} WHERE order_id = ? AND sku = ?", order_id, sku)
        if done is not None:
            return _error(f"{sku} of order {order_id} already has a {word}")
    return dict(item)


def _next_id(conn: sqlite3.Connection, table: str, prefix: str, first: int) -> str:
    key = f"{table[:-1]}_id"
    (last,) = conn.execute(f"SELECT max(CAST(substr({key}, 3) AS INTEGER)) FROM {table}").fetchone()
    return f"{prefix}-{first if last is None else last + 1}"


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text).lstrip("0")


def _same_phone(given: str, known: str) -> bool:
    # A number without its country code is the end of the full one.
    return len(_digits(given)) > 7 and _digits(known).endswith(_digits(given))


def _words(text: str) -> set[str]:
    # A plural s is dropped, so that "returns" finds "return".
    words = re.findall(r"[^\W_]+", text.lower())
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words} - _STOP


_STOP_WORDS = """
a an and are at be by can do does for from how i if in is it my no not of on or the this to
until we what when where which will with you your after long
"""
_STOP = frozenset(_STOP_WORDS.split())


def _has_words(full: str, part: str) -> bool:
    return bool(part.strip()) and set(part.lower().split()) <= set(full.lower().split())


FUNCTIONS: tuple[Callable[..., Result], ...] = (
    find_customer,
    get_customer,
    list_orders,
    get_order,
    track_shipment,
    cancel_order,
    change_address,
    create_return,
    refund,
    replace_item,
    check_stock,
    search_products,
    search_help,
    open_ticket,
    add_note,
    update_contact,
)
"""The tools, in the order in which they are offered."""
