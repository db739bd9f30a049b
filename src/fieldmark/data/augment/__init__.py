"""Augmentation of training pictures: plain batched functions with an explicit generator.

Every function draws from the generator it is given, always on the CPU and for the whole batch at
once, and then computes on the device where the pictures are. So a batch depends on that generator
alone, and the draws are the same on every device; nothing touches torch's global generators.

    crop        where the input is cut out: from pictures of any size (CPU), or from one batch of
                squares (any device)
    geometry    flips and rotation
    policy      RandAugment and TrivialAugment
    colour      brightness, contrast, saturation, hue
    erase       random erasing
    mix         MixUp and CutMix: pictures and targets
    apply       all of it in its order, as a recipe says
"""

from fieldmark.data.augment.apply import crops_randomly

__all__ = ["crops_randomly"]
