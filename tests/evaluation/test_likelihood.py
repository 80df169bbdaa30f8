"""How expected a reply is: the model's own log-probabilities, of the reply alone, arm by arm."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_shop import TOOLS

from distill.config import HistoriesConfig, RenderConfig
from distill.errors import ConfigError, DatasetError, ModelError
from distill.evaluation.ledger import Ledger
from distill.evaluation.likelihood import TOO_LONG, LocalLM, Reply, measure, summary
from distill.history import HANDED
from distill.routers import pretrained
from distill.types import Context, Message, ToolCall

ARMS = ["own", "handed", "synthetic", "synthetic-no-tools"]
SETTINGS = {"made": "up"}


def reply(i: int, text: str = "It is shipped.", turns: int = 0) -> Reply:
    """A reply after one call; `turns` pairs of words come before it."""
    asked = ToolCall("get_order", {"order": i}, f"c{i}")
    talk = [Message("user", f"hello {n}") for n in range(turns)]
    messages = [
        Message("system", "You sell."),
        Message("user", f"where is order {i}"),
        *(m for said in talk for m in (Message("assistant", "hi"), said)),
        Message("assistant", "Looking.", (asked,)),
        Message("tool", f"order {i}: shipped", call_id=f"c{i}"),
    ]
    return Reply(f"t{i}", f"g{i % 6}", Context(tuple(messages), TOOLS), text)


@pytest.fixture
def lm(tiny_llama: Path):
    def load(**settings: object) -> LocalLM:
        values = {"model": str(tiny_llama), "arms": ARMS, "max_tokens": 900, **settings}
        return LocalLM.load(
            pretrained.resolve(str(tiny_llama)), HistoriesConfig.model_validate(values)
        )

    return load


def rows(lm: LocalLM, replies: list[Reply], path: Path) -> list[dict]:
    ledger = Ledger(path, SETTINGS)
    measure(replies, lm, ledger)
    return list(ledger.rows())


def by_hand(lm: LocalLM, prompt: list[int], words: list[int]) -> float:
    """The sum over the reply's tokens, each after all tokens before it."""
    total = 0.0
    for i, token in enumerate(words):
        logits = lm.model(torch.tensor([prompt + words[:i]])).logits[0, -1]
        total -= logits.log_softmax(-1)[token].item()
    return total


def test_a_reply_s_likelihood_is_that_of_its_tokens_alone(lm, tmp_path: Path):
    model = lm()
    one = reply(3)
    (row,) = rows(model, [one], tmp_path / "rows.jsonl")
    words = [*model.tokenizer(one.text)["input_ids"], model.tokenizer.eos_token_id]
    assert row["tokens"] == len(words)
    assert not row["cut"]
    prompt = model.prompt(one.context)
    assert row["prompt_tokens"]["own"] == len(prompt)
    assert row["nll"]["own"] == pytest.approx(by_hand(model, prompt, words), rel=1e-5)


def test_padding_and_batch_size_change_nothing(lm):
    alone, together = lm(), lm(batch_size=3)
    replies = [reply(1), reply(2, turns=3), reply(7, turns=1), reply(4, turns=6)]
    prompts = [alone.prompt(one.context) for one in replies]
    assert len({len(prompt) for prompt in prompts}) > 2
    words = alone.reply("It is late, thank you.")
    assert together.nll(prompts, words) == pytest.approx(alone.nll(prompts, words), rel=1e-5)


def shown(lm: LocalLM, one: Reply, tmp_path: Path) -> dict[str, str]:
    """The prompt of each arm, as text, for what is measured of a reply."""
    seen: list[list[int]] = []

    class Watched(LocalLM):
        def nll(self, prompts, reply):
            seen.extend(prompts)
            return super().nll(prompts, reply)

    watched = Watched("watched", lm.tokenizer, lm.model, lm.config)
    rows(watched, [one], tmp_path / "watched.jsonl")
    texts = [lm.tokenizer.decode(prompt) for prompt in seen]
    return dict(zip(lm.config.arms, texts, strict=True))


def test_each_arm_is_shown_its_own_history(lm, tmp_path: Path):
    texts = shown(lm(arms=[*ARMS, "own-no-tools", "handed-with-tools"]), reply(3), tmp_path)
    assert len(set(texts.values())) == 6
    for name, text in texts.items():
        assert "order 3: shipped" in text
        called = '<tool_call>\n{"name":"get_order"' in text
        assert called == (not name.startswith("handed"))
        offered = '"description":"Reads."' in text
        assert offered == (name in ("own", "synthetic", "handed-with-tools"))
        assert ("<|im_start|>tool" in text) == (not name.startswith("handed"))
        assert (HANDED in text) == name.startswith("handed")
        assert "write: reply" not in text  # that is a router's instruction
        assert ("Looking." in text) == (not name.startswith("synthetic"))


def test_what_is_too_long_is_shortened_alike_and_the_reply_is_kept(lm, tmp_path: Path):
    model = lm(tools="names", max_tokens=500, render=RenderConfig(turn_chars=400, turns=6))
    long = reply(3, text="It is shipped. " * 8, turns=4)
    middle = Message("user", "please " * 300)
    messages = [*long.context.messages[:2], middle, *long.context.messages[2:]]
    one = replace(long, context=replace(long.context, messages=tuple(messages)))
    (row,) = rows(model, [one], tmp_path / "rows.jsonl")
    assert row["cut"]
    assert row["tokens"] == len(model.reply(one.text))
    assert max(row["prompt_tokens"].values()) + row["tokens"] <= 500
    texts = shown(model, one, tmp_path)
    for text in texts.values():
        assert "where is order 3" in text
        assert "order 3: shipped" in text
        assert "please please" not in text
    said = [[n for n in range(4) if f"hello {n}" in text] for text in texts.values()]
    assert all(kept == said[0] for kept in said)
    assert 0 < len(said[0]) < 4


def test_a_reply_that_leaves_no_room_is_left_out_and_counted(lm, tmp_path: Path):
    model = lm(tools="names", max_tokens=300)
    made = rows(model, [reply(1), reply(2, text="word " * 400)], tmp_path / "rows.jsonl")
    assert made[1] == {"id": "t2", "group": "g2", "left_out": TOO_LONG}
    found = summary(made, model.config)
    assert (found["n_replies"], found["left_out"]) == (1, {TOO_LONG: 1})
    with pytest.raises(DatasetError, match=f"none was measured.*{TOO_LONG}: 1"):
        summary(made[1:], model.config)


def test_a_killed_measurement_goes_on_where_it_was(lm, tmp_path: Path):
    model = lm(tools="names")
    replies = [reply(i) for i in range(4)]

    def dying() -> Iterator[Reply]:
        yield from replies[:2]
        raise KeyboardInterrupt

    path = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure(dying(), model, Ledger(path, SETTINGS))
    with path.open("ab") as file:
        file.write(b'{"part":"rows","id":"t2","gro')  # it died while it wrote
    told = []
    ledger = Ledger(path, SETTINGS)
    assert ledger.done == {"t0", "t1"}
    measure(replies, model, ledger, told.append)
    made = list(ledger.rows())
    assert told == [1, 2, 3, 4]
    assert made == rows(model, replies, tmp_path / "fresh.jsonl")


def made_rows(differences: list[float], groups: list[str]) -> list[dict]:
    return [
        {
            "id": f"t{i}",
            "group": group,
            "tokens": 10 * (1 + i % 2),
            "cut": i == 0,
            "nll": {"own": 20.0, "handed": 20.0 + d},
            "prompt_tokens": {"own": 90, "handed": 30},
        }
        for i, (d, group) in enumerate(zip(differences, groups, strict=True))
    ]


def test_figures_are_per_token_and_per_reply_and_pairs_by_reply():
    config = HistoriesConfig(arms=["own", "handed"], bootstrap=200)
    differences = [4.0, 6.0, 5.0, 7.0, 3.0, 5.0, 6.0, 4.0]
    found = summary(made_rows(differences, [f"g{i}" for i in range(8)]), config)
    own, handed = found["arms"]
    assert (found["n_tokens"], found["n_cut"], found["n_groups"]) == (120, 1, 8)
    assert own["nats_per_token"]["value"] == pytest.approx(160 / 120)
    assert own["nats_per_reply"]["value"] == pytest.approx(20)
    assert own["nats_per_reply"]["high"] == pytest.approx(20)
    assert (own["prompt_tokens"], handed["prompt_tokens"]) == (90, 30)
    pairs = {pair["metric"]: pair for pair in found["paired"]}
    assert {(pair["a"], pair["b"]) for pair in found["paired"]} == {("handed", "own")}
    assert pairs["nats_per_token"]["difference"] == pytest.approx(40 / 120)
    assert pairs["nats_per_reply"]["difference"] == pytest.approx(5)
    for pair in pairs.values():
        assert 0 < pair["low"] < pair["difference"] < pair["high"]
        assert pair["p_value"] == pair["p_value_holm"] < 0.01


def test_few_groups_give_no_interval():
    config = HistoriesConfig(arms=["own", "handed"], bootstrap=200)
    found = summary(made_rows([1.0, 2.0, 3.0, 4.0], ["a", "b", "a", "b"]), config)
    assert found["arms"][1]["nats_per_reply"]["low"] is None
    assert {pair["p_value_holm"] for pair in found["paired"]} == {None}


def test_a_window_that_the_model_does_not_read_is_refused(lm):
    with pytest.raises(ConfigError, match="4096 is more than the 1024 tokens"):
        lm(max_tokens=4096)


def test_a_model_that_gives_no_number_is_refused(lm):
    model = lm()
    with torch.no_grad():
        model.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="no finite likelihood"):
        model.nll([[1, 2, 3]], [4, 5])
