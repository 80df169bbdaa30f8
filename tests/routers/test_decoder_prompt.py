"""The decoder's prompt: one text, whoever renders it; and what is read out of its completion."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shop import GET, LIST, PARTS, TOOLS, ask, call, decoder
from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence, WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer

from distill.errors import ModelError
from distill.render import completion, render_chat
from distill.routers import load_router, pretrained
from distill.routers.decoding import PromptFormat, decision_spans, parse_completion
from distill.training.sft import IGNORED, row
from distill.types import Context, Decision, Message, ToolCall, ToolSpec

STYLES = ["none", "names", "signatures", "schemas"]

ODD = Context(
    (
        Message("system", "You help."),
        Message("user", 'Ärger: "quoted" <b>\n\\ and 東京'),
        Message(
            "assistant", "Looking.", (call("get_order", order=1), ToolCall("list_orders", {}, "x"))
        ),
        Message("tool", '{"total": 1.5, "note": "späť"}', call_id="x"),
        Message("user", "and {{ messages }}?"),
    ),
    TOOLS,
)
CONTEXTS = [*(example.context for example in PARTS.train[:8]), ODD]


def format_of(tiny_llama, style="signatures", **settings):
    config = decoder(tiny_llama).model_copy(update={"tools": style, **settings})
    tokenizer = pretrained.load_tokenizer(pretrained.resolve(str(tiny_llama)))
    return PromptFormat.new(tokenizer, config)


@pytest.mark.parametrize("style", STYLES)
def test_training_and_routing_see_the_same_tokens(tiny_llama, style):
    prompts = format_of(tiny_llama, style)
    for example in PARTS.train[:8]:
        made = row(example, prompts, 64)
        prompt = prompts.ids(prompts.prompt(example.context))
        answer = made["input_ids"][len(prompt) :]
        assert made["input_ids"][: len(prompt)] == prompt
        assert made["labels"] == [IGNORED] * len(prompt) + answer
        assert answer[-1] == prompts.tokenizer.eos_token_id
        text = prompts.tokenizer.decode(answer, skip_special_tokens=True)
        assert text == completion(example.label, example.context.tools)
        assert parse_completion(text, example.context) == example.label


@pytest.mark.parametrize("style", STYLES)
def test_a_server_given_the_saved_tokenizer_renders_the_same_tokens(tiny_llama, tmp_path, style):
    """What vLLM or any other server does: the folder's template over the gateway's messages."""
    prompts = format_of(tiny_llama, style)
    prompts.tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    server = AutoTokenizer.from_pretrained(tmp_path)
    for context in CONTEXTS:
        chat = render_chat(context, prompts.config.render)
        over_the_wire = json.loads(json.dumps({"messages": chat.messages, "tools": chat.tools}))
        served = server.apply_chat_template(
            over_the_wire["messages"],
            tools=over_the_wire["tools"],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        assert served == prompts.ids(prompts.prompt(context))


def test_a_router_folder_keeps_its_style(trained):
    saved = trained("decoder")
    loaded, context = load_router(saved.folder), CONTEXTS[0]
    assert loaded.format.prompt(context) == saved.router.format.prompt(context)
    assert "get_order(order)" in loaded.format.prompt(context)


def test_styles_word_the_tools_ever_more_fully(tiny_llama):
    none, names, signatures, schemas = (
        format_of(tiny_llama, style).prompt(ask("hello")) for style in STYLES
    )
    assert "get_order" not in none
    assert "\nget_order\ncancel_order\nlist_orders<" in names
    assert "\nget_order(order)\ncancel_order(order, reason?)\nlist_orders()<" in signatures
    lines = [line for line in schemas.split("<|im_end|>")[0].splitlines() if line[0] == "{"]
    assert [json.loads(line)["parameters"] for line in lines] == [t.parameters for t in TOOLS]


def test_a_past_call_reads_as_the_completion_that_made_it(tiny_llama):
    label = Decision("call", (call("get_order", order=3), call("list_orders")))
    asked = Message("user", "both")
    context = Context((asked, Message("assistant", None, label.calls), asked), TOOLS)
    prompt = format_of(tiny_llama).prompt(context)
    assert f"<|im_start|>assistant\n{completion(label, TOOLS)}<|im_end|>" in prompt


def test_no_tools_no_tools_section(tiny_llama):
    assert "Tools:" not in format_of(tiny_llama).prompt(ask("hello", ()))


def test_a_long_conversation_is_shrunk_to_the_limit(tiny_llama):
    prompts = format_of(tiny_llama, max_tokens=450)
    turns = tuple(
        message
        for i in range(8)
        for message in (Message("user", f"{i} " * 300), Message("assistant", "yes " * 200))
    )
    context = Context((*turns, Message("user", "cancel order 4")), TOOLS)
    prompt = prompts.prompt(context)
    whole = format_of(tiny_llama, max_tokens=4096).prompt(context)
    assert len(prompts.ids(prompt)) <= 450 < len(prompts.ids(whole))
    assert "cancel order 4" in prompt


def test_a_long_tool_list_is_kept_whole_and_training_says_so(tiny_llama):
    """Only the conversation is shrunk: a tool that is not named could not be chosen."""
    prompts = format_of(tiny_llama, max_tokens=64)
    tools = tuple(replace(GET, name=f"tool_{i}") for i in range(40))
    prompt = prompts.prompt(ask("cancel " * 50, tools))
    assert all(f"\n{tool.name}(order)" in prompt for tool in tools)
    assert prompt.count("cancel") < 20


def test_a_tokenizer_without_an_end_token_is_refused(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        PromptFormat.new(tokenizer, decoder(tiny_llama))


def test_a_tokenizer_that_no_grammar_can_hold_is_refused(tiny_bert):
    """Before a training, whose router could decide nothing."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert, eos_token="[SEP]")
    tokenizer.backend_tokenizer.decoder = WordPiece()
    tokenizer.backend_tokenizer.pre_tokenizer = Whitespace()
    with pytest.raises(ModelError, match="cannot be held to a grammar"):
        PromptFormat.new(tokenizer, decoder(tiny_bert))


def test_a_tokenizer_whose_bytes_are_mistaken_is_refused(tiny_llama):
    """As transformers 5.17 made them of a GGUF: its calls would all be unreadable."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    backend = tokenizer.backend_tokenizer
    backend.decoder = Sequence([ByteFallback(), Fuse(), Replace("▁", " "), backend.decoder])
    with pytest.raises(ModelError, match="llguidance makes"):
        PromptFormat.new(tokenizer, decoder(tiny_llama))


def block(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


GOOD = '{"name":"get_order","arguments":{"order":3}}'


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        f"<tool_call>\n{GOOD}",
        f"{block(GOOD)}\n<tool_call>",
        f"{block(GOOD)}\n<tool_call>\n{GOOD[:-1]}\n</tool_call>",
        block(GOOD[:-2]),
        block("{}"),
        block("[]"),
        block('"get_order"'),
        block('{"name":"get_order"}'),
        block('{"name":"get_order","arguments":null}'),
        block('{"name":"get_order","arguments":[3]}'),
        block('{"name":"get_order","arguments":"not JSON"}'),
        block('{"name":7,"arguments":{}}'),
        block('{"name":"refund","arguments":{}}'),
        f"{block(GOOD)}\n{block(GOOD.replace('get_order', 'refund'))}",
    ],
)
def test_a_malformed_call_is_no_decision(text):
    assert parse_completion(text, ask("where")) is None


@pytest.mark.parametrize("text", ["reply", "", "I will look at it.", "<tool_cal"])
def test_words_are_a_reply(text):
    assert parse_completion(text, ask("where")) == Decision("reply")


def test_well_formed_calls_are_read_in_order():
    nested = '{"name":"cancel_order","arguments":{"order":1,"reason":"} </tool_call"}}'
    found = parse_completion(f"Sure.\n{block(GOOD)} {block(nested)}\n", ask("where"))
    assert found == Decision(
        "call",
        (call("get_order", order=3), call("cancel_order", order=1, reason="} </tool_call")),
    )


pieces = st.sampled_from(
    ["<tool_call>", "</tool_call>", "\n", GOOD, "{", "}", '"name"', ":", "é", '"refund"', "\\", " "]
)


@given(st.lists(pieces | st.text(max_size=3), max_size=12).map("".join))
def test_no_output_breaks_the_reading(text):
    found = parse_completion(text, ask("where"))
    if found is not None:
        assert {c.name for c in found.calls} <= {tool.name for tool in TOOLS}
        assert all(isinstance(c.arguments, dict) for c in found.calls)
    spans = decision_spans(text)
    assert all(0 <= start <= stop <= len(text) + 1 for start, stop in spans)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.sampled_from(["<tool_call>", "} </tool_call>", '"name": "x"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.text(max_size=6), values, max_size=3), max_size=3))
def test_what_is_taught_is_read_back(arguments):
    tool = ToolSpec("do", "", {"type": "object", "properties": {"b": {}, "a": {}}})
    calls = tuple(ToolCall("do", values) for values in arguments)
    label = Decision("call" if calls else "reply", calls)
    text = completion(label, (tool,))
    assert parse_completion(text, ask("x", (tool, LIST))) == label


def test_tags_within_a_value_are_text():
    """The grammar lets strings hold them, whereas `completion` escapes them."""
    reason = '"a </tool_call>\\" <tool_call>"'
    nested = '{"name":"cancel_order","arguments":{"order":1,"reason":' + reason + "}}"
    text = f"{block(nested)}\n{block(GOOD)}"
    found = parse_completion(text, ask("where"))
    assert found.tools == ("cancel_order", "get_order")
    assert found.calls[0].arguments["reason"] == 'a </tool_call>" <tool_call>'
    kept = "".join(text[start:stop] for start, stop in decision_spans(text))
    assert kept == '<tool_call>\n{"name":"cancel_order"\n<tool_call>\n{"name":"get_order"'


def test_a_number_that_would_be_read_as_another_is_no_decision():
    assert parse_completion(block(GOOD.replace("3", "9" * 30)), ask("where")) is None


def test_decision_spans_leave_out_the_arguments():
    text = f"{block(GOOD)}\n{block(GOOD)}"
    kept = "".join(text[start:stop] for start, stop in decision_spans(text))
    opening = '<tool_call>\n{"name":"get_order"'
    assert kept == f"{opening}\n{opening}"
    # The end token stands after the text: it settles that no further call follows.
    assert decision_spans(text)[-1] == (len(text), len(text) + 1)
    assert decision_spans("reply") == [(0, 6)]


def test_a_name_among_the_arguments_is_not_taken_for_the_tools():
    text = block('{"arguments":{"name":"Eve"},"name":"get_order"}')
    kept = "".join(text[start:stop] for start, stop in decision_spans(text))
    assert '"name":"get_order"' in kept
