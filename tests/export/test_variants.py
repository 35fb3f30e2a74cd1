from digits_checkpoint import checkpoint, trained

from utils.data.datasets import open_dataset
from utils.data.samples import calibration_images, generated_images
from utils.export.quantize import QUANTIZERS
from utils.export.variants import CALIBRATION, variants
from utils.export.verify import export_model
from utils.inference.formats import FORMATS
from utils.inference.predictors import open_predictor


def test_safetensors_are_a_checkpoint_too(tmp_path):
    network, card = trained()
    for name in ("checkpoint", "safetensors"):
        path = tmp_path / f"custom{FORMATS[name].suffix}"
        if name == "checkpoint":
            checkpoint(path)
        else:
            export_model(network, card, name, path, images=generated_images(8), source="generated images")
        first = variants(path, network, card, None)[0]
        assert (first.format, first.path) == (name, path) and open_predictor(
            first.path, first.format
        ).card.classes == card.classes


def test_what_is_calibrated_sees_training_images_and_the_rest_none(tmp_path, monkeypatch):
    seen = {}
    for name, scheme in QUANTIZERS.items():
        monkeypatch.setattr(scheme, "apply", lambda *facts, name=name: seen.update({name: facts[3]}))
    dataset = open_dataset("digits")
    for variant in variants(tmp_path / "best_model.pth", *trained(), dataset):
        if variant.precision in QUANTIZERS and "quantize" in variant.make.__name__:
            variant.make()
    training = [image.tobytes() for image in calibration_images(dataset.train, CALIBRATION)]
    for name, scheme in QUANTIZERS.items():
        assert [image.tobytes() for image in seen[name]] == (training if scheme.calibrated else [])
