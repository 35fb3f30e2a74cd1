"""Checkpoints (.pth), run by torch."""

import torch

from models.checkpoint import load_model
from models.half import arithmetic
from utils.inference.predictors import Predictor
from utils.runtime.device import choose_device, exact_matmul


class CheckpointPredictor(Predictor):
    """A checkpoint rebuilt as a network, in full fp32 unless its weights have 16 bits and the device computes in 16."""

    def __init__(self, path, device="auto", threads=None):
        super().__init__(path)
        self.device = choose_device(device).type
        if threads:
            torch.set_num_threads(threads)

    def take_card(self, classes=None, image_size=None, model=None):
        network, self.card = load_model(self.path, model, classes, image_size)
        dtype = self.card.needs.get("dtype")  # asked here, as the card may be told another one later
        device = torch.device(self.device)
        self.computes = arithmetic(getattr(torch, dtype), device) if dtype else self.card.arithmetic(self.device)
        self.card_text = self.card.to_json()
        self.network = network.to(self.device, memory_format=torch.channels_last)

    @property
    def arithmetic(self):
        return self.computes

    def predict(self, images):
        with torch.inference_mode(), exact_matmul():
            return self.network(images.to(self.device)).float().cpu()

    def _run(self, batch):
        return self.predict(torch.from_numpy(batch)).numpy()
