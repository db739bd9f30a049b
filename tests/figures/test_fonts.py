"""Names of any script: drawn or replaced, without boxes and without warnings (which are errors)."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager

from fieldmark.figures import fonts
from fieldmark.figures.canvas import new_figure
from fieldmark.figures.fonts import columns, lettering_for, shorten

SCRIPTS = {
    "Latin": "Fächer, naïve Œuvre",
    "Greek": "μέλισσα",
    "Cyrillic": "пчела",
    "Chinese": "蚂蚁与蜜蜂",
    "Chinese, rare": "𠮷野家",
    "Japanese": "ミツバチとアリ",
    "Korean": "꿀벌",
    "Arabic": "نحلة",
    "Hebrew": "דבורה",
    "emoji": "😀 ok",
    "mathtext": r"$\alpha_1$ 100 % {x} $$ \frac",
}


def pixels(text, style):
    figure = new_figure(4, 1, dpi=100)
    figure.text(0.05, 0.4, text, fontsize=20, color="black", **style)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, 0].copy()


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_scripts_are_drawn_as_they_are(text):
    lettering = lettering_for([text])
    assert not lettering.missing
    assert lettering.names([text], 60) == [text]
    assert pixels(text, lettering.style).min() < 100, "something dark must appear"


def test_two_chinese_characters_look_different_and_neither_is_the_empty_box():
    style = lettering_for(["蚂蜂"]).style
    ant, bee = pixels("蚂", style), pixels("蜂", style)
    with pytest.warns(UserWarning, match="missing from font"):
        box = pixels("蚂", {"family": ["DejaVu Sans"]})
    assert (ant != bee).mean() > 0.005
    assert (ant != box).mean() > 0.005


def test_a_name_no_font_can_draw_becomes_its_number():
    unassigned = "\U0003ffff"
    names = ["ants", f"bees {unassigned}", "蜂"]
    lettering = lettering_for(names)
    assert lettering.missing == {unassigned}
    assert lettering.names(names, 20) == ["ants", "#1", "蜂"]
    assert lettering.line(f"a {unassigned * 3} b", 20) == "a ? b"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_text_is_drawn_without_a_warning(texts):
    """Warnings are errors here; lone surrogates and unassigned characters are among the texts."""
    lettering = lettering_for(texts)
    for written in [*lettering.names(texts, 20), *(lettering.line(t, 20) for t in texts)]:
        assert not set(written) & lettering.missing
        assert columns(written) <= 20
        pixels(written, lettering.style)


@pytest.mark.parametrize(
    "text", ["हिन्दी", "ไทย", "👍🏽", "☝️", "👩‍👩‍👧", "می‌خواهم", "e\u0301", "a\u0338"]
)
def test_scripts_that_depend_on_the_machine_give_no_warning_either(text):
    lettering = lettering_for([text])
    (written,) = lettering.names([text], 30)
    assert written
    pixels(written, lettering.style)


def test_emoji_modifiers_are_dropped_before_the_name_is_given_up():
    text = "👍🏽"
    lettering = lettering_for([text])
    if lettering.missing <= {"🏽"}:
        assert lettering.names([text], 10)[0].startswith("👍")
    else:
        assert lettering.names([text], 10) == ["#0"]


def test_latin_names_do_not_search_the_machine(monkeypatch):
    monkeypatch.setattr(fonts, "_search", lambda missing: pytest.fail("searched"))
    monkeypatch.setattr(fonts, "_cjk_family", lambda characters: pytest.fail("CJK loaded"))
    assert lettering_for(["ants", "пчела"]).families == ("DejaVu Sans",)


def test_an_installed_font_is_found_by_what_it_draws(monkeypatch):
    """With DejaVu standing for a font of the machine: the search goes by coverage, not by name."""
    monkeypatch.setattr(fonts, "FIRST_FAMILY", "STIXGeneral")
    lettering = lettering_for(["نحلة"])
    assert not lettering.missing
    assert any(family.startswith("DejaVu Sans") for family in lettering.families)
    pixels("نحلة", lettering.style)


def test_nothing_is_logged(caplog):
    """matplotlib logs about families it does not have; users would see that."""
    with caplog.at_level(logging.WARNING, logger="matplotlib"):
        lettering = lettering_for(["蚂 हि \U0003ffff"])
        pixels(lettering.line("蚂 हि \U0003ffff", 30), lettering.style)
    assert caplog.records == []


def test_the_other_letters_choose_the_regional_shapes():
    """Before matplotlib 3.11 only the first face of the collection is there."""
    faces = set(fonts._cjk_families())
    assert "Noto Sans CJK JP" in faces
    if "Noto Sans CJK SC" in faces:
        assert "Noto Sans CJK SC" in lettering_for(["骨"]).families
        assert "Noto Sans CJK JP" in lettering_for(["骨", "ほね"]).families
        assert "Noto Sans CJK KR" in lettering_for(["骨", "뼈"]).families


def test_the_users_font_list_keeps_its_default():
    before = font_manager.findfont("DejaVu Sans")
    lettering_for(["蚂蚁"])
    assert font_manager.findfont("DejaVu Sans") == before


def test_long_names_keep_both_ends_and_stay_different():
    names = [f"the_same_long_beginning_{i}_and_the_same_long_end" for i in range(12)]
    shorts = lettering_for(names).names(names, 20)
    assert len(set(shorts)) == 12
    assert all(columns(short) <= 20 for short in shorts)
    assert shorten("dog_golden_retriever", 11) == "dog_g…iever"


@given(st.text(max_size=40), st.integers(1, 30))
def test_shortening_keeps_the_limit_and_short_texts(text, most):
    short = shorten(text, most)
    assert columns(short) <= most
    if columns(text) <= most:
        assert short == text


def test_wide_characters_count_double():
    assert columns("蚂蚁") == 4
    assert columns(shorten("蚂蚁" * 10, 11)) <= 11


def test_names_are_one_line():
    assert lettering_for([]).names(["a\nb\tc\x00\u202ed", " "], 20) == ["a b cd", "#1"]
