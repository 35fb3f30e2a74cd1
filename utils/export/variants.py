"""Every file that can be made from one checkpoint, by the tables of schemes and of formats."""

import pathlib
from dataclasses import dataclass

from utils.core.errors import UserError
from utils.data.samples import calibration_images, example_images
from utils.export.quantize import QUANTIZERS
from utils.export.verify import export_model
from utils.inference.formats import FORMATS, converted_folder, converted_name, exported, recognise

CALIBRATION = 256  # images, as quantize.py takes unless told otherwise


@dataclass
class Variant:
    """One kind of file: what it is called, where it lies, and `make()`, which writes it there (None: it must exist)."""

    format: str  # its name in FORMATS
    precision: str
    path: pathlib.Path
    make: object = None
    devices: tuple = ()  # those that it is made for; all, where there is none

    def device(self, wanted):
        """Where to run it: `wanted`, unless it is made for another device."""
        return self.devices[0] if self.devices else wanted

    @property
    def name(self):
        return f"{FORMATS[self.format].shown} {self.precision}"


def variants(weights, network, card, dataset):
    """Every kind of file that the tables of schemes and engines know, by engine, the checkpoint first."""
    folder, stem = converted_folder(weights), converted_name(weights, card)
    images, source = example_images(card, 64)
    found = [Variant(recognise(weights) or "checkpoint", "fp32", pathlib.Path(weights))]
    for scheme, quantizer in QUANTIZERS.items():
        path = folder / quantizer.file_name(stem)

        def quantize(quantizer=quantizer, path=path):
            calibration = calibration_images(dataset.train, CALIBRATION) if dataset and quantizer.calibrated else []
            quantizer.apply(network, card, path, calibration)

        found.append(Variant(quantizer.format, scheme, path, quantize, quantizer.devices))
    half = [(engine, True) for engine in exported() if "fp16" in FORMATS[engine].options]
    for engine, fp16 in [*((engine, False) for engine in exported()), *half]:
        path = folder / f"{stem}_{engine}{'_fp16' * fp16}{FORMATS[engine].suffix}"

        def export(engine=engine, fp16=fp16, path=path):
            export_model(network, card, engine, path, images=images, source=source, fp16=fp16)

        found.append(Variant(engine, "fp16" if fp16 else "fp32", path, export))
    order = list(dict.fromkeys(variant.format for variant in found))
    precisions = ["fp32", *QUANTIZERS]
    return sorted(found, key=lambda variant: (order.index(variant.format), precisions.index(variant.precision)))


def take_stock(found, weights, everything, say):
    """`(usable variants, {name: why not})`; with `everything`, what is missing or older than the checkpoint is made.

    `say` is called with a line on what is being made.
    """
    made_at = pathlib.Path(weights).stat().st_mtime
    usable, missing = [], {}
    for variant in found:
        fresh = variant.path.exists() and variant.path.stat().st_mtime >= made_at
        if not fresh and everything and variant.make:
            say(f"making {variant.path.name}")
            try:
                variant.make()
                fresh = True
            except UserError as error:
                missing[variant.name] = str(error)
                continue
        if fresh:
            usable.append(variant)
        else:
            what = "older than the checkpoint" if variant.path.exists() else "not there"
            missing[variant.name] = f"{variant.path.name} is {what}"
    return usable, missing
