"""Errors for users: one line that says where, what and what now, also after a process boundary."""

import copy
import pickle

import pytest

from distill import errors
from distill.errors import DistillError, InputError, MissingExtraError


def subclasses(kind: type[InputError]) -> list[type[InputError]]:
    below = [deeper for child in kind.__subclasses__() for deeper in subclasses(child)]
    return [kind, *below]


KINDS = [kind for kind in subclasses(InputError) if kind.__module__ == errors.__name__]


def make(kind: type[InputError]) -> InputError:
    if kind is MissingExtraError:
        return MissingExtraError("trackio", "trackers")
    return kind("traces.jsonl:7", "not JSON", "mend the line")


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_error_is_a_value_error_with_place_fault_and_cure(kind: type[InputError]):
    error = make(kind)
    assert isinstance(error, ValueError)
    assert isinstance(error, DistillError)
    assert str(error) == f"{error.place}: {error.fault}; {error.cure}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_an_error_is_the_same_after_pickling(kind: type[InputError], through):
    error = make(kind)
    again = through(error)
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_missing_extra_names_the_command_that_installs_it():
    line = str(MissingExtraError("trackio", "trackers"))
    assert "pip install 'tool-router-distill[trackio]'" in line


def test_the_tree_in_the_docstring_is_the_tree():
    for kind in KINDS:
        assert f" {kind.__name__} " in errors.__doc__.replace("\n", " ")
