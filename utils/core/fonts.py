"""Installed fonts by the characters that they have: no font has all of Latin, Chinese, Arabic and emoji."""

import functools
import unicodedata

from utils.core.text import JOINERS, escaped

FIRST = "DejaVu Sans"  # comes with matplotlib
NO_CHARACTER = 0x10FFFE  # by Unicode; a font that has it draws a box for everything, as Last Resort, which matplotlib brings
SPECIAL = ("Serif", "Mono", "Condensed", "Light", "Math")  # faces that other ones are taken before


def families(text):
    """`(names, text)`: fonts that together draw `text`, FIRST before others, and the text as they can draw it.

    Of a character that no installed font has, a symbol becomes its name, as `[rocket]`, and a letter an escape.
    """
    chosen, missing = [], set(text)
    for name in _installed():
        found = _characters(name, missing)
        if found or name == FIRST:
            chosen.append(name)
            missing -= found
        if not missing:
            break
    return chosen, _spelled(text, missing)


def one_font(text):
    """`(file, number of the face in it, text)`: the font that has the most characters of `text`, and the text as that one
    can draw it, see `families`."""
    name = max(_installed(), key=lambda family: len(_characters(family, set(text))))
    path = _installed()[name]
    spelled = _spelled(text, set(text) - _characters(name, set(text)))
    return str(getattr(path, "path", path)), getattr(path, "face_index", 0), spelled


def _spelled(text, missing):
    return "".join(_in_letters(c) if c in missing else c for c in text)


def _in_letters(character):
    name = unicodedata.name(character, "").lower()
    if character in JOINERS or name.startswith("variation selector"):  # says how the characters beside it are drawn
        return ""
    return f"[{name}]" if name and unicodedata.category(character).startswith("S") else escaped(character)


@functools.cache
def _installed():
    """{family: its regular face}: FIRST, then sans-serif faces before others."""
    from matplotlib import font_manager  # not above: it takes a moment that most scripts spare

    def rank(entry):
        special = sum(word in entry.name for word in SPECIAL)
        weight = entry.weight if isinstance(entry.weight, int) else 400
        return entry.name != FIRST, abs(weight - 400), special, len(entry.fname), entry.name

    faces = {}
    for entry in sorted((e for e in font_manager.fontManager.ttflist if e.style == "normal"), key=rank):
        numbered = hasattr(font_manager, "FontPath")  # matplotlib before 3.11 knows the first face of a file alone
        faces.setdefault(entry.name, font_manager.FontPath(entry.fname, entry.index) if numbered else entry.fname)
    return faces


def _characters(family, text):
    """Those characters of `text` that a font family draws as what they are."""
    font = _opened(family)
    return {c for c in text if font.get_char_index(ord(c))} if font else set()


@functools.cache
def _opened(family):
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(_installed()[family])
        font.set_size(10, 72)
    except (OSError, RuntimeError, ValueError):  # bitmaps of one size, as some emoji fonts have, or a damaged file
        return None
    return None if font.get_char_index(NO_CHARACTER) else font
