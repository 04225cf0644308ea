"""A hand-written loop with torch's DistributedDataParallel: one of its processes. Prints samples per second of all."""

import argparse
import os
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="+", help="of dlcli train, for the same model and data")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--meeting", type=Path)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch.nn.parallel import DistributedDataParallel

    from dlcli import TrainConfig
    from dlcli.data.batches import in_order
    from dlcli.experiment.build import build

    data_dir = {"data_dir": folder} if (folder := os.environ.get("DLCLI_DATA_DIR")) else {}
    config = TrainConfig.from_flat(dict(word.split("=", 1) for word in given.words) | data_dir)
    built = build(config)
    torch.set_num_threads(1)
    train = built.dataset.train
    batches = list(in_order(train, 1000))
    x, y = torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    dist.init_process_group("gloo", store=dist.FileStore(str(given.meeting), given.size), rank=given.rank,
                            world_size=given.size)  # fmt: skip
    model = DistributedDataParallel(built.model, gradient_as_bucket_view=True)
    asked = built.config
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=asked.weight_decay)
    whole, part = built.batch_size, built.batch_size // given.size
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    warm, began = given.steps // 4, 0.0
    for step in range(given.steps):
        if step == warm:
            began = time.perf_counter()
        start = step * whole % (len(x) - whole) + given.rank * part
        rows = order[start : start + part]
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    if given.rank == 0:
        print(whole * (given.steps - warm) / (time.perf_counter() - began), flush=True)
    dist.barrier()


if __name__ == "__main__":
    main()
