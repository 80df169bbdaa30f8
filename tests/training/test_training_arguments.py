"""Training what fills arguments: what it is taught, and that it resumes where it was killed."""

import json
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from small_shop import PARTS, ask, call, filling, job, job_values, losses, write_traces

from distill.config import EncoderConfig, RunConfig
from distill.errors import ConfigError, DatasetError
from distill.pipeline.train import train_router
from distill.progress import silent
from distill.routers import load_router, pretrained
from distill.routers.arguments import reading
from distill.routers.pointers import Missing
from distill.runs import RunDir, read_json
from distill.training import Parts, train
from distill.training.arguments import rows, seen_values
from distill.types import Context, Decision, Example, Message, ToolSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "arguments.json"


class Killed(BaseException):
    """Raised in the middle of a training, where nothing catches it."""


def kill_at(step: int, training: str):
    def progress(stage: str, done: int, total: int | None = None) -> None:
        if stage.endswith(training) and done == step:
            raise Killed

    return progress


def weights(router) -> dict[str, torch.Tensor]:
    halves = {"tools": router.tools.model, "filler": router.filler.model}
    return {f"{half} {k}": v for half, m in halves.items() for k, v in m.state_dict().items()}


@pytest.mark.parametrize(("step", "training"), [(6, "run"), (1, "arguments"), (3, "arguments")])
def test_a_training_killed_in_either_half_goes_on_exactly(
    config_of, unbroken, tmp_path, step, training
):
    config, path = config_of("filling"), tmp_path / "run"
    with pytest.raises(Killed):
        train(config, job(path, progress=kill_at(step, training)))
    router = train(config, job(path)).router
    expected, run = unbroken("filling")
    found, wanted = weights(router), weights(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert losses(RunDir(path)) == losses(run)
    filler, unbroken_filler = RunDir(path, "arguments"), RunDir(run.path, "arguments")
    assert len(losses(filler)) == 4
    assert losses(filler) == losses(unbroken_filler)


def test_the_tools_are_chosen_as_without_a_filler(config_of, unbroken):
    plain, filled = unbroken("encoder")[0], unbroken("filling")[0]
    expected, found = plain.model.state_dict(), filled.tools.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_losses_follow_the_golden_curve(unbroken):
    _, run = unbroken("filling")
    expected = json.loads(GOLDEN.read_text())
    assert losses(RunDir(run.path, "arguments"))[: len(expected)] == pytest.approx(
        expected, rel=1e-3
    ), "the loss curve changed: see tests/golden/README.md"


def test_validation_is_logged_and_both_halves_are_counted(config_of, tmp_path):
    run = job(tmp_path)
    trained = train(config_of("filling"), run)
    lines = list(map(orjson.loads, RunDir(tmp_path, "arguments").log.read_bytes().splitlines()))
    assert any("eval_accuracy" in line for line in lines)
    assert all(line.get("eval_accuracy", 0) <= 1 for line in lines)
    assert trained.parameters == sum(t.numel() for t in weights(trained.router).values())
    assert 0 < trained.trainable_parameters < trained.parameters


MODE = ToolSpec(
    "set_mode",
    "Sets.",
    {
        "properties": {"mode": {"type": "string"}, "note": {"type": "string"}},
        "required": ["mode"],
    },
)


def asking(group: str, text: str, **arguments: object) -> Example:
    label = Decision("call", (call("set_mode", **arguments),))
    context = Context((Message("user", text),), (MODE,))
    return Example(f"{group}-{text}", group, group, context, label)


@pytest.fixture(scope="module")
def setup(tiny_bert) -> tuple[object, EncoderConfig]:
    tokenizer = pretrained.load_tokenizer(pretrained.resolve(str(tiny_bert)))
    return tokenizer, filling(tiny_bert)


def test_values_of_several_groups_that_stand_nowhere_become_options(setup):
    given = [
        asking("a", "quiet please", mode="night"),
        asking("b", "be silent", mode="night"),
        asking("b", "silent now", mode="night"),
        asking("c", "set night", mode="night"),  # stands there: nothing to learn by heart
        asking("d", "loud", mode="party"),
        asking("d", "louder", mode="party"),  # one group alone
        asking("e", "x", mode="far too long to be listed " * 5),
        asking("f", "y", mode="far too long to be listed " * 5),
    ]
    seen = seen_values(given, *setup)
    assert seen.constants() == {"set_mode": {"mode": ["night"]}}
    assert seen.constants(without="a") == {}, "as it would be, had `a` not been seen"
    assert seen.constants(without="c") == seen.constants()


def test_a_value_that_the_evidence_leaves_out_is_no_option(setup):
    """It stands among too many search results to be read, and is nothing to learn by heart."""
    results = "\n".join(f"event {n} of a long list of events that were found" for n in range(200))
    given = []
    for group in ("a", "b"):
        example = asking(group, "the first one please", mode="0100")
        found = Message("tool", f"{results}\nnumber 0100 of another kind\n{results}", call_id="c0")
        asked = Message("assistant", None, (call("find"),))
        messages = (asked, found, *example.context.messages)
        given.append(replace(example, context=replace(example.context, messages=messages)))
        assert "0100" not in reading(given[-1].context, MODE, {}, *setup).text
    assert seen_values(given, *setup).constants() == {}
    shorter = [asking(group, "number 10100, please", mode="0100") for group in ("a", "b")]
    assert seen_values(shorter, *setup).constants() == {"set_mode": {"mode": ["0100"]}}


def test_rows_say_where_the_values_are(setup):
    example = asking("a", "set night, thanks", mode="night", note="loudly")
    (row,) = rows(example, {}, *setup)
    made, ((starts, ends), (note_starts, note_ends)) = row["reading"], row["targets"]
    assert made.text[made.spans[starts[0]][0] : made.spans[ends[0]][1]] == "night"
    assert (note_starts, note_ends) == (made.names[1][:1], [])
    assert made.targets(1, Missing.OMITTED) == ([0], [])


def test_no_row_for_what_is_never_asked(setup):
    twice = Decision("call", (call("set_mode", mode="a"), call("set_mode", mode="b")))
    unfilled = Decision("call", (replace(call("set_mode"), arguments=None),))
    for label in (twice, unfilled, Decision("reply")):
        assert rows(replace(asking("a", "a b", mode="a"), label=label), {}, *setup) == []


def only(*labels: str) -> Parts:
    """The shop's examples whose label calls only these tools."""
    train = [e for e in PARTS.train if set(e.label.tools) <= set(labels)]
    validation = [e for e in PARTS.validation if set(e.label.tools) <= set(labels)]
    return Parts(train, validation, PARTS.catalogue)


def test_nothing_to_fill_is_said(config_of, tmp_path):
    with pytest.raises(DatasetError, match="no call in training has arguments to learn"):
        train(config_of("filling"), job(tmp_path, parts=only("list_orders", "reply")))


def test_more_tokens_than_the_model_reads_are_refused(config_of, tmp_path):
    config = config_of("filling").model_copy(update={"argument_tokens": 5000})
    with pytest.raises(ConfigError, match=r"argument_tokens: .* reads at most 256 tokens"):
        train(config, job(tmp_path))


def test_a_job_leaves_a_whole_run_that_fills_arguments(config_of, tmp_path):
    values = job_values(tmp_path, routers={"filler": config_of("filling").model_dump()})
    write_traces(tmp_path / "traces.jsonl")
    run = train_router(RunConfig.model_validate(values), "filler", 0, silent)
    assert read_json(run.manifest)["fills_arguments"] is True
    assert {path.name for path in run.path.iterdir()} == {
        *("config.yaml", "manifest.json", "router", "log.jsonl", "log-arguments.jsonl")
    }
    assert load_router(run.path).decide([ask("where is order 3")])[0].confidence
