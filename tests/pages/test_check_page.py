"""The page: whole in one file, safe whatever names people give, bounded whatever was found."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fieldmark.data.check.copies import Copies
from fieldmark.data.check.findings import KINDS, Finding
from fieldmark.data.check.result import Checked
from fieldmark.data.manifest import Manifest
from fieldmark.pages.check_page import MAX_CLASSES, SHOWN_A_KIND, write_check_page
from fieldmark.pages.thumbnails import SIDE_PX, data_url
from fieldmark.progress import Silent
from fieldmark.types import Sample
from support.photos import photo

NASTY = (
    "<script>alert(1)</script>",
    'a" onload="x',
    "蚂蚁 муравей نملة 🐜",
    "{{ 7 * 7 }}",
    "\x1b[31m",
)


class Page(HTMLParser):
    """Every tag with its attributes, and the text that is seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def checked_of(samples: list[Sample], findings: list[Finding]) -> Checked:
    names = tuple(sorted({sample.label for sample in samples}))
    manifest = Manifest(tuple(samples), names, (), ("A note & more.",), False, 100)
    copies = Copies((), {}, 0, 0)
    return Checked(
        manifest, [], copies, tuple(findings), (0.5,) * 3, (0.2,) * 3, (10, 20, 30), ("Said.",)
    )


def page_of(folder: Path, checked: Checked, source: str = "photos") -> Page:
    write_check_page(folder / "check.html", checked, source, "check.csv", Silent())
    page = Page((folder / "check.html").read_text("utf-8"))
    assert page.open == []
    return page


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = []
    for i in range(3):
        paths.append(str(tmp_path / f"{i}.png"))
        photo(i).save(paths[-1])
    return paths


def test_names_are_shown_as_they_are_and_do_nothing(tmp_path: Path, pictures: list[str]) -> None:
    samples = [Sample(pictures[0], name, "train") for name in NASTY]
    findings = [
        Finding("label conflict", pictures[0], name, "train", (name,), f"identical; {name}")
        for name in NASTY
    ]
    page = page_of(tmp_path, checked_of(samples, findings), source=NASTY[0])
    for name in NASTY[:4]:
        assert page.text.count(name) >= 3, name
    assert "\x1b" not in page.text
    assert "49" not in re.sub(r"\d+\.png", "", page.text)
    assert "script" not in [tag for tag, _ in page.tags]
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path, pictures: list[str]) -> None:
    samples = [Sample(path, "ants") for path in pictures]
    findings = [Finding("leak", pictures[0], "ants", "train", (pictures[1],), "identical")]
    page = page_of(tmp_path, checked_of(samples, findings))
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert (attrs.get("src") or "data:image/").startswith("data:image/")
        assert (attrs.get("href") or "#").startswith("#")
    assert "url(" not in (tmp_path / "check.html").read_text("utf-8")
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2  # the copies, side by side


def test_every_kind_has_a_place_that_its_line_leads_to(tmp_path: Path, pictures: list[str]) -> None:
    findings = [Finding(kind, pictures[0], "ants", detail="so") for kind in KINDS]
    page = page_of(tmp_path, checked_of([Sample(pictures[0], "ants")], findings))
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert len(links) == len(KINDS)
    assert {link.removeprefix("#") for link in links if link} == targets
    for about in KINDS.values():
        assert about.fix in page.text
    assert "A note & more." in page.text
    assert "Said." in page.text


def test_thousands_of_findings_are_counted_and_few_are_drawn(
    tmp_path: Path, pictures: list[str]
) -> None:
    samples = [Sample(f"{i}.jpg", f"class {i % 90}") for i in range(5000)]
    findings = [Finding("outlier", pictures[i % 3], "ants", detail=f"n {i}") for i in range(5000)]
    page = page_of(tmp_path, checked_of(samples, findings))
    assert [tag for tag, _ in page.tags].count("img") == SHOWN_A_KIND
    assert f"{5000 - SHOWN_A_KIND:,} more of this kind are in\ncheck.csv" in page.text
    assert f"and {90 - MAX_CLASSES} more classes." in page.text
    assert (tmp_path / "check.html").stat().st_size < 1_000_000


def test_where_nothing_was_found_the_page_says_so(tmp_path: Path, pictures: list[str]) -> None:
    page = page_of(tmp_path, checked_of([Sample(pictures[0], "ants")], []))
    assert "Nothing was found." in page.text


def test_bars_are_as_long_as_their_classes_are_large(tmp_path: Path) -> None:
    samples = [Sample(f"a{i}", "ants", "train") for i in range(30)]
    samples += [Sample(f"b{i}", "bees", "train") for i in range(40)]
    samples += [Sample(f"c{i}", "bees", "test") for i in range(20)]
    page = page_of(tmp_path, checked_of(samples, []))
    bars = [
        (attrs["class"], attrs["style"])
        for tag, attrs in page.tags
        if tag == "span" and "style" in attrs
    ]
    assert bars == [
        ("train", "width: 50.00%"),
        ("train", "width: 66.67%"),
        ("test", "width: 33.33%"),
    ]


def read(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_thumbnails(tmp_path: Path) -> None:
    photo(1, 900, 600).save(tmp_path / "a.jpg")
    large = read(data_url(str(tmp_path / "a.jpg")) or "")
    assert large.size == (SIDE_PX, round(SIDE_PX * 600 / 900))
    photo(2, 28, 20).save(tmp_path / "b.png")
    url = data_url(str(tmp_path / "b.png")) or ""
    assert url.startswith("data:image/png")
    assert read(url).convert("RGB").tobytes() == photo(2, 28, 20).tobytes()
    (tmp_path / "c.jpg").write_text("no")
    assert data_url(str(tmp_path / "c.jpg")) is None
