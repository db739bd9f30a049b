"""Contents: equal bytes, equal keys; and when a file is read again."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from fieldmark.data import contents as contents_module
from fieldmark.data.contents import content_keys
from fieldmark.data.memory import Memory, Seen
from fieldmark.progress import Silent


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache" / "memory.sqlite")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    real = contents_module.sha256_of

    def counted(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(contents_module, "sha256_of", counted)
    return names


def old_file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    then = time.time() - 100
    os.utime(path, (then, then))
    return str(path)


def test_the_key_is_the_hash_of_the_bytes(tmp_path: Path, memory: Memory) -> None:
    paths = [old_file(tmp_path / name, data) for name, data in (("a", b"1"), ("b", b"2"))]
    paths += [old_file(tmp_path / "copy of a", b"1"), str(tmp_path / "absent"), str(tmp_path)]
    expected = [hashlib.sha256(data).hexdigest() for data in (b"1", b"2", b"1")]
    assert content_keys(paths, Silent(), memory=memory) == [*expected, None, None]


def test_a_file_is_read_once_until_it_changes(
    tmp_path: Path, memory: Memory, reads: list[str]
) -> None:
    path = old_file(tmp_path / "a", b"1")
    for _ in range(3):
        content_keys([path], Silent(), memory=memory)
    assert reads == ["a"]
    os.utime(path, (1e9, 1e9))
    content_keys([path], Silent(), memory=memory)
    content_keys([path], Silent(), memory=memory)
    assert reads == ["a", "a"]
    old_file(tmp_path / "a", b"22")
    assert content_keys([path], Silent(), memory=memory) == [hashlib.sha256(b"22").hexdigest()]


def test_files_of_one_size_and_time_that_change_places_are_told_apart(
    tmp_path: Path, memory: Memory
) -> None:
    """As after mending labels: nothing but the names has changed."""
    for name, data in (("a", b"1"), ("b", b"2")):
        old_file(tmp_path / name, data)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    one, other = content_keys(paths, Silent(), memory=memory)
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    assert content_keys(paths, Silent(), memory=memory) == [other, one]


def test_a_file_that_may_still_change_within_its_clock_tick_is_read_again(
    tmp_path: Path, memory: Memory, reads: list[str]
) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = content_keys([str(tmp_path / "a")], Silent(), memory=memory)
    (tmp_path / "a").write_bytes(b"2")  # same size, perhaps the same time
    assert content_keys([str(tmp_path / "a")], Silent(), memory=memory) != first
    assert reads == ["a", "a"]


def test_pictures_in_bundles_are_known_by_their_pixels(memory: Memory) -> None:
    keys = content_keys(["digits#0", "digits#1", "digits#0"], Silent(), memory=memory)
    assert keys[0] == keys[2] != keys[1]
    assert content_keys(["digits#1000000"], Silent(), memory=memory) == [None]


def test_facts_come_back_by_kind_and_content(memory: Memory) -> None:
    many = {f"{number:064x}": f"fact {number}" for number in range(1500)}
    memory.remember_facts("look-1", many)
    memory.remember_facts("look-2", {"a": "newer"})
    assert memory.facts("look-1", [*many, "unknown"]) == many
    assert memory.facts("look-2", ["a"]) == {"a": "newer"}
    assert memory.facts("look-1", ["a"]) == {}
    memory.remember_facts("look-2", {"a": "newest"})
    assert memory.facts("look-2", ["a"]) == {"a": "newest"}


def test_damage_costs_what_was_learnt_and_nothing_else(memory: Memory) -> None:
    memory.remember_files({"/a": Seen("a state", "c")})
    memory.path.write_bytes(b"no database at all, " * 100)
    assert memory.files(["/a"]) == {}
    memory.remember_files({"/a": Seen("a state", "c")})
    assert memory.files(["/a"]) == {"/a": Seen("a state", "c")}


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    memory = Memory(tmp_path / "file" / "memory.sqlite")
    memory.remember_facts("look-1", {"a": "b"})
    assert memory.facts("look-1", ["a"]) == {}


def test_another_process_that_writes_is_waited_for_or_done_without(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.remember_facts("look-1", {"a": "b"})
    monkeypatch.setattr("fieldmark.data.memory._WAIT_SECONDS", 0.05)
    with sqlite3.connect(memory.path) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert memory.facts("look-1", ["a"]) == {}
        memory.remember_facts("look-1", {"c": "d"})
    other.close()
    assert memory.facts("look-1", ["a", "c"]) == {"a": "b"}


def test_the_oldest_go_when_there_are_too_many(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fieldmark.data.memory.MAX_ROWS", 3)
    for number in range(6):
        memory.remember_facts("look-1", {str(number): "x"})
    assert sorted(memory.facts("look-1", map(str, range(6)))) == ["3", "4", "5"]
