"""EfficientNetV2 (Tan & Le 2021): torchvision's trunks."""

from torchvision import models as tv

from models.layers import head
from models.registry import MODELS


def _efficientnet(build, num_classes, weights):
    model = build(weights=weights)
    model.classifier = head(1280, 512, num_classes, dropout=0.4)
    return model


@MODELS.register("efficientnet_v2_s")
def efficientnet_v2_s(num_classes, image_size, weights=None):
    return _efficientnet(tv.efficientnet_v2_s, num_classes, weights)


@MODELS.register("efficientnet_v2_m")
def efficientnet_v2_m(num_classes, image_size, weights=None):
    return _efficientnet(tv.efficientnet_v2_m, num_classes, weights)


@MODELS.register("efficientnet_v2_l")
def efficientnet_v2_l(num_classes, image_size, weights=None):
    return _efficientnet(tv.efficientnet_v2_l, num_classes, weights)
