"""The lot of each picture: a random number that is its own, whatever else is in the data set.

A permutation of n pictures is another one for n + 1. A lot depends on the seed, the purpose of the
draw, the class and the picture's name alone, so an added or removed picture leaves those of the
others as they were, and who is drawn changes at the boundaries only.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from fieldmark.data.parts.groups import below_common_folder
from fieldmark.types import Sample


class Lots:
    """The lots of some pictures, for one seed and one purpose.

    Args:
        samples: all pictures that are drawn from; what a picture's name is depends on them a
            little, see `own_names`.
        purpose: draws for different purposes share nothing.
    """

    def __init__(self, samples: Iterable[Sample], seed: int, purpose: str) -> None:
        by_label: dict[str, list[str]] = defaultdict(list)
        for sample in samples:
            by_label[sample.label].append(sample.path)
        self._lots: dict[tuple[str, str], bytes] = {}
        for label, paths in by_label.items():
            for path, name in zip(paths, own_names(paths), strict=True):
                text = "\0".join((str(seed), purpose, label, name))
                # A file's name need not be proper Unicode.
                lot = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
                self._lots[label, path] = lot

    def of(self, sample: Sample) -> bytes:
        """32 bytes, as random as SHA-256 makes them."""
        return self._lots[sample.label, sample.path]

    def of_group(self, members: Iterable[Sample]) -> bytes:
        """That of the member with the smallest: most members may come or go without changing it."""
        return min(map(self.of, members))

    def in_order(self, members: Iterable[Sample]) -> list[Sample]:
        """`members` by their lots: in random order."""
        return sorted(members, key=lambda sample: (self.of(sample), sample.path))


def number_of(lot: bytes) -> float:
    """A number in [0, 1) from a lot; uniform also where the lot is the smallest of some."""
    # 53 bits are what a float between 0 and 1 holds: none of them rounds up to 1.
    return (int.from_bytes(hashlib.sha256(lot).digest()[:8], "big") >> 11) / 2**53


def own_names(paths: Sequence[str]) -> list[str]:
    """What tells each path from the others of its class: as much of its end as that takes.

    `1.jpg` for /photos/ants/1.jpg, unless there is a /photos/ants/film2/1.jpg as well: then
    `film2/1.jpg` for this one. Where the folder of all lies does not show. A path that comes or
    goes changes at most one other's name: that of the only one with the same end. (Except where a
    whole path below the folder of all is also the end of another one, and that folder changes.)
    """
    words_of = [place.split("/") for place in below_common_folder(paths)]
    names = [""] * len(paths)
    unnamed = list(range(len(paths)))
    length = 0
    while unnamed:
        length += 1
        ends = {i: "/".join(words_of[i][-length:]) for i in unnamed}
        times = Counter(ends.values())
        for i, end in ends.items():
            names[i] = end
        unnamed = [i for i in unnamed if times[ends[i]] > 1 and length < len(words_of[i])]
    return names
