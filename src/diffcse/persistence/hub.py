"""Is the Hub there at all? The clients try for minutes before they say so."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from diffcse.errors import UserError

ADVICE = "check the name; offline, download it elsewhere (hf download {name}) and give the folder"
_WAIT_SECONDS = 10


def check_reachable(name: str) -> None:
    """Refuse a Hub name at once where neither the cache has it nor the Hub can be reached.

    Says nothing about folders, about names that the Hub's client will refuse, or behind a proxy.

    Raises:
        UserError: naming the Hub's address and what the network said.
    """
    scheme, address = urlsplit(constants.ENDPOINT)[:2]
    if Path(name).expanduser().exists() or constants.HF_HUB_OFFLINE or scheme in getproxies():
        return
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
    except HFValidationError:
        return
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port or (443 if scheme == "https" else 80))), _WAIT_SECONDS).close()
    except OSError as error:
        got = f"no connection to {constants.ENDPOINT} ({error.strerror or error})"
        raise UserError(
            f"model {name}", "a folder, or a model that can be fetched", got, ADVICE.format(name=name)
        ) from error
