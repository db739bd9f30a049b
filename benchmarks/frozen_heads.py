"""How a frozen network's head is best trained: learning rates and views, on several draws.

    python benchmarks/frozen_heads.py --photos ../shared/data/hymenoptera --photos-seeds 10 \\
        --clothes ../shared/data/fashion-mnist --clothes-seeds 3 \\
        --weights ../shared/data/weights/mobilenetv2_100_imagenet.safetensors \\
        --out benchmarks/frozen_heads_DATE.md

Ordinary runs of `fieldmark.train`, which find their features after the first. Validation is what
the defaults in `auto/modes.py` were chosen by; test accuracy stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import fieldmark
from fieldmark.progress import Silent

VIEWS = (1, 2, 4, 8)
RATES = (0.001, 0.005, 0.01)
EPOCHS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--photos-seeds", type=int, default=10)
    parser.add_argument("--clothes", type=Path, required=True)
    parser.add_argument("--clothes-seeds", type=int, default=3)
    parser.add_argument("--weights", type=Path, required=True, help="of timm's mobilenetv2_100")
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    photos = {"source": words.photos, "channels": 3}
    clothes = {
        "source": words.clothes,
        "channels": 1,
        "settings": {"data.train_limit": 2000, "data.size": 64},
    }
    sections = [
        section("Ants and bees, 224 px", words.weights, words.photos_seeds, VIEWS, **photos),
        section(
            "Fashion-MNIST, 2,000 training pictures, 64 px",
            words.weights,
            words.clothes_seeds,
            VIEWS[:3],
            **clothes,
        ),
    ]
    text = (
        "# The head of a frozen network\n\n"
        f"timm's mobilenetv2_100 with its ImageNet weights, AdamW, one cycle of {EPOCHS} epochs in "
        "batches of 32; or logistic regression. Means over seeds (which draw validation, order, "
        "views shown and new layers), and the smallest and largest. The loss and accuracy of "
        "validation are of the kept epoch.\n\n"
        + "\n".join(sections)
        + "\nMade by `python benchmarks/frozen_heads.py` with the words in its first lines.\n"
    )
    words.out.write_text(text, encoding="utf-8")
    print(text)


def section(
    title: str,
    weights: Path,
    num_seeds: int,
    all_views: tuple[int, ...],
    *,
    source: Path,
    channels: int,
    settings: dict[str, Any] | None = None,
) -> str:
    """A table: a row for each number of views and way to the head."""
    lines = []
    sizes: set[tuple[int, int, int]] = set()
    for views in all_views:
        for rate in (*RATES, None):
            found = []
            for seed in range(num_seeds):
                with tempfile.TemporaryDirectory() as folder:
                    run = fieldmark.train(
                        source,
                        out=Path(folder) / "run",
                        progress=Silent(),
                        model="mobilenetv2_100",
                        weights=str(weights),
                        mode="frozen",
                        head="logistic" if rate is None else "own",
                        views=views,
                        lr=rate or 0.001,
                        epochs=EPOCHS,
                        seed=seed,
                        settings={
                            "model.options": {"pad_type": "same"},
                            "data.mean": [0.5] * channels,
                            "data.std": [0.5] * channels,
                            **(settings or {}),
                        },
                    )
                assert run.test is not None
                accuracies = run.val.accuracy, run.test.accuracy
                sizes.add((num_seeds, accuracies[0].n, accuracies[1].n))
                found.append((run.best.val_loss, *(each.value for each in accuracies)))
            losses, vals, tests = zip(*found, strict=True)
            way = "logistic" if rate is None else f"lr {rate:g}"
            lines.append(
                f"| {views} | {way} | {statistics.mean(losses):.3f} | {statistics.mean(vals):.4f} "
                f"| {statistics.mean(tests):.4f} ({min(tests):.3f}-{max(tests):.3f}) |"
            )
            print(title, lines[-1], flush=True)
    ((seeds, num_val, num_test),) = sizes
    return (
        f"## {title}\n\n{seeds} seeds, {num_val:,} pictures of validation, {num_test:,} of test.\n"
        "\n| views | head | validation loss | validation accuracy | test accuracy |\n"
        "|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
