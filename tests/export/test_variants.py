from digits_checkpoint import trained

from utils.data.datasets import open_dataset
from utils.data.samples import calibration_images
from utils.export.quantize import QUANTIZERS
from utils.export.variants import CALIBRATION, variants


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
