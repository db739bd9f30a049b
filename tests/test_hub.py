"""Against the hub of `support/fake_hub.py`; no test asks the real one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, file_download
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fieldmark.errors import DownloadError, FieldmarkError
from fieldmark.hub import are_cached, fetch_from_hub, is_cached, library, verify
from fieldmark.hub.reference import parse_reference
from fieldmark.progress import Silent
from support.fake_hub import COMMIT, CONFIG, OLDER, REPO, Hub, sha256


@dataclass
class Said:
    """A Progress that remembers."""

    lines: list[str] = field(default_factory=list)
    tasks: list[tuple[str, int | None, int]] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> Iterator[Any]:
        counted = [done]

        def advance(count: int = 1, note: str = "") -> None:
            counted[0] += count

        yield SimpleNamespace(advance=advance)
        assert in_bytes
        self.tasks.append((title, total, counted[0]))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("made") / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    save_file({"head.weight": torch.randn(250_000, generator=generator)}, path)
    return path.read_bytes()


@pytest.fixture(scope="module", autouse=True)
def client() -> Iterator[None]:
    """The library's HTTP client, without proxies. A new one costs 0.2 s: certificates are read."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("HF_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        huggingface_hub.close_session()
        yield
        huggingface_hub.close_session()


@pytest.fixture
def hub(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The library reads its environment when it is imported, so its constants are set instead."""
    hub = Hub({"model.safetensors": weights, "config.json": json.dumps(CONFIG).encode()})
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "ours"))
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "DOWNLOAD_CHUNK_SIZE": 1 << 16,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(library, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    yield hub
    hub.close()


@pytest.fixture
def cache(hub: Hub, tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models--acme--tiny"


def fetch(reference: str = f"hf:{REPO}") -> bytes:
    return fetch_from_hub(reference, Silent()).path.read_bytes()


def refused(reference: str = f"hf:{REPO}") -> str:
    with pytest.raises(DownloadError) as caught:
        fetch_from_hub(reference, Silent())
    return str(caught.value)


def blobs(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "blobs").glob("*"))


def test_weights_and_config_come_and_nothing_is_printed(
    hub: Hub, weights: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    said = Said()
    file = fetch_from_hub(f"hf:{REPO}", said)
    assert file.path.read_bytes() == weights
    assert load_file(file.path)["head.weight"].shape == (250_000,)
    assert file.config == CONFIG
    assert said.tasks == [("tiny/model.safetensors", len(weights), len(weights))]
    assert said.lines == []
    assert capfd.readouterr() == ("", "")
    assert hub.transfers == [None]  # over HTTP, though Xet was offered


def test_without_the_prefix_with_file_folder_and_revision(hub: Hub, weights: bytes) -> None:
    hub.files["ema/a b.safetensors"] = weights[::-1]
    assert fetch(f"{REPO}/ema/a b.safetensors@{COMMIT}") == weights[::-1]
    assert fetch(f"{REPO}@main") == weights


def test_a_second_fetch_looks_up_and_transfers_nothing(hub: Hub, weights: bytes) -> None:
    fetch()
    hub.seen.clear()
    assert fetch() == weights
    assert [(method, path) for method, path, _ in hub.seen] == [
        ("HEAD", f"/{REPO}/resolve/main/model.safetensors")
    ]


def test_a_new_commit_is_noticed(hub: Hub, weights: bytes) -> None:
    fetch()
    hub.commit, hub.files["model.safetensors"] = OLDER, weights[::-1]
    assert fetch() == weights[::-1]
    hub.commit, hub.files["config.json"] = "ab" * 20, b"{}"  # the weights stay as they are
    file = fetch_from_hub(REPO, Silent())
    assert (file.path.parent.name, file.config) == ("ab" * 20, {})
    assert file.path.read_bytes() == weights[::-1]
    assert len(hub.transfers) == 2


def test_an_exact_commit_in_the_cache_asks_nobody(hub: Hub, weights: bytes) -> None:
    fetch()
    hub.seen.clear()
    file = fetch_from_hub(f"hf:{REPO}@{COMMIT}", Silent())
    assert file.path.read_bytes() == weights
    assert file.config == CONFIG
    assert hub.seen == []


def test_without_a_network_the_copy_is_used_and_that_is_said(hub: Hub, weights: bytes) -> None:
    fetch()
    hub.close()
    said = Said()
    file = fetch_from_hub(f"hf:{REPO}", said)
    assert file.path.read_bytes() == weights
    assert file.config == CONFIG
    assert said.lines == [
        "acme/tiny: no way to 127.0.0.1: it refuses the connection; "
        "using the copy in the cache (c0ffeec0)"
    ]


def test_a_hub_that_does_not_answer_is_not_waited_for_when_there_is_a_copy(
    hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    hub.stalls_lookups = True
    monkeypatch.setattr(library, "LOOKUP_SECONDS_WITH_COPY", 0.3)
    begun = time.monotonic()
    assert fetch() == weights
    assert time.monotonic() - begun < 3


def test_told_to_be_offline_it_asks_nobody(
    hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch() == weights
    text = refused(f"hf:{REPO}/other.safetensors")
    assert "HF_HUB_OFFLINE is set" in text
    assert "unset HF_HUB_OFFLINE" in text
    assert hub.seen == []


def test_without_network_and_copy_it_says_how_to_do_it_by_hand(hub: Hub, tmp_path: Path) -> None:
    hub.close()
    text = refused()
    assert "no way to 127.0.0.1" in text
    assert f"no copy in {tmp_path / 'hub'}" in text
    assert f"given:  hf:{REPO}/model.safetensors@main" in text
    assert f"{hub.address}/{REPO}/resolve/main/model.safetensors\n" in text
    assert "give the path of the file to --weights" in text


def test_a_portal_that_wants_a_login_is_no_hub(hub: Hub, weights: bytes) -> None:
    hub.refusal = (200, {"Content-Type": "text/html"})
    assert "answers, but not as a hub does" in refused()
    hub.refusal = None
    fetch()
    hub.refusal = (200, {"Content-Type": "text/html"})
    assert fetch() == weights


def test_what_came_damaged_is_deleted_and_the_next_try_starts_clean(
    hub: Hub, weights: bytes, cache: Path
) -> None:
    hub.faults = ["corrupt"]
    text = refused()
    assert "model.safetensors is damaged" in text
    assert sha256(weights) in text
    assert "run it again" in text
    assert blobs(cache) == []
    assert not is_cached(REPO)
    assert fetch() == weights


def test_what_others_damaged_in_the_cache_is_found(hub: Hub, weights: bytes, cache: Path) -> None:
    fetch()
    blob = cache / "blobs" / sha256(weights)
    blob.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    os.utime(blob, ns=(1, 1))
    assert "is damaged" in refused(f"{REPO}@{COMMIT}")
    assert not blob.exists()
    assert fetch() == weights


def test_a_shared_store_behind_the_links_is_cleaned_too(hub: Hub, weights: bytes) -> None:
    """Newer versions of the library let the file in `blobs` be a link as well."""
    path = fetch_from_hub(REPO, Silent()).path
    blob = path.parent / path.readlink()
    store = blob.parents[2] / "blobs" / "ab" / ("ab" * 32)
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(store)
    assert fetch() == weights
    store.write_bytes(weights[::-1])
    assert "is damaged" in refused()
    assert not store.exists()
    assert fetch() == weights


def test_a_large_file_is_hashed_once_until_it_changes(
    hub: Hub, cache: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def count(path: Path) -> str:
        hashed.append(path)
        return sha256(path.read_bytes())

    monkeypatch.setattr(verify, "sha256_of", count)
    for _ in range(3):
        fetch()
    assert len(hashed) == 1
    os.utime(cache / "blobs" / sha256(weights), ns=(1, 1))
    fetch()
    assert len(hashed) == 2


def test_a_damaged_config_is_found_by_its_git_hash(hub: Hub) -> None:
    hub.faults = ["", "corrupt small"]
    assert "config.json is damaged" in refused()
    hub.faults.clear()
    assert fetch_from_hub(REPO, Silent()).config == CONFIG


@pytest.mark.parametrize("faults", [["drop"], ["drop", "drop", "drop"]])
def test_a_dropped_transfer_goes_on_where_it_ended(
    hub: Hub, weights: bytes, faults: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    hub.faults = list(faults)
    said = Said()
    assert fetch_from_hub(REPO, said).path.read_bytes() == weights
    assert len(hub.transfers) == len(faults) + 1
    assert all(asked is not None for asked in hub.transfers[1:])
    assert len(said.lines) == len(faults)
    assert all("the connection to " in line and " broke" in line for line in said.lines)
    assert said.tasks == [("tiny/model.safetensors", len(weights), len(weights))]
    assert capfd.readouterr() == ("", "")


def test_a_reset_connection_is_tried_again(hub: Hub, weights: bytes) -> None:
    hub.faults = ["reset"]
    assert fetch() == weights


def test_resets_without_end_are_an_error_and_leave_nothing(hub: Hub, cache: Path) -> None:
    hub.faults = ["reset"] * 50
    assert "the connection to 127.0.0.1 broke" in refused()
    assert [name for name in blobs(cache) if not name.endswith(".incomplete")] == []
    assert not is_cached(REPO)


def test_a_transfer_that_stalls_ends_in_bounded_time(
    hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.faults = ["stall"] * 50
    begun = time.monotonic()
    text = refused()
    assert time.monotonic() - begun < 6
    assert "nothing came from 127.0.0.1 for 0.2 s" in text
    hub.faults.clear()
    assert fetch() == weights


def test_a_hub_that_stalls_at_once_ends_in_bounded_time(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.stalls_lookups = True
    begun = time.monotonic()
    assert "nothing came from 127.0.0.1 for 0.2 s" in refused()
    assert time.monotonic() - begun < 3


def test_a_missing_file_names_those_that_are_there(hub: Hub) -> None:
    hub.files["ema.safetensors"] = hub.files.pop("model.safetensors")
    text = refused()
    assert "cannot get model.safetensors from the hub: the repository has no such file" in text
    assert f"name one that it has, as in hf:{REPO}/ema.safetensors" in text


def test_many_files_are_not_all_listed(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    hub.files |= {f"part{n:02d}.safetensors": b"x" for n in range(40)}
    text = refused()
    assert "part11.safetensors, ..." in text
    assert "part12" not in text


def test_a_repository_of_pickles_is_no_use(hub: Hub) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    assert "it has no .safetensors file at all" in refused()


@pytest.mark.parametrize(
    ("status", "headers", "texts"),
    [
        (404, {"X-Error-Code": "RevisionNotFound"}, ["no such branch, tag or commit"]),
        (
            401,
            {"X-Error-Message": "Invalid username or password."},
            ["no such repository, or it is private and you are not logged in", "hf auth login"],
        ),
        (404, {"X-Error-Code": "RepoNotFound"}, ["no such repository", "HF_TOKEN"]),
        (403, {"X-Error-Code": "GatedRepo"}, ["accepted their terms", "hf auth login"]),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            ["does not accept your token (401)", "HF_TOKEN"],
        ),
        (403, {}, ["does not let you read it (403)", "HF_TOKEN"]),
        (404, {}, ["no such file or repository (404)"]),
        (429, {}, ["too many requests", "wait some minutes"]),
        (503, {}, ["answers with error 503", "try again later"]),
    ],
)
def test_refusals_say_what_to_do(
    hub: Hub, status: int, headers: dict[str, str], texts: list[str]
) -> None:
    hub.refusal = status, headers
    text = refused(f"{REPO}@v1")
    for part in (*texts, f"/{REPO}/resolve/v1/model.safetensors", "--weights"):
        assert part in text
    assert "Traceback" not in text


def test_a_token_that_does_not_open_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    assert "your token does not open it" in refused("acme/secret")


def test_who_may_no_longer_see_it_keeps_the_copy(hub: Hub, weights: bytes) -> None:
    fetch()
    hub.refusal = 403, {"X-Error-Code": "GatedRepo"}
    assert fetch() == weights


def test_a_disk_too_full_is_noticed_before(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=1, used=1, free=999)
    monkeypatch.setattr(library, "shutil", SimpleNamespace(disk_usage=lambda path: usage))
    text = refused()
    assert "the disk is too full: 1.0 MB to come, 999 bytes free" in text
    assert "HF_HUB_CACHE" in text
    assert hub.transfers == []


def test_a_full_disk_is_no_matter_when_nothing_needs_to_come(
    hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    hub.commit = OLDER
    usage = SimpleNamespace(total=1, used=1, free=999)
    monkeypatch.setattr(library, "shutil", SimpleNamespace(disk_usage=lambda path: usage))
    assert fetch() == weights


def test_a_disk_that_fills_up_on_the_way(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **words: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "http_get", fill)
    text = refused()
    assert "cannot use the hub's cache: No space left on device" in text
    assert "make room" in text


def test_a_cache_that_cannot_be_written(hub: Hub, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("in the way")  # root may write anywhere: permissions would prove nothing
    text = refused()
    assert f"cannot use {cache}" in text
    assert "HF_HUB_CACHE" in text


def test_a_repository_without_config(hub: Hub) -> None:
    del hub.files["config.json"]
    assert fetch_from_hub(REPO, Silent()).config is None
    hub.seen.clear()
    said = Said()
    assert fetch_from_hub(f"{REPO}@{COMMIT}", said).config is None
    assert hub.seen == []  # that there is none is known from the first time
    assert said.lines == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[1, 2]", "its config.json is not a JSON object"),
        (b"{", "its config.json cannot be read"),
        (b"\xff\xfe", "its config.json cannot be read"),
        (b"[" * 100_000, "its config.json cannot be read"),
        (b" " * (1 << 20) + b"{}", "its config.json has 1.0 MB, and 1.0 MB are allowed"),
    ],
)
def test_an_odd_config_is_an_error(hub: Hub, content: bytes, text: str) -> None:
    hub.files["config.json"] = content
    assert text in refused()
    assert text in refused()  # from the cache as well


def test_a_config_that_is_not_at_hand_is_missed_aloud(hub: Hub, cache: Path) -> None:
    """Other programs fetch the weights alone."""
    path = fetch_from_hub(REPO, Silent()).path
    path.with_name("config.json").unlink()
    hub.close()
    for reference in (REPO, f"{REPO}@{COMMIT}"):
        said = Said()
        assert fetch_from_hub(reference, said).config is None
        assert said.lines[-1].endswith("going on without its config.json")


def test_what_is_cached(hub: Hub, cache: Path) -> None:
    asked = [REPO, f"hf:{REPO}", f"{REPO}@{COMMIT}", f"{REPO}/ema.safetensors", "acme/other", "??"]
    assert are_cached(asked) == [False] * 6
    fetch()
    hub.seen.clear()
    assert are_cached(asked) == [True, True, True, False, False, False]
    assert is_cached(REPO)
    assert hub.seen == []
    next((cache / "blobs").glob(sha256(hub.files["model.safetensors"]))).unlink()
    assert not is_cached(REPO)
    shutil.rmtree(cache.parent)
    cache.parent.write_text("no directory")
    assert are_cached(asked) == [False] * 6


def test_a_thousand_names_are_looked_up_in_no_time(hub: Hub) -> None:
    fetch()
    many = [f"hf:timm/model{n}.a1_in1k" for n in range(1000)]
    begun = time.monotonic()
    assert are_cached([*many, REPO]) == [False] * 1000 + [True]
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("resnet50", "two halves, with a / between them"),
        ("hf:/name", "two halves"),
        ("hf:org/", "two halves"),
        ("", "two halves"),
        ("hf:org/na me", "no repository on the hub can have this name"),
        ("hf:../etc", "no repository"),
        ("hf:a--b/c", "no repository"),
        ("hf:org/name.git", "no repository"),
        ("hf:org/" + "n" * 96, "no repository"),
        ("hf:org/naïve", "no repository"),
        ("https://huggingface.co/org/name", "two halves"),
        ("hf:org/name/", "names no file"),
        ("hf:org/name/../x.safetensors", "names no file"),
        ("hf:org/name/a\\b.safetensors", "names no file"),
        ("hf:org/name@", "behind the @"),
        ("hf:org/name@../main", "behind the @"),
        ("hf:org/name@a@b", "behind the @"),
        ("hf:org/name@-x", "behind the @"),
    ],
)
def test_what_is_no_reference(reference: str, text: str) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_from_hub(reference, Silent())
    assert text in str(caught.value)
    assert f"given:  {reference!r}" in str(caught.value)
    assert "hf:ORG/NAME" in str(caught.value)
    assert not is_cached(reference)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a/model.pt", "model", "x.safetensors.pkl"])
def test_pickles_are_not_fetched(name: str) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_from_hub(f"hf:org/name/{name}", Silent())
    assert "only .safetensors" in str(caught.value)
    assert f"https://huggingface.co/org/name/resolve/main/{name}" in str(caught.value)


WORDS = st.text("ab0-_./@: ~\\é\n\0%?#", max_size=30) | st.text(max_size=30)


@given(WORDS | st.builds("hf:org/name/{}.safetensors@{}".format, WORDS, WORDS))
def test_any_text_is_a_reference_or_an_error_for_people(text: str) -> None:
    try:
        wanted = parse_reference(text)
    except FieldmarkError:
        return
    huggingface_hub.utils.validate_repo_id(wanted.repo)
    for part in (wanted.file, wanted.revision):
        assert not Path(part).is_absolute()
        assert ".." not in part
    assert parse_reference(str(wanted)) == wanted


def test_with_the_real_environment_in_a_process_of_its_own(
    hub: Hub, weights: bytes, tmp_path: Path
) -> None:
    """The other tests set constants of the library; here it reads the variables users set."""
    script = (
        "import sys; from fieldmark.hub import fetch_from_hub, is_cached\n"
        "assert 'huggingface_hub' not in sys.modules, 'import fieldmark.hub must stay quick'\n"
        "from fieldmark.progress import Silent\n"
        f"print(is_cached('{REPO}'), fetch_from_hub('{REPO}', Silent()).path, is_cached('{REPO}'))"
    )
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_ENABLE_HF_TRANSFER": "1",  # makes the library warn when it is imported
    }

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    hub.faults = ["drop"]  # which the library logs
    ran = run()
    assert ran.stderr == ""
    before, path, after = ran.stdout.split()
    assert (before, after) == ("False", "True")
    assert Path(path).read_bytes() == weights
    assert Path(path).is_relative_to(tmp_path / "home" / "hub")
    environment["HF_HUB_ETAG_TIMEOUT"] = "soon"
    ran = run()
    assert "DownloadError: cannot get model.safetensors" in ran.stderr
    assert "env | grep HF_" in ran.stderr
