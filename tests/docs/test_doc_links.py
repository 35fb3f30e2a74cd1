"""Links between README.md, docs/ and the files of the project lead somewhere."""

import re

import pytest
from markdown_blocks import ROOT, anchors, links, pages


def dead_links(page):
    dead = []
    for link in links(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_no_link_is_dead(page):
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` (c)\n[1](#a-b-c) [2](#nothere) [3](page.md) [4](nothere.md) ![5](no.png)\n```text\n[6](x)\n```\n")
    assert dead_links(page) == ["#nothere", "nothere.md", "no.png"]


NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_the_tests_that_pages_name_are_there():
    named = {match for page in pages() for match in NAMED.findall(page.read_text(encoding="utf-8"))}
    assert len([name for _, name in named if name]) > 60
    for file, name in sorted(named):
        assert (f"def {name}(" if name else "def ") in (ROOT / file).read_text(encoding="utf-8"), (file, name)


def test_the_readme_leads_to_every_page():
    linked = {link.partition("#")[0] for link in links((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {f"docs/{page.name}" for page in pages()[1:]} <= linked


def test_every_image_is_shown_somewhere():
    shown = {(page.parent / link).resolve() for page in pages() for link in links(page.read_text(encoding="utf-8"))}
    unused = [path.name for path in (ROOT / "docs" / "images").iterdir() if path.resolve() not in shown]
    assert unused == ["digit.png"]  # that one is classified by `make demo`


def test_the_readme_fits():
    text = (ROOT / "README.md").read_bytes()
    assert text.count(b"\n") <= 150 and len(text) <= 8192
