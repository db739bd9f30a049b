"""The config.json with which timm opens a folder of weights. Knows timm's words, not ours alone.

What the words mean is in timm's `models/_hub.py`, `models/_pretrained.py` and
`data/transforms_factory.py` (1.0.31); a test holds this to what timm then does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from fieldmark.models.contract import Network
from fieldmark.models.layouts import Foreign
from fieldmark.models.timm_bridge import TimmNetwork
from fieldmark.types import Preprocess


def timm_config(
    foreign: Foreign, network: Network, preprocess: Preprocess, class_names: Sequence[str]
) -> dict[str, Any]:
    """What config.json holds, as plain values.

    Args:
        foreign: the network as timm has it.
        network: the same as Fieldmark has it.
    """
    size, channels = preprocess.size, preprocess.channels
    is_fixed, arguments = _size_arguments(foreign, network)
    if channels != 3:
        arguments["in_chans"] = channels
    classifiers = [foreign.renamed.get(layer, layer) for layer in network.classifiers]
    config: dict[str, Any] = {
        "architecture": foreign.name,
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "pretrained_cfg": {
            "input_size": [channels, size, size],
            "fixed_input_size": is_fixed,
            "interpolation": preprocess.interpolation,
            "crop_pct": crop_pct(preprocess),
            "crop_mode": "squash" if preprocess.resize == "squash" else "center",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": len(class_names),
            "first_conv": _one_or_many(network.first_convs),
            "classifier": _one_or_many(classifiers),
        },
    }
    if arguments:
        config["model_args"] = arguments
    return config


def _size_arguments(foreign: Foreign, network: Network) -> tuple[bool, dict[str, Any]]:
    """Whether the network is built for one size of pictures, as most transformers are, and the
    arguments with which timm builds it so.

    timm builds those for the `input_size` above. Where such a network was made flexible, timm no
    longer looks there, and must be told for which size the embeddings of positions are.
    """
    arguments = dict(foreign.arguments)
    if not isinstance(network, TimmNetwork):  # ours take any size
        return False, arguments
    by_nature = bool(cast("Any", network.net).pretrained_cfg.get("fixed_input_size"))
    if by_nature and network.fixed_size_px is None:
        arguments.setdefault("img_size", network.default_size_px)
    return network.fixed_size_px is not None, arguments


def crop_pct(preprocess: Preprocess) -> float:
    """timm's word for `crop_fraction`.

    timm resizes to `floor(size / crop_pct)`, Fieldmark to `round(size / crop_fraction)`; and where
    the picture is squashed, timm crops all the same. So this is `crop_fraction` unless another
    number is needed for the same pixels.
    """
    size = preprocess.size
    if preprocess.resize == "squash":
        return 1.0
    resize_px = round(size / preprocess.crop_fraction)
    if math.floor(size / preprocess.crop_fraction) == resize_px:
        return preprocess.crop_fraction
    share = size / resize_px
    while math.floor(size / share) < resize_px:  # the division was rounded up
        share = math.nextafter(share, 0)
    return share


def _one_or_many(layers: Sequence[str]) -> str | list[str] | None:
    if not layers:
        return None
    return layers[0] if len(layers) == 1 else list(layers)
