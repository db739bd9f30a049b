"""Every kind of word after --weights gives these weights with what belongs to them, or an error.

Trainings that start from them are in test_pretrained_trainings.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fieldmark
from fieldmark import pretrained
from fieldmark.checkpoint import ModelInfo, save_model
from fieldmark.errors import CheckpointError, DownloadError, FieldmarkError, ModelError
from fieldmark.hub import HubFile
from fieldmark.models import official
from fieldmark.models.contract import as_network
from fieldmark.models.layouts import to_timm
from fieldmark.models.official import OfficialWeights, imagenet_class_names
from fieldmark.models.registry import create_model
from fieldmark.pretrained import Pretrained, check_named, find_pretrained
from fieldmark.progress import Silent
from fieldmark.types import Preprocess
from support.web import Web, serving

NAME = "resnet10"
HOW = Preprocess(48, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "squash", 0.9, "bicubic")
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return create_model(NAME, 3).state_dict()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving(tmp_path / "cache") as web:
        yield web


def find(word: object, name: str | None = NAME) -> Pretrained:
    return find_pretrained(str(word), name, Silent())


def refused(word: object, name: str | None = NAME, kind: type = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        find(word, name)
    assert type(caught.value) is kind
    said = str(caught.value)
    assert "\n  do:     " in said
    return said


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


def saved(path: Path, name: str = NAME, num_classes: int = 3, **options: Any) -> Path:
    """A model file of ours."""
    torch.manual_seed(1)
    model = create_model(name, num_classes, **options)
    names = tuple(f"kind {number}" for number in range(num_classes))
    save_model(path, model, ModelInfo(as_network(model).architecture, names, HOW))
    return path


# Published weights, by name -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torchvision would publish of this network."""
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("published") / "resnet10.pth"
    torch.save(create_model(NAME).state_dict(), path)
    return path


@pytest.fixture
def published(web: Web, thousand: Path, monkeypatch: pytest.MonkeyPatch) -> OfficialWeights:
    monkeypatch.setattr(official, "BASE_URL", f"{web.address}/models/")
    file = web.add(thousand, NAME + "-{hash}.pth")
    weights = official._torchvision("imagenet1k_v1", file, resize_px=232)
    monkeypatch.setitem(official._WEIGHTS, NAME, (weights,))
    return weights


def test_official_weights_come_by_name_once_and_then_without_a_network(
    web: Web, published: OfficialWeights, thousand: Path
) -> None:
    assert pretrained.are_on_this_machine([published]) == [False]
    found = find("imagenet")
    assert same(found.tensors, torch.load(thousand, weights_only=True))
    assert found.preprocess["crop_fraction"] == 224 / 232
    assert (found.preprocess["size"], found.preprocess["mean"]) == (224, (0.485, 0.456, 0.406))
    assert found.class_names == imagenet_class_names()
    assert "imagenet1k_v1 of resnet10" in found.source
    assert web.address in found.source
    assert pretrained.are_on_this_machine([published]) == [True]
    web.close()
    for word in ("imagenet", "imagenet1k_v1", "IMAGENET1K_V1"):
        assert same(find(word).tensors, found.tensors)
    assert len(web.asked) == 1


def test_official_weights_that_are_not_what_their_hash_says_are_not_taken(
    web: Web, published: OfficialWeights, tmp_path: Path
) -> None:
    (name,) = web.files
    web.files[name] = web.files[name][:-1] + b"\x01"
    said = refused("imagenet", kind=DownloadError)
    assert "and was deleted" in said
    assert "put it exactly here" in said
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_without_a_network_it_is_said_how_to_get_the_file_by_hand_and_that_works(
    web: Web, published: OfficialWeights, thousand: Path
) -> None:
    web.close()
    said = refused("imagenet", kind=DownloadError)
    place = Path(said.partition("put it exactly here:\n")[2].splitlines()[0].strip())
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(thousand.read_bytes())
    assert same(find("imagenet").tensors, torch.load(thousand, weights_only=True))


def test_a_published_file_fetched_by_hand_is_known_by_its_hash(
    published: OfficialWeights, thousand: Path, tmp_path: Path
) -> None:
    path = tmp_path / "renamed.pth"
    path.write_bytes(thousand.read_bytes())
    found = find(path)
    assert found.preprocess == published.preprocess
    assert found.class_names == imagenet_class_names()
    assert str(path) in found.source
    assert find(path, "resnet18").preprocess == {}  # not among the files of that network


def test_tags_that_do_not_exist_are_refused_with_those_that_do(published: OfficialWeights) -> None:
    said = refused("imagenet1k_v9", kind=ModelError)
    assert "no weights of that name are published for resnet10" in said
    assert "valid:  imagenet, imagenet1k_v1\n" in said
    said = refused("imagnet")
    assert "there are no weights of that name for resnet10, and no such run or file" in said
    assert "imagenet, imagenet1k_v1, a run, a file, hf:org/name, https://...#sha256=HEX" in said


def test_networks_without_published_weights_say_so() -> None:
    said = refused("imagenet", "c3resnet18", ModelError)
    assert "no weights of that name are published for c3resnet18" in said
    assert "`fieldmark models` says which networks have weights" in said
    said = refused("imagenet", None, ModelError)  # as in `fieldmark weights import imagenet`
    assert "weights that are called by their name are those of a network" in said
    assert "add --model" in said


def test_a_file_may_be_called_as_weights_are(
    state: dict[str, Tensor], published: OfficialWeights, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state, "imagenet_mine.pth")
    assert same(find("imagenet_mine.pth").tensors, state)


def test_timms_weights_come_by_their_tag_from_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    model = create_model("test_resnet")

    def fetch(reference: str, progress: object) -> HubFile:
        asked.append(reference)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        return HubFile(tmp_path / "model.safetensors", None)

    monkeypatch.setattr(pretrained, "fetch_from_hub", fetch)
    for word in ("imagenet", "r160_in1k"):
        found = find(word, "test_resnet")
        assert asked.pop() == "hf:timm/test_resnet.r160_in1k"
        assert same(found.tensors, model.state_dict())
        assert (found.preprocess["size"], found.preprocess["crop_fraction"]) == (160, 0.95)
        assert found.class_names == imagenet_class_names()
    assert "valid:  imagenet, r160_in1k, a run" in refused("a1_in1k", "test_resnet")


# Files --------------------------------------------------------------------------------------------


def test_bare_safetensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    found = find(tmp_path / "w.safetensors")
    assert same(found.tensors, state)
    assert (found.network, found.preprocess, found.class_names) == (None, {}, None)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model_state_dict": s, "loss": 0.5},
        lambda s: {"model": s},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {f"_orig_mod.{key}": value for key, value in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{key}": v for key, v in s.items()}},
    ],
    ids=["plain", "state_dict", "model_state_dict", "model", "parallel", "compiled", "all"],
)
def test_pth_as_trainings_leave_it(
    wrap: Callable[[Any], Any], state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    assert same(find(tmp_path / "w.pth").tensors, state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".PTH"])
def test_pth_of_old_and_by_other_names(
    suffix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert same(find(path).tensors, state)


class Evil:
    """Unpickled without care, it leaves a folder behind."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("how", ["torch", "torch of old", "pickle", "beside weights"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(how: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "was here", tmp_path / "evil.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Evil(mark)))
    elif how == "beside weights":
        torch.save({"w": torch.zeros(2), "optimizer": Evil(mark)}, path)
    else:
        torch.save(Evil(mark), path, _use_new_zipfile_serialization=how == "torch")
    said = refused(path)
    assert not mark.exists()
    assert "reading that could run a stranger's code" in said
    assert str(path) in said
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert mark.is_dir(), "the file was not dangerous at all"


def test_damaged_files_are_refused_with_their_name(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    whole = io.BytesIO()
    torch.save(state, whole)
    content = whole.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    for number, broken in enumerate(
        (content[: len(content) // 2], content[:100], b"", b"<html>404</html>", archive.getvalue())
    ):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(broken)
        said = refused(path)
        assert str(path) in said
        assert "damaged" in said or "stranger's code" in said, said
    save_file(state, tmp_path / "w.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "w.safetensors").read_bytes()[:-9])
    assert "damaged" in refused(cut)
    torch.save(state, tmp_path / "really.safetensors")
    assert "damaged or not a .safetensors file" in refused(tmp_path / "really.safetensors")


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"epoch": 3}, torch.zeros(3), {"state_dict": {"a": 1}}, {"state_dict": {}}, 7],
    ids=["list", "empty", "number in dict", "tensor", "numbers", "nothing", "number"],
)
def test_pth_without_a_state_dict(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "this file holds no state dict" in refused(tmp_path / "w.pth")


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    for word in ("gone.pth", "gone.safetensors", "gone.h5", "folder.pth", "a/b"):
        said = refused(word)
        assert "no such run or model file" in said
        assert word in said


def test_a_run_by_its_path_its_name_and_its_file(
    tiny_run: fieldmark.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(tiny_run.path)
    monkeypatch.chdir(tmp_path)
    kept = tiny_run.load("cpu")
    for word in (tiny_run.path, "tiny", tiny_run.path / "model.safetensors"):
        found = find(word)
        assert same(found.tensors, kept.model.state_dict())
        assert found.class_names == ("cat", "dog", "owl")
        assert found.network == NAME
        assert Preprocess.from_dict(found.preprocess) == kept.info.preprocess
    assert same(find("tiny", None).tensors, kept.model.state_dict())


def test_a_model_of_another_network_is_refused_by_its_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors")
    said = refused(path, "resnet18")
    assert "these weights were made for another network" in said
    assert f"{path}, made for resnet10; --model resnet18" in said
    assert "train with --model resnet10" in said


# Ours and timm's of one name ----------------------------------------------------------------------


def test_a_model_of_ours_starts_timms_network_of_the_same_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", "resnet18")
    for name in ("timm/resnet18", "timm/resnet18.a1_in1k"):
        found = find(path, name)
        assert found.options == {}
        create_model(name, 3).load_state_dict(dict(found.tensors), strict=True)


def test_a_model_of_timms_starts_ours_of_the_same_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", "timm/resnet18", drop_rate=0.3)
    found = find(path, "resnet18")
    assert found.options == {}
    create_model("resnet18", 3).load_state_dict(dict(found.tensors), strict=True)
    assert find(path, "timm/resnet18").options == {"drop_rate": 0.3}


@pytest.mark.parametrize(
    ("trained", "options", "wanted"),
    [
        ("resnet18", {"norm_eps": 1e-3}, "timm/resnet18"),
        ("timm/resnet18", {"output_stride": 16}, "resnet18"),
    ],
)
def test_what_would_compute_another_function_with_the_same_weights_is_refused(
    trained: str, options: dict[str, Any], wanted: str, tmp_path: Path
) -> None:
    """Every weight would fit; only the answers would be others."""
    path = saved(tmp_path / "model.safetensors", trained, **options)
    assert {k: v.shape for k, v in find(path, trained).tensors.items()} == {
        k: v.shape for k, v in create_model(wanted, 3).state_dict().items()
    }
    said = refused(path, wanted)
    assert f"these weights were trained in a network that {wanted} cannot be built like" in said
    assert next(iter(options)) in said
    assert f"do:     train with --model {trained}" in said


# The web ------------------------------------------------------------------------------------------


def test_urls_with_their_hash(web: Web, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    named = web.add(tmp_path / "w.pth", "w-{hash}.pth")
    plain = web.add(tmp_path / "w.safetensors", "w.safetensors")
    digests = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("w.pth", "w.safetensors")
    ]
    urls = [
        f"{web.address}/{name}#sha256={digest}"
        for name, digest in zip((named, plain), digests, strict=True)
    ]
    for url in (*urls, urls[0].replace("http:", "HTTP:")):
        check_named(url, NAME)
        found = find(url)
        assert same(found.tensors, state)
        assert found.source == url.partition("#")[0].replace("HTTP:", "http:")
    web.close()
    assert same(find(urls[0]).tensors, state)


def test_half_a_hash_is_good_for_our_own_tables_only(web: Web) -> None:
    for end in ("w-0123abcd.pth", f"w.pth#sha256={'0' * 63}", "w.pth#sha256=01234567"):
        with pytest.raises(ModelError, match="with all 64 digits"):
            check_named(f"{web.address}/{end}", NAME)
        assert "weights from the web need their sha256" in refused(
            f"{web.address}/{end}", kind=ModelError
        )
    assert web.asked == []


def test_what_may_be_secret_in_an_address_is_used_and_never_shown(
    web: Web, state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    web.files["w.safetensors?key=SECRET"] = (tmp_path / "w.safetensors").read_bytes()
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    found = find(f"{web.address}/w.safetensors?key=SECRET#sha256={digest}")
    assert same(found.tensors, state)
    assert found.source == f"{web.address}/w.safetensors"
    host = web.address.removeprefix("http://")
    web.close()
    for end in (f"sha256={'1' * 64}", "sha256=0123abcd", "md5=1"):
        url = f"http://me:SECRET@{host}/w.pth?key=SECRET#{end}"
        with pytest.raises(FieldmarkError) as caught:
            find(url)
        assert "SECRET" not in str(caught.value)
    out = capsys.readouterr()
    assert "SECRET" not in out.out + out.err


def test_the_word_as_strangers_may_read_it() -> None:
    hashed = f"#sha256={'a' * 64}"
    public = pretrained.public_word
    assert public(f"https://me:pw@h:8/a/w.pth?k=1{hashed}") == f"https://h:8/a/w.pth{hashed}"
    assert public(f" HTTPS://h/w@1.pth{hashed}") == f"HTTPS://h/w@1.pth{hashed}"
    assert public("https://me@h/w#token") == "https://h/w"
    for word in ("none", "imagenet", "runs/a?b", "hf:org/name@main", "a/b.pth"):
        assert public(word) == word


@pytest.mark.parametrize("word", ["file:///home/w.pth", "s3://bucket/w.pth", "ftp://h/w.pth"])
def test_other_addresses_are_refused_with_what_is_taken(word: str) -> None:
    scheme = word.partition("/")[0]
    for name in (NAME, None):
        said = refused(word, name, ModelError)
        assert f"weights cannot be had from {scheme}//" in said
        assert "valid:  a run, a file, hf:org/name, https://...#sha256=HEX" in said
    with pytest.raises(ModelError, match="cannot be had"):
        check_named(word, NAME)


def test_a_name_of_weights_with_a_slip_suggests_the_nearest(published: OfficialWeights) -> None:
    for word, kind in (("imagenett", ModelError), ("imagnet", CheckpointError)):
        assert "do:     did you mean 'imagenet'?" in refused(word, kind=kind)
    assert "did you mean 'imagenet1k_v1'?" in refused("imagenet1k_v3", kind=ModelError)
    assert "`ls runs` shows the runs" in refused("holiday")


@pytest.mark.parametrize(
    ("num_classes", "told"),
    [
        (1000, "r160_in1k of test_resnet (hf:"),
        (0, "r160_in1k of test_resnet, without a classifier (hf:"),
        (21841, "r160_in1k of test_resnet, with 21841 outputs (hf:"),
    ],
)
def test_published_weights_say_so_where_their_outputs_are_not_imagenets(
    num_classes: int, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    one = OfficialWeights("r160_in1k", "hf:timm/it", num_classes=num_classes)
    monkeypatch.setattr(pretrained, "published_weights", lambda name: (one,))
    monkeypatch.setattr(
        pretrained, "fetch_from_hub", lambda *_: HubFile(tmp_path / "w.safetensors", None)
    )
    found = find("imagenet", "test_resnet")
    assert found.source.startswith(told)
    assert (found.class_names is None) == (num_classes != 1000)


def test_urls_are_never_taken_without_a_hash(web: Web) -> None:
    for ask in (check_named, lambda url, name: find(url, name)):
        with pytest.raises(ModelError) as caught:
            ask(f"{web.address}/w.safetensors", NAME)
        assert "weights from the web need their sha256" in str(caught.value)
        assert "#sha256=HEX" in str(caught.value)
    assert web.asked == []


def test_a_url_with_a_model_of_ours_keeps_what_it_says(web: Web, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    url = f"{web.address}/{web.add(path, 'm.safetensors')}#sha256={digest}"
    found = find(url)
    assert (found.network, found.class_names) == (NAME, ("kind 0", "kind 1", "kind 2"))
    assert "made for resnet10" in refused(url, "resnet18")


# The hub ------------------------------------------------------------------------------------------

TIMM_CONFIG = {
    "architecture": NAME,
    "num_classes": 3,
    "label_names": ["ant", "bee", "cat"],
    "pretrained_cfg": {
        "input_size": [3, 96, 96],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "crop_mode": "squash",
    },
}


@pytest.fixture
def hub(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The repository acme/it; its config is what the test puts here."""
    config: dict[str, Any] = dict(TIMM_CONFIG)
    save_file(state, tmp_path / "hub.safetensors")

    def fetch(reference: str, progress: object) -> HubFile:
        assert reference == "hf:acme/it"
        return HubFile(tmp_path / "hub.safetensors", config or None)

    monkeypatch.setattr(pretrained, "fetch_from_hub", fetch)
    return config


def test_the_hubs_config_says_how_pictures_are_made(
    hub: dict[str, Any], state: dict[str, Tensor]
) -> None:
    found = find("hf:acme/it")
    assert same(found.tensors, state)
    assert (found.network, found.source) == (NAME, "hf:acme/it")
    assert found.class_names == ("ant", "bee", "cat")
    assert found.preprocess == {
        "size": 96,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "crop_fraction": 0.95,
        "interpolation": "bicubic",
        "resize": "squash",
        "channel_order": "rgb",
    }
    assert "hf:acme/it, made for resnet10; --model resnet18" in refused("hf:acme/it", "resnet18")
    hub.clear()
    found = find("hf:acme/it")
    assert (found.network, found.preprocess, found.class_names) == (None, {}, None)


@pytest.mark.parametrize(
    "odd",
    [
        {"architecture": 7, "label_names": "abc", "pretrained_cfg": None, "model_args": [1]},
        {"pretrained_cfg": {"input_size": "x", "mean": {}, "std": [0], "crop_pct": "a"}},
        {"pretrained_cfg": {"label_offset": "one"}},
        {"label_names": {"0": "ant"}},
    ],
)
def test_an_odd_config_is_no_reason_to_fail(
    hub: dict[str, Any], odd: dict[str, Any], state: dict[str, Tensor]
) -> None:
    hub.update(odd)
    found = find("hf:acme/it")
    assert same(found.tensors, state)
    assert found.num_leading == 0


def test_arguments_that_the_hubs_network_was_built_with_come_along(hub: dict[str, Any]) -> None:
    """Without them every weight would fit, and another function be computed."""
    hub["architecture"] = "mobilenetv2_100"
    hub["model_args"] = {"pad_type": "same", "in_chans": 1}
    assert find("hf:acme/it", "mobilenetv2_100").options == {"pad_type": "same"}
    hub["architecture"], hub["model_args"] = "resnet18", {"output_stride": 16, "drop_rate": 0.1}
    said = refused("hf:acme/it", "resnet18")
    assert "train with --model timm/resnet18" in said
    assert find("hf:acme/it", "timm/resnet18").options == {"output_stride": 16, "drop_rate": 0.1}
    assert find("hf:acme/it", None).network == "timm/resnet18"  # as `weights import` asks
    hub["model_args"] = {"drop_rate": 0.1}
    assert find("hf:acme/it", "resnet18").options == {}


def test_a_background_class_is_known_from_the_hubs_config(hub: dict[str, Any]) -> None:
    hub["pretrained_cfg"] = {**TIMM_CONFIG["pretrained_cfg"], "label_offset": 1}  # type: ignore[dict-item]
    assert find("hf:acme/it").num_leading == 1


def test_a_model_of_ours_on_the_hub_says_everything_itself(
    hub: dict[str, Any], tmp_path: Path
) -> None:
    saved(tmp_path / "hub.safetensors")
    found = find("hf:acme/it")
    assert found.class_names == ("kind 0", "kind 1", "kind 2")
    assert Preprocess.from_dict(found.preprocess) == HOW


# Before anything is looked at ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kind", "told"),
    [
        ("imagenet", ModelError, "no weights of that name are published for resnet10"),
        ("imagenet1k_v2", ModelError, "no weights of that name are published for resnet10"),
        ("gone.pth", CheckpointError, "no such run or model file"),
        ("", CheckpointError, "no such run or model file"),
        ("hf:justone", DownloadError, "a name on the hub has two halves"),
        ("hf:a/b/c.bin", DownloadError, "only .safetensors files are fetched from the hub"),
        ("https://host/w.pth", ModelError, "weights from the web need their sha256"),
        ("https://host/w.pth#md5=1", DownloadError, "an address may end in its hash"),
        ("http://#sha256=" + "0" * 64, DownloadError, "this is no address on the web"),
    ],
)
def test_what_is_sure_to_fail_is_refused_at_once(
    word: str,
    kind: type[FieldmarkError],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    def no(*args: Any, **words: Any) -> None:
        raise AssertionError("the web or a file was looked at")

    for name in ("fetch_from_hub", "download", "load_tensors", "find_info"):
        monkeypatch.setattr(pretrained, name, no)
    with pytest.raises(kind) as caught:
        check_named(word, NAME)
    assert told in str(caught.value)


def test_what_may_be_there_passes(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    for word in (str(tmp_path / "w.pth"), "hf:a/b", f"https://h/w.pth#sha256={'0' * 64}"):
        check_named(word, NAME)
    check_named("imagenet", "resnet18")
    check_named("imagenet1k_v1", "resnet50")


def test_timm_keys_of_our_vgg_are_as_published() -> None:
    """What `find` gives for timm's VGG is what `timm.create_model` would load."""
    with torch.device("meta"):
        ours, theirs = create_model("vgg11", 3), create_model("timm/vgg11", 3)
        tensors = to_timm(as_network(ours).architecture, ours.state_dict()).tensors
    assert {k: v.shape for k, v in tensors.items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


def test_an_exported_folder_brings_what_its_config_says(tmp_path: Path) -> None:
    """As `weights export --to timm` leaves it: options and preprocess are in config.json."""
    network = create_model("mobilenetv3_small_050", num_classes=3, pad_type="same")
    folder = tmp_path / "export-timm"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "mobilenetv3_small_050",
        "model_args": {"pad_type": "same"},
        "pretrained_cfg": {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    found = find_pretrained(str(folder), "mobilenetv3_small_050", Silent())
    assert found.options == {"pad_type": "same"}
    assert (found.preprocess["size"], found.preprocess["mean"]) == (96, (0.5, 0.5, 0.5))
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json beside these weights"):
        find_pretrained(str(folder), "mobilenetv3_small_050", Silent())


@pytest.mark.parametrize("text", ["<!doctype html><html>", "\n  <html>"])
def test_a_web_page_called_weights_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.pth").write_text(text)
    with pytest.raises(CheckpointError, match="a web page may have been saved in its place"):
        find_pretrained(str(tmp_path / "w.pth"), "resnet10", Silent())
