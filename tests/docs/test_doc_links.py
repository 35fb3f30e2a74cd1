"""Links between README.md, docs/ and the files of the project lead somewhere."""

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
