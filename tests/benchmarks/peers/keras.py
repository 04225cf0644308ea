"""Keras 3 on torch, as its documentation trains: arrays in memory, channels last, `fit` and `evaluate`."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras  # noqa: E402

from tests.benchmarks import data  # noqa: E402
from tests.benchmarks.peers.stopwatch import Stopwatch  # noqa: E402

watch = Stopwatch()
work = watch.work
root = data.folder(work.samples, work.test)
(x, y), (test_x, test_y) = [
    (data.inputs(pixels)[:, 0, :, :, None].numpy(), labels.numpy())
    for pixels, labels in (data.images(root, "train"), data.images(root, "t10k"))
]
layers = keras.layers
MODELS = {
    "cnn": [
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(128, activation="relu"), layers.Dense(10),
    ],
    "lenet": [
        layers.Conv2D(6, 5, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(120, activation="relu"), layers.Dense(84, activation="relu"), layers.Dense(10),
    ],
    "mlp": [
        layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(64, activation="relu"), layers.Dense(10),
    ],
}  # fmt: skip
model = keras.Sequential([keras.Input((28, 28, 1)), *MODELS[work.model]])
model.compile(
    optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
first = keras.callbacks.LambdaCallback(on_train_batch_end=watch.first_step)
watch.run(
    lambda: model.fit(x, y, batch_size=work.batch_size, epochs=1, verbose=0, callbacks=[first]),
    lambda: float(model.evaluate(test_x, test_y, batch_size=1000, verbose=0)[1]),
    parameters=model.count_params(),
)
