"""Whether a model hub can be asked, found out in a moment: its own clients retry for 23 seconds before they say no."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

_SECONDS = 5
"""Longest wait for an address to answer; one that is refused or unknown says so at once."""


@contextmanager
def hub_or_cache(endpoint: str | None = None) -> Iterator[str | None]:
    """Let the Hub's clients use their cache alone while the context lasts, if the Hub cannot be reached.

    Args:
        endpoint: the Hub's address; None for the usual one, or that in HF_ENDPOINT.

    Yields:
        Why the Hub cannot be asked; None where it can.
    """
    problem = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _no_connection(endpoint or constants.ENDPOINT)
    # `datasets` takes the setting over when it is imported; where it is not, it need not be told.
    places: list[Any] = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or problem is not None
        yield problem
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _no_connection(endpoint: str) -> str | None:
    """What the network said, or None where the address answers or a proxy stands before it."""
    address = urlsplit(endpoint)
    if address.scheme in getproxies() and not proxy_bypass(address.netloc):
        return None
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:  # a ValueError for an address with a port that is none
        return f"no connection to {endpoint} ({getattr(error, 'strerror', None) or error})"
    return None
