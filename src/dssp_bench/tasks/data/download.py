"""Lets torchvision download a data set: quietly, and with a quick no where there is no network."""

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

PATIENCE_S = 3.0


def download(fetch: Callable[[], object], url: str) -> str | None:
    """Call torchvision's `fetch` if `url` answers; None on success, else why there was none, in a few words."""
    if not answers(url):
        return "the download server does not answer"
    try:
        with _quiet_and_impatient():
            fetch()
    except (OSError, RuntimeError, EOFError) as error:  # unreachable, broken off, or a wrong checksum
        return f"the download failed: {_first_line(error)}"
    return None


def answers(url: str) -> bool:
    """Whether a server answers at all within a few seconds, whatever it says."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=PATIENCE_S).close()
            answered.append(True)
        except HTTPError as refusal:
            refusal.close()
            answered.append(True)
        except OSError:
            answered.append(False)

    # In a thread of its own, because the time-out does not cover the look-up of the name, which can take half a minute.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return answered == [True]


@contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """torchvision opens its connections without a time-out, and prints."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10 * PATIENCE_S)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
