"""The same images give the same accuracy, to the last digit, whatever holds them."""

import json

import pytest
from labelled_images import parquet_of, shards_of, write_table

FLAGS = (
    *("-m", "custom", "--image_size", 16, "--max_epoch", 2, "--batch_size", 50, "--precision", "fp32", "--seed", 3),
    *("--num_workers", 0, "--cache", "ram", "--base_lr", 0.003),
)


@pytest.mark.slow
@pytest.mark.data
def test_folder_table_list_shards_and_hugging_face_give_the_same_accuracy(real_data, main_of, tmp_path, monkeypatch):
    folder = real_data / "cifar10_sample"
    paths = sorted(folder.rglob("*.jpg"), reverse=True)
    (tmp_path / "cifar.txt").write_text("\n".join(f"{path} {path.parent.name}" for path in paths))
    rows = [(path, path.parent.name, path.relative_to(folder).parts[0]) for path in paths]
    data = {
        "folder": folder,
        "table": write_table(tmp_path / "cifar.csv", rows, ("image", "label", "split")),
        "list": tmp_path / "cifar.txt",
        "shards": shards_of(folder, tmp_path / "shards", "train", 5),
    }
    shards_of(folder, tmp_path / "shards", "val", 2)
    try:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf_cache"))
        data |= {"hf folder": f"hf:{folder}", "hf parquet": parquet_of(datasets, folder, tmp_path / "tables")}
    except ImportError:
        pass
    figures = {}
    for name, place in data.items():
        main_of("train", "-d", place, "--path_to_save", tmp_path / name, *FLAGS)
        (history,) = (tmp_path / name).rglob("history.json")
        facts = json.loads(history.read_text())
        figures[name] = [(epoch["train"], epoch["val"]) for epoch in facts["epochs"]], facts["final"]
    assert len({json.dumps(values) for values in figures.values()}) == 1, figures
    assert figures["folder"][1]["Acc@1"] > 0.15
