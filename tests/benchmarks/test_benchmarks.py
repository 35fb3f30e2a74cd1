import json
import pathlib
import sys
from types import SimpleNamespace

import pytest
from torch import nn

from benchmarks import dataset_check, pairs, published, time_to_accuracy, train_throughput
from benchmarks.pairs import alternate, ratios
from benchmarks.scaling import growths
from benchmarks.train_throughput import work
from utils.core.errors import UserError


def test_each_side_goes_first_in_turn():
    calls = []
    found = alternate({name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, 3)
    assert calls == list("abbaab") and found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_side_that_fails_says_why(tmp_path):
    script = tmp_path / "side.py"
    script.write_text("import sys; print('so far'); sys.exit('error: ' + sys.argv[1] if sys.argv[1] else 0)")
    assert pairs.output_of([sys.executable, str(script), ""]) == "so far\n"
    with pytest.raises(UserError, match=r"side\.py ended with status 1: no data"):
        pairs.output_of([sys.executable, str(script), "no data"])


def test_a_ratio_is_taken_pair_by_pair():
    assert ratios([2, 9, 5], [1, 3, 5]) == {"median": 2, "min": 1, "max": 3, "all": [2, 3, 1]}


def test_growth_is_from_each_cell_to_the_next_larger_batch_and_size():
    times = {(1, batch, size): [batch * size, 1.0] for batch in (2, 8) for size in (10, 20, 60)}
    found = {(growth["from"][1:], growth["to"][1:]): growth["growth"]["all"] for growth in growths(times)}
    assert found == {
        **{((batch, 10), (batch, 20)): [2.0, 1.0] for batch in (2, 8)},
        **{((batch, 20), (batch, 60)): [3.0, 1.0] for batch in (2, 8)},
        **{((2, size), (8, size)): [4.0, 1.0] for size in (10, 20, 60)},
    }


def test_the_work_of_a_training_step():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(64, 5))
    macs = (4 * 16 * 27, 4 * 16, 64 * 5)  # at 8 px
    moved = (3 * 64 + 64, 64 + 64, 64 + 5)
    assert work(model, 8) == (2 * (2 * macs[0] + 3 * sum(macs[1:])), 2 * moved[0] + 3 * sum(moved[1:]))
    assert not any(module._forward_hooks for module in model.modules())


def test_every_side_is_measured_at_the_size_that_is_reported(monkeypatch):
    seen = []

    def child(script, *flags):
        seen.append(dict(zip(flags[::2], flags[1::2], strict=True)))
        return {"images/s": 1, "waiting": 0, "augmenting": 0, "peak_bytes": 1, "ceiling images/s": 2, "how": ""}

    monkeypatch.setattr(train_throughput, "child", child)
    for given, size in (((), 224), (("--image_size", "64"), 64)):
        args = train_throughput.parser().parse(argv=["--pairs", "1", *given])
        assert train_throughput.measure("custom", args)["image_size"] == size
        assert [flags["--image_size"] for flags in seen[-2:]] == [size, size]


def test_the_share_that_the_host_took_is_of_all_processors_and_of_the_time_of_the_block(monkeypatch):
    clock, stolen = iter([100.0, 110.0]), iter([7.0, 12.0])
    monkeypatch.setattr(pairs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(pairs, "_stolen_seconds", lambda: next(stolen))
    monkeypatch.setattr(pairs.os, "cpu_count", lambda: 2)
    with pairs.share_of_host() as host:
        assert host == {}
    assert host == {"stolen": 0.25}


@pytest.mark.parametrize("stolen, made, counted", [([0.02, 0.0], 1, 0), ([0.3, 0.04, 0.0], 2, 1), ([0.3, 0.6, 0.2, 0.0], 3, 2)])
def test_a_run_that_the_host_disturbs_is_made_again_and_the_least_disturbed_counts(stolen, made, counted):
    runs = iter({"seconds": 100 - number, "stolen": share, "Acc@1": number} for number, share in enumerate(stolen))
    result = time_to_accuracy.least_disturbed(lambda: next(runs), tries=3)
    assert result["Acc@1"] == counted
    assert [run["stolen"] for run in result["tried"]] == stolen[:made]


def test_a_generated_folder_is_checked_and_its_time_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dataset_check.py", "--images", "30"])
    assert dataset_check.main() == 0
    facts = json.loads((tmp_path / "results" / "benchmarks" / "dataset_check.json").read_text())
    assert facts["images"] == 30 and facts["seconds"] > 0 and "30 images of 256×256 px checked in" in capsys.readouterr().out


def test_a_case_measured_anew_leaves_the_others_with_the_machine_that_measured_them(tmp_path, monkeypatch):
    path, places = tmp_path / "cases.json", iter([{"date": "then", "machine": "old"}, {"date": "now", "machine": "new"}])
    monkeypatch.setattr(pairs, "origin", lambda: next(places))
    pairs.save_cases(path, {"a": {"ratio": 1}, "b": {"ratio": 2}})
    pairs.save_cases(path, {"b": {"ratio": 3}})
    cases = json.loads(path.read_text())
    assert {name: tuple(case.values()) for name, case in cases.items()} == {"a": ("then", "old", 1), "b": ("now", "new", 3)}


def test_the_figures_of_a_network_are_kept_though_the_next_one_fails(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    for name, place in (("PUBLISHED", tmp_path / "weights"), ("REFERENCE", tmp_path / "kept"), ("ROOT", tmp_path)):
        monkeypatch.setattr(published, name, place)
    monkeypatch.setattr(published, "commands", lambda model: [f"eval.py -w {model}"])

    def measure(line, data_dir, folder):
        if line.endswith("second"):
            raise UserError("no data")
        (pathlib.Path(folder) / "results").mkdir()
        (pathlib.Path(folder) / "results" / "first.json").write_text("{}")

    monkeypatch.setattr(published, "measure", measure)
    monkeypatch.setattr(published, "parser", lambda: SimpleNamespace(parse=lambda: ASKED))
    with pytest.raises(UserError, match="no data"):
        published.main()
    assert (tmp_path / "kept" / "first.json").read_text() == "{}"
    assert [*json.loads((tmp_path / "kept" / "commands.json").read_text())] == ["first"]


ASKED = SimpleNamespace(models=["first", "second"], data_dir="data")
