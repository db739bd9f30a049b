"""The pages of docs/networks say what is so: shapes, counts, commands, Python and links.

Tables are read by their headings, so pages may add columns and rows as they like:
a table that begins with `stage` has columns headed by a network (shapes) or by a network and
`parameters`; one that begins with `network` has a row a network, and any of the columns in `FACTS`.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from typer.main import get_command

import fieldmark
from conftest import Verb
from fieldmark.cli import app
from fieldmark.models.contract import Network, as_network
from fieldmark.models.official import official_weights
from fieldmark.models.own import MODEL_NAMES, is_own
from fieldmark.models.registry import create_model
from fieldmark.models.summary import Summary, summarize
from fieldmark.pretrained import published_weights
from fieldmark.recipe import WORDS, assemble, parse_setting

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted((REPOSITORY / "docs" / "networks").glob("*.md"))
PARITY = REPOSITORY / "docs" / "parity.md"
SIZE_PX = 224

Row = dict[str, str]  # heading: cell


def named(pages: list[Path]) -> dict[str, Any]:
    return {"argvalues": pages, "ids": [page.name for page in pages]}


def tables(page: Path) -> Iterator[list[Row]]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *body = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in block.splitlines()
        ]
        yield [dict(zip(head, cells, strict=True)) for cells in body]


def tables_of(page: Path, first: str) -> list[list[Row]]:
    return [rows for rows in tables(page) if next(iter(rows[0])) == first]


@cache
def built(name: str, classes: int = 1000, channels: int = 3, words: str = "") -> nn.Module:
    """A network without numbers; `words` are its options, as `--set` takes them."""
    with torch.device("meta"):
        return create_model(name, classes, channels, **dict(map(parse_setting, words.split())))


@cache
def summary_of(name: str, size_px: int, classes: int, channels: int, words: str = "") -> Summary:
    return summarize(built(name, classes, channels, words), channels=channels, size_px=size_px)


# Tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", **named(PAGES))
def test_shapes_and_parameters_of_the_stages(page: Path) -> None:
    checked = 0
    for rows in tables_of(page, "stage"):
        for heading in rows[0]:
            found = re.fullmatch(r"`([\w/.]+)( parameters)?`", heading)
            if found is None:
                continue
            name, counts = found.groups()
            shapes: dict[str, str] = {}
            sums: dict[str, int] = {}
            for row in summary_of(name, SIZE_PX, 1000, 3).rows:
                shapes[row.stage] = "x".join(map(str, row.output_shape))
                sums[row.stage] = sums.get(row.stage, 0) + row.num_parameters
            expected = {s: f"{n:,}" for s, n in sums.items()} if counts else shapes
            assert {row["stage"]: row[heading] for row in rows} == expected, heading
            checked += 1
    assert checked or page.name == "README.md", "a page without shapes"


def facts_of(row: Row) -> dict[str, str]:
    """What a row about a network says beside its name, as it should be said."""
    name = row["network"].strip("`")
    words = next((row[h] for h in row if h.startswith("options")), "")
    if is_own(name) and name.startswith("resnet50_keras"):  # a name for these options
        name, words = (name, "") if not words else ("resnet50", words)
    size_px = int(row.get("size px", SIZE_PX))
    counts = int(row.get("classes", 1000)), int(row.get("channels", 3))
    summary = summary_of(name, size_px, *counts, words)
    network = as_network(built(name, *counts, words))
    return {
        "parameters": f"{summary.num_parameters:,}",
        "GFLOPs": f"{summary.flops / 1e9:.2f}",
        "smallest px": str(network.min_size_px),
        "size px": str(getattr(network, "default_size_px", SIZE_PX)),
        "published weights": ", ".join(w.tag for w in official_weights(name)) or "-",
        "stages between stem and head": " ".join(network.stages[1:-1]),
        "blocks": blocks_of(network),
    }


def blocks_of(network: Network) -> str:
    layers = [getattr(network, f"layer{i}", ()) for i in range(1, 5)]
    return "-".join(str(len(layer)) for layer in layers)


FACTS = {
    *("parameters", "GFLOPs", "smallest px", "size px", "published weights"),
    *("stages between stem and head", "blocks"),
}


@pytest.mark.parametrize("page", **named(PAGES))
def test_what_is_said_of_each_network(page: Path) -> None:
    rows = [row for found in tables_of(page, "network") for row in found]
    assert rows
    for row in rows:
        said = {heading: cell for heading, cell in row.items() if heading in FACTS}
        assert "parameters" in said
        expected = facts_of(row)
        assert said == {heading: expected[heading] for heading in said}, row["network"]


def test_every_network_written_out_here_is_on_a_page() -> None:
    named_there = {
        row["network"].strip("`")
        for page in PAGES
        if page.name != "README.md"
        for found in tables_of(page, "network")
        for row in found
    }
    assert named_there >= set(MODEL_NAMES)


# Commands -----------------------------------------------------------------------------------------


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[tuple[list[str], list[str]]]:
    """The words of each command on a page, and the lines that it is said to print."""
    found: list[tuple[list[str], list[str]]] = []
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((shlex.split(line.removeprefix("$ ")), []))
            else:
                found[-1][1].append(line)
    return found


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The verb and its arguments by name; nothing is done."""
    program, *words = words
    assert program == "fieldmark"
    command: Any = get_command(app)
    path = []
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    return " ".join(path), command.make_context(path[-1], words).params


@pytest.mark.parametrize("page", **named(PAGES))
def test_commands_are_ones_that_exist(page: Path) -> None:
    found = commands(page)
    assert found
    for words, _ in found:
        verb, given = parse(words)
        if verb == "summary" or given.get("model") is None:
            continue  # the next test runs it; or there is no network in it
        words_given = {word: given[word] for word in WORDS if given.get(word) is not None}
        settings = given.get("settings") or ()
        recipe = assemble(None, words_given, dict(map(parse_setting, settings)))
        options = [s.removeprefix("model.options.") for s in settings if s.startswith("model.")]
        network = as_network(built(given["model"], words=" ".join(options)))
        if recipe.training.freeze_through:
            assert recipe.training.freeze_through in network.stages[:-1]
        weights = given.get("weights", "")
        if weights and "." not in weights:  # no file
            tags = [published.tag for published in published_weights(given["model"])]
            assert weights in ("imagenet", *tags)


@pytest.mark.parametrize("page", **named(PAGES))
def test_summaries_print_what_the_page_shows(page: Path, verb: Verb) -> None:
    for words, shown in commands(page):
        if words[1] != "summary":
            assert not shown, "nobody checks what this prints"
            continue
        finished = verb(*words[1:])
        assert finished.code == 0, finished.err
        printed = finished.out.splitlines()
        assert [line for line in shown if line not in printed] == []


# Python -------------------------------------------------------------------------------------------

FILES = ("photos", "runs/", "local-dir:", ".jpg", ".safetensors", ".h5")  # that readers have


@pytest.mark.parametrize("page", **named(PAGES))
def test_python_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(page, "python")
    assert found
    defined: dict[str, Any] = {}
    for code in found:
        tree = ast.parse(code)
        if any(word in code for word in FILES):
            check_calls(tree)
            continue
        with torch.device("meta"):
            exec(code, defined)
        promised = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == promised
        for target, shape in re.findall(r"^(\w+) = .*  # (\(\d[\d, ]*\))$", code, re.MULTILINE):
            assert tuple(defined[target].shape) == ast.literal_eval(shape), target
    model = cast("nn.Module | None", defined.get("network"))
    assert model is None or as_network(model)


def check_calls(tree: ast.AST) -> None:
    """What is called of Fieldmark exists and takes these arguments."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if isinstance(call.func.value, ast.Name) and call.func.value.id in ("fm", "fieldmark"):
            function: Callable[..., Any] = getattr(fieldmark, call.func.attr)
            keywords = {word.arg: None for word in call.keywords if word.arg}
            inspect.signature(function).bind(*call.args, **keywords)


# Links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", **named([*PAGES, PARITY]))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target
    for path in re.findall(r"`((?:src|tests|benchmarks|docs)/[\w./-]+)`", text):
        assert (REPOSITORY / path).exists(), path


def anchors(page: Path) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# The parity table ---------------------------------------------------------------------------------


def test_the_parity_table_is_whole_and_small() -> None:
    """Its figures come from benchmarks/parity.py; that none of them is out of bounds is tested."""
    rows = [row for found in tables_of(PARITY, "network") for row in found]
    twins = {row["network"].strip("`") for row in rows if row.get("weights") == "both ways"}
    alone = {"alexnet_half", "c3resnet18", "c3resnet50", "resnet50_keras2017", "resnet50_keras"}
    assert twins == set(MODEL_NAMES) - alone
    keras = {row["network"].strip("`") for row in rows if row.get("what") == "probabilities"}
    assert keras == {"resnet50_keras2017", "resnet50_keras", "vgg16"}
    for row in rows:
        largest = float(row["largest difference"])
        scale = max(1.0, float(row["largest value"]))
        assert largest <= 1e-5 * scale, row
    counts = [row for found in tables_of(PARITY, "published by") for row in found]
    assert len(counts) >= 6 + len(TWINS_OF_TORCHVISION)
    assert {row["difference"] for row in counts} == {"0"}


TWINS_OF_TORCHVISION = [name for name in MODEL_NAMES if official_weights(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_place_waits_for_a_measurement(page: Path) -> None:
    assert "<!--" not in page.read_text(encoding="utf-8")
