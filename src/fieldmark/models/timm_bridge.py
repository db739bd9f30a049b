"""Every classification network of timm's by its name, as one of Fieldmark's.

A `TimmNetwork` adds to timm's module what `contract.Network` asks for, and changes nothing in it:
the same function, the same state-dict keys, so that a saved file opens with plain timm.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from fieldmark.errors import ModelError
from fieldmark.models.contract import check_counts, check_images
from fieldmark.models.heads import head_options, put_hidden_layer, reset_hidden_head
from fieldmark.models.timm_build import build_net, plain_value
from fieldmark.models.timm_stages import Probe, cut, probe, resolve
from fieldmark.models.timm_table import config_of, measure
from fieldmark.models.timm_zoo import public_name, split_name

FILTERS: Final = (
    "checkpoint_filter_fn",
    "checkpoint_filter_fn_classifier",
    "_filter_fn",
    "_filter_torchvision_pretrained",
)
FLEXIBLE_MIN_PX: Final = 32
_PROBES: dict[str, Probe] = {}
MOST_SKETCHES: Final = 16
_SKETCHES: dict[str, TimmNetwork] = {}


class TimmNetwork(nn.Module):
    """A network of timm's that keeps `contract.Network`.

    Its state dict is that of `net`, key by key. Beside the contract it has `fixed_size_px`: the
    only height and width that it admits as it was built, or None.

    Args:
        net: as `timm.create_model` gives it.
        name: how it is called here.
        options: what `timm.create_model` was given beside the counts.

    Raises:
        ModelError: `net` does not give one number a class.
    """

    def __init__(
        self,
        net: nn.Module,
        name: str,
        num_classes: int,
        in_channels: int,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.net = net
        self.name, self.num_classes, self.in_channels = name, num_classes, in_channels
        self.architecture: dict[str, Any] = {
            "name": name,
            "options": dict(options),
            "num_classes": num_classes,
            "in_channels": in_channels,
        }
        cfg: dict[str, Any] = cast("Any", net).pretrained_cfg
        self.default_size_px = _square(options.get("img_size"), cfg["input_size"][1:])
        flexible = options.get("dynamic_img_size") or options.get("strict_img_size") is False
        fixed = bool(cfg.get("fixed_input_size")) and not flexible
        self.fixed_size_px: int | None = self.default_size_px if fixed else None
        self.min_size_px: int = self.fixed_size_px or (
            max(patch_sizes(net), default=FLEXIBLE_MIN_PX)
            if flexible  # and so another network than the one that was measured
            else measure(split_name(name)[0]).min_size_px
        )

        seen = self._probe()
        self.first_convs = self._first_convs(cfg, seen)
        self.classifiers = self._with_weights(cfg.get("classifier"), 0, num_classes)
        self._stages = cut(net, self.classifiers or _words(cfg.get("classifier")), seen)
        self.stages = tuple(stage.name for stage in self._stages)

    def forward(self, images_bchw: Tensor) -> Tensor:
        self._check_images(images_bchw)
        logits_bk: Tensor = self.net(images_bchw)
        return logits_bk

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        """Everything before the head: a map, (b, c, h, w) or (b, h, w, c), or tokens, (b, n, c);
        a list of them in a few networks that look at several scales."""
        self._check_images(images_bchw)
        features: Tensor = cast("Any", self.net).forward_features(images_bchw)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        logits_bk: Tensor = cast("Any", self.net).forward_head(features)
        return logits_bk

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        """What runs in `forward_head` alone is the head; else timm's own grouping."""
        return {stage.name: resolve(self.net, stage) for stage in self._stages}

    def reset_classifier(self, num_classes: int) -> None:
        check_counts(num_classes=num_classes, in_channels=self.in_channels)
        if reset_hidden_head(self, num_classes):
            return
        net = cast("Any", self.net)
        weight = next(net.parameters())
        words: dict[str, Any] = {}
        parameters = inspect.signature(net.reset_classifier).parameters
        pool = getattr(net, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        # Some of timm's went back to average pooling unless told otherwise, and RepViT
        # still goes back to one classifier.
        if "global_pool" in parameters and isinstance(parameters["global_pool"].default, str):
            words["global_pool"] = pool
        if "distillation" in parameters:
            words["distillation"] = len(self.classifiers) > 1
        net.reset_classifier(num_classes, **words)
        for module in self.stage_modules()["head"]:
            module.to(weight.device, weight.dtype).train(net.training)
        self._start_small()
        self.num_classes = self.architecture["num_classes"] = num_classes

    def state_dict(self, *args: Any, **words: Any) -> Any:
        """timm's own, without a prefix."""
        return self.net.state_dict(*args, **words)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        return self.net.load_state_dict(state_dict, strict=strict, assign=assign)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **words: Any
    ) -> None:
        """For a module around this one, such as an average of its weights, that loads its own."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}net.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **words)

    def _start_small(self) -> None:
        """Draw classifiers anew, as torch would, that timm has drawn too large to learn from.

        The families of EfficientNet and MobileNet draw them from +- 1 / sqrt(classes), made for a
        thousand: with two classes the first loss is then about 10 instead of ln 2, and a short
        training on frozen features learns nothing.
        """
        for name in self.classifiers:
            layer = self.net.get_submodule(name)
            if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.weight.is_meta:
                continue
            fan_in = layer.weight[0].numel()
            if layer.weight.std() > fan_in**-0.5:  # torch's own deviation is 0.58 of this
                layer.reset_parameters()

    def _check_images(self, images_bchw: Tensor) -> None:
        only_px = self.fixed_size_px
        shape = tuple(images_bchw.shape)
        if only_px is None or len(shape) != 4 or shape[2:] == (only_px, only_px):
            check_images(self, images_bchw)
            return
        raise ModelError(
            f"{self.name} was built for pictures of {only_px} px and no others",
            given=f"{shape[2]} px high, {shape[3]} px wide",
            valid=f"{only_px} px on both sides",
            fix=f"use --size {only_px}, or build the network with the option img_size={shape[2]}",
        )

    def _probe(self) -> Probe:
        """What a pass shows; a network that is built again is not sent through again."""
        options = self.architecture["options"]
        asked = json.dumps([self.name, self.in_channels, options])
        if asked not in _PROBES:
            seen = probe(self.net, self.in_channels, self.default_size_px)
            if seen.logits_shape not in (None, (1, self.num_classes)):
                outcome = f"outputs of shape {seen.logits_shape} for {self.num_classes} classes"
            elif options and not isinstance(seen.failure, NotImplementedError | None):
                outcome = str(seen.failure).partition("\n")[0]
            else:  # as timm makes it, it is taken to work, even if the meta device cannot tell
                outcome = ""
            if outcome:
                raise ModelError(
                    f"{self.name}, built like this, does not give one number for each class",
                    given=", ".join(f"{key}={value!r}" for key, value in options.items()) or None,
                    valid="a network that takes pictures and ends in its classifier; one of "
                    f"{self.default_size_px} px gave: {outcome}",
                    fix="leave out the option that takes its end away, or that fits no picture",
                )
            _PROBES[asked] = seen
        return _PROBES[asked]

    def _first_convs(self, cfg: Mapping[str, Any], seen: Probe) -> tuple[str, ...]:
        stated = self._with_weights(cfg.get("first_conv"), 1, self.in_channels)
        return stated or self._with_weights(seen.first_convs, 1, self.in_channels)

    def _with_weights(self, layers: object, dimension: int, size: int) -> tuple[str, ...]:
        """Those layers whose weights are there and have `size` slices; timm's cfgs err at times,
        and a few networks rearrange the picture before their first convolution."""
        weights = self.net.state_dict()
        shapes = {
            layer: weights.get(f"{layer}.weight", torch.empty(0)).shape for layer in _words(layers)
        }
        return tuple(
            layer
            for layer, shape in shapes.items()
            if len(shape) > dimension and shape[dimension] == size
        )


def create_timm(
    name: str, num_classes: int = 1000, in_channels: int = 3, /, **options: Any
) -> TimmNetwork:
    """One of timm's networks with freshly drawn weights, in training mode.

    Args:
        name: timm's name, with or without `timm/` before it and a weights' tag after it.
        options: what `timm.create_model` takes beside, in plain values: `img_size=128`,
            `drop_path_rate=0.1`, `pad_type="same"`, `layers=[1, 1, 1, 1]`; and those of `heads`.

    Raises:
        ModelError: no such network or option, a value it cannot be built with, or a count that is
            no whole number from 1 up.
    """
    check_counts(num_classes=num_classes, in_channels=in_channels)
    bare, tag = split_name(name)
    tagged = f"{bare}.{tag}" if tag else bare
    name = public_name(tagged)
    options, head = head_options(name, options)
    plain = {option: plain_value(name, option, value) for option, value in options.items()}
    size = config_of(bare, tag)["input_size"][1:]
    if size[0] != size[1]:  # timm has a few for tall pictures; ours are squares
        plain.setdefault("img_size", max(size))
    net = build_net(name, tagged, num_classes, in_channels, plain)
    network = TimmNetwork(net, name, num_classes, in_channels, plain)
    network._start_small()
    if head:
        put_hidden_layer(network, head["head_hidden"], head["head_dropout"])
    return network


def sketch_timm(name: str, options: Mapping[str, Any]) -> TimmNetwork:
    """As `create_timm`, without memory, for being asked; the same one each time, so not to be
    changed. Building one takes a tenth of a second and more, and a training asks nine times.

    Raises:
        ModelError: as `create_timm`.
    """
    asked = json.dumps([name, options], sort_keys=True, default=repr)
    if asked not in _SKETCHES:
        while len(_SKETCHES) >= MOST_SKETCHES:
            del _SKETCHES[next(iter(_SKETCHES))]
        with torch.device("meta"):
            _SKETCHES[asked] = create_timm(name, **options)
    return _SKETCHES[asked]


def fit_timm_tensors(
    network: TimmNetwork, tensors: Mapping[str, Tensor], failures: list[Exception] | None = None
) -> dict[str, Tensor]:
    """Published weights under today's names, and for this network's input size.

    timm's own filter of its family does it: it renames what older files call otherwise, and
    resizes embeddings of positions for another `img_size`. What does not look like weights of the
    family comes back as it is, for a strict check to say what is wrong.

    Args:
        tensors: as published, for 3 channels and the publisher's classes; not changed.
        failures: is given what the filter failed with, for those who are to find out why.
    """
    net = network.net
    bare = split_name(network.name)[0]
    family = sys.modules[type(net).__module__]
    fit = next((getattr(family, name) for name in FILTERS if hasattr(family, name)), None)
    fitted = dict(tensors)
    if fit is not None:
        try:
            fitted = _call_filter(fit, fitted, net, _filter_words(family.__name__, bare))
        except Exception as error:  # each of them fails in its own way
            if failures is not None:
                failures.append(error)
            return dict(tensors)
    if family.__name__.endswith(".crossvit"):  # its filter is hidden in a function of timm's
        fitted = {re.sub(r"^(pos_embed|cls_token)\.", r"\1_", k): v for k, v in fitted.items()}
    if getattr(net, "attn_pool", True) is None:  # SigLIP's files have one, its `gap` networks none
        fitted = {key: v for key, v in fitted.items() if not key.startswith("attn_pool.")}
    return fitted


def _call_filter(
    fit: Callable[..., Any], tensors: dict[str, Tensor], net: nn.Module, words: dict[str, Any]
) -> dict[str, Tensor]:
    parameters = inspect.signature(fit).parameters
    arguments: Sequence[object] = (tensors, net) if len(parameters) > 1 else (tensors,)
    given = {word: value for word, value in words.items() if word in parameters}
    with torch.no_grad():
        return dict(fit(*arguments, **given))


def _filter_words(family: str, bare: str) -> dict[str, Any]:
    """What timm gives its filters for some of the networks (`_create_vision_transformer`, deit)."""
    if family.endswith(".deit"):
        return {"adapt_layer_scale": True}
    if "flexi" in bare or "radio" in bare:
        return {"interpolation": "bilinear", "antialias": False}
    return {}


def patch_sizes(net: nn.Module) -> set[int]:
    """The sides, in px, of the patches that a transformer cuts a picture into; else empty."""
    size: Any = getattr(getattr(net, "patch_embed", None), "patch_size", ())
    return {int(px) for px in ((size,) if isinstance(size, int) else size)}


def _square(given: object, usual: Sequence[int]) -> int:
    """The side of the pictures a network is built for; they are squares here."""
    size: Any = given or usual
    return int(size if isinstance(size, int) else max(size))


def _words(names: object) -> tuple[str, ...]:
    if isinstance(names, str):
        return (names,)
    return tuple(map(str, names)) if isinstance(names, tuple | list) else ()
