"""PyTorch Lightning, as its documentation trains; logger and checkpoints off, which leaves it less to do."""

import warnings

import lightning
import torch
from torch.nn import functional as F

from tests.benchmarks.loops import textbook_parts
from tests.benchmarks.peers.stopwatch import Stopwatch

warnings.filterwarnings("ignore")
watch = Stopwatch()
model, train_set, test_set = textbook_parts(watch.work)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = model
        self.accuracy: list[torch.Tensor] = []

    def training_step(self, batch, _):
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def on_train_batch_end(self, *_):
        watch.first_step()

    def test_step(self, batch, _):
        x, y = batch
        output = self.model(x)
        accuracy = (output.argmax(1) == y).float().mean()
        self.log_dict({"test_loss": F.cross_entropy(output, y), "test_acc": accuracy})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


trainer = lightning.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
module = Classifier()
train_loader = torch.utils.data.DataLoader(train_set, watch.work.batch_size, shuffle=True)
test_loader = torch.utils.data.DataLoader(test_set, 1000)

watch.run(
    lambda: trainer.fit(module, train_loader),
    lambda: trainer.test(module, test_loader, verbose=False)[0]["test_acc"],
    parameters=sum(p.numel() for p in model.parameters()),
)
