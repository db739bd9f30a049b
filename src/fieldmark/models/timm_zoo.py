"""What timm has: its classification networks by name, what they cost, and their weights.

Ross Wightman, "PyTorch Image Models", github.com/huggingface/pytorch-image-models. Our own names
win: `resnet18` is the network written out here, `timm/resnet18` is timm's.
timm is imported inside functions, because that takes three seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, Final

from fieldmark.errors import ModelError, check_choice, closest
from fieldmark.models.card import TIMM_PREFIX, ModelCard, matches
from fieldmark.models.official import OfficialWeights
from fieldmark.models.own import MODEL_NAMES, is_own
from fieldmark.models.timm_table import config_of, measure
from fieldmark.types import MAX_SIZE_PX

PREFIX: Final = TIMM_PREFIX
# The hub keeps both; the first is a pickle (timm/models/_hub.py prefers the second as well).
SAFE_NAMES: Final = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def timm_names() -> tuple[str, ...]:
    """timm's classification networks, without tags, in timm's order."""
    return tuple(_names())


@cache
def _names() -> dict[str, None]:
    import timm

    # What ends in _enc is the first half of a larger model, and has no classifier.
    return dict.fromkeys(name for name in timm.list_models() if not name.endswith("_enc"))


def split_name(name: str) -> tuple[str, str]:
    """timm's own name and the weights' tag ("" for none) of `timm/NAME.TAG`, where it exists.

    Raises:
        ModelError: neither we nor timm have such a network, or it has no such tag.
    """
    bare, _, tag = name.removeprefix(PREFIX).partition(".")
    if bare not in _names():
        raise unknown_model(name)
    tags = [key.partition(".")[2] for key in _tagged_cfgs(bare)]
    if tag:
        check_choice(f"weights tag of timm's {bare}", tag, tags, error=ModelError)
    return bare, tag


def is_timm(name: str) -> bool:
    """Whether `name`, with or without `timm/` and a tag, is one of timm's networks."""
    bare = name.removeprefix(PREFIX).partition(".")[0]
    # What cannot be a name there, such as a path, is answered without waiting for timm.
    return re.fullmatch(r"\w+", bare) is not None and bare in _names()


def public_name(timm_name: str) -> str:
    """How timm's NAME or NAME.TAG is called here."""
    return f"{PREFIX}{timm_name}" if is_own(timm_name.partition(".")[0]) else timm_name


def unknown_model(name: str) -> ModelError:
    """The error for a name that nobody has; suggests the nearest among ours and timm's."""
    from timm.models import get_deprecated_models

    bare = name.removeprefix(PREFIX)
    renamed = get_deprecated_models().get(bare)
    ours = () if name.startswith(PREFIX) else MODEL_NAMES
    near = renamed or closest(bare, ours) or closest(bare, _names())
    if near and near not in ours:
        near = public_name(near)
    return ModelError(
        "unknown model",
        given=repr(name),
        valid=f"{', '.join(MODEL_NAMES)}, and timm's: `fieldmark models --filter WORD`",
        fix=f"did you mean {near!r}?" if near else "take one of the valid words",
    )


def list_timm_models(pattern: str | None = None) -> list[ModelCard]:
    """The cards of timm's classification networks, in timm's order; builds none of them.

    Args:
        pattern: part of a name, or with `*`, `?` or `[` a pattern for the whole of it.
    """
    return [timm_card(name) for name in map(public_name, _names()) if matches(name, pattern)]


def timm_card(name: str) -> ModelCard:
    """The card of one of timm's networks.

    Raises:
        ModelError: no such network, or it has no such tag.
    """
    from timm.models import model_entrypoint

    bare, tag = split_name(name)
    cfg = config_of(bare, tag)
    measured = measure(bare)
    size_px = max(cfg["input_size"][1:])
    return ModelCard(
        name=public_name(f"{bare}.{tag}" if tag else bare),
        family=model_entrypoint(bare).__module__.rpartition(".")[2],
        year=None,  # timm's cfgs name papers, but those that their weights are from
        paper=None,
        default_size_px=size_px,
        min_size_px=size_px if cfg["fixed_input_size"] else measured.min_size_px,
        has_norm=measured.has_norm,
        num_parameters=measured.parameters,
    )


def timm_weights(name: str) -> tuple[OfficialWeights, ...]:
    """The weights that timm knows for a network, the tag in its name first, else timm's default.

    Left out is what cannot be had safely: pickled or NumPy files with loaders of their own, and
    addresses that are neither on the Hugging Face hub nor carry a hash.
    Where `num_classes` is 0, the weights have no classifier; where it is not 1000, its outputs are
    others than ImageNet's.

    Raises:
        ModelError: no such network, or it has no such tag.
    """
    bare, tag = split_name(name)
    cfgs = _tagged_cfgs(bare)
    keys = sorted(cfgs, key=lambda key: key.partition(".")[2] != tag) if tag else list(cfgs)
    weights = []
    for key in keys:
        source = _source(cfgs[key])
        if source is not None:
            weights.append(
                OfficialWeights(
                    tag=key.partition(".")[2],
                    source=source,
                    preprocess=preprocess_of(cfgs[key]),
                    num_classes=cfgs[key]["num_classes"],
                    num_leading_classes=cfgs[key]["label_offset"] or 0,
                )
            )
    return tuple(weights)


def _tagged_cfgs(bare: str) -> dict[str, dict[str, Any]]:
    """timm's cfgs of a network by NAME.TAG, its default first."""
    from timm.models import get_arch_pretrained_cfgs

    cfgs = get_arch_pretrained_cfgs(bare)
    return {key: asdict(cfg) for key, cfg in cfgs.items()}


def _source(cfg: Mapping[str, Any]) -> str | None:
    """Where the weights are, as `OfficialWeights` says it; None where they are not to be had."""
    if cfg["hf_hub_id"]:
        # "hf" means a loader of timm's own for a format of its own. A custom loader for the
        # address beside it does not matter: the hub has the converted weights.
        if cfg["custom_load"] == "hf":
            return None
        file = cfg["hf_hub_filename"]
        return f"hf:{cfg['hf_hub_id']}" + (f"/{SAFE_NAMES.get(file, file)}" if file else "")
    url = cfg["url"]
    if not isinstance(url, str) or cfg["custom_load"]:
        return None
    # As torch.hub has it, and timm and torchvision with it: NAME-HASH.pth, hexadecimal digits.
    digits = re.search(r"-([0-9a-f]{8,64})\.pth$", url)
    return f"{url}#sha256={digits[1]}" if digits and url.startswith("https://") else None


def preprocess_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What a pretrained cfg of timm's says of pictures, in the words of `types.Preprocess`.

    What it does not say, or not in a way that makes sense, is left out. timm resizes the short
    side in the modes "center" and "border" alike, and forces the whole picture into the square in
    "squash"; where it would pad (a `crop_pct` above 1, "border"), the picture is cropped here.

    Args:
        cfg: as in timm, or as in the config.json of a repository on the hub.
    """
    words: dict[str, Any] = {"channel_order": "rgb"}
    size, fraction = _numbers(cfg.get("input_size")), _numbers([cfg.get("crop_pct")])
    mean, std = _numbers(cfg.get("mean")), _numbers(cfg.get("std"))
    channels = 3
    if len(size) == 3 and all(x == int(x) >= 1 for x in size) and max(size[1:]) <= MAX_SIZE_PX:
        channels, words["size"] = int(size[0]), int(max(size[1:]))
    if mean and len(mean) == len(std) and len(mean) in (1, channels) and min(std) > 0:
        words |= {"mean": mean, "std": std}
    if fraction and fraction[0] > 0:
        words["crop_fraction"] = min(fraction[0], 1.0)
    if cfg.get("crop_mode"):
        words["resize"] = "squash" if cfg["crop_mode"] == "squash" else "crop"
    if cfg.get("interpolation"):
        # timm's others are nearest neighbours, Lanczos and Hamming, in no cfg of 1.0.31; bicubic
        # is its usual one.
        words["interpolation"] = "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic"
    return words


def _numbers(given: object) -> tuple[float, ...]:
    """As they are if all of them are finite numbers, else none: JSON has NaN and any digits."""
    if not isinstance(given, tuple | list) or not all(type(x) in (int, float) for x in given):
        return ()
    try:
        numbers = tuple(map(float, given))
    except OverflowError:  # a whole number of more than 308 digits
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()
