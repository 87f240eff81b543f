"""Writes a case without replaced token detection in the form of the golden ones, from stock modules and plain loops.

None of our own code makes its numbers. As in the reference's records, the weights hold the discriminator and the
generator, which such a run never uses.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertForMaskedLM

STEPS, RATE, TEMPERATURE, INSTANCES, HIDDEN = 20, 1e-3, 0.05, 4, 16
ENCODER: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}
GENERATOR: dict[str, Any] = {"vocab_size": 60, "dim": HIDDEN, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}


def write_case(folder: Path) -> None:
    """Record the first forward pass, its gradients and 20 steps of plain SimCSE with a BatchNorm projector."""
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(**ENCODER), add_pooling_layer=False).train()
    wide = nn.Linear(HIDDEN, 2 * HIDDEN, bias=False), nn.BatchNorm1d(2 * HIDDEN), nn.ReLU()
    projector = nn.Sequential(*wide, nn.Linear(2 * HIDDEN, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN, affine=False))
    unused = {
        "discriminator.": BertModel(BertConfig(**ENCODER), add_pooling_layer=False),
        "electra_head.": nn.Linear(HIDDEN, 2),
        "generator.": DistilBertForMaskedLM(DistilBertConfig(**GENERATOR)),
    }
    parts = {"bert.": encoder, "mlp.net.": projector, **unused}
    batches = [_batch() for _ in range(STEPS)]
    _save(folder / "weights.safetensors", _state(parts))
    flat = {f"{i:02}.{name}": value for i, batch in enumerate(batches) for name, value in batch.items()}
    _save(folder / "batches.safetensors", flat)
    step0, scalars = {f"input.{name}": value for name, value in batches[0].items()}, {}
    step0 |= _embeddings(encoder, projector, batches[0], "emb_init")
    trained = {name + k: p for name in ("bert.", "mlp.net.") for k, p in parts[name].named_parameters()}
    scalars["train"] = [_step(i, batch, encoder, projector, trained) for i, batch in enumerate(batches)]
    recorded = scalars["train"][0]
    step0 |= recorded.pop("tensors") | _embeddings(encoder, projector, batches[0], "emb_final")
    scalars |= recorded.pop("scalars") | {"max_abs_loss_diff_fp32_vs_fp64": 0.0}
    _save(folder / "grads.safetensors", recorded.pop("grads"))
    for later in scalars["train"][1:]:
        for name in ("tensors", "scalars", "grads"):
            later.pop(name)
    _save(folder / "step0.safetensors", step0)
    _save(folder / "final.safetensors", {k: v for k, v in _state(parts).items() if not k.startswith("generator.")})
    (folder / "scalars.json").write_text(json.dumps(scalars))
    (folder / "case.json").write_text(json.dumps(_about()))


def _about() -> dict[str, Any]:
    args = {"temp": TEMPERATURE, "pooler_type": "cls", "batchnorm": True, "hard_negative_weight": 0.0}
    return {
        "family": "bert",
        "rtd": False,
        "model_args": args | {"lambda_weight": 0.0, "before_mlp": False},
        "encoder_config": ENCODER,
        "optimizer": {"lr": RATE, "betas": [0.9, 0.999], "eps": 1e-8, "clip_grad_norm": 1.0, "steps": STEPS},
    }


def _batch() -> dict[str, Tensor]:
    """Two different sentences an instance, (B, 2, L)."""
    lengths = torch.randint(3, 12, (INSTANCES, 2))
    mask = (torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)).long()
    return {"input_ids": torch.randint(5, 60, mask.shape) * mask, "attention_mask": mask}


def _vectors(encoder: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Last hidden states of all sentences, (N, L, H)."""
    return encoder(batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1)).last_hidden_state


@torch.no_grad()
def _embeddings(encoder: nn.Module, projector: nn.Module, batch: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    encoder.eval(), projector.eval()
    pooled = _vectors(encoder, batch)[:, 0]
    vectors = {f"{key}.mlp_only_train_True": pooled, f"{key}.mlp_only_train_False": projector(pooled)}
    encoder.train(), projector.train()
    return vectors


def _step(
    number: int, batch: dict[str, Tensor], encoder: nn.Module, projector: nn.Module, trained: dict[str, nn.Parameter]
) -> dict[str, Any]:
    """One step and what is recorded of it."""
    hidden = _vectors(encoder, batch)
    projected = projector(hidden[:, 0])
    statistics = {f"bn_after_first_forward.net.{k}": v for k, v in projector.state_dict().items() if "running_" in k}
    tensors = {k: v.clone() for k, v in statistics.items()} | {"encoder_last_hidden": hidden}
    z1, z2 = projected[0::2], projected[1::2]
    rows = [torch.stack([nn.functional.cosine_similarity(a, b, dim=0) for b in z2]) for a in z1]
    cosines = torch.stack(rows)
    logits = cosines / TEMPERATURE
    loss = torch.stack([row.logsumexp(0) - row[i] for i, row in enumerate(logits)]).mean()
    loss.backward()
    grads = {name: p.grad.clone() for name, p in trained.items()}
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in grads.values()))
    for name, parameter in trained.items():
        _adamw(parameter, grads[name] * min(1.0, 1.0 / (norm + 1e-6)), number)
        parameter.grad = None
    diagonal, apart = cosines.diagonal(), cosines[~torch.eye(INSTANCES, dtype=torch.bool)]
    averages = {"pos_avg": float(diagonal.mean().detach()), "neg_avg": float(apart.mean().detach())}
    value = float(loss.detach())
    scalars = {"total_loss": value, "contrastive_loss": value, "sim_calls": [averages]}
    scalars |= {"grad_norm_total_before_clip": norm, "grad_norms": {k: float(g.norm()) for k, g in grads.items()}}
    tensors |= {"z1": z1, "z2": z2, "cos_over_temp": logits, "logits": logits}
    return {"loss": value, "grad_norm": norm, "tensors": tensors, "scalars": scalars, "grads": grads}


@torch.no_grad()
def _adamw(parameter: nn.Parameter, gradient: Tensor, number: int) -> None:
    """The reference's form: eps is added before the bias correction of v (see FORMAT.md of the cases)."""
    m, v = getattr(parameter, "moments", (torch.zeros_like(parameter), torch.zeros_like(parameter)))
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    rate = RATE * (STEPS - number) / STEPS
    parameter -= rate * math.sqrt(1 - 0.999 ** (number + 1)) / (1 - 0.9 ** (number + 1)) * m / (v.sqrt() + 1e-8)
    parameter.moments = m, v


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)


def _state(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {prefix + name: value.clone() for prefix, part in parts.items() for name, value in part.state_dict().items()}
