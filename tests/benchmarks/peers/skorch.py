"""skorch, as its documentation trains: arrays in memory, `fit` and `predict`."""

from typing import Any

import numpy as np
import skorch
import torch

from tests.benchmarks import data, models
from tests.benchmarks.peers.stopwatch import Stopwatch

watch = Stopwatch()
work = watch.work
root = data.folder(work.samples, work.test)
(x, y), (test_x, test_y) = [
    (data.inputs(pixels).numpy(), labels.numpy())
    for pixels, labels in (data.images(root, "train"), data.images(root, "t10k"))
]
model = models.plain(work.model)


class FirstStep(skorch.callbacks.Callback):
    def on_batch_end(self, *_: Any, **__: Any) -> None:
        watch.first_step()


net = skorch.NeuralNetClassifier(
    model, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=0.01, optimizer__momentum=0.9,
    max_epochs=1, batch_size=work.batch_size, iterator_train__shuffle=True, iterator_valid__batch_size=1000,
    train_split=None, verbose=0, callbacks=[FirstStep()],
).initialize()  # fmt: skip
watch.run(
    lambda: net.partial_fit(x, y),
    lambda: float(np.mean(net.predict(test_x) == test_y)),
    parameters=sum(p.numel() for p in model.parameters()),
)
