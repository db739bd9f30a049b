"""Measures timm's networks for `src/fieldmark/models/timm_parameters.csv`, and writes that file.

    python benchmarks/timm_table.py

Each network is built on the meta device, without memory for its weights, and pictures of growing
size are sent through it: a quarter of an hour on two cores. To be run with each new timm in
constraints.txt. What the table lacks is measured when somebody asks for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm

from fieldmark.files import atomic_path
from fieldmark.models import timm_table, timm_zoo

FILE = Path(timm_table.__file__).with_name(timm_table.TABLE)


def main() -> None:
    names = timm_zoo.timm_names()
    lines = [
        f"# timm {timm.__version__}, by benchmarks/timm_table.py: parameters with 1000 classes, "
        "smallest picture admitted, normalisation layers",
        "name,parameters,min_size_px,has_norm",
    ]
    for number, name in enumerate(names, start=1):
        measured = timm_table.build_and_measure(name)
        has_norm = "yes" if measured.has_norm else "no"
        lines.append(f"{name},{measured.parameters},{measured.min_size_px},{has_norm}")
        if number % 50 == 0:
            print(f"{number} of {len(names)}", file=sys.stderr)
    with atomic_path(FILE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
