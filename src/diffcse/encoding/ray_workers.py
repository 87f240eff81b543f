"""Bulk encoding on a Ray cluster: actors that write numbered parts into a folder that all machines see.

The driver reads the text and hands out a few parts ahead; Ray restarts an actor that dies and repeats its part. A part
is written atomically and depends on its texts alone, so nothing is lost, doubled or different.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.encoding.parts import Counts, Job, Part, encode_part
from diffcse.errors import MissingExtra, UserError
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.settings import Checked

_AHEAD = 2
"""Parts that wait or run for each worker; memory holds no more of the text."""


@dataclass(frozen=True, kw_only=True)
class Cluster(Checked):
    """Where the work is done, and which model; an engine (`parts.Engine`)."""

    address: str | None = None
    """Address of a running cluster (`auto`, HOST:PORT or ray://HOST:PORT). None: a cluster on this machine for the
    run."""
    workers: int | None = None
    """Most processes that encode at once. None: one for each processor core, or each GPU where there are any."""
    model: str | None = None
    """Folder or Hub name of the encoder, the same on all machines. None: the one in the package."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""

    def _check(self) -> None:
        self._need("workers", self.workers is None or self.workers >= 1, "at least 1", "remove it for one per core")

    def __call__(self, encoder: Encoder, job: Job, parts: Iterator[Part]) -> Iterator[Counts]:
        """Write the parts; gives the counts of each as it is done.

        Raises:
            UserError: of a worker, or no cluster at that address.
            MissingExtra: Ray is not installed.
        """
        ray = import_ray()
        first = next(parts, None)
        if first is None:
            return
        with _connected(ray, self.address):
            yield from self._spread(ray, encoder, job, first, parts)

    def _spread(self, ray: Any, encoder: Encoder, job: Job, first: Part, parts: Iterator[Part]) -> Iterator[Counts]:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = self.workers or gpus or int(ray.cluster_resources()["CPU"])
        model = str(Path(self.model).absolute()) if self.model and Path(self.model).is_dir() else self.model
        recipe = (model, self.trust_remote_code, fingerprint(encoder.model), encoder.settings)
        actor = ray.remote(PartWorker).options(
            num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=-1
        )
        pool = ray.util.ActorPool([actor.remote(*recipe, "cuda" if gpus else "cpu") for _ in range(count)])
        send = lambda worker, part: worker.encode.remote(job, part)  # noqa: E731
        pool.submit(send, first)
        for _, part in zip(range(_AHEAD * count - 1), parts, strict=False):
            pool.submit(send, part)
        while pool.has_next():
            counts, fault = pool.get_next_unordered()
            if fault:
                raise UserError(*json.loads(fault))
            yield counts
            for part in parts:
                pool.submit(send, part)
                break


class PartWorker:
    """An actor: loads the model once, then encodes one part after the other.

    Args:
        model: folder or Hub name, None for the bundled one.
        trust_remote_code: run code that comes with the model.
        mark: fingerprint of the model that the driver loaded.
        settings: as the driver's encoder has them.
        device: where to compute.
    """

    def __init__(
        self, model: str | None, trust_remote_code: bool, mark: str, settings: EncodeSettings, device: str
    ) -> None:
        self.name, self.trust_remote_code, self.mark = model, trust_remote_code, mark
        self.settings, self.device = settings, device

    def encode(self, job: Job, part: Part) -> tuple[Counts, str]:
        """A part's counts, or its error as data, because Ray returns the text of an error and not the error."""
        try:
            return encode_part(self.encoder, job, part), ""
        except UserError as error:
            return Counts(), json.dumps([error.what, error.rule, str(error.got), error.do])

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded with the first part, so that what is wrong with it comes back as that part's error."""
        if self.device == "cpu":
            torch.set_num_threads(1)  # one worker a core
        model = load_encoder(self.name, trust_remote_code=self.trust_remote_code)
        if fingerprint(model) != self.mark:
            do = "give a name under which every machine has the same model"
            raise UserError(f"model {self.name}", "the same on all machines", "another one on a worker", do)
        return Encoder(model, settings=self.settings, device=self.device)


def import_ray() -> Any:
    """The module `ray`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import ray
        import ray.util
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "ray.util"):
            raise
        raise MissingExtra("Ray", "ray", "ray") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Use the cluster that the program is connected to already, or connect for the length of the run."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address or "local", include_dashboard=None if address else False, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        do = "start one (ray start --head), or remove --address"
        raise UserError(f"address {address}", "that of a running Ray cluster", str(error), do) from error
    try:
        yield
    finally:
        ray.shutdown()
