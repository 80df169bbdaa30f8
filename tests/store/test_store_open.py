"""A store opens, or says in one line what is wrong with its address, and repeats no password."""

import asyncio
import sqlite3
import stat
import subprocess
import sys

import pytest
from record_values import record

from distill.config import StoreConfig
from distill.errors import ConfigError
from distill.store import Reader, Store


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("no address", "store.url: not a database's address"),
        ("sqlite://", "store.url: not a plain file"),
        ("sqlite:///:memory:", "store.url: not a plain file"),
        ("sqlite:///file:x.db?mode=ro&uri=true", "store.url: not a plain file"),
        ("mysql://host/db", "store.url: a database of another kind"),
        ("postgresql+psycopg2://host/db", "store.url: a database of another kind"),
        ("sqlite:////no/such/folder/gateway.db", "store.url: cannot be opened"),
        ("postgresql://tests@/db?host=/no/such/folder", "store.url: cannot be opened"),
    ],
)
def test_a_wrong_address_is_a_fault_of_the_config(url, fault):
    with pytest.raises(ConfigError) as caught:
        Store(StoreConfig(url=url))
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ann:secret@/db?host=/no/such/folder",
        "mysql://ann:secret@host/db",
        "ann:secret@host",
        "postgresql://ann:secret@host:port/db",
    ],
)
def test_an_address_from_the_environment_is_not_repeated(address, monkeypatch):
    monkeypatch.setenv("STORE", address)
    with pytest.raises(ConfigError) as caught:
        Store(StoreConfig(url_env="STORE"))
    assert str(caught.value).startswith("environment variable STORE: ")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("STORE")
    with pytest.raises(ConfigError, match="not set"):
        Store(StoreConfig(url_env="STORE"))


def test_a_file_of_something_else_is_left_alone(tmp_path):
    file = tmp_path / "gateway.db"
    file.write_bytes(b"not a database, " * 100)
    with pytest.raises(ConfigError, match="not a database"):
        Store(StoreConfig(url=f"sqlite:///{file}"))
    assert file.read_bytes() == b"not a database, " * 100


def test_a_table_of_another_version_is_named_as_such(sqlite_url, tmp_path):
    with sqlite3.connect(tmp_path / "gateway.db") as other:
        other.execute("CREATE TABLE distill_records (id TEXT, at INTEGER)")
    other.close()
    with pytest.raises(ConfigError, match="another version's: no column 'accepted'"):
        Store(StoreConfig(url=sqlite_url))


def test_conversations_are_readable_to_their_owner_alone(sqlite_url, open_store, tmp_path):
    store = open_store(sqlite_url)
    assert store.healthy()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_the_address_may_come_from_the_environment(url, monkeypatch, open_store):
    monkeypatch.setenv("STORE", url)
    store = Store(StoreConfig(url_env="STORE"))
    asyncio.run(store.put(record()))
    reader = Reader.of_variable("STORE")
    assert list(reader.records()) == [record()]
    reader.close()
    store.close()


def test_a_reader_makes_nothing(tmp_path, postgres, monkeypatch):
    with pytest.raises(ConfigError, match="no such file"):
        Reader.of_file(tmp_path / "gateway.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(ConfigError, match="holds no records of a gateway"):
        Reader.of_file(tmp_path / "empty.db")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]
    monkeypatch.setenv("STORE", postgres.new_database())
    with pytest.raises(ConfigError, match="holds no records of a gateway"):
        Reader.of_variable("STORE")


def test_without_the_extra_the_cure_is_its_install_command():
    code = "import sys; sys.modules['sqlalchemy'] = None; import distill.store"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'tool-router-distill[serve]'" in done.stderr
