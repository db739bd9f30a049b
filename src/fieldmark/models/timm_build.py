"""timm.create_model with answers that people can use where an option is wrong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from fieldmark.errors import ModelError, check_choice

# Arguments of timm.create_model that are not about the network, or that Fieldmark sets itself.
NOT_OPTIONS: Final = frozenset(
    (
        "model_name",
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args"),
        *("pretrained_strict", "pretrained_filter_fn", "checkpoint_path", "cache_dir"),
        *("scriptable", "exportable", "no_jit", "device", "dtype"),
        *("num_classes", "in_chans", "features_only", "out_indices", "feature_cls"),
    )
)
# What `create_model` takes beside the options; each has a place of its own in a recipe.
COUNTED: Final = {
    "name": "leave it out, and name the network with --model",
    "num_classes": "leave it out: the network gets an output for each class",
    "in_channels": "leave it out, and say it with --set data.channels=1 or 3",
}
PLAIN: Final = (bool, int, float, str, type(None))


def build_net(
    name: str, timm_name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    """timm's own network, with freshly drawn weights.

    Args:
        name: how it is called in errors.
        timm_name: NAME or NAME.TAG.

    Raises:
        ModelError: an unknown option, or a value it cannot be built with.
    """
    import timm

    for option in options:
        if option in COUNTED:
            raise ModelError(
                f"{option} is no option of a network",
                given=f"{option}={options[option]!r} among the options of {name}",
                fix=COUNTED[option],
            )
        if option in NOT_OPTIONS:
            raise _unknown_option(name, timm_name, option)
    try:
        net: nn.Module = timm.create_model(
            timm_name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options
        )
    except Exception as error:  # each of timm's networks fails in its own way and words
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in options:
            raise _unknown_option(name, timm_name, unknown[1]) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"timm cannot build {name} like this: {reason}",
            given=f"in_channels={in_channels}, "
            + (", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"),
            fix="leave out the option" if options else "3 channels are what timm's are made for",
        ) from error
    return net


def _unknown_option(name: str, timm_name: str, option: str) -> ModelError:
    import timm

    with torch.device("meta"):
        kind = type(timm.create_model(timm_name))
    parameters = inspect.signature(kind.__init__).parameters.values()
    known = [
        parameter.name
        for parameter in parameters
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        and parameter.name not in {*NOT_OPTIONS, "self"}
    ]
    try:
        also = ("num_classes", "in_channels")
        check_choice(f"option of {name}", option, known, also, error=ModelError)
    except ModelError as error:
        return error
    # timm's class has it, but the function that builds this network sets it by itself.
    return ModelError(
        f"{name} sets this option by itself",
        given=repr(option),
        valid=[word for word in known if word != option],
        fix="leave it out",
    )


def plain_value(name: str, option: str, value: object) -> Any:
    """Values that JSON can hold, so that a model file can say them."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [plain_value(name, option, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain_value(name, option, item) for key, item in value.items()}
    raise ModelError(
        f"option {option} of {name} must be a plain value",
        given=repr(value),
        valid="true or false, a number, a text, or a list of them: what a recipe can hold",
        fix="name layers by their names in timm, such as act_layer='silu'",
    )
