"""ResNet (He et al. 2015), ResNeXt (Xie et al. 2016) and Wide ResNet (Zagoruyko & Komodakis 2016): torchvision's trunks."""

from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.layers import head
from models.registry import MODELS
from utils.kernels.batchnorm import FusesNorms
from utils.kernels.convert import KINDS


class _Trunk(FusesNorms, tv.ResNet):
    """As a CPU trains it fastest, like the blocks: with ReLU and sums in the passes of the norms."""

    def _forward_impl(self, x):
        x = self.maxpool(self.norm_relu(self.conv1(x), self.bn1))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class _Block(FusesNorms):
    def forward(self, x):
        y = x
        *inner, (convolution, norm) = self.layers()
        for before, before_norm in inner:
            y = self.norm_relu(before(y), before_norm)
        return self.norm_relu(convolution(y), norm, x if self.downsample is None else self.downsample(x))


class _BasicBlock(_Block, BasicBlock):
    def layers(self):
        return (self.conv1, self.bn1), (self.conv2, self.bn2)


class _Bottleneck(_Block, Bottleneck):
    def layers(self):
        return (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)


KINDS.update({tv.ResNet: (_Trunk,), BasicBlock: (_BasicBlock,), Bottleneck: (_Bottleneck,)})


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
