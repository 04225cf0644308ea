"""The training loop, top to bottom. It yields records; progress bars, tables and notebooks read the same ones."""

from collections.abc import Callable, Generator
from functools import partial

import torch
from torch import nn

from dlcli.compute.devices import autocast
from dlcli.compute.ranks import Agreed
from dlcli.compute.schedules import learning_rate
from dlcli.config.intervals import Interval, interval
from dlcli.config.settings import TrainConfig
from dlcli.data import batches
from dlcli.evaluation.measure import finite, measure
from dlcli.experiment.build import Experiment
from dlcli.experiment.weight_events import of_model
from dlcli.training.records import Progress, Row
from dlcli.training.remarks import remarks, verdict
from dlcli.training.session import Session
from dlcli.training.state import TrainingState
from dlcli.training.watch import Watch


def steps(session: Session, stop: Callable[[], str | None] | None) -> Generator[Progress | Row, None, None]:
    """Train an opened session to its end. stop: called after every step; if it returns a reason, save and end."""
    run, built, state, saver, info = session.run, session.built, session.state, session.saver, session.info
    ranks = session.ranks
    config, objective, data = built.config, built.objective, built.working
    part = built.working_part(built.model)
    model: nn.Module = torch.compile(part) if config.compile else part  # type: ignore[assignment]
    meter, watch = state.meter, Watch(built)
    gradients = state.gradients(built)
    shared = [*model.buffers()]
    autocasting = autocast(config.precision, built.device)
    total, batches_per_epoch = built.total_steps, built.batches_per_epoch
    stream = batches.endless(
        data.train, built.batch_size, seed=config.seed, epoch=state.epoch, first=state.batch,
        count=batches_per_epoch, augmentations=built.augmentations, blank=data.blank(), white=data.white(),
        part=ranks.part_of if ranks.size > 1 else None,
    )  # fmt: skip
    evaluations = interval(config.eval_every, name="eval_every")
    columns, lr = _columns(session), _schedule(built)
    reason, agreed = None, Agreed(stop=None, show=False, save=saver.ready())
    early = _stopped_early_before(session)
    state.training_mode()
    meter.start()

    while True:
        # At each evaluation: measure, write the row, keep the best.
        row = None
        if reason is None and not early and _evaluation_is_due(state, evaluations, total):
            row = _evaluate(session, watch, columns)
            early = _waited_enough(config, state)
        done = reason is not None or early or state.step >= total

        # At the chosen interval, and at the end: save.
        if saver.due(state, ready=agreed.save) or (done and (row is not None or state.step != saver.saved_at)):
            watch.look(state)  # waits for the device; only finite values are saved
            saver.write(state, metrics=row.metrics if row else {}, info=info)
        if row is not None:
            yield row
            meter.start()
        if done:
            break

        # ------------------------------------------------------------------------ the step
        if state.at_epoch_end and state.begin_epoch():
            gradients.close()  # there are more parameters now
            gradients = state.gradients(built)
        ranks.seed(config.seed, state.step)
        ranks.share(shared)
        state.optimizer.zero_grad()
        group = min(config.accumulate, batches_per_epoch - state.batch)
        for number in range(state.batch, state.batch + group):
            batch = next(stream)
            if number == state.batch + group - 1:
                gradients.arm()
            with autocasting:
                loss = objective(model, batch)
            seen = loss.detach()
            meter.add(seen, len(batch), whole=built.samples_of(number, 1))
            watch.add(state, number, seen)
            if group > 1 or ranks.size > 1:  # every sample counts the same, whatever the size of its batch
                own = len(batch) * gradients.scale
                loss = loss / (built.samples_of(state.batch, group) / own) if own else loss * 0
            state.backward(loss)
        gradients.finish()
        session.unused = tuple(state.trained[number] for number in gradients.unused)
        watch.norm = state.update(lr=lr(state.step), clip_norm=config.clip_norm)
        state.batch += group
        # --------------------------------------------------------------------------------

        # At intervals: check that all values are finite, report progress, write an extra row.
        if watch.wants_a_look(state):
            watch.look(state)  # waits for the device
        show = meter.wants_to_show()
        if ranks.settled(show, before=agreed.show):
            mean = watch.look(state)  # waits for the device
            yield Progress(state.epoch, state.step, total, mean, meter.times()[1])
        extra = bool(config.log_every) and state.step % config.log_every == 0
        if extra and not _evaluation_is_due(state, evaluations, total):
            watch.look(state)  # waits for the device
            seconds, rate = meter.times()
            _write_row(session, columns, {"train/loss": meter.mean_of_a_row()}, seconds=seconds, rate=rate)
        agreed = ranks.agree(stop=None if stop is None else stop(), show=show, save=saver.ready())
        reason = agreed.stop

    if early:
        info["stopped_early"] = state.epochs_done
        run.log(
            f"stopped after epoch {state.epochs_done}: {config.patience} evaluations without a better "
            f"{(state.best or {}).get('metric')}"
        )
    if reason:
        info["stop"], info["step"] = reason, state.step
    else:
        info["warning"] = verdict(session)


def _evaluation_is_due(state: TrainingState, every: Interval, total: int) -> bool:
    """At the chosen interval and after the last step, but only once per step."""
    if state.step == state.evaluated_at:
        return False
    if every.unit == "step":
        return state.step % every.count == 0 or state.step >= total
    return (state.at_epoch_end and state.epoch % every.count == 0) or state.step >= total


def _evaluate(session: Session, watch: Watch, columns: list[str]) -> Row:
    """Measure the current model on the validation split, and write the row."""
    built, state, info = session.built, session.state, session.info
    config, meter = built.config, state.meter
    metrics: dict[str, float | None] = {"train/loss": watch.look(state)}  # waits for the device
    seconds, rate = meter.times()
    session.ranks.share([*state.evaluated.buffers()])
    if (val := built.working.val) is not None:
        task, further = built.task, _further(session)
        measures = measure(
            built.working_part(state.evaluated), val, task,
            batch_size=built.eval_batch_size, threads=built.eval_threads, precision=config.precision,
            device=built.device, whole=bool(further), ranks=session.ranks, together=built.sharded,
        )  # fmt: skip
        task = task.settled(measures)
        found = task.metrics(measures)
        if further:
            tabled = task.tables(measures).metrics
            found |= {name: tabled[name] for name in further}
        if isinstance(config.threshold, str):
            found["threshold"] = task.threshold
        metrics |= {f"val/{name}": value for name, value in finite(found).items()}
    best = state.is_best(metrics, built.monitor)
    state.evaluations += 1
    warnings = remarks(session, metrics)
    row = Row(
        epoch=state.epoch, epochs=config.epochs, step=state.step, steps=built.total_steps, metrics=metrics, lr=state.lr,
        seconds=seconds, samples_per_second=rate, best=best, warnings=warnings,
    )  # fmt: skip
    _write_row(session, columns, metrics, seconds=seconds, rate=rate)
    if session.tensorboard is not None and config.log_weights:
        spec = built.dataset.spec
        session.tensorboard.add_records(lambda time: of_model(state.evaluated, spec, step=state.step, time=time))
    for line in (str(row), *warnings):
        session.run.log(line)
    info |= {"epochs_done": state.epochs_done, "step": state.step, "metrics": metrics, "best": state.best}
    session.tell_speed(seconds=seconds, rate=rate)
    if best:
        session.saver.keep_best(state, metrics)
    state.waited = 0 if best else state.waited + 1
    state.evaluated_at = state.step
    meter.reset()
    return row


def _write_row(
    session: Session, columns: list[str], metrics: dict[str, float | None], *, seconds: float, rate: float
) -> None:
    """Append a row to metrics.csv, and to what TensorBoard reads."""
    state = session.state
    times = {"seconds": round(seconds, 4), "samples_per_second": round(rate, 1)}
    row = {"epoch": state.epoch, "step": state.step, **metrics, **state.rates, **times}
    session.run.append_metrics(row, columns)
    if session.tensorboard is not None:
        session.tensorboard.add(row)


def _stopped_early_before(session: Session) -> bool:
    """Whether a run had stopped early but was killed before it could record it: then nothing is left to do. A finished
    run that is extended continues."""
    resumes = session.info.get("resumes", [])
    waited = _waited_enough(session.built.config, session.state)
    return bool(resumes) and resumes[-1]["after"] != "finished" and waited


def _waited_enough(config: TrainConfig, state: TrainingState) -> bool:
    return bool(config.patience) and state.waited >= config.patience


def _schedule(built: Experiment) -> Callable[[int], float]:
    """The learning rate as a function of the step."""
    config, steps_per_epoch = built.config, built.steps_per_epoch
    assert config.lr is not None
    return partial(
        learning_rate,
        lr=config.lr,
        schedule=config.schedule,
        steps=built.total_steps,
        warmup_steps=config.warmup_steps(steps_per_epoch),
        steps_per_drop=config.steps_per_drop(steps_per_epoch),
        gamma=config.step_gamma or 0.1,
    )


def _further(session: Session) -> list[str]:
    """The metrics beyond those of every evaluation: the monitored one, if it is not among them."""
    best = (session.state.best or {}).get("metric") or ""  # of a resumed run, which may have monitored another one
    wanted = dict.fromkeys((session.built.monitor, best.removeprefix("val/")))
    return [name for name in wanted if name in session.built.task.table_names]


def _columns(session: Session) -> list[str]:
    built = session.built
    names = (*built.task.names, *_further(session), *["threshold"] * isinstance(built.config.threshold, str))
    val = [f"val/{name}" for name in names] if built.dataset.val is not None else []
    rates = session.state.rates
    return ["epoch", "step", "train/loss", *val, *rates, "seconds", "samples_per_second"]
