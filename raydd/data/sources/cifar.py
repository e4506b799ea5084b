"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 training and 10,000 test images of 32x32."""

from typing import Final

from raydd.data.sources.torchvision_sets import TorchvisionSet

_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

CIFAR10: Final = TorchvisionSet(
    name="cifar10",
    title="CIFAR-10",
    reader="CIFAR10",
    layout="cifar-10-batches-py",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
CIFAR100: Final = TorchvisionSet(
    name="cifar100",
    title="CIFAR-100",
    reader="CIFAR100",
    layout="cifar-100-python",
    class_names=tuple(_FINE.split()),
    label_columns=("fine_label", "label"),
)
"""With the 100 fine labels."""
