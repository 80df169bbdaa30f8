"""A workflow as a DSPy program that DSPy's own tools evaluate, save and compile."""

from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

from distill.config import LearnConfig
from distill.errors import WorkflowError
from distill.integrations.dspy import LearnOutcomes, WorkflowProgram, metric_loss
from distill.workflow import Threshold, Workflow, branch, end, tool

EXAMPLES = [
    dspy.Example(amount=n / 10, answer="refund" if n > 60 else "voucher").with_inputs("amount")
    for n in range(100)
]


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.given)


def program(**look_up: Any) -> WorkflowProgram:
    def measure(amount: float) -> float:
        return amount

    def refund() -> str:
        return "refund"

    def voucher() -> str:
        return "voucher"

    flow = Workflow(
        ["amount", "answer"],
        [
            tool(look_up.pop("function", measure), then="large", gives="measure", **look_up),
            branch(
                "large", on="measure", threshold=Threshold(1.0), above="refund", below="voucher"
            ),
            tool(refund, then="end", gives="given"),
            tool(voucher, then="end", gives="given"),
            end(metric_loss(right, ["answer"], ["given"])),
        ],
    )
    return WorkflowProgram(flow)


def score(program: WorkflowProgram) -> float:
    evaluate = dspy.Evaluate(devset=EXAMPLES, metric=right, display_progress=False, num_threads=2)
    return float(evaluate(program).score)


def test_compiled_it_does_better_by_its_metric_and_the_student_stays(tmp_path: Path):
    student = program()
    before = score(student)
    config = LearnConfig(epochs=30, learning_rate=0.1, max_grad_norm=10)
    optimizer = LearnOutcomes(config, tmp_path / "learned")
    compiled = optimizer.compile(student, trainset=EXAMPLES)
    assert score(compiled) > 95 > before + 30
    assert score(student) == before
    assert compiled.learned is not None
    assert compiled.learned.kept > 0

    compiled.save(tmp_path / "program.json")
    loaded = program()
    loaded.load(tmp_path / "program.json")
    assert score(loaded) == score(compiled)


def test_a_call_without_a_label_has_no_loss_and_one_with_it_has():
    asked = program()
    found = asked(amount=8.0)
    assert (found.given, found.loss) == ("refund", None)
    assert found.path[0] == "measure"
    assert found.path[-1] == "end"
    assert "answer" not in found
    assert asked(amount=8.0, answer="refund").loss == 0
    assert asked(amount=8.0, answer="voucher").loss == 1


def test_what_is_missing_unknown_or_fails_is_named(tmp_path: Path):
    with pytest.raises(WorkflowError, match="needs 'amount'"):
        program()(answer="refund")
    with pytest.raises(WorkflowError, match="no input 'price'"):
        program()(amount=1.0, price=2)
    with pytest.raises(WorkflowError, match="has no 'answer'"):
        LearnOutcomes(LearnConfig(), tmp_path).compile(
            program(), trainset=[dspy.Example(amount=1.0)] * 6
        )

    def measure(amount: float) -> float:
        raise OSError("the scales are broken")

    with pytest.raises(WorkflowError, match="the scales are broken"):
        program(function=measure)(amount=1.0)


def test_a_tool_may_be_a_program_with_the_callers_lm_and_a_time_limit():
    predict = dspy.Predict("amount: float -> size: float")

    def measure(amount: float) -> float:
        return float(predict(amount=amount).size)

    asked = program(function=measure, timeout_s=30)
    with dspy.context(lm=DummyLM([{"size": "7.5"}])):
        assert asked(amount=3.0).given == "refund"
