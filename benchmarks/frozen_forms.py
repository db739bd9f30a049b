"""Which form of a frozen network makes features fastest, and how far they are from the plain ones.

    python benchmarks/frozen_forms.py [--threads 2] [--batch 32] [--size 224] [--rounds 5]
        [--out benchmarks/frozen_forms_HARDWARE_DATE.md] [NAME...]

Forms of everything below the head, in one process and alternately: as it is; with channels last;
with batch norms folded as well (`models.fold`); that, traced, frozen and optimized by TorchScript;
that under autocast to bfloat16. Medians of the rounds, and their ratio to the first; the process
keeps freed memory, as Fieldmark's do. Weights are random but for timm's mobilenetv2_100, whose file
lies in ../shared/data/weights; batch norms of the others get their statistics from random pictures,
so that features are of a usual size.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fieldmark.models.contract import as_network
from fieldmark.models.cut import cut_network
from fieldmark.models.fold import InferenceForm, difference_of, inference_form
from fieldmark.models.registry import create_model
from fieldmark.runtime import describe_machine, open_runtime

WEIGHTS = Path(__file__).parents[2] / "shared/data/weights/mobilenetv2_100_imagenet.safetensors"


def build(name: str, size_px: int) -> nn.Module:
    torch.manual_seed(0)
    if name == "mobilenetv2_100" and WEIGHTS.exists():
        model = create_model(name, 1000, pad_type="same")
        model.load_state_dict(load_file(WEIGHTS))
        return model.eval()
    model = create_model(name, 1000).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(8, 3, size_px // 2, size_px // 2))
    return model.eval()


def forms(model: nn.Module, example_bchw: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    network = as_network(model)
    lower = cut_network(model, network.stages[:-1], example_bchw.shape[-1]).lower
    folded = inference_form(lower, example_bchw[:4])
    # In a copy, as a layout is a property of the weights.
    last = InferenceForm(
        copy.deepcopy(lower).to(memory_format=torch.channels_last),
        channels_last=True,
        difference=0,
        num_folded=0,
    )
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "plain": lower,
        "channels_last": last,
        "folded": folded,
    }
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            traced = torch.jit.trace(folded, example_bchw, check_trace=False)
            script = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
            for _ in range(3):
                script(example_bchw)
            found["torchscript"] = script
        except Exception as error:
            print(f"  torchscript: {type(error).__name__} {str(error).splitlines()[0]}")
    for text in {f"{w.category.__name__}: {str(w.message)[:100]}" for w in caught}:
        print("  torchscript warns:", text.replace("\n", " "))

    def bfloat16(images_bchw: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features: Tensor = folded(images_bchw)
            return features

    found["bfloat16"] = bfloat16
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["resnet18", "resnet50", "mobilenetv2_100"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    machine = describe_machine(open_runtime("cpu"))
    images = torch.randn(
        words.batch, 3, words.size, words.size, generator=torch.Generator().manual_seed(1)
    )
    rows = [row for name in words.names for row in compare(name, images, words.rounds)]
    text = (
        "# Forms of a frozen network\n\n"
        f"Made by `python benchmarks/frozen_forms.py --rounds {words.rounds}`: medians of "
        f"{words.rounds} rounds in which the forms take turns, batches of {words.batch} at "
        f"{words.size} px. *Apart*: the largest difference to the plain features, as a share of "
        "their largest value; a form is taken up to 1e-4.\n\n"
        f"Machine: {', '.join(f'{k} {v}' for k, v in machine.items())}, "
        f"{torch.backends.cpu.get_cpu_capability()}. Shared and noisy: read the ratio.\n\n"
        "| network | form | ms a picture | times as fast | apart |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )
    if words.out:
        words.out.write_text(text, encoding="utf-8")
    print(text)


def compare(name: str, images: Tensor, rounds: int) -> list[str]:
    """The rows of a network."""
    tried = forms(build(name, images.shape[-1]), images)
    with torch.no_grad():
        expected = tried["plain"](images)
    seconds: dict[str, list[float]] = {form: [] for form in tried}
    differences: dict[str, float] = {}
    for _ in range(rounds):
        for form, run in tried.items():
            with torch.no_grad():
                started = time.perf_counter()
                features = run(images)
                seconds[form].append(time.perf_counter() - started)
            differences[form] = difference_of(features.float(), expected)
    plain = statistics.median(seconds["plain"])
    return [
        f"| {name} | {form} | {1000 * statistics.median(times) / len(images):.2f} | "
        f"{plain / statistics.median(times):.2f} | {differences[form]:.1e} |"
        for form, times in seconds.items()
    ]


if __name__ == "__main__":
    main()
