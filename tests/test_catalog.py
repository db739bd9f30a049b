"""The list of networks and what is known of their weights; summaries; all as people see them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fieldmark
from fieldmark import catalog
from fieldmark.catalog import Entry, list_catalog
from fieldmark.models import official, registry, timm_build, timm_table
from fieldmark.models.card import matches
from fieldmark.models.official import OfficialWeights
from fieldmark.models.own import MODEL_NAMES
from fieldmark.models.registry import create_model
from fieldmark.models.timm_zoo import timm_names
from fieldmark.pretrained import find_pretrained
from fieldmark.progress import Silent
from support.web import serving

Verb = Callable[..., Any]  # see conftest.py


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty, whatever is in the user's own."""
    from huggingface_hub import constants

    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


def names(entries: list[Entry]) -> list[str]:
    return [entry.card.name for entry in entries]


# The list -----------------------------------------------------------------------------------------


def test_ours_come_first_then_timms_and_nobody_is_built(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_build, "build_net", lambda *args: pytest.fail("was built"))
    monkeypatch.setattr(registry, "create_timm", lambda *args: pytest.fail("was built"))
    monkeypatch.setattr(timm_table, "build_and_measure", lambda name: pytest.fail("was built"))
    timm_names()  # imports timm
    begun = time.perf_counter()
    entries = list_catalog()
    assert time.perf_counter() - begun < 10  # about one second; building all takes minutes
    own = [entry for entry in entries if entry.is_own]
    assert names(own) == names(entries)[: len(own)] == list(MODEL_NAMES)
    bare = [name.removeprefix("timm/") for name in names(entries)[len(own) :]]
    assert bare == list(timm_names())
    assert len(set(names(entries))) == len(entries) > 1000
    assert all(len(entry.cached) == len(entry.weights) for entry in entries)
    assert not any(cached for entry in entries for cached in entry.cached)


def test_an_entry_tells_size_cost_and_weights(cache: Path) -> None:
    (entry,) = (e for e in list_catalog("resnet50") if e.card.name == "resnet50")
    assert entry.is_own
    assert [weights.tag for weights in entry.weights] == ["imagenet1k_v2", "imagenet1k_v1"]
    assert entry.card.num_parameters == 25_557_032
    (entry,) = list_catalog("mobilenetv2_100")
    assert not entry.is_own
    assert entry.card.num_parameters == 3_504_872  # as published, 3.5 M
    assert entry.card.default_size_px == 224
    assert "ra_in1k" in [weights.tag for weights in entry.weights]
    (entry,) = list_catalog("c3resnet50")
    assert entry.weights == entry.cached == ()


@pytest.mark.parametrize(
    ("pattern", "own", "some"),
    [
        ("resnet18", {"resnet18", "c3resnet18"}, {"timm/resnet18", "seresnet18"}),
        ("RESNET18", {"resnet18", "c3resnet18"}, {"timm/resnet18"}),
        ("resnet1?", {"resnet10", "resnet18"}, {"timm/resnet18"}),
        ("ResNet1?", {"resnet10", "resnet18"}, {"timm/resnet18"}),
        ("timm/resnet1*", set(), {"timm/resnet18", "timm/resnet101"}),
        ("*_keras*", {"resnet50_keras", "resnet50_keras2017"}, set()),
        ("vit_[bl]*", set(), {"vit_base_patch16_224"}),
        ("nothing like it", set(), set()),
    ],
)
def test_a_word_is_part_of_a_name_and_a_pattern_all_of_it(
    cache: Path, pattern: str, own: set[str], some: set[str]
) -> None:
    entries = list_catalog(pattern)
    assert {e.card.name for e in entries if e.is_own} == own
    timms = {e.card.name for e in entries if not e.is_own}
    assert some <= timms
    assert bool(timms) == bool(some)


@given(
    name=st.from_regex(r"(timm/)?[a-z0-9_]{1,12}", fullmatch=True),
    pattern=st.text("abz09_*?[]", max_size=6),
)
def test_matching_is_the_same_for_everybodys_names(name: str, pattern: str) -> None:
    both = {name, name.removeprefix("timm/")}
    if set("*?[") & set(pattern):
        assert matches(name, pattern) == any(fnmatchcase(one, pattern) for one in both)
    else:
        assert matches(name, pattern) == (pattern in name)
    assert matches(name, pattern.upper()) == matches(name, pattern)
    assert matches(name, None)


def test_weights_are_known_to_be_here_once_they_were_fetched(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(create_model("resnet10").state_dict(), tmp_path / "w.pth")
    with serving(cache) as web:
        monkeypatch.setattr(official, "BASE_URL", f"{web.address}/")
        weights = (
            official._torchvision("imagenet1k_v2", "resnet10-00000000.pth"),
            official._torchvision("imagenet1k_v1", web.add(tmp_path / "w.pth", "w-{hash}.pth")),
        )
        monkeypatch.setitem(official._WEIGHTS, "resnet10", weights)
        assert list_catalog("resnet10")[0].cached == (False, False)
        find_pretrained("imagenet1k_v1", "resnet10", Silent())
        assert list_catalog("resnet10")[0].cached == (False, True)
        (found,) = cache.rglob("w-*.pth")
        found.write_bytes(b"something else")
        assert list_catalog("resnet10")[0].cached == (False, False)


# fieldmark models ---------------------------------------------------------------------------------


def line_of(out: str, name: str) -> str:
    (line,) = (line for line in out.splitlines() if line.startswith(f"{name} "))
    return line


def test_models_shows_a_network_a_line(verb: Verb, cache: Path) -> None:
    done = verb("models")
    assert done.code == 0, done.err
    heading, *lines = done.out.splitlines()
    assert heading.split("  ")[0] == "name"
    assert lines[0].startswith("alexnet ")
    assert len(lines) == len(MODEL_NAMES) + len(timm_names())
    resnet = line_of(done.out, "resnet50")
    assert re.match(r"resnet50 +25\.6 M +224  imagenet1k_v2, imagenet1k_v1 +\S", resnet)
    assert re.match(r"resnet50_keras +25\.6 M +224  - ", line_of(done.out, "resnet50_keras"))
    assert line_of(done.out, "timm/resnet18").rstrip().endswith(" timm")
    assert re.search(r", \S+, \S+ and \d+ more +timm", line_of(done.out, "timm/resnet18"))


def test_models_ticks_what_is_here(
    verb: Verb, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tuple(OfficialWeights(f"tag{n}", f"https://h/{n}#sha256={n:064x}") for n in (1, 2))
    monkeypatch.setitem(official._WEIGHTS, "resnet10", weights)
    monkeypatch.setattr(
        catalog, "are_on_this_machine", lambda asked: [one.tag == "tag2" for one in asked]
    )
    done = verb("models", "--filter", "resnet10")
    assert "  tag1, tag2 \N{CHECK MARK} " in line_of(done.out, "resnet10")
    assert "\N{CHECK MARK}: on this machine" in done.out.splitlines()[0]


def test_models_with_a_filter_that_nothing_passes(verb: Verb, cache: Path) -> None:
    done = verb("models", "--filter", "resnet_of_tomorrow")
    assert done.code == 0
    assert done.out == "no network has such a name\n"


def test_models_in_a_terminal_of_80_columns_keeps_the_names_whole(
    verb: Verb, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    done = verb("models", "--filter", "resnet50")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    entries = list_catalog("resnet50")
    assert len(done.out.splitlines()) == 1 + len(entries)
    for name in names(entries):
        assert re.search(rf"^{re.escape(name)} +\d+\.\d M +\d+ ", done.out, re.MULTILINE), name
    assert re.search(r"^resnet50 .* imagenet1k_v2, imagenet1k_v1", done.out, re.MULTILINE)


# fieldmark summary --------------------------------------------------------------------------------


def sections(out: str) -> list[tuple[str, list[str]]]:
    """The stages that a boundary stands before, each with the lines of its layers."""
    table = out.partition("\nparameters ")[0]
    parts = re.split(r"^[ ─]*─[ ─]*\n", table, flags=re.MULTILINE)[1:]
    lines = [[line for line in part.splitlines() if line.strip()] for part in parts]
    return [(part[0], part[1:]) for part in lines if part]


@pytest.mark.parametrize(
    ("name", "size_px", "stages"),
    [
        ("resnet18", 224, ["stem", "layer1", "layer2", "layer3", "layer4", "head"]),
        ("alexnet", 224, None),
        ("c3resnet18", 224, None),
        ("mobilenetv2_035", 224, None),
        ("test_vit", 160, None),
    ],
)
def test_summary_draws_the_stages_and_their_sums_are_right(
    verb: Verb, name: str, size_px: int, stages: list[str] | None
) -> None:
    done = verb("summary", name, "--classes", 5)
    assert done.code == 0, done.err
    with torch.device("meta"):
        model = create_model(name, 5)
    shown = sections(done.out)
    titles = [title.split()[0] for title, _ in shown]
    assert titles == list(stages or model.stages)  # type: ignore[arg-type]
    total = 0
    for title, layers in shown:
        own = sum(layer_parameters(line) for line in layers)
        assert layer_parameters(title) == own, title
        assert all(line.startswith("  ") for line in layers)
        total += own
    wanted = sum(parameter.numel() for parameter in model.parameters())
    assert total == wanted
    assert f"parameters   {wanted:,} ({wanted:,} trainable)" in done.out
    assert f"for one picture of 3x{size_px}x{size_px}" in done.out
    assert ("M of them between layers" in done.out) == (name == "test_vit")


def layer_parameters(line: str) -> int:
    """Of a row: output, then parameters and MFLOPs where there are any."""
    cells = re.findall(r"(?<= )(\d[\dx,.]*)(?= |$)", line)
    whole = [cell for cell in cells[1:] if re.fullmatch(r"[\d,]+", cell)]
    assert len(whole) <= 1, line
    return int(whole[0].replace(",", "")) if whole else 0


def test_summary_takes_sizes_channels_and_options(verb: Verb) -> None:
    done = verb("summary", "test_vit", "--size", 96, "--channels", 1)
    assert "for one picture of 1x96x96" in done.out
    done = verb("summary", "resnet10", "--size", 64, "--channels", 1, "--classes", 7)
    assert "for one picture of 1x64x64" in done.out
    done = verb("summary", "mobilenetv2_035", "--set", "model.options.pad_type=same")
    assert done.code == 0, done.err
    assert "Conv2dSame" in done.out


def test_summary_of_a_run_is_that_of_its_network(verb: Verb, tiny_run: fieldmark.Run) -> None:
    done = verb("summary", tiny_run.path)
    assert done.code == 0, done.err
    assert "for one picture of 3x32x32" in done.out
    assert [title.split()[0] for title, _ in sections(done.out)] == list(
        tiny_run.load("cpu").model.stages  # type: ignore[arg-type]
    )
    assert re.search(r"fc +Linear +3 +1,539 ", done.out)


# Wrong words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("summary", "resnt18"), "did you mean 'resnet18'?"),
        (("summary", "convnext_tinny"), "did you mean 'convnext_tiny'?"),
        (("summary", "timm/resnet19"), "did you mean 'timm/resnet1"),
        (("summary", "runs/gone"), "no such run or model file"),
        (("summary", "test_vit", "--size", 100), "does not admit pictures of 100 px"),
        (("summary", "alexnet", "--size", 10), "needs pictures of at least 63 px"),
        (("summary", "resnet10", "--set", "model.options.depth=3"), "unknown option of resnet10"),
        (("weights", "import", "gone.pth", "--model", "resnet18"), "no such run or model file"),
        (("weights", "import", "imagenet"), "add --model"),
        (("weights", "import", "imagenet", "--model", "resnt18"), "did you mean 'resnet18'?"),
        (("weights", "import", "imagenet", "--model", "c3resnet18"), "no weights of that name"),
        (("weights", "import", "hf:one"), "a name on the hub has two halves"),
        (("weights", "import", "https://h/w.pth", "--model", "resnet18"), "need their sha256"),
        (("weights", "import", "w.pth", "--model", "resnet18"), "damaged or not"),
        (("weights", "import", "w.h5"), "HDF5"),
        (("weights", "import", "w.safetensors", "--model", "resnet18"), "damaged or not"),
        (("weights", "import", "w.pth", "--set", "data.men=1"), "did you mean"),
        (("weights", "export", "gone", "--to", "timm"), "no such run or model file"),
        (("weights", "export", "w.safetensors", "--to", "timm"), "damaged or not"),
    ],
)
def test_what_is_wrong_is_said_in_words(verb: Verb, words: tuple[object, ...], told: str) -> None:
    for name in ("w.pth", "w.h5", "w.safetensors"):
        Path(name).write_bytes(b"these are no weights at all")
    before = sorted(Path().rglob("*"))
    done = verb(*words)
    assert done.code == 2, done.out
    assert told in done.err
    assert "  do:     " in done.err
    assert "Traceback" not in done.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("words", [("weights",), ("weights", "--help")])
def test_weights_says_its_two_ways(verb: Verb, words: tuple[str, ...]) -> None:
    done = verb(*words)
    said = done.out + done.err
    assert re.search(r"│ import +Make a whole Fieldmark model", said)
    assert re.search(r"│ export +Write a model's weights", said)


@pytest.mark.parametrize("name", ["import", "export"])
def test_help_of_weights_has_examples_and_fits(
    verb: Verb, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(variable, value)
    done = verb("weights", name, "--help")
    assert done.code == 0
    assert f"fieldmark weights {name}" in done.out[done.out.index("Example") :]
    assert all(len(line) <= 80 for line in done.out.splitlines())


def test_export_to_nobody_known_names_those_that_are(verb: Verb) -> None:
    done = verb("weights", "export", "run", "--to", "onnx")
    assert done.code == 2
    assert "torchvision" in done.err
    assert "Traceback" not in done.err
