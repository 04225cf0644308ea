"""The promises that were checked of a run, as far as its folder records them."""

from typing import Any

from dlcli.core.wording import byte_size
from dlcli.report.blocks import Block, Section, Table, Text
from dlcli.report.facts import Facts, numbers_in


def checks(one: Facts) -> Section:
    rows = [*_resumes(one), *(_parity(record) for record in one.exports.values())]
    blocks: list[Block] = [Text(f"Damaged, and left out of this report: {sentence}.") for sentence in one.damage]
    if not one.damage:
        blocks.append(
            Text(
                "All records of the run were read, and those that have a checksum match it; "
                f"dlcli runs verify {one.run.number} compares the weights, too."
            )
        )
    if rows:
        blocks.append(Table("checks that the run records", ["check", "result", "details"], rows, sortable=False))
    return Section("Checks", blocks)


def _resumes(one: Facts) -> list[list[Any]]:
    """Whether each resume was exact; runs resumed by dlcli 0.1.0 do not say it."""
    resumes = one.info.get("resumes") or []
    if not resumes and one.info:
        return [["resume", "never resumed", "trained in one piece"]]
    rows = []
    for resume in resumes:
        reasons = resume.get("not_exact")
        exact = "not recorded" if reasons is None else "not exact" if reasons else "exact"
        after = f"from step {resume.get('step', 0):,}, after it was {resume.get('after', 'stopped')}"
        rows.append(["resume", exact, "; ".join([after, *(reasons or [])])])
    return rows


def _parity(record: dict[str, Any]) -> list[Any]:
    """The exported file against the trained model, on the same samples."""
    parity, found = record["parity"], numbers_in(record["parity"])
    faults = [str(fault) for fault in parity.get("faults") or []] if isinstance(parity.get("faults"), list) else []
    told = [f"{record.get('format', '')}, {byte_size(record.get('size', 0))}"]
    if "samples" in found:
        told.append(f"{found['samples']:,.0f} {parity.get('split', '')} samples")
    if "max_relative_difference" in found:
        told.append(
            f"largest difference {found['max_relative_difference']:.2g} of the deviation of the answers"
            + (f", allowed {found['tolerance']:.2g}" if "tolerance" in found else "")
        )
    if "agreement" in found:
        told.append(f"{found['agreement']:.2%} of the predictions agree")
    result = "equal within the tolerance" if parity.get("holds") is True else "DIFFERENT, not kept"
    return [f"export {record.get('name', '')}", result, "; ".join([*told, *faults])]
