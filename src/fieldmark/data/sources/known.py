"""Data sets known by name: where they are, how large, under which licence. Nothing is loaded here.

Sizes and hashes were compared between at least two public sources each; docs/sources.md names
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class KnownFile:
    """One file on the web.

    Attributes:
        name: what it is called there.
        num_bytes: its size.
        sha256: 64 hex digits.
        urls: where it is; the first is asked first.
    """

    name: str
    num_bytes: int
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KnownSet:
    """One data set.

    Attributes:
        kind: how it comes: inside scikit-learn, as IDX files, as CIFAR's binary files in an
            archive, or as an archive of class folders.
        licence: as its authors state it.
        num_pictures: in all parts that have labels.
        class_names: in the order of the numbers in its files, else by name.
        files: none where it needs no download.
    """

    name: str
    about: str
    kind: Literal["inside", "idx", "cifar", "archive"]
    licence: str
    num_pictures: int
    class_names: tuple[str, ...]
    files: tuple[KnownFile, ...] = ()

    @property
    def num_bytes(self) -> int:
        """What there is to download."""
        return sum(file.num_bytes for file in self.files)


def _mnist_file(name: str, num_bytes: int, sha256: str) -> KnownFile:
    # LeCun's own page no longer serves the files; these two are torchvision's and TFDS' mirrors.
    bases = (
        "https://ossci-datasets.s3.amazonaws.com",
        "https://storage.googleapis.com/cvdf-datasets",
    )
    return KnownFile(name, num_bytes, sha256, tuple(f"{base}/mnist/{name}" for base in bases))


def _fashion_file(name: str, num_bytes: int, sha256: str) -> KnownFile:
    # Its authors' repository, then Keras' mirror; the authors' storage has no https.
    bases = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    )
    return KnownFile(name, num_bytes, sha256, tuple(f"{base}/{name}" for base in bases))


_ALL: Final = (
    KnownSet(
        "digits",
        "handwritten digits, 8x8 px, grey; comes with scikit-learn",
        "inside",
        "CC BY 4.0",  # UCI, Optical Recognition of Handwritten Digits
        1_797,
        tuple("0123456789"),
    ),
    KnownSet(
        "mnist",
        "handwritten digits, 28x28 px, grey; LeCun, Cortes and Burges 1998",
        "idx",
        "CC BY-SA 3.0",  # so Keras' documentation; the authors' page states none
        70_000,
        tuple("0123456789"),
        (
            _mnist_file(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            _mnist_file(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            _mnist_file(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            _mnist_file(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    KnownSet(
        "fashion-mnist",
        "pictures of clothes, 28x28 px, grey; Zalando 2017",
        "idx",
        "MIT",
        70_000,
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        (
            _fashion_file(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            _fashion_file(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            _fashion_file(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            _fashion_file(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    KnownSet(
        "cifar10",
        "small photos of animals and vehicles, 32x32 px; Krizhevsky 2009",
        "cifar",
        "none stated",
        60_000,
        (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        (
            KnownFile(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            ),
        ),
    ),
    KnownSet(
        "flowers",
        "photos of flowers (flower_photos); TensorFlow 2016",
        "archive",
        "CC BY 2.0",  # its LICENSE.txt, which names the photographers
        3_670,
        ("daisy", "dandelion", "roses", "sunflowers", "tulips"),
        (
            KnownFile(
                "flower_photos.tgz",
                228_813_984,
                "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
                (
                    "https://storage.googleapis.com/download.tensorflow.org/example_images/"
                    "flower_photos.tgz",
                    "https://download.tensorflow.org/example_images/flower_photos.tgz",
                ),
            ),
        ),
    ),
    KnownSet(
        "hymenoptera",
        "photos of ants and bees, some of ImageNet's; PyTorch 2017",
        "archive",
        "none stated",  # ImageNet's terms: research, nothing commercial
        398,  # with train/ants/imageNotFound.gif, which is a picture of a notice
        ("ants", "bees"),
        (
            KnownFile(
                "hymenoptera_data.zip",
                47_286_322,
                "fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209",
                ("https://download.pytorch.org/tutorial/hymenoptera_data.zip",),
            ),
        ),
    ),
)
KNOWN_SETS: Final[dict[str, KnownSet]] = {known.name: known for known in _ALL}
