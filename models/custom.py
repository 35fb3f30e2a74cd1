"""FashionCNN: three convolutions and two linear layers, small enough to follow by hand."""

from torch import nn

from models.layers import head
from models.registry import MODELS


class Block(nn.Sequential):
    """Convolution, BatchNorm, ReLU and 2×2 max-pooling: (B, in, H, W) -> (B, out, H/2, W/2)."""

    def __init__(self, in_channels, out_channels):
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        super().__init__(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True), nn.MaxPool2d(2))


class FashionCNN(nn.Module):
    """(B, 3, S, S) -> (B, num_classes) logits, for S = `image_size` of at least 8; the first linear layer grows with S²."""

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
