"""An exported encoder: the graph computes what PyTorch does, and its folder is a router folder."""

import hashlib
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from small_shop import PARTS, ask

from distill.errors import MissingExtraError, RouterError
from distill.routers import load_router
from distill.routers.export import export
from distill.types import Context, Message

CONTEXTS = [example.context for example in PARTS.validation]


@pytest.fixture(scope="module")
def encoder(trained):
    return trained("encoder")


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    """The folders of the encoder's exports by quantisation."""
    folder = tmp_path_factory.mktemp("exported")
    for quantise in ("none", "int8"):
        export(encoder.run, folder / quantise, quantise)
    return folder


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported / "int8", tmp_path / "copy"))


def random_rows(rows: int, time: int) -> tuple[np.ndarray, np.ndarray]:
    """Token rows with their mask; each has at least one real token, the first no padding."""
    luck = np.random.default_rng(rows * time)
    ids = luck.integers(3, 300, (rows, time))
    lengths = np.append(time, luck.integers(1, time + 1, rows - 1))
    return ids, (np.arange(time) < lengths[:, None]).astype(np.int64)


@pytest.mark.parametrize(("rows", "time"), [(1, 1), (1, 96), (2, 7), (5, 33)])
def test_the_float_graph_computes_what_pytorch_does(encoder, exported, rows, time):
    ids, mask = random_rows(rows, time)
    found = load_router(exported / "none").logits(ids, mask)
    np.testing.assert_allclose(found, encoder.router.logits(ids, mask), atol=1e-4)


def test_quantised_decisions_are_nearly_those_of_pytorch(encoder, exported):
    ids, _ = random_rows(200, 24)
    router = load_router(exported / "int8")
    mask = np.ones((1, 24), np.int64)
    found = np.concatenate([router.logits(row[None], mask) for row in ids])
    expected = encoder.router.logits(ids, np.ones_like(ids))
    assert len(set(expected.argmax(1))) >= 3
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert not np.array_equal(found, expected)


def test_a_quantised_file_is_a_fraction_of_the_float_one(exported):
    sizes = [(exported / name / "model.onnx").stat().st_size for name in ("int8", "none")]
    assert sizes[0] < 0.7 * sizes[1]  # the tiny graph's own names weigh much


@pytest.mark.parametrize("quantise", ["none", "int8"])
def test_batches_do_not_change_decisions(exported, quantise):
    router = load_router(exported / quantise)
    long = Context((Message("user", "please, " * 40 + "cancel order 4"),), CONTEXTS[0].tools)
    contexts = [*CONTEXTS[:4], long, ask("x")]
    assert router.decide(contexts) == [router.decide([context])[0] for context in contexts]


def test_the_folder_moves_and_is_saved_again_as_it_is(exported, copy, tmp_path):
    router = load_router(copy)
    assert router.kind == "encoder"
    assert router.decide(CONTEXTS) == load_router(exported / "int8").decide(CONTEXTS)
    again = tmp_path / "again"
    again.mkdir()
    router.save(again)
    assert (again / "model.onnx").read_bytes() == (copy / "model.onnx").read_bytes()
    assert load_router(again).decide(CONTEXTS) == router.decide(CONTEXTS)


def test_the_folder_holds_a_graph_and_text_without_paths(copy, encoder):
    files = sorted(path.name for path in copy.rglob("*"))
    assert [name for name in files if not name.endswith(".json")] == ["model.onnx"]
    for path in copy.iterdir():
        assert str(encoder.run.parent).encode() not in path.read_bytes(), path.name


def test_the_exported_router_stays_as_it_was(encoder, exported):
    assert load_router(encoder.run).decide(CONTEXTS) == encoder.router.decide(CONTEXTS)
    assert not (encoder.folder / "model.onnx").exists()


def test_an_earlier_export_is_replaced(encoder, copy):
    export(encoder.folder, copy, "none")
    assert load_router(copy).file.onnx["quantise"] == "none"


def test_nothing_else_is_replaced(encoder, tmp_path):
    for folder in (encoder.folder, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(RouterError, match="is there and is no exported router"):
            export(encoder.folder, folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"


NOT_EXPORTED = {
    "majority": "a router of kind 'majority'",
    "rnn": "a router of kind 'rnn'",
    "filling": "an encoder that fills arguments",
    "open": "an open encoder",
    "exported": "an exported encoder",
}


@pytest.mark.parametrize("kind", NOT_EXPORTED)
def test_what_is_no_trained_encoder_is_refused(trained, exported, tmp_path, kind):
    source = exported / "int8" if kind == "exported" else trained(kind).folder
    with pytest.raises(RouterError, match=f"holds {NOT_EXPORTED[kind]}; export a trained"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_or_cut_off_graph_is_named(copy):
    graph = copy / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(RouterError, match=r"model\.onnx: damaged .*; copy the folder again"):
        load_router(copy)
    graph.unlink()
    with pytest.raises(RouterError, match=r"model\.onnx: missing"):
        load_router(copy)


def test_a_graph_that_this_runtime_does_not_know_is_one_line(copy):
    """As a newer version's would be."""
    graph = b"\x08\x0anothing that a runtime knows"
    (copy / "model.onnx").write_bytes(graph)
    value = json.loads((copy / "router.json").read_text())
    value["onnx"]["sha256"] = hashlib.sha256(graph).hexdigest()
    (copy / "router.json").write_text(json.dumps(value))
    with pytest.raises(RouterError, match=r"model\.onnx: ONNX Runtime .* cannot run") as caught:
        load_router(copy)
    assert "\n" not in str(caught.value)
    (copy / "router.json").write_text(json.dumps(value | {"onnx": "yes"}))
    with pytest.raises(RouterError, match=r"router\.json: damaged"):
        load_router(copy)


def test_without_the_extra_both_ways_name_its_command(encoder, copy, tmp_path, monkeypatch):
    install = r"pip install 'tool-router-distill\[onnx\]'"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=install):
        load_router(copy)

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(MissingExtraError, match=install):
        export(encoder.folder, tmp_path / "out")


def test_threads_follow_the_variable_that_torch_follows(copy, monkeypatch):
    for value, threads in (("1", 1), ("3,1", 3), ("many", 0)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        options = load_router(copy)._session.get_session_options()
        assert options.intra_op_num_threads == threads
