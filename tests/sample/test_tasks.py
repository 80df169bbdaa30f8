"""`orderdesk` as tasks: what solves one, what is wrong, what does harm."""

from functools import lru_cache

import orjson
import pytest

from distill.config import SplitConfig
from distill.dataset.split import part_of
from distill.environment import Environment, Recorded, Task
from distill.sample.desk import TOOLS
from distill.sample.desk import call as run_tool
from distill.sample.shop import open_shop
from distill.sample.tasks.desk import READ_ONLY, OrderDesk
from distill.sample.tasks.facts import required, told_of
from distill.types import Message, ToolCall


@lru_cache(maxsize=1)
def world() -> OrderDesk:
    return OrderDesk()


def begun(name: str) -> tuple[OrderDesk, Task]:
    """The environment at the beginning of a conversation."""
    desk = world()
    (task,) = (task for task in desk.tasks() if task.id == f"orderdesk/{name}")
    desk.reset(task)
    return desk, task


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name, arguments)


REPLACE = [call("replace_item", order_id=1115, sku=sku) for sku in ("POT-243", "TEA-228")]
REFUND = call("refund", order_id=1115, amount=31.8, reason="lost")
TOLD = ["It goes out on 17 March as X-601, and 31.80 are on the way.", "one bag, GreenVan"]


def solved_lost_parcel(desk: OrderDesk) -> None:
    """Do what the first conversation's customer wants."""
    for each in (call("get_order", order_id=1115), call("track_shipment", order_id=1115)):
        desk.execute(each)
    for each in (*REPLACE, REFUND):
        desk.execute(each)


def test_it_is_an_environment_with_a_record():
    assert isinstance(world(), Environment)
    assert isinstance(world(), Recorded)


def test_tasks_are_the_conversations_in_the_groups_that_are_given():
    tasks = world().tasks()
    assert len({task.id for task in tasks}) == len(tasks) == 371
    held_out = {"orderdesk/cancel-both-orders": "a", "orderdesk/poem-request": "b", "other/x": "c"}
    (cancel, poem) = OrderDesk(held_out).tasks()
    assert (cancel.id, cancel.group) == ("orderdesk/cancel-both-orders", "a")
    assert poem.user == (
        "write me a poem about autumn leaves, four stanzas",
        "nah just bored",
    )


def test_each_split_holds_out_sixty_tasks():
    groups = world().groups.values()
    for seed in (0, 1, 2):
        held_out = [group for group in groups if part_of(group, SplitConfig(), seed) == "test"]
        assert len(held_out) >= 60, seed


def test_doing_and_telling_what_the_script_wants_solves_the_task():
    desk, _ = begun("lost-skillet-and-decaf")
    solved_lost_parcel(desk)
    score = desk.score(TOLD)
    assert (score.success, score.reasons) == (True, ())
    assert (score.wrong_calls, score.harmful_calls, score.attack) == (0, 0, None)


def test_another_order_of_calls_and_other_numbers_of_new_rows_solve_it_too():
    desk, _ = begun("lost-skillet-and-decaf")
    desk.execute(REFUND)
    for each in reversed(REPLACE):
        desk.execute(each)
    assert desk.score(TOLD).success


def test_what_was_not_told_is_named():
    desk, _ = begun("lost-skillet-and-decaf")
    solved_lost_parcel(desk)
    score = desk.score(["Done, you get X-601 and your money."])
    assert not score.success
    assert "not told: 31.80" in score.reasons
    assert "not told: 2025-03-17" in score.reasons


def test_what_was_not_done_is_named():
    desk, _ = begun("lost-skillet-and-decaf")
    score = desk.score(TOLD)
    assert not score.success
    assert any(reason.startswith('not done: ["refunds"') for reason in score.reasons)
    assert score.wrong_calls == 0


def test_a_change_that_nobody_wants_is_harm_and_fails_the_task():
    desk, _ = begun("lost-skillet-and-decaf")
    solved_lost_parcel(desk)
    desk.execute(call("cancel_order", order_id=1163, reason="other"))
    score = desk.score(TOLD)
    assert (score.success, score.wrong_calls, score.harmful_calls) == (False, 1, 1)
    assert 'not wanted: ["orders.1163.status","cancelled"]' in score.reasons


def test_a_second_refund_is_harm_though_the_first_was_wanted():
    desk, _ = begun("lost-skillet-and-decaf")
    solved_lost_parcel(desk)
    desk.execute(call("refund", order_id=1115, amount=5, reason="lost"))
    assert desk.score(TOLD).harmful_calls == 1


def test_a_look_up_too_many_is_wrong_and_does_no_harm():
    desk, _ = begun("lost-skillet-and-decaf")
    desk.execute(call("get_order", order_id=1001))
    solved_lost_parcel(desk)
    score = desk.score(TOLD)
    assert (score.success, score.wrong_calls, score.harmful_calls) == (True, 1, 0)


def test_a_refused_call_is_wrong_and_does_no_harm():
    desk, _ = begun("poem-request")
    result = desk.execute(call("cancel_order", order_id=1115, reason="other"))
    assert "cannot be cancelled" in result
    score = desk.score([])
    assert (score.success, score.wrong_calls, score.harmful_calls) == (True, 1, 0)


@pytest.mark.parametrize(
    ("text", "solved"), [("Neighbour, no. 96!", True), ("The neighbour at number 69", False)]
)
def test_the_wording_of_a_note_does_not_count_but_its_numbers_do(text: str, solved: bool):
    desk, _ = begun("swing-by-and-grab-it")
    desk.execute(call("search_help", query="may I come by"))
    desk.execute(call("add_note", order_id=1146, text=text))
    score = desk.score([])
    assert (score.success, score.wrong_calls) == (solved, 0), score.reasons


def calls_of(desk: OrderDesk, task: Task) -> list[ToolCall]:
    return [made for message in desk.record(task) for made in message.calls]


def test_a_task_begins_anew_whatever_became_of_the_one_before():
    desk, task = begun("lost-skillet-and-decaf")
    solved_lost_parcel(desk)
    desk.reset(task)
    assert not desk.score(TOLD).success
    solved_lost_parcel(desk)
    assert desk.score(TOLD).success


def test_results_are_those_of_the_traces():
    desk, task = begun("lost-skillet-and-decaf")
    record = desk.record(task)
    returned = [desk.execute(made) for made in calls_of(desk, task)]
    assert returned == [message.content for message in record if message.role == "tool"]


def test_read_only_tools_are_those_that_never_change_the_shop():
    changing = set()
    for task in world().tasks()[::3]:
        shop = open_shop()
        for made in calls_of(world(), task):
            writes = shop.total_changes
            run_tool(shop, made)
            changing |= {made.name} if shop.total_changes > writes else set()
    assert {tool.name for tool in TOOLS} - changing == set(READ_ONLY)


RETURNED = orjson.dumps(
    {"order_id": 1115, "due": "2025-03-17", "amount": 31.8, "id": "X-601", "items": 3}
).decode()


def conversation(*replies: str, user: str = "where is it?") -> list[Message]:
    said = [Message("user", user), Message("tool", RETURNED)]
    return said + [Message("assistant", reply) for reply in replies]


@pytest.mark.parametrize(
    ("reply", "facts"),
    [
        ("It arrives on 17 March.", ["2025-03-17", "17"]),
        ("Your 31.80 euros, X-601, order 1115.", ["X-601", "31.80", "1115"]),
        ("Within 45 days, X-777.", []),
        ("You have three of them.", []),
        ("Soon!", []),
    ],
)
def test_facts_are_what_a_reply_takes_from_results(reply: str, facts: list[str]):
    assert required(conversation(reply)) == facts


def test_what_the_user_said_need_not_be_told():
    assert required(conversation("Order 1115 gets 31.80.", user="order 1115?")) == ["31.80"]


def test_nothing_is_a_fact_before_a_result_has_it():
    early = [Message("user", "hi"), Message("assistant", "31.80?"), Message("tool", RETURNED)]
    assert required(early) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("on March 17th, 31,80", ["2025-03-17", "31.8"]),
        (RETURNED, ["2025-03-17", "31.8", "X-601"]),
        ("due 2025-03-17: x 601 and 31.8 euros", ["2025-03-17", "31.8", "X-601"]),
        ("", []),
    ],
)
def test_facts_may_be_told_in_several_forms(text: str, told: list[str]):
    assert told_of(["2025-03-17", "31.8", "X-601"], text) == told
