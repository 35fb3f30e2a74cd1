"""The model card: what a file must say of itself so that nobody has to say it again."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field

from utils.core.errors import UserError
from utils.core.text import file_part, printable

CARD_KEY = "model_card"  # under this name in ONNX metadata and in the extra files of TorchScript and .pt2
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic")  # antialiased, as Pillow's
UNMARKED = {  # what quantized files need that are from before their cards said so, by scheme
    "fp16": {"dtype": "float16", "arithmetic": {"cpu": "fp16 weights"}},
    "bf16": {"dtype": "bfloat16", "arithmetic": {"cpu": "bf16 weights"}},
    "int8": {"weight_bits": 8, "devices": ["cpu"], "arithmetic": {"cpu": "computes in int8"}},
    "int8-dynamic": {"weight_bits": 8, "devices": ["cpu"], "arithmetic": {"cpu": "Linear layers compute in int8"}},
}
ALIASES = {"fashioncnn": "custom"}  # other names of architectures, which people may give
NORM_TYPES = ("BN", "GN", "LN", "IN", "SyncBN")
MOST_PIXELS = 4096  # along a side; the memory of one step grows with its square
MOST_CLASSES = 1 << 20
LONGEST_PATH = 4096  # characters, as on Linux
LONGEST_NAME = 1000  # characters of a class name
MOST_TEXT = 64 << 20  # bytes of a card
MOST_DEPTH = 20  # of lists and dicts in each other
PLAIN_NAME = re.compile(r"([a-z]+/)?\w[\w.-]{0,99}\Z")  # of an architecture, perhaps with its library
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}\Z")


def architecture(name):
    """The name under which cards and the registry know an architecture."""
    return ALIASES.get(name, name)


def same_network(one, other):
    """Whether two names are of one network: the tag behind a name of timm only says which weights it began with."""
    return one is not None and architecture(one).partition(".")[0] == other.partition(".")[0]


def resize_size(image_size):
    """Short side before the centre crop, in pixels: 256 for 224, and in that proportion for every other size."""
    return round(image_size * 256 / 224)


@dataclass
class ModelCard:
    """Architecture, classes, preprocessing and facts of one trained network.

    `image_size` and `resize_size` are in pixels; `mean` and `std` are per RGB channel on the 0-1 scale. `scheme` names the
    quantization of the weights, `training` holds what the training run wants remembered (data set, epochs, scores), and
    `parity` is the certificate that an export was compared with its checkpoint. `quantization` is what the scheme says that
    the file needs to run, and how it was made: see `needs`.

    Every value is held to CHECKS when the card is made, from a file or by ourselves: UserError names the first that fails.
    """

    architecture: str
    classes: list
    image_size: int = 224
    resize_size: int | None = None
    interpolation: str = "bilinear"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    norm_type: str = "BN"
    scheme: str | None = None
    with_preprocessing: bool = False  # the graph itself resizes, crops and normalises uint8 (N, H, W, 3)
    training: dict = field(default_factory=dict)
    parity: dict = field(default_factory=dict)
    quantization: dict = field(default_factory=dict)
    invented_classes: bool = False  # the file names no classes: they are "0", "1", … and match no others

    def __post_init__(self):
        for name, (is_right, must_be) in CHECKS.items():
            value = getattr(self, name)
            if not (is_plain(value) and is_right(value)):
                raise UserError(f"{name} must be {must_be}, not {_short(value)}")
        self.architecture = architecture(self.architecture)
        self.classes = list(self.classes)
        self.mean, self.std = tuple(self.mean), tuple(self.std)
        if self.resize_size is None:
            self.resize_size = resize_size(self.image_size)
        if self.resize_size < self.image_size:
            raise UserError(f"resize_size {self.resize_size} is below image_size {self.image_size}")
        if self.scheme and not self.needs:
            known = ", ".join(UNMARKED)
            raise UserError(f"scheme {self.scheme} is not known (known: {known}), and quantization does not say what it needs")

    @property
    def file_name(self):
        """The architecture as a part of file names: `timm/vit_tiny_patch16_224` is `timm-vit_tiny_patch16_224`."""
        return file_part(self.architecture)

    @property
    def result_name(self):
        """File name of results that depend on the architecture alone: `resnet18`, `resnet18_32px_7classes_GN`."""
        unusual = {f"{self.image_size}px": self.image_size != 224, f"{self.num_classes}classes": self.num_classes != 10}
        unusual[self.norm_type] = self.norm_type != "BN"
        return "_".join([self.file_name, *(name for name, differs in unusual.items() if differs)])

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def needs(self):
        """What a quantized file needs to run, a dict with those keys that its scheme has.

        `arithmetic`: {device: what computes there, in words}. `devices`: where to run it unless told otherwise. `dtype`: that
        of a checkpoint's 16-bit weights, "float16" or "bfloat16". `weight_bits`: of integer weights, 7 or 8. `cpu_features`:
        the instruction sets of the CPU that quantized it.
        """
        return self.quantization or UNMARKED.get(self.scheme, {})

    @property
    def weight_bits(self):
        """Bits of the integer weights, 7 or 8; None for a file that has none."""
        return self.needs.get("weight_bits")

    @property
    def devices(self):
        """The devices that the file is made for; empty where it is made for all."""
        return tuple(self.needs.get("devices", ()))

    def arithmetic(self, device):
        """What computes on "cpu" or "cuda", in words."""
        words = self.needs.get("arithmetic", {})
        return words.get(device) or words.get("cpu", "computes in fp32")

    def replace(self, **changes):
        """A copy with some fields changed; a new `image_size` brings its own `resize_size`."""
        if "image_size" in changes:
            changes.setdefault("resize_size", None)
        return dataclasses.replace(self, **changes)

    def renamed(self, classes):
        """A copy with other class names, which may be a translation; None leaves them.

        Raises UserError for another count, and where one of the names stands at another place than here: its answers would
        be taken for those of another class.
        """
        if classes is None:
            return self
        if len(classes) != self.num_classes:
            raise UserError(f"it has {self.num_classes} classes, not {len(classes)}")
        places = {} if self.invented_classes else {name: place for place, name in enumerate(self.classes)}
        moved = [name for place, name in enumerate(classes) if places.get(name, place) != place]
        if moved:
            changed = [name for name in classes if name not in places]
            raise UserError(
                f"it has the classes in another order: {_listed(moved)} "
                + (f"({_listed(changed)} it does not know) " if changed else "")
                + f"must stand as in {_listed(self.classes)}; leave the names out"
            )
        return self.replace(classes=list(classes), invented_classes=False)

    def to_dict(self):
        values = dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if not self.invented_classes:
            del values["invented_classes"]
        return values

    def to_json(self):
        text = json.dumps(self.to_dict(), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()  # a path can hold bytes that are no text

    @classmethod
    def from_dict(cls, values, source="the file"):
        """Raises UserError for a card that this version cannot read; unknown keys of a later version are left out."""
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            if not isinstance(values, dict):
                raise UserError(f"it is {_short(values)} instead of names with values")
            missing = {"architecture", "classes"} - values.keys()
            if missing:
                raise UserError(f"it lacks {' and '.join(sorted(missing))}")
            return cls(**{key: value for key, value in values.items() if key in names})
        except UserError as error:
            raise UserError(f"the model card in {source} is not readable: {error}") from None

    @classmethod
    def from_json(cls, text, source="the file"):
        """A card from JSON, text or bytes in UTF-8; errors are those of `from_dict`."""
        try:
            values = json.loads(text) if len(text) <= MOST_TEXT else None
        except (ValueError, RecursionError) as error:
            reason = str(error).partition(":")[0][:80]
            raise UserError(f"the model card in {source} is not readable: it is not JSON ({printable(reason)})") from None
        return cls.from_dict(values, source)


def is_plain(value, depth=MOST_DEPTH):
    """Whether a value is what JSON holds: text, finite numbers, true, false, null, and lists and dicts of them."""
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_plain(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and is_plain(item, depth - 1) for key, item in value.items())
    return value is None or isinstance(value, str | bool) or _is_number(value, -(2**63), 2**64)


def _is_number(value, low, high):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high


def _is_whole(value, low, high):
    return isinstance(value, int) and _is_number(value, low, high)


def _is_text(value, most=LONGEST_NAME):
    """Not empty, not long, and nothing in it that steers a terminal."""
    return isinstance(value, str) and 0 < len(value) <= most and printable(value) == value


def _is_path(value):
    """A path can hold any characters: what prints it makes them harmless."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_PATH


def _are_numbers(value, low, high):
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_number(item, low, high) for item in value)


def _are_classes(value):
    return isinstance(value, list | tuple) and 0 < len(value) <= MOST_CLASSES and all(map(_is_text, value))


def _is_record(value, **checks):
    """A plain dict, whose values under the names of `checks`, where there are any, pass them."""
    return isinstance(value, dict) and is_plain(value) and all(check(value[k]) for k, check in checks.items() if k in value)


def _says_where(value):
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_words(value):
    return isinstance(value, list | tuple) and all(isinstance(word, str) and WORD.match(word) for word in value)


def _listed(names, most=3):
    return ", ".join(map(repr, names[:most])) + ", …" * (len(names) > most)


def _short(value, most=60):
    """A value in few words; of a list with unsuitable names the first of them."""
    if isinstance(value, list | tuple):
        value = next((item for item in value if isinstance(item, str) and not _is_text(item)), value)
    text = printable(repr(value)) if is_plain(value) else f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}…"


READING = {"image_column", "label_column", "split_column", "group_column", "group_regex"}  # fields of utils.data.rows.Reading
TRAINING = {  # what other parts read from there
    "dataset": _is_path,
    "data_dir": _is_path,
    "val_fraction": lambda value: _is_number(value, 0, 1),
    "reading": lambda value: isinstance(value, dict) and value.keys() <= READING and all(map(_is_text, value.values())),
    "name": lambda value: value is None or (_is_text(value) and file_part(value) == value),  # it stands in file names
}
NEEDS = {  # see ModelCard.needs
    "arithmetic": _says_where,
    "devices": lambda value: _are_words(value) and set(value) <= {"cpu", "cuda"},
    "dtype": lambda value: value in (None, "float16", "bfloat16"),
    "weight_bits": lambda value: value in (None, 7, 8),
    "cpu_features": _are_words,
}
CHECKS = {  # field of the card: (what its value must pass, the same in words)
    "architecture": (lambda v: isinstance(v, str) and PLAIN_NAME.match(v), "a plain name"),
    "classes": (_are_classes, f"a list of 1 to {MOST_CLASSES:,} printable names of up to {LONGEST_NAME:,} characters"),
    "image_size": (lambda v: _is_whole(v, 1, MOST_PIXELS), f"a whole number from 1 to {MOST_PIXELS}"),
    "resize_size": (lambda v: v is None or _is_whole(v, 1, 2 * MOST_PIXELS), f"a whole number up to {2 * MOST_PIXELS}"),
    "interpolation": (lambda v: v in INTERPOLATIONS, " or ".join(INTERPOLATIONS)),
    "mean": (lambda v: _are_numbers(v, -1000, 1000), "three numbers"),
    "std": (lambda v: _are_numbers(v, 1e-4, 1000), "three numbers above 0"),
    "norm_type": (lambda v: v in NORM_TYPES, f"one of {', '.join(NORM_TYPES)}"),
    "scheme": (lambda v: v is None or (isinstance(v, str) and WORD.match(v)), "a plain name"),
    "with_preprocessing": (lambda v: isinstance(v, bool), "true or false"),
    "training": (lambda v: _is_record(v, **TRAINING), "facts by name"),
    "parity": (lambda v: _is_record(v), "facts by name"),
    "quantization": (lambda v: _is_record(v, **NEEDS), f"facts by name ({', '.join(NEEDS)}), in plain text"),
    "invented_classes": (lambda v: isinstance(v, bool), "true or false"),
}


def read_classes(path):
    """Class names from a text file, one a line, blank lines ignored. Raises UserError where there are none."""
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors begin a text with a mark
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path} cannot be read ({reason})", option="classes") from None
    if not names:
        raise UserError(f"{path} holds no class names; write one a line", option="classes")
    for place, name in enumerate(names):
        if not _is_text(name):
            raise UserError(f"{path} holds a name that is too long or not printable: {_short(name)}", option="classes")
        if name in names[:place]:
            raise UserError(f"{path} holds the name {_short(name)} twice; answers could not be told apart", option="classes")
    return names
