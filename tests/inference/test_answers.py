import numpy as np
from PIL import Image

from utils.core.card import ModelCard
from utils.inference.answers import UNKNOWN, Options, ask
from utils.inference.sources import find_images

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


class Colours:
    """A predictor whose logits are the mean colour of the image."""

    card, path = ModelCard("none", list(COLOURS), 8), "colours"

    def prepare(self, image):
        return np.asarray(image, np.float32).mean((0, 1))[None] / 50

    def answer(self, prepared):
        return np.concatenate(prepared)


def test_answers_come_in_the_order_of_the_files_with_unreadable_ones_among_them(tmp_path):
    for number, name in enumerate(["red", "blue", "broken", "green", "broken", "red", "blue"]):
        path = tmp_path / f"{number} {name}.png"
        path.write_bytes(b"no image") if name == "broken" else Image.new("RGB", (8, 8), COLOURS[name]).save(path)
    files = find_images([str(tmp_path)])
    answers, _ = ask(Colours(), files, Options(topk=2, batch_size=3))
    assert [answer.path for answer in answers] == [file.path for file in files]
    for answer in answers:
        name = answer.path.removesuffix(".png").split()[-1]
        if name == "broken":
            assert answer.fault and answer.label is None and not answer.top
        else:
            assert answer.fault is None and answer.label == name and len(answer.top) == 2


def test_below_the_threshold_the_answer_is_unknown(tmp_path):
    Image.new("RGB", (8, 8), (50, 50, 0)).save(tmp_path / "yellow.png")
    files = find_images([str(tmp_path / "yellow.png")])
    probability = np.e / (2 * np.e + 1)
    for threshold, label in ((probability - 0.01, "red"), (probability + 0.01, UNKNOWN)):
        ((answer,), _) = ask(Colours(), files, Options(threshold=threshold))
        assert answer.label == label and answer.top[0][1] == np.float64(answer.top[1][1])
