"""What a network gets: the first images of its training, after augmentation."""

from typing import TYPE_CHECKING

from dlcli.plots.curves import run_name
from dlcli.plots.picture import Sheet, Tile
from dlcli.plots.pixels import Place, check_images, data_of, to_pngs
from dlcli.runs.run import Run

if TYPE_CHECKING:
    from dlcli.data.preprocessing import Preprocessing

_MOST = 40


def samples(run: Run, notes: list[str], *, place: Place) -> Sheet:
    """The first 40 samples of the first batch of the first epoch, as the training augments and mixes them, with their
    classes. ConfigError (exit 2) if they are no images."""
    from dlcli.data import augment
    from dlcli.data.batches import shuffled
    from dlcli.experiment.restore import preprocessing_of

    check_images(run, preprocessing_of(run), "samples")
    config, data = run.config(), data_of(run, place)
    size = len(data.train) if config.batch_size == "full" else min(int(config.batch_size), len(data.train))
    augmentations = augment.parse(config.augment, data.spec)
    batch = next(
        shuffled(
            data.train, size, seed=config.seed, epoch=1, augmentations=augmentations, blank=data.blank(),
            white=data.white(),
        )
    )  # fmt: skip
    x = batch.x
    if mixing := [a for a in augmentations if a.name in ("mixup", "cutmix")]:
        x, _, _ = augment.mixed(x, batch.y, mixing, batch.seed)
        notes.append(f"the classes of {run} are those of the first of two images that are mixed")
    about = data.preprocessing
    captions = [_caption(float(y), about) for y in batch.y[:_MOST]]
    images = to_pngs(x[:_MOST], about)
    tiles = [Tile([caption], image) for caption, image in zip(captions, images, strict=True)]
    told = ", ".join(config.augment) or "no augmentation"
    return Sheet(f"first samples of the training ({told}), {run_name(run)}", tiles)


def _caption(target: float, about: "Preprocessing") -> str:
    if about.spec.task == "regression":
        return f"{target * about.target_std + about.target_mean:.4g}"
    return about.class_names[int(target)] if about.class_names else str(int(target))
