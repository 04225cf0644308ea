"""Accelerate, as its documentation trains: the textbook loop, with model, optimizer and loaders prepared by it."""

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from tests.benchmarks.loops import textbook_parts
from tests.benchmarks.peers.stopwatch import Stopwatch

watch = Stopwatch()
accelerator = Accelerator(cpu=True)
plain, train_set, test_set = textbook_parts(watch.work)
model, optimizer, train_loader, test_loader = accelerator.prepare(
    plain,
    torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9),
    torch.utils.data.DataLoader(train_set, watch.work.batch_size, shuffle=True),
    torch.utils.data.DataLoader(test_set, 1000),
)


def train() -> None:
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        watch.first_step()


def evaluate() -> float:
    model.eval()
    correct = count = 0
    for x, y in test_loader:
        with torch.no_grad():
            output = model(x)
        predictions, references = accelerator.gather_for_metrics((output.argmax(1), y))
        correct += (predictions == references).sum().item()
        count += len(references)
    return correct / count


watch.run(train, evaluate, parameters=sum(p.numel() for p in plain.parameters()))
