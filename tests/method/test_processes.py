"""The gradients of 2 and 4 processes are those of one, with dropout on.

DDP's processes draw dropout masks of their own, so here each sentence has its masks: a function of its tokens, its view
and the layer, whoever computes it. The dropout of attention weights is off, since it is drawn inside the kernel.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffcse.method.model import DiffCSEModel
from diffcse.presets import build
from tests.method.test_frame import collated, network

SHARE, LONGEST, INSTANCES = 0.2, 64, 8
SETTINGS: dict[str, dict[str, Any]] = {
    "reference": {},
    "paper": {"fidelity": "paper", "fill": "argmax"},
    "parts": {"rows_at_once": 4},
    "simcse": {"objective": "simcse", "edits_as": "negatives"},
}


class OwnMasks(nn.Dropout):
    """Dropout (N, L, H) whose masks belong to the sentences that the backbone reads."""

    def __init__(self, name: str, rows: list[Tensor]) -> None:
        super().__init__(SHARE)
        self.name, self.rows = name, rows

    def forward(self, input: Tensor) -> Tensor:
        """Every row by its own mask."""
        masks = []
        for place, ids in enumerate(self.rows[0]):
            key = f"{self.name} {place % 2} {ids[ids > 0].tolist()}"  # instances have two views: the place says which
            draw = torch.Generator().manual_seed(int(hashlib.sha256(key.encode()).hexdigest()[:12], 16))
            masks.append((torch.rand(LONGEST, input.shape[-1], generator=draw) >= SHARE)[: input.shape[1]])
        return input * torch.stack(masks) / (1 - SHARE)


def with_own_masks(net: DiffCSEModel) -> DiffCSEModel:
    """Put `OwnMasks` in the place of every dropout of encoder and discriminator."""
    for backbone in (net.encoder, net.discriminator and net.discriminator.backbone):
        if backbone is None:
            continue
        rows: list[Tensor] = [torch.empty(0)]

        def look(_: nn.Module, __: Any, named: dict[str, Tensor], rows: list[Tensor] = rows) -> None:
            rows[0] = named["input_ids"]

        backbone.register_forward_pre_hook(look, with_kwargs=True)
        for name, module in list(backbone.named_modules()):
            if isinstance(module, nn.Dropout) and "attention.self" not in name:
                backbone.set_submodule(name, OwnMasks(name, rows))
    return net


def gradients(settings: dict[str, Any], rank: int = 0, processes: int = 1) -> dict[str, Tensor]:
    """Of the whole batch, from this process's part of it."""
    config = build(padding_free=False, temperature=0.3, **settings)
    net = with_own_masks(network(config))
    size = INSTANCES // processes
    inputs = {name: rows[rank * size : (rank + 1) * size] for name, rows in collated(config, INSTANCES).items()}
    longest = int(inputs["attention_mask"].sum(-1).max())
    inputs = {name: rows[..., :longest] for name, rows in inputs.items()}
    module = net if processes == 1 else DistributedDataParallel(net)
    module(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def work(rank: int, folder: str) -> None:
    """One of four processes; two of them make the group of two afterwards."""
    torch.set_num_threads(1)
    for processes in (4, 2):
        if rank >= processes:
            return
        store = f"file://{folder}/store{processes}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
        results = {name: gradients(settings, rank, processes) for name, settings in SETTINGS.items()}
        dist.destroy_process_group()
        if rank == 0:
            torch.save(results, f"{folder}/{processes}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of two and of four processes."""
    path = tmp_path_factory.mktemp("processes")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        mp.spawn(work, (str(path),), nprocs=4)
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    return path


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_of_several_processes_with_dropout_are_those_of_one(name: str, processes: int, folder: Path) -> None:
    whole, parts = gradients(SETTINGS[name]), torch.load(folder / f"{processes}.pt")[name]
    assert whole.keys() == parts.keys()
    for parameter, gradient in whole.items():
        scale = gradient.abs().max().clamp(min=1)
        torch.testing.assert_close(parts[parameter] / scale, gradient / scale, atol=2e-5, rtol=1e-4, msg=parameter)


def test_dropout_is_on() -> None:
    config = build(padding_free=False)
    views = network(config)(**collated(config, INSTANCES)).positive_cosine
    dropped = with_own_masks(network(config))(**collated(config, INSTANCES)).positive_cosine
    assert float(views) == pytest.approx(1, abs=1e-5) and float(dropped) < 0.9
