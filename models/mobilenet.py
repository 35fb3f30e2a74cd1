"""MobileNetV2 (Sandler et al. 2018) and MobileNetV3 (Howard et al. 2019): torchvision's trunks."""

from torchvision import models as tv

from models.layers import head
from models.registry import MODELS


def _mobilenet(build, features, num_classes, weights):
    model = build(weights=weights)
    model.classifier = head(features, 256, num_classes, dropout=0.5)
    return model


@MODELS.register("mobilenet_v2")
def mobilenet_v2(num_classes, image_size, weights=None):
    return _mobilenet(tv.mobilenet_v2, 1280, num_classes, weights)


@MODELS.register("mobilenet_v3_small")
def mobilenet_v3_small(num_classes, image_size, weights=None):
    return _mobilenet(tv.mobilenet_v3_small, 576, num_classes, weights)


@MODELS.register("mobilenet_v3_large")
def mobilenet_v3_large(num_classes, image_size, weights=None):
    return _mobilenet(tv.mobilenet_v3_large, 960, num_classes, weights)
