"""The same labelled images as a table, as shards, and as Parquet tables of Hugging Face."""

import csv
import io
import tarfile


def write_table(path, rows, header=("image", "label"), delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return str(path)


def write_shard(path, samples):
    """samples: [(key, {extension: bytes})]."""
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def shards_of(folder, target, split, count, label=lambda name: {"cls": name.encode()}):
    """`count` shards of the images under `folder`/`split`, dealt out in turn."""
    target.mkdir(exist_ok=True)
    images = sorted((folder / split).rglob("*.jpg"), key=lambda path: path.name)
    samples = [(f"{p.parent.name}/{p.stem}", {"jpg": p.read_bytes(), **label(p.parent.name)}) for p in images]
    for number in range(count):
        write_shard(target / f"{split}-{number:04}.tar", samples[number::count])
    return f"{target}/{split}-{{0000..{count - 1:04}}}.tar"


def parquet_of(datasets, photos, target):
    classes = sorted({path.parent.name for path in photos.rglob("*.jpg")}, reverse=True)
    for split, name in (("train", "train"), ("val", "validation")):
        paths = sorted((photos / split).rglob("*.jpg"), key=lambda path: path.name)
        rows = {"image": [{"bytes": p.read_bytes(), "path": p.name} for p in paths], "kind": [p.parent.name for p in paths]}
        features = datasets.Features(image=datasets.Image(), kind=datasets.ClassLabel(names=classes))
        target.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(target / f"{name}-00000-of-00001.parquet"))
    return f"hf:{target}"
