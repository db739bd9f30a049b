from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldmark.errors import OutputError
from fieldmark.files import atomic_folder, atomic_path, claim_directory, write_text


@pytest.fixture
def umask() -> Iterator[None]:
    """A umask that differs from everyone's default, so that obeying it shows."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_whole_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "模型.txt"
    write_text(target, "one\nzwei 三\n")
    assert target.read_bytes() == "one\nzwei 三\n".encode()
    write_text(target, "two")
    assert target.read_text(encoding="utf-8") == "two"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    target = tmp_path / "model.bin"
    target.write_bytes(b"old")
    # Ours are shown as ours; an OSError (a full disk, say) becomes a message for people.
    shown = OutputError if interruption is OSError else interruption

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half of the n")
            raise interruption("in the middle")

    with pytest.raises(shown):
        write_half()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "history.csv"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent  # elsewhere, replacing would not be one step
    assert target.read_text() == "half"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.usefixtures("umask")
def test_permissions_are_what_the_umask_gives_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o640


def test_a_place_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    in_the_way = tmp_path / "runs"
    in_the_way.write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot write") as caught:
        write_text(in_the_way / "x" / "metrics.json", "{}")
    assert str(in_the_way / "x" / "metrics.json") in str(caught.value)
    assert "choose another place with --out" in str(caught.value)
    assert in_the_way.read_text() == "a file where a folder should be"


def test_a_folder_where_the_file_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model" / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "model", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_claiming_makes_a_directory_or_takes_an_empty_one(tmp_path: Path) -> None:
    for _ in range(2):
        claim_directory(tmp_path / "runs" / "x")
        assert list((tmp_path / "runs" / "x").iterdir()) == []


def test_claiming_never_touches_a_directory_with_work_in_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("a night's work")
    with pytest.raises(OutputError, match="nothing in it was touched") as caught:
        claim_directory(tmp_path)
    assert "--name or --out" in str(caught.value)
    assert (tmp_path / "model.safetensors").read_text() == "a night's work"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("place", ["file", "file/below", "broken link"])
def test_claiming_what_cannot_be_a_directory_says_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken link").symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(OutputError, match="cannot write") as caught:
        claim_directory(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)


def test_claiming_a_directory_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests may run as root, whom permission bits do not stop: let the file system refuse instead.
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fieldmark.files.tempfile.TemporaryFile", read_only)
    with pytest.raises(OutputError, match="cannot write: Read-only file system"):
        claim_directory(tmp_path / "x")


@pytest.mark.usefixtures("umask")
def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "out") as folder:
        assert folder.parent == tmp_path / "new"
        assert folder.name.startswith(".out."), "hidden, and on the same disk"
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
        assert not (tmp_path / "new" / "out").exists()
    assert (tmp_path / "new" / "out" / "a" / "b").read_text() == "x"
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "new" / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_interrupted_folder_leaves_nothing_and_spares_what_its_links_lead_to(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("mine")

    def write_half() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "link").symlink_to(tmp_path / "photos")
            raise interruption

    with pytest.raises(interruption):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert (tmp_path / "photos" / "1.jpg").read_text() == "mine"


def test_a_folder_takes_nobodys_place(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not any((tmp_path / "out").iterdir())
