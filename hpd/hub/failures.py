"""What the hub and the way to it fail with, as errors that say what to do.

Nothing of the errors underneath is kept: requests are among them, with the token that they carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hpd.errors import HubError, cut, one_line
from hpd.hub.repository import Repository, library

T = TypeVar("T")

_LIBRARIES = {"httpx", "httpx2", "requests", "urllib3", "huggingface_hub", "hf_xet"}
_LONGEST = 160
_LOG_IN = "Log in by `hf auth login`, or set HF_TOKEN."
_AGAIN = "Give the same command again: it goes on where it was."


def asked(repository: Repository, does: str, call: Callable[[], T]) -> T:
    """Ask something of the hub.

    Args:
        repository: that is asked for.
        does: what is done with it, for the message: ``"push to"``.
        call: that asks.

    Raises:
        HubError: for whatever the hub, the network or the library fails with.
    """
    try:
        return call()
    except HubError:
        raise
    except Exception as error:
        failure = _failure(error, repository, does)
        if failure is None:
            raise
    # out of the block above, so that nothing of the other error hangs on this one
    raise failure


def _failure(error: Exception, repository: Repository, does: str) -> HubError | None:
    """Return what to say of an error; None for one that is not of the hub or the network."""
    chain = list(_chain(error))
    names = {name for one in chain for name in _names(one)}
    problem = f"cannot {does} {repository}"
    if "OfflineModeIsEnabled" in names:
        return HubError(problem, got="HF_HUB_OFFLINE is set", fix="Unset it.")
    answers = [one for one in chain if _status(one) is not None]
    if answers:
        return _refused(answers[0], names, repository, problem)
    if any(_is_of_network(one) for one in chain):
        last = chain[-1]
        got = f"no answer from {_host()} ({type(last).__name__})"
        return HubError(problem, got=got, fix=f"Look at the network. {_AGAIN}")
    own = type(error).__module__.partition(".")[0] in _LIBRARIES
    # a number tells of the system here: a full disk, a folder that may not be written to
    vague = isinstance(error, ValueError | RuntimeError | OSError)
    if own or (vague and getattr(error, "errno", None) is None):
        return HubError(problem, got=_clean(error), fix=_AGAIN)
    return None


def _refused(answer: Any, names: set[str], repository: Repository, problem: str) -> HubError:
    """Return what to say of an answer of the hub that is a refusal."""
    status = int(_status(answer) or 0)
    said = _clean(getattr(answer, "server_message", None) or "")
    got = f"status {status}" + (f", {said}" if said else "")
    known = _token() is not None
    if "EntryNotFoundError" in _names(answer):
        got = "it lacks a file that a share of hpd has"
        return HubError(problem, got=got, fix="Look whether it is the repository that you mean.")
    if "RevisionNotFoundError" in names:
        return HubError(problem, got=f"no revision {repository.revision!r}")
    # without a token, the hub says no more of what is not there than of what is private
    missing = status == 404 or "RepositoryNotFoundError" in names
    if status == 401:
        what = "the token is not known there" if known else "no token is given"
        fix = f"Look at its name; or, for a private one: {_LOG_IN}" if missing else _LOG_IN
        return HubError(problem, got=f"status 401, {what}", fix=fix, missing=missing)
    if status == 403:
        fix = "Ask its owner, or take a token that may do that." if known else _LOG_IN
        return HubError(problem, got=got, expected="the right to do that", fix=fix)
    if status == 404:
        fix = "Look at its name. A private one needs a token that may read it."
        got = f"no {repository.kind} of this name"
        return HubError(problem, got=got, fix=fix if known else f"{fix} {_LOG_IN}", missing=True)
    if status in (409, 412):
        return HubError(problem, got=f"{got}: it changed meanwhile", fix=_AGAIN)
    later = "Wait a while. " if status == 429 or status >= 500 else ""
    return HubError(problem, got=got, fix=f"{later}{_AGAIN}" if later else "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _status(error: BaseException) -> int | None:
    """Return the status of the answer that an error is about."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_of_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    found = {"TransportError", "NetworkError", "TimeoutException", "ConnectError"}
    return not found.isdisjoint(_names(error))


def _clean(text: object) -> str:
    """Return what something says in one short line, without the token."""
    line = one_line(text)
    token = _token()
    return cut(line.replace(token, "...") if token else line, _LONGEST)


def _token() -> str | None:
    """Return the token of who asks, as the library finds it."""
    try:
        token = library().get_token()
    # what keeps it cannot be read, or asks somebody else
    except Exception:
        return None
    return token if isinstance(token, str) and token else None


def _host() -> str:
    """Return which server is asked; who asks may stand in its address."""
    address = urlsplit(library().constants.ENDPOINT)
    port = f":{address.port}" if address.port else ""
    return f"{address.hostname}{port}"
