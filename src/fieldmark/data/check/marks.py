"""What many pictures are recognized by, packed: a kilobyte each."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from fieldmark.data.check.looks import CHROMA_PX, THUMB_PX, Pixels, Signature


class Marks:
    """Signatures of n pictures, in the order in which they were added."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._thumbs, self._chroma, self._is_plain = bytearray(), bytearray(), bytearray()

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, signature: Signature, *, is_plain: bool) -> None:
        """Take in what a picture is recognized by.

        Args:
            is_plain: it shows a thing on plain ground.
        """
        self._hashes.append(signature.phash)
        self._thumbs += signature.thumb.tobytes()
        self._chroma += signature.chroma.tobytes()
        self._is_plain.append(is_plain)

    # Views, not copies: nothing can be added as long as one of them is there.

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """(n,)"""
        return np.frombuffer(self._hashes, np.uint64)

    @property
    def thumbs(self) -> Pixels:
        """(n, 32, 32) grey."""
        return np.frombuffer(self._thumbs, np.uint8).reshape(-1, THUMB_PX, THUMB_PX)

    @property
    def chroma(self) -> Pixels:
        """(n, 4, 4, 2) Cb and Cr."""
        return np.frombuffer(self._chroma, np.uint8).reshape(-1, CHROMA_PX, CHROMA_PX, 2)

    @property
    def is_plain(self) -> NDArray[np.bool_]:
        """(n,)"""
        return np.frombuffer(self._is_plain, np.bool_)
