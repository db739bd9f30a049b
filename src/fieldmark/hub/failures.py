"""What can go wrong with the hub, in words; and what `huggingface_hub` raised, put into them."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final
from urllib.parse import urlsplit

ROOM: Final = "make room, or name another directory for the hub's cache in HF_HUB_CACHE"
LOG_IN: Final = "run `hf auth login`, or put a token into HF_TOKEN"
_OF_THE_DISK: Final = (
    "ENOSPC EDQUOT EROFS EACCES EPERM EEXIST ENOENT ENOTDIR EISDIR ENAMETOOLONG EIO EFBIG"
)
DISK_ERRORS: Final = frozenset(getattr(errno, name, None) for name in _OF_THE_DISK.split())


class Kind(Enum):
    """What follows from a failure."""

    AWAY = auto()  # the hub does not answer, or not as it should: worth another try
    REFUSED = auto()  # it answers, but not to this user; or nobody is to be asked
    NO_FILE = auto()
    NO_REVISION = auto()
    HERE = auto()  # this machine is the reason

    @property
    def allows_copy(self) -> bool:
        """A copy that is in the cache may be used instead."""
        return self in (Kind.AWAY, Kind.REFUSED)


class HubError(Exception):
    """What went wrong, one phrase for people, and `steps`: what they could do about it."""

    def __init__(self, kind: Kind, problem: str, *steps: str) -> None:
        super().__init__(problem)
        self.kind, self.steps = kind, steps


def explain(error: Exception, wait_seconds: float) -> HubError:
    """What the library raised, in words. `wait_seconds`: how long it waits for a byte."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.OfflineModeIsEnabled):
        step = "the cache has no copy: unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE)"
        return HubError(Kind.REFUSED, "HF_HUB_OFFLINE is set", step)
    if isinstance(error, errors.GatedRepoError):  # also a RepositoryNotFoundError
        problem = "its authors give it only to users who have accepted their terms"
        step = "accept them on the model's page on the hub; then " + LOG_IN
        return HubError(Kind.REFUSED, problem, step)
    if isinstance(error, errors.RevisionNotFoundError):
        problem = "the repository has no such branch, tag or commit"
        step = "check what stands behind the @; without it `main` is taken"
        return HubError(Kind.NO_REVISION, problem, step)
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_shown()
    if isinstance(error, errors.EntryNotFoundError):
        return HubError(Kind.NO_FILE, "the repository has no such file")
    if isinstance(error, errors.HfHubHTTPError):
        told = error.response.headers.get("X-Error-Message") or ""
        return _refused(error.response.status_code, told)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        place = error.filename or "the hub's cache"
        return HubError(Kind.HERE, f"cannot use {place}: {error.strerror}", ROOM)
    return _broken(error, wait_seconds)


def _not_shown() -> HubError:
    """The hub gives one answer to what is not there and to what may not be seen."""
    from huggingface_hub import get_token

    if get_token():
        problem = "there is no such repository, or it is private and your token does not open it"
        step = "check the name; if it is private, take a token of somebody who may read it: "
    else:
        problem = "there is no such repository, or it is private and you are not logged in"
        step = "check the name; if it is private, "
    return HubError(Kind.REFUSED, problem, step + LOG_IN)


def _refused(status: int, told: str) -> HubError:
    if status == 401 and "Invalid credentials" not in told:
        return _not_shown()
    if status == 401:
        return HubError(Kind.REFUSED, "the hub does not accept your token (401)", LOG_IN)
    if status == 403:
        problem = "the hub does not let you read it (403)"
        return HubError(Kind.REFUSED, problem, "take a token that has the right to: " + LOG_IN)
    if status == 404:
        return HubError(Kind.NO_FILE, f"{host()} has no such file or repository (404)")
    if status == 429:
        problem = "the hub has had too many requests from here (429)"
        step = "wait some minutes; who is logged in may ask more often"
        return HubError(Kind.REFUSED, problem, step)  # asking on would make it worse
    problem = f"{host()} answers with error {status}"
    return HubError(Kind.AWAY, problem, "try again later; https://status.huggingface.co says more")


def _broken(error: Exception, wait_seconds: float) -> HubError:
    chain = list(_causes(error))
    if is_timeout(error):
        problem = f"nothing came from {host()} for {wait_seconds:g} s"
    elif any(isinstance(one, socket.gaierror) for one in chain):
        problem = f"no way to {host()}: its name is not known (is there a network?)"
    elif any(isinstance(one, ConnectionRefusedError) for one in chain):
        problem = f"no way to {host()}: it refuses the connection"
    elif any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        step = "behind a company's proxy, SSL_CERT_FILE names the file of its certificates"
        return HubError(Kind.AWAY, f"the certificate of {host()} is not trusted", step)
    elif "Consistency check failed" in str(error):
        problem = "what came is not as long as the hub says"
    else:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = lines[0] if lines else type(error).__name__
        problem = f"the connection to {host()} broke: {told}"
    return HubError(Kind.AWAY, problem, "check the network (and HTTPS_PROXY, HF_ENDPOINT)")


def is_timeout(error: BaseException) -> bool:
    """By name: the HTTP library beneath is requests, httpx or httpx2, as the version wants it."""
    return any("Timeout" in type(one).__name__ for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def host() -> str:
    """The hub, or the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT
