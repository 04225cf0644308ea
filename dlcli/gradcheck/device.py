"""Compares gradients computed on a device, in the model's own dtype, with the float64 reference on the CPU."""

from dataclasses import replace

import torch
from torch import Tensor

from dlcli.compute.devices import set_precision
from dlcli.core.errors import DlcliError, ResourceError
from dlcli.core.seeds import derive
from dlcli.gradcheck.probing import unravel
from dlcli.gradcheck.report import Row, Worst
from dlcli.gradcheck.structure import map_tensors
from dlcli.gradcheck.subject import OBJECTIVES, Case, Subject, build, first_line

# Largest allowed error of an element of a gradient, relative to the largest element of the same tensor, or to 1e-3 of
# the model's largest if that is more (for a gradient that is nearly zero).
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
_OTHER_POINT = 1


def compare(case: Case, device: torch.device, *, seed: int) -> tuple[list[Row], list[str]]:
    """One row per parameter and input, over both modes; and notes. A mode in which the model is random (dropout) is
    skipped, since each device draws different numbers.

    Raises ResourceError if the device cannot run the model.
    """
    set_precision("fp32")
    rows: dict[str, Row] = {}
    notes = []
    for training in (True, False):
        reference = Subject(case, seed=seed, point=0, training=training)
        if _is_random(reference, seed):
            notes.append(f"{device} is not compared in {reference.mode} mode, where the model draws random numbers")
            continue
        found = {r.tensor: r for r in _compare(reference, device, seed=seed)}
        if any(r.verdict == "wrong" for r in found.values()):
            again = Subject(case, seed=seed, point=_OTHER_POINT, training=training)
            confirmed = {r.tensor for r in _compare(again, device, seed=seed) if r.verdict == "wrong"}
            for name, r in found.items():
                if r.verdict == "wrong" and name not in confirmed:
                    found[name] = _undecided(r)
        for name, r in found.items():
            rows[name] = rows[name].merged(r) if name in rows else r
    return list(rows.values()), notes


def _compare(reference: Subject, device: torch.device, *, seed: int) -> list[Row]:
    reference.value()  # draws the cotangents
    expected = reference.gradients(taps=False)
    try:
        dtype, gradients = _on_device(reference, device, seed=seed)
    except DlcliError:
        raise
    except Exception as error:
        raise ResourceError(f"{reference.case.name} does not run on {device}: {first_line(error)}") from error
    tolerance = TOLERANCES[dtype]
    rows = []
    for j, objective in enumerate(OBJECTIVES):
        largest = max(
            (float(g.abs().max()) for g in expected.of[j].values() if g is not None and g.numel()), default=0.0
        )
        for variable in expected.variables:
            right = expected.of[j][variable]
            other = gradients[j][variable.name]
            if right is None and other is None:
                continue
            shape = variable.shape
            right = torch.zeros(shape) if right is None else right
            other = torch.zeros(shape) if other is None else other
            gap = (right - other).abs()
            scale = max(float(right.abs().max()), 1e-3 * largest, 1e-300)
            at = int(gap.flatten().nan_to_num(float("inf")).argmax())
            relative = float(gap.flatten()[at]) / scale
            finite = bool(torch.isfinite(other).all())
            worst = Worst(
                unravel(at, shape), float(other.flatten()[at]), float(right.flatten()[at]), reference.mode, objective
            )
            row = Row(
                tensor=variable.name,
                kind="device",
                module=variable.module,
                shape=shape,
                gradient_norm=float(other.norm()),
                max_absolute=float(gap.flatten()[at]),
                max_relative=relative,
                probes=right.numel(),
                kinks=0,
                unresolved=0,
                verdict="non-finite" if not finite else "pass" if relative <= tolerance else "wrong",
                reason=f"{device} in {str(dtype).removeprefix('torch.')} against float64, tolerance {tolerance:g}",
                worst=worst,
            )
            rows.append(row)
    merged: dict[str, Row] = {}
    for row in rows:
        merged[row.tensor] = merged[row.tensor].merged(row) if row.tensor in merged else row
    return list(merged.values())


def _on_device(
    reference: Subject, device: torch.device, *, seed: int
) -> tuple[torch.dtype, list[dict[str, Tensor | None]]]:
    """The model's own dtype, and for each objective name -> gradient, computed on the device, as float64 on the CPU."""
    model = build(reference.case, seed)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    names = dict(reference.module.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(names[name])
    model = model.to(device).train(reference.training)
    leaves: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inputs = [
        x.detach().to(device, dtype).requires_grad_() if x.is_floating_point() else x.to(device) for x in reference.args
    ]
    leaves |= {name: x for x, name in zip([x for x in inputs if x.requires_grad], reference.inputs, strict=True)}
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype if dtype in (torch.float32, torch.float64) else torch.float32)
    try:
        output = reference.run(module=model, inputs=inputs)
        case = reference.case
        loss = (
            case.loss(output, _like(reference.label, device, dtype))
            if case.loss and reference.label is not None
            else None
        )
    finally:
        torch.set_default_dtype(default)
    on_cpu = map_tensors(output, lambda t: t.to("cpu").double() if t.is_floating_point() else t.to("cpu"))
    own_loss, projection = reference.objectives(on_cpu)
    found: list[dict[str, Tensor | None]] = []
    for objective in (own_loss if loss is None else loss, projection):
        used = torch.autograd.grad(objective, list(leaves.values()), retain_graph=True, allow_unused=True)
        found.append(
            {n: None if g is None else g.to_dense().to("cpu").double() for n, g in zip(leaves, used, strict=True)}
        )
    return dtype, found


def _like(label: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return label.to(device, dtype) if label.is_floating_point() else label.to(device)


def _is_random(subject: Subject, seed: int) -> bool:
    before = subject.value()
    own, subject._noise_seed = subject._noise_seed, derive(seed, "gradcheck other dropout")
    try:
        return subject.value() != before
    finally:
        subject._noise_seed = own


def _undecided(row: Row) -> Row:
    return replace(row, verdict="undecided", reason=f"{row.reason}; wrong at one random point, right at another")
