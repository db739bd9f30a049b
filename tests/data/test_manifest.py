"""The table of samples: what it refuses, what it tells, and its CSV."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldmark.data.manifest import (
    Manifest,
    build_manifest,
    read_manifest,
    read_samples,
    write_manifest,
)
from fieldmark.data.sources.candidates import counted, merge_duplicates
from fieldmark.errors import OutputError, SourceError
from fieldmark.types import PARTS, LeftOut, Part, Sample


def manifest_of(*samples: Sample, class_names: tuple[str, ...] = ("ants", "bees")) -> Manifest:
    return Manifest(samples, class_names, (), (), all_grey=False, typical_side_px=8)


SIX = manifest_of(
    *(Sample(f"/d/{i}.png", ("ants", "bees")[i % 2], "train" if i < 4 else "val") for i in range(6))
)


def pictures(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + i, 20)).save(folder / name)


def csv_of(folder: Path, text: str, **how: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, **{"encoding": "utf-8", **how})
    return path


# The type -----------------------------------------------------------------------------------------


def test_parts_and_counts() -> None:
    assert [s.path for s in SIX.of_part("val")] == ["/d/4.png", "/d/5.png"]
    assert SIX.count_by_class() == {"ants": 3, "bees": 3}
    assert SIX.count_by_class("train") == {"ants": 2, "bees": 2}
    assert SIX.count_by_class("test") == {"ants": 0, "bees": 0}
    assert list(replace(SIX, class_names=("bees", "ants")).count_by_class()) == ["bees", "ants"]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (3, ["3 (int) for /a.png", "numbers as text: '3'", "str(label)"]),
        (None, ["None (NoneType)", "give this picture a label, or leave it out"]),
        (float("nan"), ["nan (float)"]),
        ("", ["a label is empty"]),
        ("  ", ["a label is empty"]),
    ],
)
def test_labels_are_texts(label: object, words: list[str]) -> None:
    with pytest.raises(SourceError) as caught:
        manifest_of(Sample("/a.png", label))  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_what_is_no_manifest() -> None:
    with pytest.raises(SourceError, match="no picture"):
        manifest_of()
    with pytest.raises(SourceError, match="not among the classes"):
        manifest_of(Sample("/a.png", "wasps"))
    with pytest.raises(SourceError, match="same name"):
        manifest_of(Sample("/a.png", "ants"), class_names=("ants", "ants"))


def test_without_unreadable_ones() -> None:
    bad = LeftOut("/d/1.png", "truncated")
    rest = SIX.without([bad])
    assert len(rest.samples) == 5
    assert rest.left_out == (bad,)
    assert rest.notes == ()
    assert SIX.left_out == (), "the old one is as it was"
    assert SIX.without([]) == SIX


def test_without_the_last_of_a_class_and_of_a_part() -> None:
    rest = SIX.without(LeftOut(f"/d/{i}.png", "truncated") for i in (1, 3, 5))
    assert rest.class_names == ("ants", "bees")
    assert rest.notes == ("No picture of bees can be read; the class stays, empty.",)
    with pytest.raises(SourceError, match="in the val part") as caught:
        SIX.without([LeftOut("/d/4.png", "truncated"), LeftOut("/d/5.png", "file is empty")])
    assert "/d/5.png (file is empty)" in str(caught.value)


def test_pictures_that_are_gone_are_not_called_damaged(tmp_path: Path) -> None:
    gone = [LeftOut(f"/d/{i}.png", "no such file") for i in (4, 5)]
    with pytest.raises(SourceError, match="no picture in the val part is where it was") as caught:
        SIX.without(gone)
    assert "do:     bring them back; or name the folder, table or archive" in str(caught.value)
    assert "fieldmark evaluate RUN SOURCE" in str(caught.value)
    links = []
    for name in ("ants", "bees"):
        (tmp_path / f"{name}.png").symlink_to(tmp_path / "moved" / name)
        links.append(Sample(str(tmp_path / f"{name}.png"), name))
    with pytest.raises(SourceError, match="no picture of this source is there: p") as caught:
        build_manifest(links, given="p")
    assert f"bring back what they lead to, as {tmp_path}/moved/ants" in str(caught.value)


def test_new_names() -> None:
    new = SIX.renamed(["蚂蚁", "蜜蜂"])
    assert new.class_names == ("蚂蚁", "蜜蜂")
    assert [s.label for s in new.samples[:2]] == ["蚂蚁", "蜜蜂"]
    assert SIX.renamed(["bees", "ants"]).samples[0].label == "bees", "a swap is a swap"
    assert SIX.renamed(()) == SIX
    with pytest.raises(SourceError, match="1 names for 2 classes") as caught:
        SIX.renamed(["x"])
    assert "in this order: ants, bees" in str(caught.value)
    with pytest.raises(SourceError, match="same name"):
        SIX.renamed(["x", "x"])
    with pytest.raises(SourceError, match="is empty"):
        SIX.renamed(["x", ""])


def test_numbers_of_things() -> None:
    assert counted(1, "picture") == "1 picture"
    assert counted(1797, "picture") == "1,797 pictures"
    assert counted(0, "class") == "0 classes"


# The CSV ------------------------------------------------------------------------------------------

ODD_NAMES = ("a b.png", "猫/照片 1.png", 'say "hi", twice.png', "it's.png", "a#1.png", "ü.png")


def test_round_trip(tmp_path: Path) -> None:
    pictures(tmp_path / "far", *ODD_NAMES)
    labels = ["ants", "猫, 狗", 'so "called"', "two\nlines", "ants", "猫, 狗"]
    parts = ["train", "train", "train", "train", "val", "test"]
    groups = ["nest 1", "", 'a, "b"', "群", "nest 1", "line\nline"]
    samples = tuple(
        Sample(str(tmp_path / "far" / name), label, part, group)  # type: ignore[arg-type]
        for name, label, part, group in zip(ODD_NAMES, labels, parts, groups, strict=True)
    )
    names = ("ants", 'so "called"', "two\nlines", "猫, 狗")
    manifest = Manifest(samples, names, (), (), all_grey=False, typical_side_px=10)
    path = tmp_path / "run" / "manifest.csv"
    write_manifest(manifest, path)
    assert path.read_text(encoding="utf-8").startswith("path,label,split,group\n")
    assert read_manifest(path) == manifest


def test_what_was_written_is_read_to_the_letter_without_looking_at_files(tmp_path: Path) -> None:
    """A folder's name may end in a space; the model knows the class so, and no other."""
    samples = (
        Sample(str(tmp_path / "gone.png"), "ants ", "train", " g"),
        Sample(str(tmp_path / " b.png"), "bees", "test"),
        Sample("digits#3", "bees", "test"),
    )
    path = tmp_path / "manifest.csv"
    write_manifest(manifest_of(*samples, class_names=("ants ", "bees")), path)
    assert read_samples(path) == samples
    for text, told in (
        ("path,label\na.png,ant\n", "a column is missing"),
        ("path,label,split\na.png,ant,train\nb.png,ant\n", "line 3 has not as many values"),
        ("path,label,split\n", "nothing below it"),
    ):
        path.write_text(text)
        with pytest.raises(SourceError, match=told):
            read_samples(path)


def test_tables_written_before_there_were_groups_are_read(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    path = csv_of(tmp_path, "path,label,split\na.png,ants,train\nb.png,ants,val\n")
    expected = (
        Sample(str(tmp_path / "a.png"), "ants", "train"),
        Sample(str(tmp_path / "b.png"), "ants", "val"),
    )
    assert read_samples(path) == expected
    assert read_manifest(path).samples == expected


def test_a_column_of_groups_in_any_place_and_without_parts(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    path = csv_of(tmp_path, "Group,label,path\n nest 1 ,ants,a.png\n,bees,b.png\nn,ants,c.png\n")
    manifest = read_manifest(path)
    assert [sample.group for sample in manifest.samples] == ["nest 1", "", "n"]
    assert not manifest.notes
    with pytest.raises(SourceError, match="two columns 'group'"):
        read_manifest(csv_of(tmp_path, "path,label,group,group\na.png,ants,1,2\n"))


@given(st.lists(st.tuples(st.text("ab ,\"\n猫'", max_size=5), st.sampled_from(PARTS)), min_size=1))
def test_groups_make_the_trip_to_a_file_and_back(rows: list[tuple[str, Part]]) -> None:
    samples = [Sample(f"/d/{i}.png", "ants", part, g) for i, (g, part) in enumerate(rows)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.csv"
        write_manifest(manifest_of(*samples), path)
        assert read_samples(path) == tuple(samples)


def test_a_class_that_train_lacks(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    rows = "a.png,ants,train\nb.png,bees,train\nc.png,wasps,test\n"
    path = csv_of(tmp_path, "path,label,split\n" + rows)
    with pytest.raises(SourceError, match="test has a class that train has no pictures of"):
        read_manifest(path)
    # Without a train part it is a table to be evaluated on.
    path = csv_of(tmp_path, "path,label,split\na.png,ants,test\nc.png,wasps,val\n")
    assert read_manifest(path).class_names == ("ants", "wasps")


def test_named_pictures_make_the_trip_too(tmp_path: Path) -> None:
    manifest = manifest_of(Sample("digits#0", "ants"), Sample("digits#1", "bees"))
    write_manifest(manifest, tmp_path / "m.csv")
    back = read_manifest(tmp_path / "m.csv")
    assert back.samples == manifest.samples
    assert back.all_grey
    assert back.typical_side_px == 8


def test_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_manifest(SIX, tmp_path / "file" / "m.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_any_order_relative_paths_other_columns(
    tmp_path: Path, encoding: str, newline: str
) -> None:
    pictures(tmp_path, "p/a.png", "p/b.png", "p/c.png")
    text = "Label,who,PATH\nants,me,p/a.png\n\nbees,you,./p/b.png\nbees,,p/../p/c.png\n"
    manifest = read_manifest(csv_of(tmp_path, text, encoding=encoding, newline=newline))
    assert [s.label for s in manifest.samples] == ["ants", "bees", "bees"]
    assert {s.part for s in manifest.samples} == {""}
    assert all(Path(s.path).is_absolute() for s in manifest.samples)
    assert manifest.notes == ("Columns not used: who.",)
    assert manifest.typical_side_px == 9, "the median of 8, 9 and 10"


def test_relative_to_the_csv_not_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "set", "a.png", "b.png")
    csv_of(tmp_path / "set", "path,label\na.png,ants\nb.png,bees\n")
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest("set/table.csv")
    assert [s.path for s in manifest.samples] == [
        str(tmp_path / "set" / "a.png"),
        str(tmp_path / "set" / "b.png"),
    ]


def test_split_words(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(6)]
    pictures(tmp_path, *names)
    words = ["train", "Train", "val", "valid", "validation", "test"]
    labels = ["ants", "bees", "ants", "bees", "ants", "bees"]
    rows = "".join(f"{n},{la},{w}\n" for n, la, w in zip(names, labels, words, strict=True))
    manifest = read_manifest(csv_of(tmp_path, "path,label,split\n" + rows))
    parts = [sample.part for sample in manifest.samples]
    assert parts == ["train", "train", "val", "val", "val", "test"]
    with pytest.raises(SourceError, match=r"'tset' .*line 2(.|\n)*did you mean 'test'"):
        read_manifest(csv_of(tmp_path, "path,label,split\n0.png,ants,tset\n"))
    with pytest.raises(SourceError, match=r"1 of 2 pictures without(.|\n)*assign all of them"):
        read_manifest(csv_of(tmp_path, "path,label,split\n0.png,ants,train\n1.png,bees,\n"))
    empty = read_manifest(csv_of(tmp_path, "path,label,split\n0.png,ants,\n1.png,bees,\n"))
    assert {sample.part for sample in empty.samples} == {""}


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").write_text("no picture")
    text = (
        "path,label\na.png,ants\nb.png,bees\nc.png,bees\ngone.png,ants\n"
        "d.png\nx, y.png,ants\n,ants\na.png,\n"
    )
    manifest = read_manifest(csv_of(tmp_path, text))
    assert len(manifest.samples) == 2
    reasons = {Path(item.path).name: item.reason for item in manifest.left_out}
    assert reasons == {
        "d.png": "line 6: 1 values, the header has 2",
        "x": 'line 7: 3 values, the header has 2 (put "quotes" around a text with a comma)',
        "table.csv": "line 8: no path",
        "a.png": "line 9: no label",
        "c.png": "not a picture (first bytes: b'no picture')",
        "gone.png": "no such file",
    }
    assert len(manifest.samples) + len(manifest.left_out) == 8, "found = used + left out"
    assert f"1 row left out: no such file (paths relative to {tmp_path})." in manifest.notes


def test_all_files_missing(tmp_path: Path) -> None:
    rows = "".join(f"p/{i}.png,{'ants' if i % 2 else 'bees'}\n" for i in range(9))
    with pytest.raises(SourceError, match="none of the pictures in this CSV is there") as caught:
        read_manifest(csv_of(tmp_path, "path,label\n" + rows))
    assert f"{tmp_path}/p/0.png" in str(caught.value)
    assert "and 6 more" in str(caught.value)
    assert f"paths relative to {tmp_path}" in str(caught.value)


def test_bundles_that_are_there_are_not_called_missing(tmp_path: Path) -> None:
    manifest = read_manifest(csv_of(tmp_path, "path,label\ndigits#1,one\nb.png,two\n"))
    assert (len(manifest.samples), manifest.class_names) == (1, ("one",))
    with pytest.raises(SourceError, match="none of the pictures in this CSV is there"):
        read_manifest(csv_of(tmp_path, f"path,label\n{'x' * 20}.gz#1,one\nb,two\n"))


def test_duplicates(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png")
    text = "path,label\na.png,ants\nb.png,bees\n./a.png,ants\nc.png,ants\nc.png,bees\nd.png,bees\n"
    manifest = read_manifest(csv_of(tmp_path, text))
    assert [Path(s.path).name for s in manifest.samples] == ["a.png", "b.png", "d.png"]
    assert [(Path(i.path).name, i.reason) for i in manifest.left_out] == [
        ("a.png", f"there before: the same file as {tmp_path}/a.png"),
        ("c.png", "there 2 times with different labels: ants, bees"),
        ("c.png", "there 2 times with different labels: ants, bees"),
    ]
    assert any("nothing says which is right" in note for note in manifest.notes)


def test_one_picture_in_two_parts_would_be_a_leak(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    text = (
        "path,label,split\na.png,ants,train\nb.png,bees,train\nc.png,bees,train\nc.png,bees,test\n"
    )
    manifest = read_manifest(csv_of(tmp_path, text))
    assert {item.reason for item in manifest.left_out} == {
        "there 2 times with different parts: test, train"
    }


def test_a_picture_in_two_groups_joins_them(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    rows = "d.png,x,\na.png,x,g2\na.png,x,g1\nb.png,x,g2\nc.png,x,g1\nd.png,x,g3\ne.png,x,g3\n"
    manifest = read_manifest(csv_of(tmp_path, "path,label,group\n" + rows))
    groups = {Path(s.path).name: s.group for s in manifest.samples}
    assert groups == {"a.png": "g1", "b.png": "g1", "c.png": "g1", "d.png": "g3", "e.png": "g3"}
    assert manifest.notes == ("These groups share a picture, and are taken for one: g1, g2.",)
    assert [item.reason for item in manifest.left_out] == [
        f"there before: the same file as {tmp_path}/{name}" for name in ("a.png", "d.png")
    ]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy")), max_size=12))
def test_merging_accounts_for_every_row(rows: list[tuple[str, str]]) -> None:
    samples = [Sample(f"/nowhere/{path}", label) for path, label in rows]
    kept, left_out, _ = merge_duplicates(samples)
    assert len(kept) + len(left_out) == len(samples)
    assert len({s.path for s in kept}) == len(kept)
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.path, set()).add(sample.label)
    assert {s.path for s in kept} == {path for path, seen in labels.items() if len(seen) == 1}
