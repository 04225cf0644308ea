"""What an evaluation shows that a person should know: a metric without a value, a training that learns nothing."""

from collections.abc import Mapping

from dlcli.evaluation import baseline
from dlcli.tasks.choose import UNDEFINED
from dlcli.training.session import Session

# From this evaluation on a model should be better than the baseline.
_PATIENT = 3


def remarks(session: Session, metrics: Mapping[str, float | None]) -> tuple[str, ...]:
    """Warnings about the evaluation that has just been counted in the state; each kind is given once."""
    built, state, than = session.built, session.state, session.info["baseline"]
    monitored = f"val/{built.monitor}"
    found = []
    if state.evaluations == 1 and metrics.get(monitored, 0.0) is None:
        reason = UNDEFINED.get(built.monitor, "it is not finite")
        found.append(f"warning: {monitored} is undefined, since {reason}: val/loss selects the best checkpoint")
    if state.evaluations == 1 and "val/threshold" in metrics and metrics["val/auc"] is None:
        found.append("warning: the threshold stays 0.5, since not every class has validation samples")
    if state.evaluations == 1 and session.unused:
        found.append(
            f"warning: no gradient reaches {', '.join(session.unused)}: the model does not use what it has there"
        )
    watched = _watched(session, metrics)
    if not state.warned and baseline.explodes(metrics, than):
        state.warned = True
        found.append(f"warning: {baseline.against(watched, than)}: the training explodes; lower lr or set clip_norm")
    elif not state.warned and state.evaluations == _PATIENT and not baseline.learned(watched, than, _samples(session)):
        state.warned = True
        found.append(f"warning: nothing learned after {_PATIENT} evaluations: {baseline.against(watched, than)}")
    return tuple(found)


def verdict(session: Session) -> str | None:
    """At the end of a training: a sentence if its best evaluation is no better than the baseline."""
    state, info = session.state, session.info
    best = dict(info["metrics"])
    if state.best is not None and state.best["metric"] is not None:
        best |= {"val/loss": state.best_loss, state.best["metric"]: state.best["value"]}
    watched = _watched(session, best)
    if not watched or baseline.learned(watched, info["baseline"], _samples(session)):
        return None
    return f"warning: nothing learned: {baseline.against(watched, info['baseline'])}; try another lr or more epochs"


def _watched(session: Session, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """The metric that selects the best checkpoint, and the loss."""
    loss = "val/loss" if session.built.dataset.val else "train/loss"
    names = ((session.state.best or {}).get("metric") or loss, loss)
    return {name: metrics[name] for name in names if name in metrics}


def _samples(session: Session) -> int:
    return len(session.built.dataset.val or session.built.dataset.train)
