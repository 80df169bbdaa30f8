"""What is checked of the folder of a network trained from scratch."""

import json
import shutil
from pathlib import Path

import pytest

from distill.errors import RouterError
from distill.routers import load_router


@pytest.fixture(params=["rnn", "attention"])
def copy(request, trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained(request.param).folder, tmp_path / "copy"))


def change(copy: Path, **values: object) -> None:
    file = copy / "router.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def assert_refused(folder: Path, words: str) -> None:
    with pytest.raises(RouterError, match=words) as caught:
        load_router(folder)
    assert "\n" not in str(caught.value)


def test_the_weights_of_another_router_are_refused(copy):
    classes = json.loads((copy / "router.json").read_text())["classes"]
    change(copy, classes=classes[1:])
    assert_refused(copy, r"model\.safetensors: does not fit router\.json and tokenizer\.json")


def test_a_damaged_tokenizer_is_refused(copy):
    file = copy / "tokenizer.json"
    file.write_text(file.read_text()[:200])
    assert_refused(copy, r"tokenizer\.json: damaged")
