"""Any file made from a checkpoint, and the checkpoint itself, as it ships: opened from disk, one call, and what computes."""

import pathlib

import torch

from models.checkpoint import load_model
from utils.export.quantize import QUANTIZERS
from utils.inference.predictors import open_predictor
from utils.runtime.device import choose_device, exact_matmul


def converted_folder(weights):
    """Where the files made from a checkpoint go: `converted_models` beside it, or where it lies in there already."""
    folder = pathlib.Path(weights).parent
    return folder if folder.name == "converted_models" else folder / "converted_models"


class Shipped:
    """A file behind `predict`, tensor (N, 3, S, S) -> float32 logits, and `call`, the same for arrays.

    Has `.path`, `.card`, `.device` (torch.device), `.bytes` on disk, `.engine` ("PyTorch" for a checkpoint),
    `.arithmetic`, which says in words what computes, and `.warning`, a sentence or None: see Predictor.warning.
    `device` is auto, cpu or cuda; with auto a file or engine that cannot use CUDA takes the CPU. `loading` is what
    `load_model` takes for a checkpoint without a card; `threads` are for every engine alike. Raises UserError for a file
    that cannot be opened.
    """

    def __init__(self, path, device="cpu", threads=None, **loading):
        self.path, self.warning = pathlib.Path(path), None
        if self.path.suffix in (".onnx", ".pt", ".pt2"):
            predictor = open_predictor(path, classes=loading.get("classes"), device=device, threads=threads)
            self.card, self.call, self.engine = predictor.card, predictor, NAMES[predictor.engine]
            self.device, self.warning = torch.device(predictor.device), predictor.warning()
        else:
            self.network, self.card = load_model(path, **loading)
            self.device, self.call, self.engine = choose_device(device), self._call_network, "PyTorch"
            self.network.to(self.device, memory_format=torch.channels_last)
        self.threads = threads or torch.get_num_threads()
        self.use_threads()
        self.bytes = self.path.stat().st_size
        scheme = self.card.scheme
        self.arithmetic = "computes in fp32" if scheme is None else QUANTIZERS[scheme].arithmetic(self.device, self.engine)

    def use_threads(self):
        """Give torch the threads again that this file was opened with: loading images takes some away."""
        torch.set_num_threads(self.threads)

    def predict(self, images):
        if self.engine == "PyTorch":
            return self.network(images).float()
        return torch.from_numpy(self.call(images.cpu().contiguous().numpy()))

    def _call_network(self, images):
        with torch.inference_mode(), exact_matmul():
            return self.network(torch.from_numpy(images).to(self.device)).float().cpu().numpy()


NAMES = {"onnx": "ONNX Runtime", "torchscript": "TorchScript", "pt2": "torch.export"}
