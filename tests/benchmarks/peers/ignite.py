"""PyTorch-Ignite, as its documentation trains: a supervised trainer and evaluator."""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss

from tests.benchmarks.loops import textbook_parts
from tests.benchmarks.peers.stopwatch import Stopwatch

watch = Stopwatch()
model, train_set, test_set = textbook_parts(watch.work)
criterion = torch.nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
trainer = create_supervised_trainer(model, optimizer, criterion)
evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy(), "loss": Loss(criterion)})
trainer.add_event_handler(Events.ITERATION_COMPLETED, watch.first_step)
train_loader = torch.utils.data.DataLoader(train_set, watch.work.batch_size, shuffle=True)
test_loader = torch.utils.data.DataLoader(test_set, 1000)

watch.run(
    lambda: trainer.run(train_loader, max_epochs=1),
    lambda: float(evaluator.run(test_loader).metrics["accuracy"]),
    parameters=sum(p.numel() for p in model.parameters()),
)
