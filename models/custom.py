"""FashionCNN: three convolutions and two linear layers, small enough to follow by hand."""

from torch import nn

from models.compiled import compiled
from models.heads import MODELS, head
from models.norm_pool import Kernels, fits, norm_pool


class Block(nn.Sequential):
    """Convolution, norm, ReLU and 2×2 max-pooling: (B, in, H, W) -> (B, out, H/2, W/2)."""

    kernels, batch_size = None, 0  # compiled ones, and the training batches that they are for

    def __init__(self, in_channels, out_channels):
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        super().__init__(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True), nn.MaxPool2d(2))

    def compile_training(self, batch_size, faster):
        """Compile norm, pooling and ReLU, most of a training step on a CPU, for batches of `batch_size`; 0 takes it back.

        Other batches and evaluation stay as they are. `faster` is not asked: fewer passes take less time everywhere.
        """
        self.kernels, self.batch_size = compiled(Kernels()), batch_size

    @property
    def is_compiled(self):
        return self.batch_size > 0

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        convolution, norm, relu, pool = self
        x = convolution(x)
        if self.kernels and len(x) == self.batch_size and fits(x, norm):
            return norm_pool(x, norm, self.kernels)
        return relu(pool(norm(x)))  # the same value, and ReLU has a quarter of the work


class FashionCNN(nn.Module):
    """(B, 3, S, S) -> (B, num_classes) logits; the first linear layer is made for S = `image_size`, which is at least 8."""

    def __init__(self, num_classes, image_size=224):
        super().__init__()
        self.layer1 = Block(3, 16)
        self.layer2 = Block(16, 32)
        self.layer3 = Block(32, 64)
        side = image_size // 8  # three poolings halve it three times
        self.classifier = head(64 * side * side, 256, num_classes, dropout=0.5)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 64, S/8, S/8)
        return self.classifier(x.flatten(1))


@MODELS.register("custom")
def custom(num_classes, image_size, weights=None):
    return FashionCNN(num_classes, image_size)
