"""Names of files on the hub: `hf:ORG/NAME[/FILE][@REVISION]`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from fieldmark.errors import DownloadError

PREFIX: Final = "hf:"
WEIGHTS_FILE: Final = "model.safetensors"
_VALID = "hf:ORG/NAME or hf:ORG/NAME/FILE.safetensors; behind it @BRANCH, @TAG or @COMMIT"
_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_FILE_PART = r"[A-Za-z0-9_+=,()~-][A-Za-z0-9_ .+=,()~-]{0,149}"
_REVISION_PART = r"[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,99}"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Reference:
    """A reference, taken apart."""

    repo: str
    file: str
    revision: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}/{self.file}@{self.revision}"

    @property
    def address(self) -> str:
        """Where a browser finds the file; on the mirror, if one is set."""
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        revision = quote(self.revision, safe="")
        return f"{endpoint}/{self.repo}/resolve/{revision}/{quote(self.file)}"

    @property
    def is_exact(self) -> bool:
        return _COMMIT.fullmatch(self.revision) is not None


def parse_reference(reference: str) -> Reference:
    """Raises DownloadError: not a reference, or not one to a .safetensors file."""
    name, at, revision = reference.strip().removeprefix(PREFIX).partition("@")
    org, _, rest = name.partition("/")
    model, slash, file = rest.partition("/")
    problem = None
    if not org or not model:
        problem = "a name on the hub has two halves, with a / between them"
    elif not (_can_be_repo(org) and _can_be_repo(model) and len(f"{org}/{model}") <= 96):
        problem = "no repository on the hub can have this name"
    elif slash and not _can_be_path(file, _FILE_PART):
        problem = "this names no file in a repository of the hub"
    elif at and not _can_be_path(revision, _REVISION_PART):
        problem = "what stands behind the @ can be no branch, tag or commit"
    if problem:
        raise DownloadError(
            problem,
            given=repr(reference),
            valid=_VALID,
            fix="copy the name from the head of the model's page on huggingface.co, "
            "as in hf:timm/resnet18.a1_in1k",
        )
    wanted = Reference(f"{org}/{model}", file or WEIGHTS_FILE, revision or "main")
    if not wanted.file.endswith(".safetensors"):
        raise DownloadError(
            "only .safetensors files are fetched from the hub; most others, such as .bin, are "
            "pickles, which can run code when they are opened",
            given=repr(reference),
            valid=_VALID,
            fix=f"leave the file out to get {WEIGHTS_FILE}; or download {wanted.address} "
            "in a browser, and give the path of the file to --weights",
        )
    return wanted


def _can_be_repo(part: str) -> bool:
    # `--` is what the library writes for the slash when it names folders.
    odd = "--" in part or ".." in part or part.endswith(".git")
    return re.fullmatch(_REPO_PART, part) is not None and not odd


def _can_be_path(text: str, pattern: str) -> bool:
    return all(re.fullmatch(pattern, part) and ".." not in part for part in text.split("/"))
