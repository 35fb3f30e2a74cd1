"""ResNet (He et al. 2015), ResNeXt (Xie et al. 2016) and Wide ResNet (Zagoruyko & Komodakis 2016): torchvision's trunks."""

from torch import nn
from torchvision import models as tv

from models.layers import head
from models.registry import MODELS


def _resnet(build, num_classes, weights):
    model = build(weights=weights)
    model.fc = head(model.fc.in_features, 256, num_classes, dropout=0.4)
    return model


def _small_resnet(build, num_classes, weights):
    """The same trunk for images of 64 px and less, which keep their size up to layer2: a 3×3 stem of stride 1, no max-pooling.

    The stem of He et al. 2015 for CIFAR-10 (section 4.2), with the widths of their ImageNet networks.
    """
    model = _resnet(build, num_classes, weights)
    model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNet
    model.maxpool = nn.Identity()
    return model


@MODELS.register("resnet18")
def resnet18(num_classes, image_size, weights=None):
    return _resnet(tv.resnet18, num_classes, weights)


@MODELS.register("resnet34")
def resnet34(num_classes, image_size, weights=None):
    return _resnet(tv.resnet34, num_classes, weights)


@MODELS.register("resnet50")
def resnet50(num_classes, image_size, weights=None):
    return _resnet(tv.resnet50, num_classes, weights)


@MODELS.register("resnet101")
def resnet101(num_classes, image_size, weights=None):
    return _resnet(tv.resnet101, num_classes, weights)


@MODELS.register("resnet152")
def resnet152(num_classes, image_size, weights=None):
    return _resnet(tv.resnet152, num_classes, weights)


@MODELS.register("resnext50_32x4d")
def resnext50_32x4d(num_classes, image_size, weights=None):
    return _resnet(tv.resnext50_32x4d, num_classes, weights)


@MODELS.register("wide_resnet50_2")
def wide_resnet50_2(num_classes, image_size, weights=None):
    return _resnet(tv.wide_resnet50_2, num_classes, weights)


@MODELS.register("resnet18_small")
def resnet18_small(num_classes, image_size, weights=None):
    return _small_resnet(tv.resnet18, num_classes, weights)


@MODELS.register("resnet34_small")
def resnet34_small(num_classes, image_size, weights=None):
    return _small_resnet(tv.resnet34, num_classes, weights)
