"""The one training loop: its batches, its optimiser, its checkpoints, when it stops."""

import json
from dataclasses import replace
from types import SimpleNamespace

import orjson
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from small_shop import PARTS, TOOLS, decoder, job, losses, rnn, without_dropout
from torch.utils.data import BatchSampler
from transformers import Trainer, TrainerState, TrainingArguments

from distill.config import TrainConfig
from distill.errors import ConfigError, DatasetError
from distill.routers.rnn import Gru
from distill.runs import RunDir
from distill.training import Parts, classify, logs, loop, sft, train
from distill.training.loop import LengthBucketSampler, last_whole_checkpoint
from distill.types import Decision

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=200)
batches = st.integers(1, 9)
seeds = st.integers(-3, 2**31)


def order(rows, batch, seed=0, epoch=0) -> list[int]:
    sampler = LengthBucketSampler(rows, batch, seed)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@given(lengths, batches, seeds, st.integers(0, 5))
def test_every_row_at_most_once_in_whole_batches(rows, batch, seed, epoch):
    found = order(rows, batch, seed, epoch)
    assert len(set(found)) == len(found)
    assert set(found) <= set(range(len(rows)))
    assert len(found) == len(rows) - len(rows) % batch


@given(lengths, batches, seeds)
def test_an_epochs_order_follows_from_seed_and_epoch(rows, batch, seed):
    sampler = LengthBucketSampler(rows, batch, seed)
    list(sampler)
    sampler.set_epoch(3)
    assert list(sampler) == order(rows, batch, seed, epoch=3)


def test_epochs_and_seeds_differ():
    rows = [i % 7 for i in range(96)]
    assert len({tuple(order(rows, 8, s, e)) for s in range(3) for e in range(3)}) == 9


def test_rows_left_over_have_their_turn_in_other_epochs():
    rows = [1] * 30
    assert set().union(*(order(rows, 8, epoch=e) for e in range(8))) == set(range(30))


def padding(rows: list[int], found: list[int], batch: int) -> int:
    chunks = [[rows[i] for i in found[k : k + batch]] for k in range(0, len(found), batch)]
    return sum(max(chunk) * len(chunk) - sum(chunk) for chunk in chunks)


def test_batches_hold_rows_of_similar_length():
    rows = torch.randint(1, 200, (320,), generator=torch.Generator().manual_seed(0)).tolist()
    assert padding(rows, order(rows, 8), 8) < 0.2 * padding(rows, list(range(320)), 8)


@given(lengths, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), seeds)
def test_a_step_sees_the_same_rows_on_any_number_of_processes(rows, processes, micro, seed):
    """As accelerate deals batches out: the i-th micro-batch goes to process i mod n."""
    batch = 16
    sampler = LengthBucketSampler(rows, batch, seed)
    dealt = [
        list(
            BatchSamplerShard(
                BatchSampler(sampler, micro, drop_last=True),
                num_processes=processes,
                process_index=i,
            )
        )
        for i in range(processes)
    ]
    accumulated = batch // micro // processes
    whole = list(sampler)
    for step in range(len(whole) // batch):
        seen = [
            row
            for share in dealt
            for micro_batch in share[step * accumulated : (step + 1) * accumulated]
            for row in micro_batch
        ]
        assert sorted(seen) == sorted(whole[step * batch : (step + 1) * batch])


@pytest.mark.parametrize(
    ("batch", "micro", "rows", "expected"),
    [(16, 16, 100, (16, 1)), (12, 5, 100, (4, 3)), (7, 3, 100, (1, 7)), (16, 4, 6, (3, 2))],
)
def test_micro_batches_share_a_step_evenly(tmp_path, batch, micro, rows, expected):
    config = TrainConfig(batch_size=batch, micro_batch=micro)
    args = loop.training_arguments(
        TrainingArguments, config, job(tmp_path), rows=rows, metric="eval_score"
    )
    found = args.per_device_train_batch_size, args.gradient_accumulation_steps
    assert found == expected


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", 3)
    with pytest.raises(ConfigError, match=r"train\.batch_size: 16 examples .* 3 processes"):
        loop.training_arguments(
            TrainingArguments, TrainConfig(), job(tmp_path), rows=99, metric="eval_score"
        )


def test_evaluations_spread_over_the_run_and_end_with_it(unbroken):
    _, run = unbroken("rnn")
    lines = [orjson.loads(line) for line in run.log.read_bytes().splitlines()]
    assert [line["step"] for line in lines if "eval_score" in line] == [4, 8, 12]


def test_the_learning_rate_rises_then_falls_to_zero(tmp_path):
    run = job(tmp_path)
    train(rnn(epochs=5, warmup=0.2), run)
    lines = [orjson.loads(line) for line in run.run.log.read_bytes().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1e-2)
    assert 4 <= peak <= 7  # of 30 steps
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4


def test_vectors_are_not_decayed_and_the_head_has_its_own_rate():
    model = Gru(rnn(), 300, 5)
    made = loop.optimizer(model, TrainConfig(weight_decay=0.1), head=0.5)
    named = {parameter: name for name, parameter in model.named_parameters()}
    settings = {
        named[parameter]: (group["lr"], group["weight_decay"])
        for group in made.param_groups
        for parameter in group["params"]
    }
    assert settings == {
        name: (
            0.5 if name.startswith("head.") else 5e-4,
            0.1 if parameter.ndim > 1 else 0.0,
        )
        for name, parameter in model.named_parameters()
    }


def test_frozen_weights_get_no_optimiser_state():
    model = Gru(rnn(), 300, 5)
    model.embedding.requires_grad_(False)
    held = [p for g in loop.optimizer(model, TrainConfig()).param_groups for p in g["params"]]
    assert all(parameter is not model.embedding.weight for parameter in held)
    assert len(held) == len(list(model.parameters())) - 1


def checkpoint(run: RunDir, step: int, state: str | None):
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_half_written_checkpoints_are_removed(tmp_path):
    run = RunDir(tmp_path)
    assert last_whole_checkpoint(run) is None
    older = checkpoint(run, 8, "{}")
    whole = checkpoint(run, 90, "{}")
    checkpoint(run, 100, None)
    checkpoint(run, 110, '{"global_st')
    assert last_whole_checkpoint(run) == whole
    assert sorted(run.checkpoints.iterdir()) == sorted([older, whole])


def test_nothing_but_halves_is_a_fresh_start(tmp_path):
    run = RunDir(tmp_path)
    checkpoint(run, 4, None)
    assert last_whole_checkpoint(run) is None


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_smaller_micro_batches_take_the_same_steps(config_of, tmp_path, kind):
    """The decoder's loss is a mean over tokens, which micro-batches hold different numbers of."""
    curves = []
    for micro in (8, 2):
        config = without_dropout(config_of(kind, micro_batch=micro, epochs=1))
        run = job(tmp_path / str(micro))
        train(config, run)
        curves.append(losses(run.run))
    assert len(curves[0]) == 6
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_training_stops_when_validation_no_longer_improves(tmp_path):
    run = job(tmp_path)
    train(rnn(epochs=20, evaluations=10, patience=2, learning_rate=1e-12), run)
    lines = [orjson.loads(line) for line in run.run.log.read_bytes().splitlines()]
    steps = 20 * len(PARTS.train) // 8
    assert lines[-1]["step"] == 3 * steps // 10  # the first evaluation is best, two follow


def test_the_best_checkpoint_is_what_is_kept(tmp_path):
    # Validation that contradicts training: the more is learned, the worse it gets.
    reply = Decision("reply")
    contrary = [replace(e, label=reply) for e in PARTS.validation if e.label != reply]
    run = job(tmp_path, parts=Parts(PARTS.train, contrary, TOOLS))
    router = train(rnn(epochs=8, evaluations=8, patience=8), run).router
    lines = [orjson.loads(line) for line in run.run.log.read_bytes().splitlines()]
    scored = [line for line in lines if "eval_score" in line]
    best = max(scored, key=lambda line: line["eval_score"])
    assert best["eval_accuracy"] > scored[-1]["eval_accuracy"]
    hits = [d == reply for d in tools_of(router, contrary)]
    assert sum(hits) / len(hits) == pytest.approx(best["eval_accuracy"])


SCORED = SimpleNamespace(
    metric_for_best_model="eval_score", greater_is_better=True, save_strategy="steps"
)
LOST = SimpleNamespace(
    metric_for_best_model="eval_loss", greater_is_better=False, save_strategy="steps"
)


def kept(args, metrics, errors, file=None) -> TrainerState:
    """The state after evaluations; with a file, it is saved and read again after each."""
    kind = loop.trainer_class(Trainer, lambda model, inputs: torch.empty(0))
    trainer = kind.__new__(kind)
    trainer.args, trainer.state = args, TrainerState()
    for step, (metric, error) in enumerate(zip(metrics, errors, strict=True), 1):
        line = {args.metric_for_best_model: metric, "eval_standard_error": error}
        trainer.state.global_step = step
        trainer.state.log_history.append(line | {"step": step})
        trainer._determine_best_metric(line, None)
        if file is not None:
            trainer.state.save_to_json(str(file))
            trainer.state = TrainerState.load_from_json(str(file))
    return trainer.state


@pytest.mark.parametrize(
    ("args", "metrics", "step"),
    [
        (SCORED, [0.70, 0.80, 0.77, 0.70], 3),  # the third is within 0.04 of the best, not the last
        (SCORED, [0.70, 0.80, 0.90, 0.89], 4),
        (SCORED, [0.80, 0.77, 0.74, 0.71], 2),  # each is near the one before; the best is measure
        (SCORED, [0.90, 0.10, 0.10, 0.10], 1),
        (LOST, [0.70, 0.50, 0.53, 0.60], 3),
        (LOST, [0.70, 0.60, 0.50, 0.49], 4),
        (LOST, [0.50, 0.53, 0.56, 0.52], 4),
        (LOST, [0.10, 0.90, 0.90, 0.90], 1),
    ],
)
def test_the_latest_checkpoint_near_the_best_is_kept(args, metrics, step):
    state = kept(args, metrics, [0.04] * 4)
    assert state.best_global_step == step
    assert state.best_metric == (max if args.greater_is_better else min)(metrics)


def test_near_is_what_was_near_at_the_best_evaluation(tmp_path):
    for file in (None, tmp_path / "state.json"):
        assert kept(SCORED, [0.8, 0.7], [0.01, 0.5], file).best_global_step == 1
        assert kept(SCORED, [0.8, 0.7, 0.75], [0.2, 0.01, 0.01], file).best_global_step == 3


def test_a_loss_that_is_no_number_ends_training_with_its_cure(tmp_path):
    run = job(tmp_path)
    fault = r"train\.learning_rate: at 1e\+30 training diverged by step \d+ .*nan.*; lower it"
    with pytest.raises(ConfigError, match=fault):
        train(rnn(learning_rate=1e30), run)
    with pytest.raises(ConfigError, match=fault):  # what it left is not taken for a whole training
        train(rnn(learning_rate=1e30), run)


def test_turning_texts_into_tokens_counts_as_training(config_of, tmp_path, monkeypatch):
    """As it does for a baseline, so that the times compare."""
    for kind in ("rnn", "attention", "encoder", "decoder"):
        now = [0.0]
        monkeypatch.setattr(logs.time, "monotonic", lambda now=now: now[0])
        module, name = {
            "rnn": (classify, "render_text"),
            "attention": (classify, "render_text"),
            "encoder": (classify, "encoder_text"),
            "decoder": (sft, "completion"),
        }[kind]
        real = getattr(module, name)

        def slow(*args, now=now, real=real):
            now[0] += 1
            return real(*args)

        monkeypatch.setattr(module, name, slow)
        trained = train(config_of(kind, epochs=1), job(tmp_path / kind))
        assert trained.seconds >= len(PARTS.train)


def tools_of(router, examples) -> list[Decision]:
    return [Decision(d.action, d.calls) for d in router.decide([e.context for e in examples])]


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_a_validation_part_smaller_than_a_batch_counts(config_of, tmp_path, kind):
    run = job(tmp_path, parts=Parts(PARTS.train, PARTS.validation[:3], TOOLS))
    train(config_of(kind, epochs=1), run)
    lines = [orjson.loads(line) for line in run.run.log.read_bytes().splitlines()]
    assert sum("eval_loss" in line for line in lines) == 3


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_no_validation_part_is_refused_with_its_cure(config_of, tmp_path, kind):
    parts = Parts(PARTS.train, [], TOOLS)
    with pytest.raises(DatasetError, match=r"data\.split\.validation: .*raise it"):
        train(config_of(kind), job(tmp_path, parts=parts))


def test_labels_too_long_to_write_are_counted_and_left_out(tiny_llama, tmp_path, caplog):
    config = decoder(tiny_llama, epochs=1).model_copy(update={"max_new_tokens": 32})
    train(config, job(tmp_path))
    counts = [int(line.split()[0]) for line in caplog.messages if "over 32 tokens left out" in line]
    assert 0 < counts[0] < len(PARTS.train)


def test_no_label_that_fits_is_refused_with_its_cure(tiny_llama, tmp_path):
    calls = [example for example in PARTS.train if example.label.calls]
    config = decoder(tiny_llama).model_copy(update={"max_new_tokens": 8})
    with pytest.raises(DatasetError, match="max_new_tokens: no label fits in 8 tokens; raise it"):
        train(config, job(tmp_path, parts=Parts(calls, PARTS.validation, TOOLS)))


def test_prompts_that_the_tools_alone_make_too_long_are_counted(tiny_llama, tmp_path, caplog):
    config = decoder(tiny_llama, epochs=1).model_copy(update={"max_tokens": 32})
    train(config, job(tmp_path))
    assert f"{len(PARTS.train)} prompts stay over 32 tokens" in caplog.messages


def test_the_log_is_json_lines(unbroken):
    _, run = unbroken("rnn")
    for line in run.log.read_text().splitlines():
        entry = json.loads(line)
        assert entry["step"] >= 1
        assert entry["seconds"] >= 0
