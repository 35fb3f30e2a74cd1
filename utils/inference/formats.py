"""The file formats of a trained network, in one table: how a file is recognised, and what reads and writes it.

A new format is one entry:

    FORMATS.register("engine")(Format(".suffix", "Engine", "an Engine file", "module:Reader", "module:Writer"))

The reader is a subclass of utils.inference.predictors.Predictor, the writer one of utils.export.writers.Writer. Both are
named as text, "module:class", and imported when a file is opened or written: to list the formats takes neither torch nor
any other engine.
"""

import importlib
import os
import pathlib
from dataclasses import dataclass

from utils.core.errors import UserError
from utils.core.inputs import absent
from utils.core.integrity import is_safetensors, may_be_archive
from utils.core.registry import Registry
from utils.core.text import file_part

FORMATS = Registry("engine")
PICKLE = b"\x80\x02"  # how checkpoints begin that are from before torch 1.6


@dataclass(frozen=True)
class Format:
    """One file format; its name in the table is that of the engine."""

    suffix: str
    shown: str  # what runs it, as tables and reports call it
    what: str  # one file of it, with its article
    reader: object  # "module:class", or the class itself
    writer: object = None  # likewise; None for the checkpoint, which training writes
    mark: str | None = None  # a member that only its zip archives have
    weights: bool = False  # whether its reader rebuilds the network from them, as scripts for checkpoints do
    options: tuple = ()  # those of "fp16", "with_preprocessing" and "opset" that its writer can do

    def load_reader(self):
        return _resolve(self.reader)

    def load_writer(self):
        return _resolve(self.writer)


def _resolve(named):
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)


FORMATS.register("onnx")(
    Format(
        ".onnx",
        "ONNX Runtime",
        "an ONNX file",
        "utils.inference.read_onnx:OnnxPredictor",
        "utils.export.writers:Onnx",
        options=("fp16", "with_preprocessing", "opset"),
    )
)
FORMATS.register("torchscript")(
    Format(
        ".pt",
        "TorchScript",
        "a TorchScript file",
        "utils.inference.read_torch:TorchScriptPredictor",
        "utils.export.writers:TorchScript",
        mark="constants.pkl",
    )
)
FORMATS.register("pt2")(
    Format(
        ".pt2",
        "torch.export",
        "a torch.export file",
        "utils.inference.read_torch:Pt2Predictor",
        "utils.export.writers:Pt2",
        mark="archive_format",
    )
)
FORMATS.register("checkpoint")(
    Format(
        ".pth",
        "PyTorch",
        "a checkpoint",
        "utils.inference.read_checkpoint:CheckpointPredictor",
        mark="data.pkl",
        weights=True,
    )
)
FORMATS.register("safetensors")(
    Format(
        ".safetensors",
        "PyTorch",
        "a safetensors file",
        "utils.inference.read_checkpoint:CheckpointPredictor",
        "utils.export.writers:Safetensors",
        weights=True,
    )
)


def exported():
    """The names of the formats that run without the code of the network."""
    return [name for name in written() if not FORMATS[name].weights]


def written():
    """The names of the formats that export.py writes: all but the checkpoint."""
    return [name for name, entry in FORMATS.items() if entry.writer]


def recognise(path):
    """The name of a file's format by its first bytes, or the first whose mark a zip archive holds; None for all others."""
    try:
        if is_safetensors(path):  # first: the length that they begin with can read like the start of a pickle
            return "safetensors"
        with open(path, "rb") as file:
            if file.read(len(PICKLE)) == PICKLE:
                return "checkpoint"
        if not may_be_archive(path):
            return None
    except OSError:
        return None
    import zipfile  # not above: most files that are answered are none, and it takes a moment

    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):  # the last two for damaged names and versions
        return None
    return next((name for name, entry in FORMATS.items() if entry.mark in members), None)


def format_of(path, name=None, otherwise=None):
    """The name of a file's format: `name` where it is given, else by its content, its suffix, or `otherwise`.

    Raises UserError for a file that is missing, for one that is not of the format that it should be, and where nothing tells.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path} {absent(path)}")
    if not path.is_file():
        raise UserError(f"{path} is not a file; name the model file itself")
    found = recognise(path)
    by_suffix = next((key for key, entry in FORMATS.items() if entry.suffix == path.suffix.lower()), None)
    wanted = name or found or by_suffix or otherwise
    if wanted is None:
        known = ", ".join(f"{entry.suffix} ({key})" for key, entry in FORMATS.items() if entry.writer)
        raise UserError(f"it does not follow from the name of {path}: say it; known suffixes: {known}", option="engine")
    entry = FORMATS[wanted]
    if found not in (None, wanted):
        raise UserError(f"{path} is not {entry.what} but {FORMATS[found].what}, engine {found}")
    if entry.mark and entry.writer and not found:  # checkpoints from before torch 1.6 are no archives
        raise UserError(f"{path} is not {entry.what} but something else, or damaged")
    return wanted


def must_be_checkpoint(path):
    """Raises UserError where `path` is an exported file, which the scripts for checkpoints cannot take, or no file."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f"{path} is not a file; name the model file itself")
    suffix = pathlib.Path(path).suffix.lower()
    by_suffix = next((name for name, entry in FORMATS.items() if entry.suffix == suffix and not entry.mark), None)
    if (recognise(path) or by_suffix) in exported():
        raise UserError(f"{path} is an exported file, not a checkpoint: predict.py and eval.py take it as it is")


def converted_name(weights, card):
    """How the names of the files made from a checkpoint begin: those of two checkpoints in one folder differ."""
    own = file_part(pathlib.Path(weights).stem)
    if own == "best_model":
        return card.file_name
    return own if own.startswith(f"{card.file_name}_") else f"{card.file_name}_{own}"


def converted_folder(weights):
    """Where the files made from a checkpoint go: `converted_models` beside it, or where it lies in there already."""
    folder = pathlib.Path(weights).parent
    return folder if folder.name == "converted_models" else folder / "converted_models"
