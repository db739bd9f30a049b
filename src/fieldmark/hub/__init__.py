"""Weights from the Hugging Face hub, by a name such as `hf:timm/resnet18.a1_in1k`.

The library `huggingface_hub` does the fetching: it knows tokens, mirrors (HF_ENDPOINT), proxies,
and the cache that other programs share. Ours is what it does not promise: a hash that is checked,
an answer in bounded time, the copy in the cache when the hub is away, no pickles, plain words.
"""

from __future__ import annotations

from fieldmark.hub.fetch import HubFile, are_cached, fetch_from_hub, is_cached

__all__ = ["HubFile", "are_cached", "fetch_from_hub", "is_cached"]
