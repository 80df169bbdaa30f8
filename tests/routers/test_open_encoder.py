"""The encoder with an open catalogue: any list of tools, each read once, decided alike."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_shop import CANCEL, GET, LIST, PARTS, TOOLS, ask

from distill.errors import InputError, RouterError
from distill.routers import load_router
from distill.routers.open_encoder import MatchHead, Pairs
from distill.types import Context, ToolSpec

CONTEXTS = [example.context for example in PARTS.validation]


@pytest.fixture(scope="module")
def saved(trained):
    return trained("open")


@pytest.fixture
def router(saved):
    """Freshly loaded: it remembers no tool yet."""
    return load_router(saved.folder)


@pytest.fixture
def read(router):
    """How many rows the encoder has computed in each call, contexts and tools alike."""
    rows: list[int] = []

    def count(module, args, kwargs):
        rows.append(len(kwargs["input_ids"]))

    router.model.encoder.register_forward_pre_hook(count, with_kwargs=True)
    return rows


def many(count: int) -> tuple[ToolSpec, ...]:
    return tuple(ToolSpec(f"tool_{i}", f"Does the thing number {i}.") for i in range(count))


def test_it_learned_more_than_the_most_frequent_decision(router):
    decisions = router.decide(CONTEXTS)
    hits = [d.tools == e.label.tools for d, e in zip(decisions, PARTS.validation, strict=True)]
    assert sum(hits) / len(hits) >= 0.75


def test_tools_are_encoded_once_whoever_asks(router, read):
    router.decide(CONTEXTS[:5])
    assert sum(read) == 5 + 1 + len(TOOLS)  # contexts, the reply's text, tools
    router.decide(CONTEXTS[5:9])
    assert sum(read) == 5 + 1 + len(TOOLS) + 4


def test_a_new_tool_costs_one_row_and_needs_no_training(router, read):
    router.decide([ask("hello")])
    before = sum(read)
    new = ToolSpec("get_weather", "Says how the weather will be.")
    (decision,) = router.decide([ask("hello", (*TOOLS, new))])
    assert sum(read) == before + 2  # the context and the new tool
    assert "get_weather" in decision.scores


def test_a_changed_description_is_read_again(router, read):
    router.decide([ask("hello")])
    before = sum(read)
    changed = replace(GET, description="Reads one order.")
    router.decide([ask("hello", (changed, CANCEL, LIST))])
    assert sum(read) == before + 2


def test_two_thousand_tools(router, read):
    (decision,) = router.decide([ask("do the thing number 7", many(2000))])
    assert sum(read) == 1 + 1 + 2000
    assert len(decision.scores) == 1 + 2000
    (again,) = router.decide([ask("do the thing number 7", many(2000))])
    assert sum(read) == 1 + 1 + 2000 + 1
    assert again.tools == decision.tools


def test_more_tools_than_are_remembered_change_nothing(router, read):
    context = ask("do the thing number 7", many(40))
    (expected,) = router.decide([context])
    router.remembered = 10
    for _ in range(2):
        (found,) = router.decide([context])
        assert found.tools == expected.tools
        assert found.scores == pytest.approx(expected.scores, abs=1e-6)
    assert len(router._known) == 10
    assert sum(read) > 1 + 1 + 40 + 2  # some had to be read again


def test_threads_share_what_is_remembered(router):
    contexts = [ask("where is order 7", many(30)[i : i + 9]) for i in range(20)]
    expected = [decision.tools for decision in router.decide(contexts)]
    router.remembered = 5
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda context: router.decide([context])[0].tools, contexts * 3))
    assert found == expected * 3


def test_contexts_of_one_batch_have_tools_of_their_own(router):
    offers = [(GET,), (CANCEL, LIST), (), TOOLS, many(3)]
    contexts = [ask("where is order 7", tools) for tools in offers]
    together = router.decide(contexts)
    for context, decision in zip(contexts, together, strict=True):
        (alone,) = router.decide([context])
        assert decision.tools == alone.tools
        assert decision.confidence == pytest.approx(alone.confidence, abs=1e-5)
        assert decision.scores.keys() == {"reply", *(tool.name for tool in context.tools)}


def test_the_order_of_offered_tools_decides_nothing(router):
    for context in CONTEXTS[:4]:
        turned = replace(context, tools=context.tools[::-1])
        (one,), (other,) = router.decide([context]), router.decide([turned])
        assert one.calls == other.calls
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


def test_no_tools_leave_a_reply(router):
    (decision,) = router.decide([ask("where is order 7", ())])
    assert (decision.action, decision.confidence) == ("reply", 1.0)


def test_names_that_differ_in_case_are_two_tools(router):
    lower, upper = ToolSpec("get_order", "Reads."), ToolSpec("Get_Order", "Reads.")
    (decision,) = router.decide([ask("where is order 7", (lower, upper))])
    assert decision.scores.keys() == {"reply", "get_order", "Get_Order"}


def test_a_name_offered_twice_is_refused(router):
    with pytest.raises(InputError, match="'get_order' is offered twice"):
        router.decide([ask("where is order 7", (GET, replace(GET, description="Another.")))])


@pytest.mark.parametrize(
    "tool",
    [
        ToolSpec("x"),
        ToolSpec("注文を調べる", "注文の状態を調べます。" * 200, {"properties": {"番号": {}}}),
        ToolSpec("long" * 500, "long " * 5000, {"properties": {f"p{i}": {} for i in range(3000)}}),
        ToolSpec("odd", "\x00\n\t\U0001f600", {"properties": None}),
    ],
    ids=["nothing but a name", "Japanese", "long", "odd"],
)
def test_any_text_is_a_tool(router, tool):
    (decision,) = router.decide([ask("where is order 7", (tool, GET))])
    assert decision.scores.keys() == {"reply", tool.name, "get_order"}
    assert 0 <= decision.confidence <= 1


def test_past_calls_and_unseen_tools_share_a_context(router):
    context = next(c for c in CONTEXTS if len(c.messages) > 1)
    (decision,) = router.decide([Context(context.messages, many(2))])
    assert {call.name for call in decision.calls} <= {"tool_0", "tool_1"}


def test_candidates_that_are_not_there_change_no_score():
    """A context with few tools beside one with many, as a batch of training has them."""
    torch.manual_seed(0)
    head = MatchHead(3)
    states, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    tools = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=-1)
    offered = torch.tensor([[True] * 4, [True, False, False, False]])
    lexical = torch.rand(2, 4)
    together = head(Pairs(states, mask, tools, offered, lexical))
    for row, length, width in ((0, 5, 4), (1, 2, 1)):
        part, own = slice(row, row + 1), slice(width)
        pairs = Pairs(
            states[part, :length],
            mask[part, :length],
            tools[part, own],
            offered[part, own],
            lexical[part, own],
        )
        alone = head(pairs)
        torch.testing.assert_close(alone.scores, together.scores[part, own])
        torch.testing.assert_close(alone.log_total(), together.log_total()[part])


def test_of_two_tools_for_one_part_of_a_request_the_nearer_gains():
    """A tool that shares no token with a better one keeps its score; its rival loses."""
    head = MatchHead(1)
    states = torch.eye(3)[None, :2]  # two requests
    first, second = torch.eye(3)[0], torch.eye(3)[1]
    rival = torch.nn.functional.normalize(first + 0.5 * torch.eye(3)[2], dim=0)
    tools = torch.stack([torch.eye(3)[2], first, second, rival])[None]
    everywhere = torch.ones(1, 2, dtype=torch.long)
    offered = torch.ones(1, 4, dtype=torch.bool)
    pairs = Pairs(states, everywhere, tools, offered, torch.zeros(1, 4))
    _, contest, _ = head.features(pairs).unbind(-1)
    lost = -contest[0]
    assert lost[0] == 0  # the reply competes for no token
    assert lost[3] > lost[1] > lost[2] >= 0


def test_a_rare_word_in_common_speaks_for_an_unseen_tool(router):
    """However alike an untrained-for pair of descriptions is to the encoder."""
    tools = tuple(ToolSpec(f"tool_{word}", f"Handles a {word}.") for word in ("zyx", "qwv"))
    for tool in tools:
        word = tool.name.removeprefix("tool_")
        (decision,) = router.decide([ask(f"handle {word} {word}", tools)])
        other = next(t.name for t in tools if t is not tool)
        assert decision.scores[tool.name] > decision.scores[other]


@pytest.mark.parametrize("name", ["head.numbers", "head.log_weights", "bm25.rarity"])
def test_a_head_of_another_shape_is_refused(saved, tmp_path, name):
    copy = Path(shutil.copytree(saved.folder, tmp_path / "copy"))
    head = load_file(copy / "head.safetensors")
    head[name] = torch.zeros(1, 7)
    save_file(head, copy / "head.safetensors")
    with pytest.raises(RouterError, match=r"head\.safetensors: does not fit the encoder"):
        load_router(copy)


def test_a_head_without_one_of_its_numbers_is_refused(saved, tmp_path):
    copy = Path(shutil.copytree(saved.folder, tmp_path / "copy"))
    head = load_file(copy / "head.safetensors")
    del head["head.numbers"]
    save_file(head, copy / "head.safetensors")
    with pytest.raises(RouterError, match=r"head\.safetensors: does not fit the encoder"):
        load_router(copy)
