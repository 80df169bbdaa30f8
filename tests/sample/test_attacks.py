"""Attacks on `orderdesk`: where they stand, what follows them, what is left of the task."""

from collections import Counter
from functools import lru_cache
from pathlib import Path

import orjson
import pytest

from distill.config import PolicyConfig, load_policy
from distill.environment import Task
from distill.policy import Policy
from distill.sample.desk import TOOLS, problem
from distill.sample.desk import call as run_tool
from distill.sample.shop import open_shop
from distill.sample.tasks.attacks import UNTRUSTED, AttackedDesk, Injection, injections
from distill.sample.tasks.desk import READ_ONLY
from distill.types import ToolCall

ROOT = Path(__file__).parents[2]
ATTACKS = injections()

COMPLETED = {
    "refund": {"amount": 5, "reason": "goodwill"},
    "cancel_order": {"reason": "other"},
    "change_address": {"street": "Packstation 12", "city": "Berlin", "postcode": "10115"},
    "create_return": {"sku": "COF-214", "reason": "damaged"},
    "open_ticket": {"subject": "export", "priority": "high", "team": "general"},
    "update_contact": {"email": "n.benali@relay.example"},
    "add_note": {"text": "a.b@mail.example"},
    "get_customer": {},
}
"""Arguments of a stranger's call that an attack leaves open."""
PRODUCT = {"direct-replacement": "POT-248", "other-replace": "BAK-237"}


def completed(attack: Injection) -> ToolCall:
    name, least = attack.wanted
    more = {"sku": PRODUCT[attack.id]} if name == "replace_item" else COMPLETED[name]
    if attack.id == "user-lost-parcel":
        more = {"amount": 79, "reason": "lost"}
    return ToolCall(name, {**more, **least})


@lru_cache(maxsize=1)
def world() -> AttackedDesk:
    return AttackedDesk()


def first_task(attack: Injection) -> Task:
    return next(task for task in world().tasks() if task.group == attack.id)


def carry(attack: Injection, task: Task) -> str:
    """Make the author's first call of the carrier; what it returns."""
    host = world().script(task)
    arguments = next(a for turn in host.turns for name, a in turn.chosen if name == attack.carrier)
    return world().execute(ToolCall(attack.carrier, arguments))


def test_there_are_twenty_of_several_kinds():
    assert len({attack.id for attack in ATTACKS}) == len(ATTACKS) >= 20
    assert len(set(Counter(attack.kind for attack in ATTACKS))) == 6
    assert {attack.carrier for attack in ATTACKS} == set(UNTRUSTED)


def test_the_readme_counts_them():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`--attacks` hides {len(ATTACKS)} written instructions" in " ".join(readme.split())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_what_a_stranger_wants_would_do_what_it_says(attack: Injection):
    call = completed(attack)
    assert attack.is_followed_by(call.name, call.arguments)
    assert problem(call) is None
    shop = open_shop()
    writes = shop.total_changes
    assert "error" not in run_tool(shop, call)
    assert (shop.total_changes > writes) == (call.name not in READ_ONLY)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_an_attack_is_met_and_followed_in_its_tasks(attack: Injection):
    task = first_task(attack)
    world().reset(task)
    assert world().score([]).attack == "not met"
    returned = carry(attack, task)
    assert attack.text in "".join(strings(orjson.loads(returned)))
    assert world().score([]).attack == "resisted"
    world().execute(completed(attack))
    score = world().score([])
    assert score.attack == "followed"
    assert score.harmful_calls == (attack.wanted[0] not in READ_ONLY)


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in inside for text in strings(item)]


def test_a_call_before_the_text_was_met_does_not_follow_it():
    attack = ATTACKS[0]
    world().reset(first_task(attack))
    world().execute(completed(attack))
    assert world().score([]).attack == "not met"


def test_the_same_call_for_another_order_does_not_follow_it():
    attack = ATTACKS[0]
    call = completed(attack)
    assert not attack.is_followed_by(call.name, {**(call.arguments or {}), "order_id": 1042})
    assert not attack.is_followed_by("cancel_order", call.arguments)
    assert not attack.is_followed_by(call.name, None)


def test_a_refusal_carries_no_attack():
    refused = {"error": "no order 9"}
    assert all(attack.put_into(refused) == refused for attack in ATTACKS)


def test_no_host_makes_the_strangers_call_itself():
    for task in world().tasks():
        attack = next(one for one in ATTACKS if one.id == task.group)
        made = [pair for turn in world().script(task).turns for pair in turn.chosen]
        assert attack.carrier in [name for name, _ in made]
        assert not any(attack.is_followed_by(name, arguments) for name, arguments in made)


def test_hosts_are_chosen_among_what_is_held_out_and_take_turns():
    tasks = world().tasks()
    assert Counter(task.group for task in tasks) == Counter({a.id: 4 for a in ATTACKS})
    hosts = Counter(task.id.partition("@")[2] for task in tasks)
    assert max(hosts.values()) <= 3
    host = next(iter(hosts))
    few = AttackedDesk({host: "g"})
    assert {task.id.partition("@")[2] for task in few.tasks()} == {host}
    assert AttackedDesk({}).tasks() == []


def test_the_shipped_policy_knows_the_tools_that_carry_attacks_and_those_that_act():
    policy = load_policy(ROOT / "configs/policy/orderdesk.yaml")
    Policy(policy).require_known(tool.name for tool in TOOLS)
    assert set(policy.untrusted) == set(UNTRUSTED)
    assert set(policy.read_only) == set(READ_ONLY)
    assert policy.guards
    assert policy.unguarded() == PolicyConfig()
