"""What is known of pretrained weights before they are loaded: where they lie, and how their images were prepared."""

import os
from dataclasses import dataclass

import torch

from utils.core.errors import UserError


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of one network: their address, their name in the cache, and the images that they were made for.

    Sizes are in pixels; `mean` and `std` are per RGB channel on the 0-1 scale. `entry` is what the library calls them.
    """

    url: str
    file: str
    image_size: int
    resize_size: int
    interpolation: str
    mean: tuple
    std: tuple
    entry: object = None

    @property
    def path(self):
        """Where the file lies, or where it is to be put: in the cache of torch.hub."""
        return os.path.join(torch.hub.get_dir(), "checkpoints", self.file)

    def preprocessing(self, image_size=None):
        """The fields of a model card that say how images are prepared, for another `image_size` in the same proportion."""
        size = image_size or self.image_size
        fields = {name: getattr(self, name) for name in ("interpolation", "mean", "std")}
        return fields | {"image_size": size, "resize_size": round(size * self.resize_size / self.image_size)}

    def not_loaded(self, error):
        """The UserError for a file that cannot be downloaded or read."""
        place, file = os.path.split(self.path)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UserError(
            f"{self.url} could not be downloaded ({reason}); download it elsewhere and put it as {file} into {place}",
            option="pretrained",
        )


def no_weights(name):
    """The UserError for a network without pretrained weights."""
    return UserError(f"there are no ImageNet weights for {name}; train it without", option="pretrained")
