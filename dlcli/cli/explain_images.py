"""What `dlcli explain` shows of images: a table of facts, maps in characters, files, or one JSON document."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlcli.cli.explain_files import check_output, write_explanation
from dlcli.cli.output import Column, Format, emit, say
from dlcli.core.errors import CheckError
from dlcli.core.wording import number, text

if TYPE_CHECKING:
    from dlcli.analysis.explain.images import Explained, Method
    from dlcli.analysis.explain.inputs import Sample
    from dlcli.analysis.explain.sanity import Sanity
    from dlcli.analysis.explain.subject import Subject

_NAMES = {
    "completeness_error": "completeness error", "random_deletion": "random", "random_insertion": "random ",
    "beats_random": "beats random", "attributions": "sum",
}  # fmt: skip


def show_images(
    subject: "Subject",
    samples: "Sequence[Sample]",
    *,
    method: str | None,
    layer: str | None,
    class_name: str | None,
    check: bool,
    checkpoint: str,
    output: str | None,
    force: bool,
    format: Format,
) -> None:
    """Explain, show, write. check: also make the weights random; CheckError (exit 7), after all is shown, if the maps
    do not change."""
    from dlcli.analysis.explain.images import as_dict, choose_method, explain_images
    from dlcli.analysis.explain.sanity import check_sanity
    from dlcli.plots.folder import safe_name

    chosen = choose_method(subject, samples[0], method=method, layer=layer)
    subject.number(class_name)
    files = [f"{safe_name(k, sample.name)}.png" for k, sample in enumerate(samples, 1)]
    check_output(output, files, force=force)
    found = explain_images(subject, samples, chosen, class_name=class_name)
    rows = [each.facts(subject) for each in found]
    sanity = check_sanity(subject, found, chosen) if check else None
    told_check = None if sanity is None else sanity.as_dict()
    document = as_dict(subject, found, chosen, checkpoint=checkpoint, check=told_check)
    told = f"{chosen.name}{f' at {chosen.layer}' if chosen.layer else ''}"
    say(f"{told}, of the {subject.score_name} of {subject.run}'s {checkpoint} checkpoint")
    if format is Format.table and output is None and sys.stdout.isatty():
        _draw(subject, found, chosen)
    emit(rows, _columns(rows), format=format, document=document)
    for line in _remarks(found):
        say(line)
    if output is not None:
        from dlcli.plots.attribution import overlay
        from dlcli.plots.pixels import png

        images = {
            file: png(overlay(each.sample.x, each.map.values, subject.about))
            for file, each in zip(files, found, strict=True)
        }
        write_explanation(_picture(subject, found, chosen), output, images=images, force=force)
    if check:
        _judge(sanity, chosen.name)


def _judge(sanity: "Sanity | None", method: str) -> None:
    if sanity is None:
        raise CheckError("--check has nothing to compare: the maps are flat, or the model has no weights")
    say("rank correlation with the map of the trained model, where the weights are random from this part on:")
    for stage in sanity.stages:
        flat = stage.correlation is None
        say(f"  {stage.name}: {'undefined, the maps are flat' if flat else number(stage.correlation)}")
    if not sanity.holds:
        last = number(sanity.stages[-1].correlation)
        raise CheckError(
            f"the maps of {method} do not depend on the weights: with random ones their rank correlation with the maps "
            f"of the trained model is {last}; choose another --method"
        )
    say("the check holds: the maps change with the weights")


def _columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    keys = list(
        dict.fromkeys(key for row in rows for key in row if key not in ("attributions", "difference", "emptied"))
    )
    words, spare = (
        ("input", "target", "class", "explained"),
        {"logit": 3, "explained": 2, "random_deletion": 1, "random_insertion": 1},
    )
    return [
        Column(
            key, _NAMES.get(key, key.replace("_", " ")), _told, right=key not in words, cut=24 if key == "input" else 0,
            drop=spare.get(key, 0),
        )
        for key in keys
    ]  # fmt: skip


def _told(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else text(value)


def _remarks(found: "Sequence[Explained]") -> list[str]:
    """Completeness, deletion and insertion over all images, and maps that are empty."""
    told = []
    facts = [each.map.facts for each in found if "difference" in each.map.facts]
    if facts:
        worst = max(facts, key=lambda each: each["completeness_error"] or 0.0)
        told.append(
            f"completeness: the attributions sum to {number(worst['attributions'])}, and the scores of image and black "
            f"image differ by {number(worst['difference'])}" + (", the worst of all" if len(facts) > 1 else "")
        )
    scores = [each.scores for each in found if each.scores is not None]
    if scores:
        deletion = sum(each.deletion < each.random_deletion for each in scores)
        insertion = sum(each.insertion > each.random_insertion for each in scores)
        both = sum(each.beats_random for each in scores)
        told.append(
            f"better than random maps by deletion in {deletion} of {len(scores)}, by insertion in {insertion}, by both "
            f"in {both}"
        )
    if left := sum(each.emptied > 0.5 for each in scores):
        told.append(
            f"the class of {left} of {len(scores)} images stays when all their pixels have their mean colour: it is "
            "what the model says of nothing"
        )
    if empty := sum(not bool(each.map.values.any()) for each in found):
        told.append(f"{empty} of {len(found)} maps are empty: nothing in the layer or the image speaks for the class")
    return told


def _draw(subject: "Subject", found: "Sequence[Explained]", method: "Method") -> None:
    from dlcli.cli.plot import show

    show(_picture(subject, found, method), output=None, force=False)


def _picture(subject: "Subject", found: "Sequence[Explained]", method: "Method") -> Any:
    from dlcli.plots.attribution import attribution_sheet
    from dlcli.plots.picture import Picture

    title = f"{method.name}{f' at {method.layer}' if method.layer else ''}, {subject.run}"
    tiles = [(_caption(each), each.sample.x, each.map.values) for each in found]
    return Picture("explanation", [attribution_sheet(title, tiles, subject.about)], _remarks(found))


def _caption(each: "Explained") -> list[str]:
    values = each.answer.values
    said = f"{values['class']} {values['probability']:.1%}" if "class" in values else f"{values['value']:.4g}"
    lines = [each.sample.name, f"answer {said}"]
    lines += [f"is {each.sample.target}"] if each.sample.target else []
    lines += [f"map for {each.answer.explained}"] if each.answer.explained not in ("", values.get("class")) else []
    if each.scores is not None:
        lines.append(f"deletion {each.scores.deletion:.2f}, random {each.scores.random_deletion:.2f}")
        lines.append(f"insertion {each.scores.insertion:.2f}, random {each.scores.random_insertion:.2f}")
    return lines
