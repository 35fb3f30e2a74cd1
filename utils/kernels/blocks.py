"""Blocks of FashionCNN and ResNet with faster training: they fuse BatchNorm with the ReLU, sum or max-pooling after it.

Each takes over the children of the block that it is built from, under the same names, and computes the same function.
"""

import torch.nn.functional as F
from torch import nn

from utils.kernels.batchnorm import PoolPasses, ReluPasses, norm_pool, norm_relu
from utils.kernels.compiled import compiled


class _Rebuilt(nn.Module):
    """The children of `block`, under their names."""

    def __init__(self, block):
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.training = block.training


class PoolThenRelu(_Rebuilt):
    """FashionCNN's block with ReLU after the max-pooling, where it has a quarter of the work and gives the same."""

    def forward(self, x):
        convolution, norm, *_ = self.children()
        return F.relu(F.max_pool2d(norm(convolution(x)), 2), inplace=True)


class FusedNorms(_Rebuilt):
    """A block that fuses its BatchNorms with what follows them, in training batches of `batch_size` images.

    Other batches, evaluation and other kinds of norms are computed by PyTorch's operators.
    """

    def __init__(self, block, batch_size):
        super().__init__(block)
        self.batch_size = batch_size

    @staticmethod
    def takes(block):
        """Whether a BatchNorm that is trained, with statistics of this process alone, stands directly in `block`."""
        return any(type(child) is nn.BatchNorm2d and child.weight.requires_grad for child in block.children())

    def fuses(self, x, norm):
        """Whether `norm` of this batch can be fused; of a single pixel there is no variance."""
        plain = type(norm) is nn.BatchNorm2d and norm.training
        return plain and len(x) == self.batch_size and x.numel() > x.shape[1]

    def norm_relu(self, x, norm, other=None):
        """relu(norm(x) + other)"""
        if self.fuses(x, norm):
            return norm_relu(x, norm, compiled(ReluPasses(), dynamic=True), other)
        x = norm(x)
        if other is not None:
            x += other
        return F.relu(x, inplace=True)

    def norm_pool(self, x, norm):
        """relu(max_pool2d(norm(x), 2)); an odd side, whose last row no window covers, is not fused."""
        if x.shape[2] % 2 == x.shape[3] % 2 == 0 and self.fuses(x, norm):
            return norm_pool(x, norm, compiled(PoolPasses()))
        return F.relu(F.max_pool2d(norm(x), 2), inplace=True)


class FusedBlock(FusedNorms):
    """FashionCNN's block."""

    def forward(self, x):
        convolution, norm, *_ = self.children()
        return self.norm_pool(convolution(x), norm)


class FusedBasicBlock(FusedNorms):
    """torchvision's BasicBlock: the last BatchNorm is fused with the sum and its ReLU."""

    def __init__(self, block, batch_size):
        super().__init__(block, batch_size)
        self.downsample = block.downsample  # None is no child

    def layers(self):
        return (self.conv1, self.bn1), (self.conv2, self.bn2)

    def forward(self, x):
        y = x
        *inner, (convolution, norm) = self.layers()
        for before, before_norm in inner:
            y = self.norm_relu(before(y), before_norm)
        return self.norm_relu(convolution(y), norm, x if self.downsample is None else self.downsample(x))


class FusedBottleneck(FusedBasicBlock):
    """torchvision's Bottleneck."""

    def layers(self):
        return (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)


class FusedResNet(FusedNorms):
    """torchvision's ResNet: the first BatchNorm is fused with its ReLU."""

    def forward(self, x):
        x = self.maxpool(self.norm_relu(self.conv1(x), self.bn1))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))
