"""Which form of a frozen network makes features fastest, and how far they are from the plain ones.

    python benchmarks/frozen_forms.py [--threads 2] [--batch 32] [--size 224] [--rounds 5] [--cpu]
        [NAME...]

Forms of everything below the head, in one process and alternately: as it is; with channels last;
with batch norms folded as well (`models.fold`); that, traced, frozen and optimized by TorchScript;
that under autocast to bfloat16. Best of the rounds, and its ratio to the first; --cpu counts the
process's own seconds, for machines that others use too (with one thread). Weights are random
but for timm's mobilenetv2_100, whose file lies in ../shared/data/weights; batch norms of the others
get their statistics from random pictures, so that features are of a usual size.
"""

from __future__ import annotations

import argparse
import copy
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["resnet18", "resnet50", "mobilenetv2_100"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", action="store_true")
    words = parser.parse_args()
    clock = time.process_time if words.cpu else time.perf_counter
    torch.set_num_threads(words.threads)
    level = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {words.threads} threads, {level}")
    images = torch.randn(
        words.batch, 3, words.size, words.size, generator=torch.Generator().manual_seed(1)
    )
    for name in words.names:
        print(name, flush=True)
        tried = forms(build(name, words.size), images)
        with torch.no_grad():
            expected = tried["plain"](images)
        seconds: dict[str, list[float]] = {form: [] for form in tried}
        differences: dict[str, float] = {}
        for _ in range(words.rounds):
            for form, run in tried.items():
                with torch.no_grad():
                    started = clock()
                    features = run(images)
                    seconds[form].append(clock() - started)
                differences[form] = difference_of(features.float(), expected)
        plain = min(seconds["plain"])
        for form, times in seconds.items():
            print(
                f"  {form:14} {1000 * min(times) / words.batch:7.2f} ms/picture"
                f"  {plain / min(times):5.2f} x  apart {differences[form]:.1e}"
                f"  (rounds {', '.join(f'{t:.2f}' for t in times)})",
                flush=True,
            )


if __name__ == "__main__":
    main()
