"""The scripts do what pinned.json says. What is changed on purpose is recorded anew: python tests/pinned.py --record PART"""

import pinned
import pytest

AGAIN = "\nWhere this is meant: python tests/pinned.py --record PART, one of keys, flags and weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained checkpoint and an image folder."""
    path = tmp_path_factory.mktemp("pinned")
    pinned.prepare(path)
    return path


def test_a_run_gives_the_weights_that_are_recorded_and_so_does_an_interrupted_one(folder, tmp_path):
    resumed = pinned.run_training(tmp_path, "custom", interrupted=True)
    whole = pinned.look_at(folder / "weights" / "digits" / "custom")
    assert resumed == whole
    check("custom", whole)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_other_networks_learn_the_weights_that_are_recorded(name, tmp_path):
    check(name, pinned.run_training(tmp_path, name))


def check(name, found):
    """Equal hashes, where they are recorded for this machine; nearly the same statistics on any machine."""
    recorded, key = pinned.recorded(), pinned.machine_key()
    lines = pinned.unlike(recorded["statistics"][name], found["statistics"])
    assert not lines, "\n".join([f"{name}:", *lines]) + AGAIN
    if key in recorded["hashes"]:
        changed = pinned.difference(recorded["hashes"][key][name], found["hashes"])
        assert not changed, f"the weights of {name} are others on {key}:\n{changed}{AGAIN}"


def test_every_json_and_card_has_the_keys_that_are_recorded(folder):
    keys = {what: paths for what, paths in pinned.recorded()["keys"].items() if what not in pinned.BENCHMARK_WRITTEN}
    changed = pinned.difference(keys, pinned.run_commands(folder))
    assert not changed, changed + AGAIN


@pytest.mark.slow
def test_the_json_of_benchmark_has_the_keys_that_are_recorded(folder):
    keys = {what: pinned.recorded()["keys"][what] for what in pinned.BENCHMARK_WRITTEN}
    changed = pinned.difference(keys, pinned.run_benchmark(folder))
    assert not changed, changed + AGAIN


def test_every_script_has_the_flags_that_are_recorded():
    changed = pinned.difference(pinned.recorded()["flags"], pinned.flags_of_all())
    assert not changed, changed + AGAIN
