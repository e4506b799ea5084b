"""Sets in the layout of MNIST, and house numbers: small images of ten classes.

MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017, https://arxiv.org/abs/1708.07747): 60,000 training and
10,000 test images, grey, 28x28. SVHN (Netzer et al., 2011): 73,257 and 26,032 crops of house numbers, RGB, 32x32,
without its 531,131 easier extra images.
"""

from typing import Final

from raydd.data.sources.torchvision_sets import TorchvisionSet

_DIGITS: Final = tuple("0123456789")

MNIST: Final = TorchvisionSet(
    name="mnist",
    title="MNIST",
    reader="MNIST",
    layout="MNIST/raw",
    sign="train-images-idx3-ubyte",
    class_names=_DIGITS,
)
FASHION_MNIST: Final = TorchvisionSet(
    name="fashion-mnist",
    title="Fashion-MNIST",
    reader="FashionMNIST",
    layout="FashionMNIST/raw",
    sign="train-images-idx3-ubyte",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
SVHN: Final = TorchvisionSet(
    name="svhn",
    title="SVHN",
    reader="SVHN",
    splits=({"split": "train"}, {"split": "test"}),
    labels="labels",
    folder="svhn",
    layout="svhn",
    sign="train_32x32.mat",
    class_names=_DIGITS,
)
"""Torchvision gives the digit 0 the label 0, which is 10 in the files."""
