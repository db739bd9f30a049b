"""Tables as people and their spreadsheets write them, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fieldmark.data.manifest import read_manifest
from fieldmark.errors import SourceError


def pictures(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + i, 20)).save(folder / name)


def csv_of(folder: Path, text: str, **how: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, **{"encoding": "utf-8", **how})
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["the CSV is empty", "path,label[,split]"]),
        ("\n \n", ["the CSV is empty"]),
        ("path,label\n", ["a header and nothing below it"]),
        (
            "path,class\na,b\n",
            ["no column 'label'", "'path', 'class'", "rename the column 'class'"],
        ),
        ("filename,label\na,b\n", ["no column 'path'", "rename the column 'filename' to 'path'"]),
        (
            "file;label\na;b\n",
            ["no column 'path'", "'file', 'label'", "rename the column 'file' to 'path'"],
        ),
        ("a.png,ants\nb.png,bees\n", ["no column 'path'", "name the columns in the first line"]),
        ("path,label,label\na,b,c\n", ["two columns 'label'"]),
        ("path\0,label\n", ["not a CSV in UTF-8"]),
        ("path,label\n" + "x" * 200_000, ["not a CSV in UTF-8"]),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, words: list[str]) -> None:
    path = csv_of(tmp_path, text)
    with pytest.raises(SourceError) as caught:
        read_manifest(path)
    for word in [*words, str(path)]:
        assert word in str(caught.value)


def test_other_encodings_and_no_file(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "path,label\n照片.png,蜜蜂\n", encoding="gbk")
    with pytest.raises(SourceError, match=r"not a CSV in UTF-8(.|\n)*CSV UTF-8"):
        read_manifest(path)
    path = csv_of(tmp_path, "path,label\na.png,ant\nb.png,Käfer\n", encoding="latin-1")
    with pytest.raises(SourceError, match="a letter in line 3 is written in another") as caught:
        read_manifest(path)
    assert "codec" not in str(caught.value)
    with pytest.raises(SourceError, match="No such file"):
        read_manifest(tmp_path / "none.csv")


@pytest.mark.parametrize(("mark", "word"), [(";", "semicolon"), ("\t", "tab"), (",", "comma")])
def test_what_spreadsheets_of_other_countries_write(tmp_path: Path, mark: str, word: str) -> None:
    pictures(tmp_path, "a, b.png", "c.png")
    rows = (
        ("Path", "size; in mm", "Label"),
        ("a, b.png", "1,5; 2", "ants"),
        ("c.png", "2,5", "bees"),
        ("d.png", "", "bees", "", ""),
    )
    text = "\r\n".join(mark.join(f'"{value}"' for value in row) for row in rows)
    manifest = read_manifest(csv_of(tmp_path, text, encoding="utf-8-sig"))
    assert [(Path(s.path).name, s.label) for s in manifest.samples] == [
        ("a, b.png", "ants"),
        ("c.png", "bees"),
    ]
    assert f"around a text with a {word}" in manifest.left_out[0].reason
    note = f"The values in table.csv are separated by {word}s."
    assert (note in manifest.notes) == (mark != ",")


@pytest.mark.parametrize(
    ("name", "hinted"),
    [
        *(("camera", True), ("Patient ID", True), ("patientid", True), ("film_no", True)),
        *(("sites", True), ("filmstar", False), ("weight", False), ("id", False)),
    ],
)
def test_a_column_that_may_be_a_group_is_pointed_out(
    tmp_path: Path, name: str, hinted: bool
) -> None:
    pictures(tmp_path, "a.png", "b.png")
    rows = "\na.png,ants,1\nb.png,bees,2\n"
    notes = read_manifest(csv_of(tmp_path, f"path,label,{name}{rows}")).notes
    assert notes[0] == f"Columns not used: {name.lower()}."
    assert [f"one {name.lower()!r}" in note for note in notes[1:]] == [True] * hinted
    grouped = f"path,label,group,{name}\na.png,ants,1,1\nb.png,bees,2,2\n"
    assert len(read_manifest(csv_of(tmp_path, grouped)).notes) == 1
