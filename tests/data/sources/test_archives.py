"""Zips and tars of class folders: unpacked once, safely, and read as folders are."""

from __future__ import annotations

import io
import multiprocessing
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldmark.data.sources import archives, once
from fieldmark.data.sources.members import leads_out
from fieldmark.data.sources.scan import scan
from fieldmark.download import cache_directory
from fieldmark.errors import SourceError
from fieldmark.progress import Silent

Pack = Callable[[Path, Mapping[str, bytes]], Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


def picture(shade: int = 9) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 99, 199)).save(stream, "PNG")
    return stream.getvalue()


def pack_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def pack_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    kind = path.name.rpartition(".")[2].replace("tgz", "gz").replace("tar", "")
    with tarfile.open(path, f"w:{kind}") as opened:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


TWO = {f"{label}/{i}.png": picture(30 * i) for label in ("ants", "bees") for i in range(3)}
PACKED = ["set.zip", "set.ZIP", "set.tar", "set.tar.gz", "set.tgz", "set.tar.bz2", "set.tar.xz"]


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    return (pack_zip if path.name.lower().endswith(".zip") else pack_tar)(path, files)


def found_in(source: Path) -> list[tuple[str, str, str]]:
    return [("/".join(Path(s.path).parts[-2:]), s.label, s.part) for s in scan(source).samples]


def error_of(source: Path, *words: str) -> str:
    with pytest.raises(SourceError) as caught:
        scan(source)
    text = str(caught.value)
    for word in (*words, "given:", "do:"):
        assert word in text, text
    unpacked = cache_directory("unpacked")
    left = [path.name for path in unpacked.glob("*") if path.suffix != ".lock"]
    assert left == [], "nothing half done is left behind"
    return text


def left_out_of(source: Path) -> dict[str, str]:
    return {item.path: item.reason for item in scan(source).left_out}


# What is found ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
def test_as_a_folder_would_be(tmp_path: Path, name: str) -> None:
    files = {**TWO, "bees/notes.txt": b"hello", "owls/": b""}
    manifest = scan(pack(tmp_path / name, files))
    assert found_in(tmp_path / name) == [
        (f"{label}/{i}.png", label, "") for label in ("ants", "bees") for i in range(3)
    ]
    folder = Path(manifest.samples[0].path).parent.parent
    assert folder.parent == cache_directory("unpacked")
    assert scan(folder).samples == manifest.samples
    assert [Path(item.path).name for item in manifest.left_out] == ["notes.txt"]
    assert "Left out, having no pictures: owls." in manifest.notes


@pytest.mark.parametrize("top", ["", "photos/", "./", "a/b/"])
def test_folders_at_the_top_are_passed(tmp_path: Path, top: str) -> None:
    files = {
        f"{top}{part}/{name}": content for part in ("train", "val") for name, content in TWO.items()
    }
    manifest = scan(pack_tar(tmp_path / "set.tar.gz", files))
    assert manifest.class_names == ("ants", "bees")
    assert [len(manifest.of_part(part)) for part in ("train", "val")] == [6, 6]


def test_a_file_beside_the_folder_at_the_top(tmp_path: Path) -> None:
    inside = {f"photos/train/{n}": c for n, c in TWO.items()} | {"README.txt": b"hello"}
    inside |= {f"photos/val/{n}": c for n, c in TWO.items()}
    manifest = scan(pack_zip(tmp_path / "set.zip", inside))
    assert [len(manifest.of_part(part)) for part in ("train", "val")] == [6, 6]
    assert "Not looked at, lying outside the class folders: README.txt." in manifest.notes
    one = pack_zip(tmp_path / "one.zip", {"ants/1.png": picture(), "README.txt": b"hello"})
    assert scan(one).class_names == ("ants",)


def test_depth_counts_below_the_folder_at_the_top(tmp_path: Path) -> None:
    years = {
        f"photos/{year}/{name}": content
        for year in ("2023", "2024")
        for name, content in TWO.items()
    }
    path = pack_zip(tmp_path / "set.zip", years)
    manifest = scan(path, depth=2)
    assert manifest.class_names == ("ants", "bees")
    assert len(manifest.samples) == 12
    one_year = pack_zip(tmp_path / "one.zip", {f"2023/{n}": content for n, content in TWO.items()})
    assert scan(one_year, depth=2).class_names == ("ants", "bees")


def test_idx_files_in_an_archive(tmp_path: Path) -> None:
    files = {
        "raw/train-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, 2, 4, 4) + bytes(32),
        "raw/train-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([0, 1]),
    }
    assert scan(pack_zip(tmp_path / "set.zip", files)).class_names == ("0", "1")


def test_litter_is_nothing(tmp_path: Path) -> None:
    litter = {"__MACOSX/ants/._1.png": b"x", "ants/.DS_Store": b"x", "ants/Thumbs.db": b"x"}
    manifest = scan(pack_zip(tmp_path / "set.zip", {**litter, **TWO}))
    assert (len(manifest.samples), manifest.left_out) == (6, ())


def test_real_photos(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "hymenoptera.zip"
    real = shared_data / "hymenoptera"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        for file in sorted(real.rglob("*.*")):
            opened.write(file, Path("hymenoptera_data") / file.relative_to(real))
    ours, plain = scan(path), scan(real)
    assert [(Path(s.path).name, s.label, s.part) for s in ours.samples] == [
        (Path(s.path).name, s.label, s.part) for s in plain.samples
    ]
    assert ours.typical_side_px == plain.typical_side_px


# Once ---------------------------------------------------------------------------------------------


def test_unpacked_once_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack_zip(tmp_path / "set.zip", {**TWO, "ants/to.png": b"x"})
    first = scan(path)
    monkeypatch.setattr(archives, "_unpack_into", None)
    assert scan(path) == first, "what was left out is remembered too"
    renamed = path.rename(tmp_path / "other.zip")
    assert scan(renamed).samples == first.samples
    changed = pack_zip(tmp_path / "set.zip", {**TWO, "ants/3.png": picture(77)})
    with pytest.raises(TypeError):
        scan(changed)


def test_what_a_dead_process_left_is_thrown_away(tmp_path: Path) -> None:
    folder = cache_directory("unpacked", "k")
    half_done = folder.with_name(".k.part")
    half_done.mkdir(parents=True)
    (half_done / "old.png").write_bytes(b"x")
    once.build_once(folder, lambda to: (to / "new").mkdir(), what="it", progress=Silent())
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert not half_done.exists()


def _scan_and_count(path: str) -> int:
    return len(scan(path).samples)


def test_processes_share_the_work(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "set.zip", TWO)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_scan_and_count, [str(path)] * 4) == [6] * 4
    folders = [p for p in cache_directory("unpacked").iterdir() if not p.name.startswith(".")]
    assert len(folders) == 1


# What is refused, and what is left out ------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil.png", "ants/../../evil.png", "/etc/evil.png"])
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_nothing_leads_out(tmp_path: Path, name: str, ending: str) -> None:
    path = pack(tmp_path / f"set.{ending}", {**TWO, name: picture()})
    error_of(path, "a name that leads out of its folder", name)
    assert not list(tmp_path.rglob("evil.png"))


@given(st.text(alphabet="ab./\\C:", max_size=12))
def test_a_name_that_does_not_lead_out_stays_inside(name: str) -> None:
    if not leads_out(name):
        parts = [part for part in name.split("/") if part not in ("", ".")]
        assert Path("/cache/set").joinpath(*parts).resolve().is_relative_to("/cache/set")


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    pack_tar(path, TWO)
    with tarfile.open(path, "a") as opened:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)):
            info = tarfile.TarInfo(f"ants/odd{number}.png")
            info.type, info.linkname = kind, "../../../../etc/passwd"
            opened.addfile(info)
    link = "a link in the archive, which is not followed"
    assert left_out_of(path) == {
        "set.tar/ants/odd0.png": link,
        "set.tar/ants/odd1.png": link,
        "set.tar/ants/odd2.png": "a special file in the archive, which is not followed",
    }
    info_zip = zipfile.ZipInfo("ants/link.png")
    info_zip.create_system, info_zip.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    zipped = pack_zip(tmp_path / "set.zip", TWO)
    with zipfile.ZipFile(zipped, "a") as opened_zip:
        opened_zip.writestr(info_zip, "/etc/passwd")
    assert left_out_of(zipped) == {"set.zip/ants/link.png": link}


def test_a_file_there_twice(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "set.tar", TWO)
    with tarfile.open(path, "a") as opened:
        info = tarfile.TarInfo("ants/1.png")
        info.size = 5
        opened.addfile(info, io.BytesIO(b"other"))
    reason = "there before in the archive, under the same name"
    assert left_out_of(path) == {"set.tar/ants/1.png": reason}
    assert Path(scan(path).samples[1].path).read_bytes() == TWO["ants/1.png"]


def test_one_damaged_file_in_a_zip_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    marked = picture() + b"MARK"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        for name, content in {**TWO, "bees/bad.png": marked}.items():
            opened.writestr(name, content)
    path.write_bytes(path.read_bytes().replace(b"MARK", b"HARM"))
    (name, reason), *others = left_out_of(path).items()
    assert (name, others) == ("set.zip/bees/bad.png", [])
    assert reason.startswith("damaged in the archive: Bad CRC-32")
    assert len(scan(path).samples) == 6


def test_names_too_long_for_the_disk(tmp_path: Path) -> None:
    name = f"ants/{'x' * 300}.png"
    found = left_out_of(pack_zip(tmp_path / "set.zip", {**TWO, name: picture()}))
    assert list(found) == [f"set.zip/{name}"]
    assert "no file can be called so here" in found[f"set.zip/{name}"]


@pytest.mark.parametrize("name", PACKED)
def test_every_cut_is_an_error_or_whole(tmp_path: Path, name: str) -> None:
    """A download cut short: never fewer pictures without a word."""
    path = pack(tmp_path / name, TWO)
    whole = path.read_bytes()
    for share in (0.0, 0.05, 0.3, 0.5, 0.7, 0.9, 0.97):
        path.write_bytes(whole[: int(share * len(whole))])
        told = None
        try:
            num_found = len(scan(path).samples)
        except SourceError as error:
            told = str(error)
        if told is None:
            assert num_found == 6, f"no more than zeros at the end may be missing, at {share}"
        else:
            assert "damaged, truncated, or no archive" in told
            assert "download or copy it again" in told


def test_what_is_no_archive(tmp_path: Path) -> None:
    for name in PACKED:
        (tmp_path / name).write_bytes(b"<html>Please log in</html>" * 100)
        error_of(tmp_path / name, "damaged, truncated, or no archive", "web page")


def test_locked_with_a_password(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "set.zip", TWO)
    content = bytearray(path.read_bytes())
    for place in range(len(content)):  # the flags in both headers of every member
        if content[place : place + 4] == b"PK\x03\x04":
            content[place + 6] |= 1
        if content[place : place + 4] == b"PK\x01\x02":
            content[place + 8] |= 1
    path.write_bytes(content)
    error_of(path, "locked with a password", "unpack it with its password")


def test_packed_in_a_way_that_python_does_not_read(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "set.zip", TWO)
    content = bytearray(path.read_bytes())
    first = content.find(b"PK\x01\x02")  # the first file's method, in both of its headers
    content[8:10] = content[first + 10 : first + 12] = struct.pack("<H", 9)
    path.write_bytes(content)
    found = left_out_of(path)
    assert list(found) == ["set.zip/ants/0.png"]
    assert "packed in a way that Python does not read" in found["set.zip/ants/0.png"]


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_zip(tmp_path / "set.zip", {**TWO, "ants/zeros.png": bytes(3_000_000)})
    monkeypatch.setattr(archives, "RATIO_MATTERS_BYTES", 1_000_000)
    error_of(path, "more than 100 times as large", "look at what it holds")
    monkeypatch.undo()
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "MAX_FILES", 4)
    error_of(path, "more than 4 files")


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "set.zip", {**TWO, "ants/big.png": bytes(3_000_000)})
    content = path.read_bytes()
    real, told = struct.pack("<I", 3_000_000), struct.pack("<I", 10)
    assert content.count(real) == 2
    path.write_bytes(content.replace(real, told))
    assert "damaged in the archive" in left_out_of(path)["set.zip/ants/big.png"]
    written = sum(file.stat().st_size for file in cache_directory("unpacked").rglob("*.png"))
    assert written < 10_000


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_zip(tmp_path / "set.zip", TWO)
    monkeypatch.setattr(archives, "KEPT_FREE_BYTES", 1 << 60)
    error_of(path, "the disk is too full", "FIELDMARK_CACHE")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_zip(tmp_path / "set.zip", TWO)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceError, match=r"(?s)set.zip cannot be unpacked.*FIELDMARK_CACHE"):
        scan(path)


# Names --------------------------------------------------------------------------------------------


def test_names_in_any_script(tmp_path: Path) -> None:
    for name in ("set.zip", "set.tar.gz"):
        path = pack(tmp_path / name, {f"蜜蜂/{i}.png": picture(i) for i in range(2)} | TWO)
        assert scan(path).class_names == ("ants", "bees", "蜜蜂")


def test_utf8_that_a_zip_does_not_declare(tmp_path: Path) -> None:
    """As macOS and Info-ZIP write it."""
    path = pack_zip(tmp_path / "set.zip", {"grün/1.png": picture(), **TWO})
    content = path.read_bytes()
    for signature, place in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        start = content.index(signature)
        assert content[start + place] == 8, "the flag"
        content = content[: start + place] + b"\0" + content[start + place + 1 :]
    path.write_bytes(content)
    assert scan(path).class_names == ("ants", "bees", "grün")


def test_backslashes_between_folders(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "set.zip", {n.replace("/", "\\"): c for n, c in TWO.items()})
    assert scan(path).class_names == ("ants", "bees")
    outside = pack_zip(tmp_path / "out.zip", {"..\\..\\evil.png": picture()})
    with pytest.raises(SourceError, match="leads out of its folder"):
        scan(outside)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as opened:
        for name, content in {**TWO, "ants/gr\xfcn.png": picture()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    assert list(left_out_of(path).values()) == ["its name is not UTF-8: rename it"]
    assert len(scan(path).samples) == 6
