"""What timm's networks cost and admit, from a table that comes with the package.

Building all of them takes minutes, so it was done once, by benchmarks/timm_table.py. What the table
lacks, because another timm is installed, is built on the meta device when somebody asks for it.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import torch
from torch import nn

TABLE: Final = "timm_parameters.csv"
NORMS: Final = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
TRIED_SIZES_PX: Final = (8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 384, 512)


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a network once it was built.

    Attributes:
        parameters: with 1000 classes and 3 channels.
        min_size_px: the smallest of `TRIED_SIZES_PX` that it admits (not every larger one may
            fit); the only size where there is only one.
        has_norm: it has normalisation layers.
    """

    parameters: int
    min_size_px: int
    has_norm: bool


def config_of(bare: str, tag: str = "") -> dict[str, Any]:
    """timm's pretrained cfg of a network: input, classifier, first convolution, source."""
    from timm.models import PretrainedCfg, get_pretrained_cfg

    cfg = get_pretrained_cfg(f"{bare}.{tag}" if tag else bare) or PretrainedCfg()
    return asdict(cfg)


def measure(bare: str) -> Measured:
    """From the table that comes with the package; else the network is built and tried."""
    return _table().get(bare) or build_and_measure(bare)


@cache
def _table() -> dict[str, Measured]:
    """What benchmarks/timm_table.py measured; its first line says with which timm."""
    text = files("fieldmark.models").joinpath(TABLE).read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["name"]: Measured(
            int(row["parameters"]), int(row["min_size_px"]), row["has_norm"] == "yes"
        )
        for row in rows
    }


@cache
def build_and_measure(bare: str) -> Measured:
    """Build a network on the meta device, and send smaller and larger pictures through it."""
    import timm

    with torch.device("meta"):
        net: Any = timm.create_model(bare, num_classes=1000).eval()
    cfg = config_of(bare)
    sizes = [px for px in TRIED_SIZES_PX if px <= max(cfg["input_size"][1:])]
    stated = cfg["min_input_size"]
    if stated is not None:
        sizes = [max(stated[1:])]
    usual_px = max(cfg["input_size"][1:])
    fixed = cfg["fixed_input_size"]
    return Measured(
        parameters=sum(p.numel() for p in net.parameters()),
        min_size_px=usual_px if fixed else next((px for px in sizes if _runs(net, px)), usual_px),
        has_norm=any(is_norm(module) for module in net.modules()),
    )


def _runs(net: Any, size_px: int) -> bool:
    try:
        with torch.no_grad():
            net(torch.empty(2, 3, size_px, size_px, device="meta"))
    except Exception:  # each network fails in its own way on a picture that is too small
        return False
    return True


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises what goes through it; timm has some of its own beside torch's."""
    if isinstance(module, NORMS):
        return True
    return next(module.children(), None) is None and "Norm" in type(module).__name__
