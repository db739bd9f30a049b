"""The config.json with which timm opens a folder of weights. Knows timm's words, not ours alone.

What the words mean is in timm's `models/_hub.py`, `models/_pretrained.py` and
`data/transforms_factory.py` (1.0.31); a test holds this to what timm then does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fieldmark.models.contract import Network
from fieldmark.models.layouts import OURS, Foreign
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
    arguments = foreign.arguments if channels == 3 else {**foreign.arguments, "in_chans": channels}
    classifiers = [foreign.renamed.get(layer, layer) for layer in network.classifiers]
    config: dict[str, Any] = {
        "architecture": foreign.name,
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "pretrained_cfg": {
            "input_size": [channels, size, size],
            "fixed_input_size": network.name not in OURS and _is_fixed(foreign),
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
    if classifiers:  # for people who read the file; timm builds nothing from it
        config["num_features"] = foreign.tensors[f"{classifiers[0]}.weight"].shape[1]
    if arguments:
        config["model_args"] = arguments
    return config


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


def _is_fixed(foreign: Foreign) -> bool:
    """Whether one of timm's is built for one size of pictures, as most transformers are."""
    if foreign.arguments.get("dynamic_img_size"):
        return False
    if "img_size" in foreign.arguments:
        return True
    from timm.models import get_pretrained_cfg  # here: importing it takes seconds

    default = get_pretrained_cfg(foreign.name)
    return bool(default and default.fixed_input_size)


def _one_or_many(layers: Sequence[str]) -> str | list[str] | None:
    if not layers:
        return None
    return layers[0] if len(layers) == 1 else list(layers)
