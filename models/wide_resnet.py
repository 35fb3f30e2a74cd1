"""Wide residual networks for images of 64 px and less (Zagoruyko & Komodakis 2016): WRN-depth-width, pre-activation."""

from torch import nn

from models.layers import head
from models.registry import MODELS


class WideBlock(nn.Module):
    """BatchNorm, ReLU and a 3×3 convolution, twice, around a shortcut: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        # where the shape changes, a 1×1 convolution of the activated input; else the input itself
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x):
        activated = self.relu(self.bn1(x))
        y = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """(B, 3, S, S) -> (B, num_classes) logits: a 3×3 stem and three groups of (depth - 4) / 6 blocks each.

    The groups have 16, 32 and 64 times `width` channels; the second and the third halve the map. Without the dropout
    between convolutions of section 2.4.
    """

    def __init__(self, depth, width, num_classes):
        super().__init__()
        blocks, channels = (depth - 4) // 6, (16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = _group(16, channels[0], blocks, stride=1)
        self.layer2 = _group(channels[0], channels[1], blocks, stride=2)
        self.layer3 = _group(channels[1], channels[2], blocks, stride=2)
        self.bn = nn.BatchNorm2d(channels[2])
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = head(channels[2], 256, num_classes, dropout=0.4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))  # (B, 64 · width, S/4, S/4)
        x = self.avgpool(self.relu(self.bn(x)))
        return self.fc(x.flatten(1))


def _group(in_channels, channels, blocks, stride):
    rest = (WideBlock(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(WideBlock(in_channels, channels, stride), *rest)


@MODELS.register("wrn16_4")
def wrn16_4(num_classes, image_size, weights=None):
    return WideResNet(16, 4, num_classes)


@MODELS.register("wrn28_10")
def wrn28_10(num_classes, image_size, weights=None):
    return WideResNet(28, 10, num_classes)


@MODELS.register("wrn40_4")
def wrn40_4(num_classes, image_size, weights=None):
    return WideResNet(40, 4, num_classes)
