"""The tables of README.md and docs/ are those of the scripts and of results/."""

import argparse
import datetime
import json

import pytest
from markdown_blocks import ROOT, pages

from docs import make_tables
from docs.cells import RESULTS, WEIGHTS, origins


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_marked_tables_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert make_tables.filled(text) == text, "run python docs/make_tables.py"
    assert text.count("<!-- table: ") == len(make_tables.MARKED.findall(text)) == text.count("<!-- end -->")


def test_every_script_has_its_flags_in_the_docs():
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    lacking = [path.name for path in ROOT.glob("*.py") if f"<!-- table: flags {path.name} -->" not in text]
    tools = ["complexity_ptflops.py", "complexity_thop.py", "complexity_torchscan.py"]
    assert sorted(lacking) == tools  # which share that of complexity_fvcore.py:
    assert len({make_tables.table(f"flags {name}") for name in [*tools, "complexity_fvcore.py"]}) == 1


def test_a_flag_is_described_as_its_parser_has_it():
    rows = make_tables.table("flags train.py").splitlines()
    assert "| `--max_epoch N` | `300` | epochs in all, with warm-up |" in rows
    assert any(row.startswith("| `--mixup X` | `0.0` |") for row in rows)
    assert not any("--help" in row for row in rows)


def test_a_script_is_stopped_before_it_does_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(make_tables.parser_of("train.py"), argparse.ArgumentParser)
    assert list(tmp_path.iterdir()) == []


def test_text_between_other_markers_stays():
    text = "a\n<!-- table: cold_start -->\nold\n<!-- end -->\nb\n<!-- other -->\nc"
    filled = make_tables.filled(text)
    assert filled.startswith("a\n<!-- table: cold_start -->\n| one image") and filled.endswith(
        "<!-- end -->\nb\n<!-- other -->\nc"
    )
    assert make_tables.filled(filled) == filled
    with pytest.raises(KeyError):
        make_tables.filled("<!-- table: nothere -->\n<!-- end -->")


def test_cells_cannot_break_the_table():
    assert make_tables.markdown(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_only_what_was_compiled_is_called_so():
    rows = make_tables.table("throughput").splitlines()
    assert any("| custom, `--compile`, 224 px |" in row for row in rows)  # "not compiled" holds "compiled" too
    of_mobilenet = [row for row in rows if "| mobilenet_v3_small, " in row]
    assert len(of_mobilenet) == 2 and not any("--compile" in row for row in of_mobilenet)


def test_figures_of_several_machines_name_each():
    machine = {"cpu": "CPU", "cpu_features": ["avx2", "avx512f"], "cores": 2, "threads": 1, "torch": "2.15.0+cpu"}
    cases = {name: {"date": "2026-11-30", "machine": machine} for name in ("a", "b", "c")}
    assert origins(cases) == "Measured on 2026-11-30 on CPU with avx512f, 2 cores, 1 thread, PyTorch 2.15.0."
    cases["b"] = {"date": "2026-12-01", "machine": machine | {"cpu_features": ["avx2"]}}
    old, new = "2 cores, 1 thread, PyTorch 2.15.0", "2026-12-01 on CPU with avx2, 2 cores, 1 thread, PyTorch 2.15.0"
    assert origins(cases) == f"Measured: a, c on 2026-11-30 on CPU with avx512f, {old}; b on {new}."


def test_committed_measurements_and_trainings_name_their_date():
    kept = [path for place in ("*.json", "benchmarks/*.json", "reference/**/*.json") for path in RESULTS.glob(place)]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in kept]
    measured = [facts for facts in found if "machine" in facts or isinstance(facts.get("device"), dict)]
    trained = [json.loads(path.read_text(encoding="utf-8")) for path in WEIGHTS.glob("FashionMNIST/*/history.json")]
    assert len(measured) > 20 and len(trained) > 5
    assert all(datetime.date.fromisoformat(facts["date"]).year >= 2026 for facts in (*measured, *trained))
