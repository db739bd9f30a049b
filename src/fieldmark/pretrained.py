"""From the words after --weights to weights in memory, and everything that came with them.

A run, a file, a URL, a repository of the Hugging Face hub, or the name of published weights: after
this room nobody asks which it was. What is not found is an error, never a random start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from fieldmark.checkpoint import PICKLED_SUFFIXES, find_info, load_tensors
from fieldmark.download import download, find_downloaded, public_url, sha256_of, split_url
from fieldmark.errors import CheckpointError, ModelError, closest
from fieldmark.hub import are_cached, fetch_from_hub
from fieldmark.hub.reference import PREFIX as HUB
from fieldmark.hub.reference import parse_reference
from fieldmark.models.fit import Classes
from fieldmark.models.keras_weights import read_keras_weights
from fieldmark.models.layouts import timm_name, to_timm
from fieldmark.models.official import (
    IMAGENET,
    NUM_IMAGENET_CLASSES,
    OfficialWeights,
    choose_weights,
    imagenet_class_names,
    official_weights,
)
from fieldmark.models.own import is_own
from fieldmark.models.timm_zoo import PREFIX, preprocess_of, timm_weights
from fieldmark.progress import Progress
from fieldmark.rundir import find_model

WEB: Final = ("http://", "https://")
KINDS: Final = ("a run", "a file", "hf:org/name", "https://...#sha256=HEX")
KERAS_SUFFIXES: Final = (".h5", ".hdf5", ".keras")
MODEL, CONFIG, MAX_CONFIG_BYTES = "model.safetensors", "config.json", 10_000_000
COUNTS: Final = ("num_classes", "in_chans")  # in timm's words; the weights' shapes say them
ONLY_IN_TRAINING: Final = frozenset(("drop_rate", "drop_path_rate"))  # timm's; no other function


@dataclass(frozen=True)
class Pretrained:
    """Trained weights and what came with them.

    Attributes:
        source: where they are from, for people.
        tensors: under the names of the network they were made for.
        network: its name, where the file says it.
        options: its options, where the file says them.
        preprocess: the words of `types.Preprocess` that are known, in the network's channels.
        class_names: what the outputs mean, where that is known.
        num_leading: outputs before the first class.
    """

    source: str
    tensors: Mapping[str, Tensor]
    network: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    num_leading: int = 0

    def classes(self, wanted: tuple[str, ...] | None) -> Classes:
        return Classes(self.class_names, wanted, self.num_leading)


def published_weights(name: str) -> tuple[OfficialWeights, ...]:
    """The weights that are published for a network, the usual ones first."""
    return official_weights(name) if is_own(name) else timm_weights(name)


def are_on_this_machine(published: Sequence[OfficialWeights]) -> list[bool]:
    """Which of these can be had without a network."""
    on_hub = [one.source for one in published if one.source.startswith(HUB)]
    cached = dict(zip(on_hub, are_cached(on_hub), strict=True))
    return [
        cached[one.source] if one.source in cached else _is_downloaded(one.source)
        for one in published
    ]


def _is_downloaded(source: str) -> bool:
    url, sha256 = split_url(source)
    return sha256 is not None and find_downloaded(url, sha256=sha256) is not None


def find_pretrained(weights: str, name: str | None, progress: Progress) -> Pretrained:
    """The weights that a word means for the network `name` (None: any), fetched if need be.

    Args:
        weights: published weights by their name (`imagenet`, `imagenet1k_v2`, or a tag of timm's);
            `hf:org/name[/file][@revision]`; a URL with `#sha256=HEX`; a run, or a file:
            model.safetensors, others' .safetensors, .pth, or Keras' .h5.

    Raises:
        CheckpointError: there is no such file or run, or it is damaged, or says itself that it was
            made for another network.
        DownloadError: it cannot be fetched, or is not what its hash says.
        ModelError: no such network, or no such published weights.
    """
    if weights.startswith(HUB):
        return _from_hub(weights, name, progress)
    if is_address(weights):
        return _from_web(weights, name, progress)
    if name is None:
        return _from_file(_find_any_file(weights), name)
    published = _choose_published(weights, name)
    if published is not None:
        return _from_publisher(published, name, progress)
    return _from_file(_find_file(weights, name), name)


def check_named(weights: str, name: str) -> None:
    """Raise at once what `find_pretrained` would raise without a look at the web or into a file."""
    if weights.startswith(HUB):
        parse_reference(weights)
    elif is_address(weights):
        _split_hashed(weights)
    elif _choose_published(weights, name) is None:
        _find_file(weights, name)


def is_address(weights: str) -> bool:
    """Whether these words are an address, of whatever kind."""
    return re.match(r"\s*[a-z][a-z0-9+.-]+://", weights, re.IGNORECASE) is not None


def public_word(weights: str) -> str:
    """The words after --weights as strangers may read them: an address keeps its hash, and loses
    user, password and query, of which any may be a token."""
    if not is_address(weights):
        return weights
    hashed = re.search(r"#sha256=[0-9a-f]*$", weights.strip(), re.IGNORECASE)
    return public_url(weights) + (hashed[0] if hashed else "")


def _choose_published(weights: str, name: str) -> OfficialWeights | None:
    published = published_weights(name)
    tags = {IMAGENET, *(one.tag for one in published)}
    if weights not in tags and Path(weights).exists():  # a file may be called imagenet_mine.pth
        return None
    return choose_weights(name, weights, published)


def _find_file(weights: str, name: str) -> Path:
    try:
        return find_model(weights)
    except CheckpointError as error:
        tags = [published.tag for published in published_weights(name)]
        if Path(weights).name != weights or Path(weights).suffix or not tags:
            raise
        near = closest(weights, [IMAGENET, *tags])
        raise CheckpointError(  # a bare word: it may have been meant as the name of weights
            f"there are no weights of that name for {name}, and no such run or file",
            given=f"--weights {weights}",
            valid=[IMAGENET, *tags, *KINDS],
            fix=f"did you mean {near!r}?"
            if near
            else "check the name; `ls runs` shows the runs made here",
        ) from error


def _find_any_file(weights: str) -> Path:
    try:
        return find_model(weights)
    except CheckpointError as error:
        if Path(weights).name != weights or Path(weights).suffix or Path(weights).exists():
            raise
        raise ModelError(  # a bare word: it may have been meant as the name of weights
            "weights that are called by their name are those of a network, and none is named",
            given=weights,
            valid="a network's name beside it; or a run, a file, hf:org/name, "
            "https://...#sha256=HEX",
            fix="add --model; `fieldmark models` lists the networks and their weights",
        ) from error


def _from_publisher(published: OfficialWeights, name: str, progress: Progress) -> Pretrained:
    said = f"{published.tag or 'weights'} of {name}"
    if not published.num_classes:
        said += ", without a classifier"
    elif published.num_classes != NUM_IMAGENET_CLASSES:
        said += f", with {published.num_classes} outputs"
    if published.source.startswith(HUB):
        path = fetch_from_hub(published.source, progress).path
    else:
        url, sha256 = split_url(published.source)
        assert sha256 is not None, "the tables of published weights have hashes"
        path = download(url, sha256=sha256, progress=progress)
    return _published_file(path, published, name, f"{said} ({published.source.partition('#')[0]})")


def _published_file(path: Path, published: OfficialWeights, name: str, source: str) -> Pretrained:
    return Pretrained(
        source=source,
        tensors=load_tensors(path),
        network=name if is_own(name) else None,  # torchvision's are those of our defaults
        preprocess=published.preprocess,
        class_names=_names_of(published.num_classes),
        num_leading=published.num_leading_classes,
    )


def _names_of(num_classes: int) -> tuple[str, ...] | None:
    """What as many outputs of published weights mean, where that is known."""
    return imagenet_class_names() if num_classes == NUM_IMAGENET_CLASSES else None


def _from_web(url_and_hash: str, name: str | None, progress: Progress) -> Pretrained:
    url, sha256 = _split_hashed(url_and_hash)
    found = _read_file(download(url, sha256=sha256, progress=progress), name)
    return replace(found, source=public_url(url))


def _split_hashed(url_and_hash: str) -> tuple[str, str]:
    """The address and the hash that a user named. Half a hash is as good as none where whoever
    chose the address may have chosen the file as well; only our own tables may have such."""
    given = url_and_hash.strip()
    if not given.lower().startswith(WEB):
        raise ModelError(
            f"weights cannot be had from {given.partition('://')[0]}://",
            given=public_url(given),
            valid=KINDS,
            fix="get the file, and name its path",
        )
    url, sha256 = split_url(given)
    if "#" not in given or sha256 is None or len(sha256) != 64:
        raise ModelError(
            "weights from the web need their sha256, so that nobody can put others in their place",
            given=public_word(given),
            valid="https://HOST/FILE#sha256=HEX, with all 64 digits",
            fix="add #sha256= and the hash that the publisher names (or of a copy you trust: "
            "`sha256sum FILE`)",
        )
    return url, sha256


def _from_hub(reference: str, name: str | None, progress: Progress) -> Pretrained:
    file = fetch_from_hub(reference, progress)
    found = replace(_read_file(file.path, name), source=reference)
    if found.network is not None or file.config is None:  # a Fieldmark model says it all by itself
        return found
    return _with_config(found, file.config, name)


def _with_config(found: Pretrained, document: Mapping[str, Any], name: str | None) -> Pretrained:
    """Bare weights with what timm's config.json beside them says: `export --to timm` writes one."""
    config = document.get("pretrained_cfg", document)
    labels = document.get("label_names")
    config = config if isinstance(config, Mapping) else {}
    found = replace(
        found,
        preprocess=preprocess_of(config),
        class_names=tuple(map(str, labels)) if isinstance(labels, list) else None,
        num_leading=_count(config.get("label_offset")),
    )
    architecture = document.get("architecture")
    if not isinstance(architecture, str):
        return found
    _check_made_for(architecture, name, found.source)
    words = document.get("model_args")
    words = words if isinstance(words, Mapping) else {}
    options = {str(word): value for word, value in words.items() if word not in COUNTS}
    # timm wrote it: where ours of this name is built in one way only, it is timm's that is meant.
    network = f"{PREFIX}{architecture}" if options and is_own(architecture) else architecture
    tensors, options = _as_built_here(network, options, found.tensors, name, found.source)
    return replace(found, network=network, options=options, tensors=tensors)


def _count(given: object) -> int:
    return given if isinstance(given, int) and given > 0 else 0


def _from_file(path: Path, name: str | None) -> Pretrained:
    """A file on this machine, with what the config.json beside it says."""
    found = _read_file(path, name)
    config = _config_beside(path) if found.network is None else None
    return found if config is None else _with_config(found, config, name)


def _read_file(path: Path, name: str | None) -> Pretrained:
    """The file by itself."""
    suffix = path.suffix.lower()
    if suffix in KERAS_SUFFIXES:
        keras = read_keras_weights(path)
        _check_made_for(keras.network, name, str(path))
        return Pretrained(
            source=str(path),
            tensors=keras.tensors,
            network=keras.network,
            preprocess=keras.preprocess,
            class_names=_names_of(keras.num_classes),
        )
    if suffix in PICKLED_SUFFIXES:
        published = None if name is None else _recognise(path, name)
        if name is not None and published is not None:
            return _published_file(path, published, name, f"{path} ({published.tag} of {name})")
        return Pretrained(str(path), load_tensors(path))
    info = find_info(path)
    if info is None:
        return Pretrained(str(path), load_tensors(path))
    made_for, options = str(info.architecture["name"]), dict(info.architecture["options"])
    _check_made_for(made_for, name, str(path))
    tensors, options = _as_built_here(made_for, options, load_tensors(path), name, str(path))
    return Pretrained(
        source=str(path),
        tensors=tensors,
        network=made_for,
        options=options,
        preprocess=info.preprocess.to_dict(),
        class_names=info.class_names,
    )


def _config_beside(path: Path) -> Mapping[str, Any] | None:
    """timm's config.json in the folder of a model.safetensors, as `weights export` leaves it.

    Raises:
        CheckpointError: it is there and cannot be read.
    """
    config = path.with_name(CONFIG)
    if path.name != MODEL or not config.is_file():
        return None
    try:
        if config.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("it is far too large")
        document = json.loads(config.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the config.json beside these weights cannot be read: {error}",
            given=config,
            fix="get the folder again, or move the weights out of it to use them bare",
        ) from error
    return document


def _recognise(path: Path, name: str) -> OfficialWeights | None:
    """A published file that somebody fetched by hand; the hash tells, and so its preprocess."""
    known = official_weights(name)
    digest = sha256_of(path) if known else ""
    for published in known:
        digits = split_url(published.source)[1]
        if digits and digest.startswith(digits):
            return published
    return None


def _check_made_for(network: str, name: str | None, source: str) -> None:
    """timm's `resnet18` has the same weights as ours, so only the names themselves are compared."""
    if name is None:
        return
    if timm_name(network) != timm_name(name):
        raise CheckpointError(
            "these weights were made for another network",
            given=f"{source}, made for {network}; --model {name}",
            valid=f"weights of {name}",
            fix=f"train with --model {network}, or name other weights",
        )


def _as_built_here(
    network: str,
    options: dict[str, Any],
    tensors: Mapping[str, Tensor],
    name: str | None,
    source: str,
) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Between ours and timm's network of one name: they have other options, and compute the same
    function where neither has any that changes it.

    Raises:
        CheckpointError: the network of the weights has such options.
    """
    if name is None or is_own(network) == is_own(name):
        return tensors, options
    try:
        if is_own(network):
            foreign = to_timm({"name": network, "options": options}, tensors)
            return foreign.tensors, foreign.arguments
        if options.keys() <= ONLY_IN_TRAINING:
            return tensors, {}
    except ModelError:
        pass
    built = ", ".join(f"{word}={value}" for word, value in options.items())
    raise CheckpointError(
        f"these weights were trained in a network that {name} cannot be built like",
        given=f"{source}, made for {network} with {built}",
        valid=f"--model {network}",
        fix=f"train with --model {network}",
    )
