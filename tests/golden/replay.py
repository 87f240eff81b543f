"""Replays golden cases: python -m tests.golden.replay CASE_DIR [CASE_DIR ...]

Prints one line a quantity (largest difference, tolerance) and exits with 0 if every one holds, else with 1. Tolerances
are those of the cases' FORMAT.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcse.method import objective
from tests.golden.case import Case, our_name, ours, read_case

LOSS, RTD, VECTOR, GRADIENT = 5e-5, 5e-6, 2e-5, 2e-5
FINAL_EMBEDDING, FINAL_WEIGHT = 1e-2, 1e-3


@dataclass(frozen=True)
class Line:
    """One compared quantity."""

    name: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; NaN never is."""
        return self.difference <= self.tolerance


def replay(folder: Path) -> Iterator[Line]:
    """Compare everything the case recorded, in the order of a run."""
    torch.set_num_threads(1)
    case = read_case(folder)
    yield from _embeddings(case, "emb_init", VECTOR)
    yield from _first_step(case)
    yield from _trajectory(case)
    yield from _embeddings(case, "emb_final", FINAL_EMBEDDING)
    yield from _final_weights(case)


def _embeddings(case: Case, key: str, tolerance: float) -> Iterator[Line]:
    case.model.eval()
    with torch.no_grad():
        pooled = case.model.pool(case.first["input_ids"], case.first["attention_mask"])
        vectors = {"True": pooled, "False": case.model.project(pooled)}
    for only_train, value in vectors.items():
        name = f"{key}.mlp_only_train_{only_train}"
        yield _tensor(name, value.flatten(0, 1), case.step0[name], tolerance)


def _first_step(case: Case) -> Iterator[Line]:
    model, batch, recorded = case.model.train(), case.first, case.step0
    ids, mask = batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    pooled = model.pool(batch["input_ids"], batch["attention_mask"])
    yield _tensor(
        "encoder_last_hidden",
        model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state,
        recorded["encoder_last_hidden"],
        VECTOR,
    )
    projected = model.project(pooled)
    yield from _batchnorm(case)
    yield from _contrast(case, projected)
    if case.about["rtd"]:
        yield from _difference(case, pooled, projected)
    model.load_state_dict(start)  # the forward pass below moves BatchNorm's statistics once, as the recorded one did
    output = model(**batch)
    output.loss.backward()
    yield _number("total_loss", output.loss, case.scalars["total_loss"], LOSS)
    yield _number("contrastive_loss", output.contrastive, case.scalars["contrastive_loss"], LOSS)
    if case.about["rtd"]:
        yield _number("rtd_loss", output.rtd, case.scalars["rtd_loss"], RTD)
    yield from _gradients(case)
    model.zero_grad(set_to_none=True)
    model.load_state_dict(start)


def _batchnorm(case: Case) -> Iterator[Line]:
    for name, value in case.step0.items():
        if name.startswith("bn_after_first_forward."):
            renamed = our_name(name.replace("bn_after_first_forward.", "mlp."), case.about["family"])
            yield _tensor(name, case.model.state_dict()[renamed], value, VECTOR)


def _contrast(case: Case, projected: Tensor) -> Iterator[Line]:
    recorded, scalars = case.step0, case.scalars
    for i, z in enumerate(projected.unbind(1), start=1):
        yield _tensor(f"z{i}", z, recorded[f"z{i}"], VECTOR)
    contrast = case.model.contrast(projected)
    count = len(projected)
    temperature = case.about["model_args"]["temp"]
    # Cosines over temperature are up to 1/temperature times as large as the vectors' own differences.
    scaled = VECTOR / temperature
    cosines = contrast.logits[:, :count]
    yield _tensor("cos_over_temp", cosines, recorded["cos_over_temp"], scaled)
    yield _tensor("logits", contrast.logits, recorded["logits"], scaled)
    first = scalars["sim_calls"][0]
    yield _number("pos_avg", contrast.positive_cosine, first["pos_avg"], VECTOR)
    if contrast.negative_cosine is not None:
        yield _number("neg_avg", contrast.negative_cosine, first["neg_avg"], VECTOR)
    if "cos_over_temp_z3" in recorded:
        third = objective.cosine(projected[:, 0], projected[:, 2]) / temperature
        yield _tensor("cos_over_temp_z3", third, recorded["cos_over_temp_z3"], scaled)


def _difference(case: Case, pooled: Tensor, projected: Tensor) -> Iterator[Line]:
    model, recorded = case.model, case.step0
    rows = {name: value.flatten(0, 1) for name, value in case.first.items()}
    mask = rows["attention_mask"]
    everywhere = torch.ones_like(mask, dtype=torch.bool)
    logits = torch.cat(list(model.edit.generator.logits(rows["masked_ids"], mask, everywhere)))
    logits = logits.unflatten(0, mask.shape)
    real = mask.bool()
    yield _tensor("generator_logits", logits[real], recorded["generator_logits"][real], VECTOR * 10)
    yield _exact("generator_argmax", logits.argmax(-1)[real], recorded["generator_argmax"][real])
    edited = model.edit(**rows)
    yield _exact("e_inputs", edited.input_ids, recorded["e_inputs"])
    yield _exact("replaced", edited.replaced.long(), recorded["replaced"].long())
    sentence = (projected if model.settings.conditioning == "projected" else pooled).flatten(0, 1)
    yield _tensor("cls_input", sentence, recorded["cls_input"], VECTOR)
    hidden = model.discriminator.hidden(edited.input_ids, mask, sentence)
    yield _tensor("discriminator_last_hidden", hidden, recorded["discriminator_last_hidden"], VECTOR)
    rtd_logits = model.discriminator.head(hidden)
    yield _tensor("rtd_logits", rtd_logits, recorded["rtd_logits"], VECTOR)
    seen = objective.detection(rtd_logits, edited.replaced, mask)
    names = {"electra_rep_acc": seen.replaced_accuracy, "electra_fix_acc": seen.original_accuracy}
    for name, value in names.items():
        if not math.isnan(case.scalars[name]):  # 0/0 in the reference where nothing was replaced; 0 in ours
            yield _number(name, value, case.scalars[name], 1e-6)
    accuracy = (rtd_logits.argmax(-1) == edited.replaced.long())[real].float().mean()
    yield _number("electra_acc", accuracy, case.scalars["electra_acc"], 1e-6)
    yield _number("replaced_tokens", edited.replaced.sum(), case.scalars["replaced_tokens"], 0)


def _gradients(case: Case) -> Iterator[Line]:
    family, parameters = case.about["family"], dict(case.model.named_parameters())
    largest = max(float(value.abs().max()) for value in case.grads.values())
    tolerance = GRADIENT * largest
    expected = ours(case.model, case.grads, family)
    trained = {name for name, p in parameters.items() if p.grad is not None and bool(p.grad.abs().max() > 0)}
    yield Line("parameters with a gradient", len(trained - set(expected)), 0)
    for part in ("encoder.", "projector.", "discriminator."):
        names = [name for name in expected if name.startswith(part)]
        if names:
            worst = max(_difference_of(_grad(parameters[name]), expected[name]) for name in names)
            yield Line(f"gradients of {part[:-1]}", worst, tolerance)
    if "rtd_loss" in case.scalars and case.about["rtd"]:
        # The discriminator's own scale: at lambda .005 its gradients are small beside the case's largest.
        names = [name for name in expected if name.startswith("discriminator.")]
        own = max(float(expected[name].abs().max()) for name in names)
        worst = max(_difference_of(_grad(parameters[name]), expected[name]) for name in names)
        yield Line("gradients of discriminator, own scale", worst, GRADIENT * own * 10)
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters.values() if p.grad is not None))
    recorded = case.scalars["grad_norm_total_before_clip"]
    yield _number("grad_norm_total_before_clip", norm, recorded, 1e-4 * recorded)


def _grad(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _trajectory(case: Case) -> Iterator[Line]:
    model, settings = case.model.train(), case.about["optimizer"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moments: dict[int, tuple[Tensor, Tensor]] = {
        i: (torch.zeros_like(p), torch.zeros_like(p)) for i, p in enumerate(trained)
    }
    worst_loss = worst_norm = 0.0
    for step, batch in enumerate(case.batches):
        loss = model(**batch).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, settings["clip_grad_norm"])
        rate = settings["lr"] * (settings["steps"] - step) / settings["steps"]
        _adamw_of_the_reference(trained, moments, step + 1, rate, settings)
        model.zero_grad(set_to_none=True)
        recorded = case.scalars["train"][step]
        worst_loss = max(worst_loss, abs(float(loss.detach()) - recorded["loss"]))
        worst_norm = max(worst_norm, abs(float(norm) / recorded["grad_norm"] - 1))
    yield Line("loss over 20 steps", worst_loss, _trajectory_tolerance(case))
    yield Line("gradient norm over 20 steps, relative", worst_norm, 0.05)


def _trajectory_tolerance(case: Case) -> float:
    if not _has_bn(case) or case.about.get("duplicated_sentences"):
        return 1e-5
    return max(5 * case.scalars["max_abs_loss_diff_fp32_vs_fp64"], 1e-3)


def _has_bn(case: Case) -> bool:
    return any(isinstance(module, torch.nn.BatchNorm1d) for module in case.model.modules())


@torch.no_grad()
def _adamw_of_the_reference(
    trained: list[Tensor], moments: dict[int, tuple[Tensor, Tensor]], t: int, rate: float, settings: dict[str, Any]
) -> None:
    # transformers 4.2.1 adds eps before the bias correction of v; torch.optim.AdamW does so after it.
    beta1, beta2 = settings["betas"]
    size = rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    for i, parameter in enumerate(trained):
        if parameter.grad is None:
            continue
        m, v = moments[i]
        m.mul_(beta1).add_(parameter.grad, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        parameter.addcdiv_(m, v.sqrt().add_(settings["eps"]), value=-size)


def _final_weights(case: Case) -> Iterator[Line]:
    state, family = case.model.state_dict(), case.about["family"]
    total = case.scalars["grad_norm_total_before_clip"]
    still = {our_name(name, family) for name, norm in case.scalars["grad_norms"].items() if norm < 1e-5 * total}
    worst = {"weights": 0.0, "BatchNorm statistics": 0.0}
    for name, value in ours(case.model, case.final, family).items():
        # A key bias moves every logit of a row alike: its true gradient is zero and what it gets is rounding.
        if name in still or "key.bias" in name or "num_batches" in name:
            continue
        kind = "BatchNorm statistics" if "running_" in name else "weights"
        worst[kind] = max(worst[kind], _difference_of(state[name], value))
    yield Line("weights after 20 steps", worst["weights"], FINAL_WEIGHT)
    if _has_bn(case):
        yield Line("BatchNorm statistics after 20 steps", worst["BatchNorm statistics"], FINAL_EMBEDDING)


def _tensor(name: str, value: Tensor, recorded: Tensor, tolerance: float) -> Line:
    return Line(name, _difference_of(value, recorded), tolerance)


def _difference_of(value: Tensor, recorded: Tensor) -> float:
    if value.shape != recorded.shape:
        return math.inf
    return float((value.detach().double() - recorded.double()).abs().max())


def _number(name: str, value: Tensor | float, recorded: float, tolerance: float) -> Line:
    number = float(value.detach()) if isinstance(value, Tensor) else value
    return Line(name, abs(number - recorded), tolerance)


def _exact(name: str, value: Tensor, recorded: Tensor) -> Line:
    different = int((value != recorded).sum()) if value.shape == recorded.shape else math.inf
    return Line(f"{name} (count of differences)", different, 0)


def main(folders: list[str]) -> int:
    """Replay each folder; 0 if everything holds."""
    if not folders:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    failed = 0
    for folder in folders:
        for line in replay(Path(folder)):
            failed += not line.holds
            verdict = "ok  " if line.holds else "FAIL"
            compared = f"{line.name}: {line.difference:.3g} (at most {line.tolerance:.3g})"
            sys.stdout.write(f"{verdict} {Path(folder).name}  {compared}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
