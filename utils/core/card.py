"""The model card: what a file must say of itself so that nobody has to say it again."""

import dataclasses
import json
from dataclasses import dataclass, field

from utils.core.errors import UserError
from utils.core.text import file_part

CARD_KEY = "model_card"  # under this name in ONNX metadata and in the extra files of TorchScript and .pt2
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
UNMARKED = {  # what quantized files need that are from before their cards said so, by scheme
    "fp16": {"dtype": "float16", "arithmetic": {"cpu": "fp16 weights"}},
    "bf16": {"dtype": "bfloat16", "arithmetic": {"cpu": "bf16 weights"}},
    "int8": {"weight_bits": 8, "devices": ["cpu"], "arithmetic": {"cpu": "computes in int8"}},
    "int8-dynamic": {"weight_bits": 8, "devices": ["cpu"], "arithmetic": {"cpu": "Linear layers compute in int8"}},
}
ALIASES = {"fashioncnn": "custom"}  # other names of architectures, which people may give


def architecture(name):
    """The name under which cards and the registry know an architecture."""
    return ALIASES.get(name, name)


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
        self.architecture = architecture(self.architecture)
        self.classes = [str(name) for name in self.classes]
        self.mean, self.std = tuple(self.mean), tuple(self.std)
        if self.resize_size is None:
            self.resize_size = resize_size(self.image_size)

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

    def to_dict(self):
        values = dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if not self.invented_classes:
            del values["invented_classes"]
        return values

    def to_json(self):
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values, source="the file"):
        """Raises UserError for a card that this version cannot read; unknown keys of a later version are left out."""
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            card = cls(**{key: value for key, value in values.items() if key in names})
            card.quantization.items()  # None and lists raise
            needs = (card.weight_bits, card.needs.get("dtype"), {*card.devices}, card.needs.get("arithmetic", {}).values())
        except (TypeError, AttributeError) as error:
            raise UserError(f"the model card in {source} is not readable ({error}); name architecture and classes") from None
        _check_needs(source, *needs)
        if card.interpolation != "bilinear":
            raise UserError(f"the model card in {source} asks for {card.interpolation} resizing; only bilinear is known here")
        return card

    @classmethod
    def from_json(cls, text, source="the file"):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"the model card in {source} is not JSON ({error}); name architecture and classes") from None
        return cls.from_dict(values, source)


def _check_needs(source, bits, dtype, devices, words):
    if bits not in (None, 7, 8):
        raise UserError(f"the model card in {source} says that its integer weights have {bits} bits; 7 and 8 are known")
    if dtype not in (None, "float16", "bfloat16"):
        raise UserError(f"the model card in {source} says that its weights are {dtype!r}; float16 and bfloat16 are known")
    if not all(isinstance(text, str) and text.isprintable() for text in (*devices, *words)):
        raise UserError(f"the model card in {source} does not say in plain text what computes where")


def read_classes(path):
    """Class names from a text file, one a line, blank lines ignored. Raises UserError where there are none."""
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path} cannot be read ({reason})", option="classes") from None
    if not names:
        raise UserError(f"{path} holds no class names; write one a line", option="classes")
    return names
