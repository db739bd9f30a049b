"""Data sets of the Hugging Face hub: the real library `datasets`, on folders of this machine."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator, Sequence
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from fieldmark.data.contents import content_keys
from fieldmark.data.manifest import read_manifest, write_manifest
from fieldmark.data.pictures import open_picture, probe_picture
from fieldmark.data.sources.hf import parse_hub_source
from fieldmark.data.sources.scan import scan
from fieldmark.errors import PictureError, SourceError
from fieldmark.progress import Silent

NAMES = ["zebra", "ant"]  # in an order of their own


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def picture(
    shade: int, *, size: tuple[int, int] = (20, 10), exif: int = 1, form: str = "JPEG"
) -> bytes:
    stream = io.BytesIO()
    about = Image.Exif()
    about[0x0112] = exif
    Image.new("RGB", size, (shade, 99, 199)).save(stream, form, exif=about)
    return stream.getvalue()


def columns(num: int, **more: Any) -> dict[str, Any]:
    return {
        "image": [{"bytes": picture(20 * i), "path": None} for i in range(num)],
        "label": [i % 2 for i in range(num)],
        **more,
    }


FEATURES = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}


def write(folder: Path, splits: dict[str, dict[str, Any]], **more: Any) -> str:
    """A data set as the hub has them: Parquet files in data/. Gives its name as a source."""
    features = datasets.Features({**FEATURES, **more})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, values in splits.items():
        given = datasets.Features({key: features[key] for key in values})
        made = datasets.Dataset.from_dict(values, features=given)
        made.to_parquet(str(folder / "data" / f"{name}-00000-of-00001.parquet"))
    return f"hf:{folder}"


def error_of(source: str, *words: str) -> str:
    with pytest.raises(SourceError) as caught:
        scan(source)
    text = str(caught.value)
    for word in (*words, "do:"):
        assert word in text, text
    return text


# What is found ------------------------------------------------------------------------------------


def test_splits_become_parts(tmp_path: Path) -> None:
    splits = {"train": columns(6), "validation": columns(2), "test": columns(3)}
    manifest = scan(write(tmp_path / "ds", splits))
    assert manifest.class_names == ("zebra", "ant"), "in the order of their numbers"
    assert [s.label for s in manifest.of_part("train")] == NAMES * 3
    assert [len(manifest.of_part(part)) for part in ("train", "val", "test")] == [6, 2, 3]
    assert (manifest.typical_side_px, manifest.all_grey, manifest.left_out) == (10, False, ())
    for sample, shade in zip(manifest.of_part("train"), range(0, 120, 20), strict=True):
        direct = Image.open(io.BytesIO(picture(shade))).convert("RGB")
        assert (np.asarray(open_picture(sample.path, 3)) == np.asarray(direct)).all()


def test_one_split(tmp_path: Path) -> None:
    source = write(tmp_path / "ds", {"train": columns(4), "test": columns(2)})
    only = scan(f"{source},split=test")
    assert [s.part for s in only.samples] == ["", ""]
    error_of(f"{source},split=val", "no such split", "train, test")
    alone = scan(write(tmp_path / "alone", {"train": columns(4)}))
    assert {s.part for s in alone.samples} == {""}


def test_splits_that_are_no_parts(tmp_path: Path) -> None:
    source = write(tmp_path / "ds", {"train": columns(4), "unsupervised": columns(2)})
    manifest = scan(source)
    assert len(manifest.samples) == 4
    assert "Not looked at, being no part (train, val, test): unsupervised." in manifest.notes
    folds = write(tmp_path / "folds", {"one": columns(2), "two": columns(2)})
    error_of(folds, "no split is the one to train on", "one, two", ",split=one")


def test_rows_without_a_label_and_rows_that_are_no_pictures(tmp_path: Path) -> None:
    values = columns(6)
    values["label"] = [0, 1, -1, None, 0, 1]
    values["image"][4] = {"bytes": b"hello", "path": None}
    values["image"][5] = {"bytes": b"", "path": None}
    hidden = {**columns(2), "label": [-1, -1]}
    manifest = scan(write(tmp_path / "ds", {"train": values, "test": hidden}))
    assert [s.label for s in manifest.samples] == NAMES
    assert [item.reason for item in manifest.left_out] == [
        *("no label", "no label", "not a picture (first bytes: b'hello')", "file is empty"),
    ]
    assert "Not looked at, having no labels: split test." in manifest.notes


def test_the_same_way_of_decoding_as_for_files(tmp_path: Path) -> None:
    turned, cut = picture(9, exif=6), picture(9, size=(200, 100))[:-200]
    values = columns(3)
    values["image"][0]["bytes"], values["image"][1]["bytes"] = turned, cut
    manifest = scan(write(tmp_path / "ds", {"train": values}))
    paths = [sample.path for sample in manifest.samples]
    (tmp_path / "turned.jpg").write_bytes(turned)
    (tmp_path / "cut.jpg").write_bytes(cut)
    assert probe_picture(paths[0]) == probe_picture(str(tmp_path / "turned.jpg"))
    assert open_picture(paths[0], 3).size == (10, 20)
    for path in (paths[1], str(tmp_path / "cut.jpg")):
        with pytest.raises(PictureError, match="truncated"):
            open_picture(path, 3)
    keys = content_keys([paths[0], str(tmp_path / "turned.jpg"), paths[2]], Silent())
    assert keys == [sha256(turned).hexdigest()] * 2 + [
        sha256(values["image"][2]["bytes"]).hexdigest()
    ]


def test_no_pixel_is_decoded_while_scanning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "ds", {"train": columns(4)})
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    assert len(scan(source).samples) == 4


def test_a_manifest_brings_them_back(tmp_path: Path) -> None:
    manifest = scan(write(tmp_path / "ds", {"train": columns(4), "test": columns(2)}))
    write_manifest(manifest, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv").samples == manifest.samples


def test_pictures_in_files_beside_it(tmp_path: Path, make_pictures: Any) -> None:
    """An imagefolder holds names of files, not their bytes."""
    make_pictures(tmp_path / "photos", {"cat": 3, "dog": 2})
    manifest = scan(f"hf:{tmp_path / 'photos'}")
    assert manifest.samples == scan(tmp_path / "photos").samples


def test_saved_to_disk(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict(columns(4), features=datasets.Features(FEATURES))
    made.save_to_disk(str(tmp_path / "one"))
    assert [s.label for s in scan(f"hf:{tmp_path / 'one'}").samples] == NAMES * 2
    both = datasets.DatasetDict({"train": made, "test": made.select(range(2))})
    both.save_to_disk(str(tmp_path / "two"), num_proc=None)
    manifest = scan(f"hf:{tmp_path / 'two'}")
    assert [len(manifest.of_part(part)) for part in ("train", "test")] == [4, 2]


def test_many_files_a_split(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict(columns(9), features=datasets.Features(FEATURES))
    made.save_to_disk(str(tmp_path / "ds"), num_shards=4)
    manifest = scan(f"hf:{tmp_path / 'ds'}")
    assert [s.label for s in manifest.samples] == [NAMES[i % 2] for i in range(9)]
    shades = [open_picture(s.path, 3).getpixel((0, 0))[0] for s in manifest.samples]  # type: ignore[index]
    assert shades == sorted(shades)


# Columns ------------------------------------------------------------------------------------------


def test_several_columns_of_labels(tmp_path: Path) -> None:
    more = {"fine": [0, 1, 2, 0], "id": [5, 6, 7, 8]}
    source = write(
        tmp_path / "ds",
        {"train": columns(4, **more)},
        fine=datasets.ClassLabel(names=["a", "b", "c"]),
        id=datasets.Value("int64"),
    )
    error_of(
        source,
        "several columns could hold the labels",
        "image (pictures); label (2 classes); fine (3 classes); id (int64)",
        f"say which: {source},label=label",
    )
    assert scan(f"{source},label=fine").class_names == ("a", "b", "c")
    assert scan(f"{source},label=id").class_names == ("5", "6", "7", "8")
    error_of(f"{source},label=fin", "no column 'fin' that could hold labels")
    error_of(f"{source},label=fine,image=id", "no column 'id' that could hold pictures")
    error_of(f"{source},labels=fine", "no such word", "'labels'")


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        ([10, 9, 9, 10], "int32", ("9", "10")),
        (["wasp", "ant", "", "ant"], "string", ("ant", "wasp")),
    ],
)
def test_labels_that_are_numbers_or_texts(
    tmp_path: Path, values: Sequence[Any], kind: str, names: tuple[str, ...]
) -> None:
    source = write(
        tmp_path / "ds",
        {"train": {"image": columns(4)["image"], "species": values}},
        species=datasets.Value(kind),
    )
    manifest = scan(source)
    assert manifest.class_names == names
    assert len(manifest.samples) == sum(value != "" for value in values)


def test_no_column_of_pictures_or_labels(tmp_path: Path) -> None:
    text = datasets.Value("string")
    only = write(tmp_path / "1", {"train": {"words": ["a", "b"], "label": [0, 1]}}, words=text)
    error_of(only, "not clear which column holds the pictures", "words (string); label (2 classes)")
    bare = {"image": columns(2)["image"], "comment": ["a", "b"]}
    source = write(tmp_path / "2", {"train": bare}, comment=text)
    error_of(source, "not clear which column holds the labels", "label=comment")
    assert scan(f"{source},label=comment").class_names == ("a", "b")


def test_two_columns_of_pictures(tmp_path: Path) -> None:
    values = columns(2)
    values["mask"] = [{"bytes": picture(0, size=(7, 5)), "path": None}] * 2
    source = write(tmp_path / "ds", {"train": values}, mask=datasets.Image())
    error_of(source, "several columns could hold the pictures", f"{source},image=image")
    left, right = scan(f"{source},image=image"), scan(f"{source},image=mask")
    assert (left.typical_side_px, right.typical_side_px) == (10, 5)
    assert right.samples[1].path.endswith(".arrow:mask#1")


def test_pictures_as_plain_bytes(tmp_path: Path) -> None:
    values = {"jpg": [picture(1), picture(2)], "label": [0, 1]}
    source = write(tmp_path / "ds", {"train": values}, jpg=datasets.Value("binary"))
    error_of(source, "which column holds the pictures", "image=jpg")
    assert open_picture(scan(f"{source},image=jpg").samples[0].path, 3).size == (20, 10)


def test_configurations(tmp_path: Path) -> None:
    for name in ("small", "large"):
        write(tmp_path / "ds" / name, {"train": columns(2 if name == "small" else 4)})
    (tmp_path / "ds" / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: small\n  data_files: small/data/*.parquet\n"
        "- config_name: large\n  data_files: large/data/*.parquet\n---\n"
    )
    source = f"hf:{tmp_path / 'ds'}"
    error_of(source, "several configurations", "small, large", ":CONFIG")
    assert len(scan(f"{source}:large").samples) == 4
    error_of(f"{source}:middle", "several configurations", "small, large")


# Locators -----------------------------------------------------------------------------------------


def test_locators_that_name_nothing(tmp_path: Path) -> None:
    path = scan(write(tmp_path / "ds", {"train": columns(2)})).samples[0].path
    file = path.removesuffix("#0")
    for locator, reason in (
        (f"{file}#2", "there are only 2 pictures"),
        (f"{file}:photo#0", "no column photo"),
        (f"{file}:label#0", "no picture in that row"),
        (f"{tmp_path}/gone.arrow#0", "no such file"),
    ):
        with pytest.raises(PictureError, match=reason):
            open_picture(locator, 3)
    (tmp_path / "bad.arrow").write_bytes(b"nothing of Arrow")
    with pytest.raises(PictureError, match="Arrow file cannot be read"):
        open_picture(f"{tmp_path}/bad.arrow#0", 3)
    Image.new("L", (3, 3)).save(tmp_path / "odd.arrow#7", "PNG")
    assert open_picture(str(tmp_path / "odd.arrow#7"), 1).size == (3, 3), "a file comes first"


# The hub ------------------------------------------------------------------------------------------


def test_names() -> None:
    found = parse_hub_source("hf:uoft-cs/cifar100:all@v1.0,image=img,label=fine_label")
    assert (found.path, found.config, found.revision) == ("uoft-cs/cifar100", "all", "v1.0")
    assert (found.image, found.label, found.split) == ("img", "fine_label", None)
    for text in ("hf:", "hf:mnist", "hf:a/b/c", "hf:a/b@", "hf:../x", "hf:a/b,", "hf:a/b,label="):
        with pytest.raises(SourceError, match="hf:ORG/NAME"):
            parse_hub_source(text)


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    error_of("hf:acme/pictures", "which is not installed", "pip install 'fieldmark[datasets]'")


def test_nothing_of_theirs_is_run(tmp_path: Path) -> None:
    write(tmp_path / "ds", {"train": columns(2)})
    (tmp_path / "ds" / "ds.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    error_of(f"hf:{tmp_path / 'ds'}", "a program of its authors, and none is run", "Parquet")
    assert not (tmp_path / "ran").exists()


def test_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "ds", {"train": columns(2)})
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    real, seen = datasets.load_dataset_builder, []

    def watched(*args: Any, **words: Any) -> Any:
        counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
        seen.append((counts, huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY))
        return real(*args, **words)

    monkeypatch.setattr(datasets, "load_dataset_builder", watched)
    scan(source)
    assert seen == [(False, True)]
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, "put back"


class FakeHub:
    """Refuses whatever it is asked for, in the way it is told."""

    def __init__(self) -> None:
        self.status, self.headers = 404, {"X-Error-Code": "RepoNotFound"}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(hub.status)
                for name, value in hub.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET  # noqa: N815 - the name is the library's

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()
    address = f"http://127.0.0.1:{fake.server.server_port}"
    for place, name in (
        (huggingface_hub.constants, "ENDPOINT"),
        (datasets.config, "HF_ENDPOINT"),
    ):
        monkeypatch.setattr(place, name, address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield fake
    fake.close()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", ("there is no such repository", "hf auth login")),
        (401, "", ("there is no such repository", "hf auth login")),
        (403, "GatedRepo", ("accepted their terms", "on its page on the hub")),
        (404, "RevisionNotFound", ("no such branch, tag or commit", "behind the @")),
    ],
)
def test_refusals(hub: FakeHub, status: int, code: str, words: tuple[str, ...]) -> None:
    hub.status, hub.headers = status, {"X-Error-Code": code} if code else {}
    error_of("hf:acme/pictures@v1", "cannot get this data set from the hub", *words)


def test_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    error_of("hf:acme/pictures", "HF_HUB_OFFLINE is set", "needs no network")


def test_a_copy_stands_in_for_a_hub_that_is_away(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `datasets` leaves it in its cache: acme___pictures/CONFIG/VERSION/HASH."""
    write(tmp_path / "ds", {"train": columns(4), "test": columns(2)})
    builder = datasets.load_dataset_builder(str(tmp_path / "ds"))
    builder.download_and_prepare()
    made = Path(builder.cache_dir)
    copy = tmp_path / "hf" / "acme___pictures" / "default" / "0.0.0" / made.name
    copy.parent.mkdir(parents=True)
    made.rename(copy)
    for file in copy.glob("*.arrow"):
        file.rename(copy / file.name.replace("ds-", "pictures-"))
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"dataset_name": "ds"', '"dataset_name": "pictures"'))
    hub.status, hub.headers = 503, {}
    manifest = scan("hf:acme/pictures")
    assert [len(manifest.of_part(part)) for part in ("train", "test")] == [4, 2]
