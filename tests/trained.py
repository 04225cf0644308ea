"""A training for tests: opens a session and trains to the end."""

from pathlib import Path

from dlcli.experiment.build import Experiment
from dlcli.training.records import Progress, Row
from dlcli.training.session import begun
from dlcli.training.train import fit


def fit_new(built: Experiment, runs_dir: Path) -> list[Progress | Row]:
    """Train in a new run in that folder; returns all records."""
    with begun(built, runs_dir=runs_dir) as session:
        return list(fit(session))
