"""`python -m tests.ranked FOLDER SIZE MODEL...`: the gradient of one batch in float64, in so many processes.

FOLDER/MODEL-SIZE.safetensors holds it, as the first of them has it.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file


def gradient(model: str) -> dict[str, object]:
    from dlcli import TrainConfig
    from dlcli.compute.gradients import Gradients
    from dlcli.compute.ranks import here
    from dlcli.data.batches import shuffled
    from dlcli.experiment.build import build

    ranks = here()
    options = {"model_options": {"dropout": 0.0}} if model == "tabular" else {}
    built = build(TrainConfig(model, device="cpu", threads=1, batch_size=37, optimizer="sgd", **options))
    net = built.model.double().train()
    gradients = Gradients(net.parameters(), ranks)
    part = ranks.part_of if ranks.size > 1 else None
    batch = next(shuffled(built.dataset.train, 37, seed=0, epoch=1, part=part))
    x, y = (t.double() if t.is_floating_point() else t for t in (batch.x, batch.y))
    loss = built.objective(net, replace(batch, x=x, y=y)) * (len(batch) / 37)
    gradients.arm()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients.finish()
    return {name: p.grad.contiguous() for name, p in net.named_parameters() if p.grad is not None}


def main() -> None:
    folder, size, models = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    from dlcli.compute import ranks

    started = []
    for rank in range(size):
        if size > 1:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), ranks.FILE: str(folder / f"meeting-{size}")}
        if pid := os.fork():
            started.append(pid)
            continue
        code = 1
        try:
            ranks.join(60.0)
            for model in models:
                found = gradient(model)
                if rank == 0:
                    save_file(found, folder / f"{model}-{size}.safetensors")
            code = 0
        finally:
            os._exit(code)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started))


if __name__ == "__main__":
    main()
