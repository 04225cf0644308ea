"""dlcli generate"""

from typing import Annotated

import typer

from dlcli.cli.arguments import JSON, CheckpointRole, Device, RunName, RunsDir
from dlcli.cli.output import plain, print_json, say, tell_damage, write


def generate(
    run: RunName,
    prompt: Annotated[str, typer.Option("--prompt", help="The text to continue.")] = "",
    length: Annotated[
        int, typer.Option("--length", help="Number of characters to generate, unless the model ends the document.")
    ] = 200,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            help="Temperature of the sampling. Below 1 prefers likely tokens; 0 always takes the likeliest.",
        ),
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Sample from the K likeliest tokens only; 0 samples from all.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sampling.")] = 0,
    checkpoint: CheckpointRole = "best",
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    json: JSON = False,
) -> None:
    """Generate text with a trained language model."""
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    from dlcli.evaluation.generate import generate
    from dlcli.experiment.restore import restore

    restored = restore(found, role=checkpoint, device=device)
    tell_damage(restored.checkpoint.damage)
    parts = generate(
        restored, prompt, length=length, temperature=temperature, top_k=top_k, seed=seed, tell=say
    )  # fmt: skip
    if json:
        print_json({"run": str(found), "prompt": prompt, "text": "".join(parts)})
        return
    before = prompt  # not shown if there is no first part
    for part in parts:
        write(before + "".join(each if each in "\n\t" else plain(each) for each in part))
        before = ""
    write(before + "\n")
