import pytest

from utils.core import fonts


def test_latin_needs_the_first_font_alone():
    for text in ("Stiefel für 3 €", ""):
        assert fonts.families(text) == ([fonts.FIRST], text)


def test_fonts_are_taken_until_every_character_has_one(monkeypatch):
    have = {fonts.FIRST: "abc", "Bitmaps": "", "Chinese": "中国a", "Both": "中国☃", "Emoji": "🚀"}
    monkeypatch.setattr(fonts, "_installed", lambda: have)
    monkeypatch.setattr(fonts, "_characters", lambda family, text: set(text) & set(have[family]))
    assert fonts.families("a中") == ([fonts.FIRST, "Chinese"], "a中")
    assert fonts.families("国☃🚀") == ([fonts.FIRST, "Chinese", "Both", "Emoji"], "国☃🚀")
    assert fonts.one_font("a中国☃")[::2] == (have["Chinese"], "a中国[snowman]")
    assert fonts.one_font("中国☃")[::2] == (have["Both"], "中国☃")


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("a🧿b", "a[nazar amulet]b"),
        ("ж", r"\u0436"),
        ("\U000f0000", r"\U000f0000"),
        ("c🐕\u200d🦺\ufe0f", "c[dog][safety vest]"),
    ],
)
def test_a_character_that_no_font_has_is_drawn_in_letters(text, drawn, monkeypatch):
    monkeypatch.setattr(fonts, "_characters", lambda family, text: {c for c in text if c.isascii()})
    assert fonts.families(text)[1] == fonts.one_font(text)[2] == drawn


def test_a_font_of_bitmaps_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_installed", lambda: {"Broken": str(tmp_path / "broken.ttf")})
    fonts._opened.cache_clear()
    assert fonts.families("a")[0] == []
    fonts._opened.cache_clear()


def test_a_font_that_draws_a_box_for_everything_has_no_character():
    """matplotlib brings one, so this needs none installed; it has even what is no character."""
    assert fonts.families("\U0010fffe") == ([fonts.FIRST], r"\U0010fffe")
    assert fonts.one_font("\U0010fffe")[2] == r"\U0010fffe"
