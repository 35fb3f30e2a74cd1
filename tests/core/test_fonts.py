from utils.core import fonts


def test_latin_needs_the_first_font_alone():
    assert fonts.families("Stiefel für 3 €") == [fonts.FIRST] and fonts.families("") == [fonts.FIRST]


def test_fonts_are_taken_until_every_character_has_one(monkeypatch):
    have = {fonts.FIRST: "abc", "Bitmaps": "", "Chinese": "中国a", "Both": "中国☃", "Emoji": "🚀"}
    monkeypatch.setattr(fonts, "_installed", lambda: have)
    monkeypatch.setattr(fonts, "_characters", lambda family, text: set(text) & set(have[family]))
    assert fonts.families("a中") == [fonts.FIRST, "Chinese"]
    assert fonts.families("国☃🚀") == [fonts.FIRST, "Chinese", "Both", "Emoji"]
    assert fonts.families("ж") == [fonts.FIRST]  # nothing has it
    assert fonts.font_file("a中国☃")[0] == have["Chinese"] and fonts.font_file("中国☃")[0] == have["Both"]


def test_a_font_of_bitmaps_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_installed", lambda: {"Broken": str(tmp_path / "broken.ttf")})
    fonts._opened.cache_clear()
    assert fonts.families("a") == []
    fonts._opened.cache_clear()
