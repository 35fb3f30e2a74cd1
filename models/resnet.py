"""ResNet (He et al. 2015), ResNeXt (Xie et al. 2016) and Wide ResNet (Zagoruyko & Komodakis 2016): torchvision's trunks."""

from torchvision import models as tv

from models.layers import head
from models.registry import MODELS


def _resnet(build, num_classes, weights):
    model = build(weights=weights)
    model.fc = head(model.fc.in_features, 256, num_classes, dropout=0.4)
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
