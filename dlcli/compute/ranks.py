"""Ranks: which of the processes of one training this is, and how they sum, tell and agree.

A process becomes a rank by `join`, with what its launcher has put into the environment: `dlcli train --processes`
(see training/launch.py), torchrun, or srun. Alone, nothing here does anything, and torch.distributed is not imported.

Sums and gathers go through gloo on the CPU; gradients on a GPU go through NCCL.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, RankError
from dlcli.core.seeds import derive

# Seconds that a rank has to answer when it is asked whether it still does.
_ANSWER = 5.0

# Variables of a launcher, in the form of torchrun; on one machine a file can take the place of address and port.
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
FILE = "_DLCLI_RANKS_FILE"  # no setting: those begin with DLCLI_


@dataclass(frozen=True)
class Agreed:
    """stop: why to stop, or None. show, save: whether the first rank wants to report progress, or may save by its
    clock."""

    stop: str | None
    show: bool
    save: bool


@dataclass
class Ranks:
    """rank: of this process, from 0 to size - 1. local_rank, local_size: among those of this machine.

    launcher: the process that has started those of this machine, if it is one of dlcli. waited: seconds that this
    process has waited for others, in all. patience: seconds after which one that does not answer has failed.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: int = 0
    waited: float = 0.0
    patience: float = 0.0
    _control: Any = None  # the group for everything but gradients
    _spare: Any = None  # a group that is only used when another has failed
    _hosts: list[str] = field(default_factory=list)
    _asked: Any = None  # the wishes after the last step, their sum on its way, and why this rank wants to stop

    @property
    def first(self) -> bool:
        """Whether this process writes the run and reports."""
        return self.rank == 0

    @property
    def hosts(self) -> list[str]:
        """The name of the machine of each rank."""
        return self._hosts or [socket.gethostname()]

    def part_of(self, start: int, stop: int) -> tuple[int, int]:
        """The part of this rank of the places from start to stop: all ranks together have each of them once."""
        count = stop - start
        return start + count * self.rank // self.size, start + count * (self.rank + 1) // self.size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on the CPU if there are several."""
        if self.size == 1:
            return values
        total = values.detach().cpu().clone()
        self._wait(lambda: _distributed().all_reduce(total, group=self._control))
        return total

    def gather(self, document: Any) -> list[Any]:
        """What can be JSON, of each rank in order."""
        if self.size == 1:
            return [document]
        return [json.loads(content) for content in self.gather_bytes(json.dumps(document).encode())]

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """The bytes of each rank in order."""
        if self.size == 1:
            return [content]
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(content)
        sizes = self.sum(sizes)
        found = [torch.empty(max(1, int(size)), dtype=torch.uint8) for size in sizes]
        if content:
            found[self.rank].copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        for rank, part in enumerate(found):
            self._wait(partial(_distributed().broadcast, part, rank, group=self._control))
        return [part[: int(size)].numpy().tobytes() for part, size in zip(found, sizes, strict=True)]

    def tell(self, document: Any) -> Any:
        """What the first rank has given, in all of them."""
        return self.gather(document if self.first else None)[0]

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks the values that these tensors have in the first one."""
        if self.size == 1:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        for (_, device), members in kinds.items():
            flat = torch.cat([tensor.reshape(-1) for tensor in members])
            group = None if device.type == "cuda" else self._control
            self._wait(partial(_distributed().broadcast, flat, 0, group=group))
            if not self.first:
                for tensor, values in zip(members, torch.split(flat, [t.numel() for t in members]), strict=True):
                    tensor.copy_(values.view(tensor.shape))

    def agree(self, *, stop: str | None, show: bool, save: bool) -> Agreed:
        """Of what each rank would do after a step, what all do: stop if any has to; the first one decides the rest.

        With several ranks it is the answer to what they wished a step before: so none has to wait for it.
        """
        if self.size == 1:
            return Agreed(stop, show, save)
        wishes = torch.tensor([stop is not None, self.first and show, self.first and save], dtype=torch.int32)
        before, self._asked = self._asked, (wishes, self._control_sum(wishes), stop)
        if before is None:
            return Agreed(None, False, False)
        answer, work, told = before
        self.finish([work])
        wanted, showing, saving = answer.tolist()
        reason = next(text for text in self.gather(told) if text is not None) if wanted else None
        return Agreed(reason, bool(showing), bool(saving))

    def _control_sum(self, values: Tensor) -> Any:
        with self._told():
            return _distributed().all_reduce(values, group=self._control, async_op=True)

    def seed(self, seed: int, step: int) -> None:
        """Seed torch's generator for a step, by (seed, step, rank): dropout differs between the ranks, and needs no
        state to be resumed. Does nothing in a process that is alone, whose generator runs on."""
        if self.size > 1:
            number = derive(seed, "dropout", step, self.rank)
            # torch.manual_seed takes a millisecond, since it looks for devices of every kind.
            torch.default_generator.manual_seed(number)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.manual_seed(number)

    def settled(self, wish: bool, *, before: bool) -> bool:
        """What all do now: what this process wishes, if it is alone, else what was agreed on a step before."""
        return wish if self.size == 1 else before

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            self._wait(lambda: _distributed().barrier(group=self._control))

    def reduce(self, flat: Tensor) -> Any:
        """Begin to add up a tensor, in place, over all ranks; `finish` ends it."""
        with self._told():
            return _distributed().all_reduce(flat, async_op=True)

    def finish(self, works: Sequence[Any]) -> None:
        self._wait(lambda: [work.wait() for work in works])

    def _wait(self, communicate: Callable[[], Any]) -> None:
        began = time.perf_counter()
        with self._told():
            communicate()
        self.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """RankError (exit 8) if another rank has ended, or does not answer."""
        try:
            yield
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if re.search("[Tt]imeout|[Tt]imed out", text):
                raise RankError(self._who_hangs()) from None
            raise RankError(
                f"rank {self.rank} on {self.hosts[self.rank % len(self.hosts)]} lost another process of this training: "
                f"{text[:200]}"
            ) from None

    def _who_hangs(self) -> str:
        """Ask all ranks for an answer, and name those that give none."""
        silent = ""
        with contextlib.suppress(Exception):
            try:
                _distributed().monitored_barrier(self._spare, timedelta(seconds=_ANSWER), wait_all_ranks=True)
            except RuntimeError as error:
                silent = ", ".join(re.findall(r"[Rr]anks? ([0-9, ]+?) failed", str(error)))
        which = " and ".join(f"{r} on {self.hosts[int(r)]}" for r in re.findall("[0-9]+", silent)) or "of the others"
        return f"rank {which} has not answered for {self.patience:g} s"


_here = Ranks()


def here() -> Ranks:
    """The ranks of the training that this process takes part in; one rank if it is alone."""
    return _here


def launched() -> bool:
    """Whether this process was started as one of several: by `--processes`, torchrun, or as one of several tasks of a
    step of srun."""
    size = os.environ.get("WORLD_SIZE", "")
    return (size.isdigit() and int(size) > 1) or _in_slurm()


def join(patience: float) -> Ranks:
    """Become the rank that the environment says. Does nothing the second time, or if the process is alone.

    patience: see Ranks. Raises ConfigError if a launcher has left out a variable, and RankError (exit 8) if not all
    ranks come.
    """
    global _here
    if _here.size > 1 or not launched():
        return _here
    variables = _of_slurm() if _in_slurm() and "RANK" not in os.environ else dict(os.environ)
    missing = [name for name in _NEEDED if name not in variables and FILE not in variables]
    if missing:
        told = variables["WORLD_SIZE"]
        raise ConfigError(f"WORLD_SIZE = {told}, but {missing[0]} is not set: start dlcli with torchrun or --processes")
    rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    found = Ranks(
        rank, size, int(variables.get("LOCAL_RANK", rank)), int(variables.get("LOCAL_WORLD_SIZE", size)),
        launcher=os.getppid() if FILE in variables else 0, patience=patience,
    )  # fmt: skip
    dist = _distributed()
    longest = timedelta(seconds=patience)
    cuda = torch.cuda.is_available()
    try:
        if FILE in variables:  # all on this machine: no port is needed
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
            store: Any = dist.FileStore(variables[FILE], size)
        else:
            agent = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            store = dist.TCPStore(
                variables["MASTER_ADDR"], int(variables["MASTER_PORT"]), size, rank == 0 and not agent, longest
            )
            store = dist.PrefixStore(f"dlcli {variables.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        if cuda:
            torch.cuda.set_device(found.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=longest)
        found._control = dist.new_group(backend="gloo", timeout=longest) if cuda else dist.group.WORLD
        found._spare = dist.new_group(backend="gloo", timeout=longest)
    except (RuntimeError, ValueError) as error:
        where = "" if FILE in variables else f" at {variables['MASTER_ADDR']}:{variables['MASTER_PORT']}"
        told = " ".join(str(error).split())[:200]
        raise RankError(f"rank {rank} of {size} cannot reach the others{where}: {told}") from None
    found._hosts = found.gather(socket.gethostname())
    _here = found
    return found


def leave() -> None:
    """End the communication: this process is alone again."""
    global _here
    if _here.size > 1:
        with contextlib.suppress(RuntimeError):
            _distributed().destroy_process_group()
    _here = Ranks()


def launch_key() -> str:
    """Equal for all starts of one launch, so that a restart finds the run that it began; empty if a launcher does not
    restart."""
    if _in_slurm() and "SLURM_JOB_ID" in os.environ:
        return f"slurm {os.environ['SLURM_JOB_ID']}"
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"torchrun {name}" if name not in ("", "none") else ""


def restarted() -> bool:
    """Whether the launcher has started this training before."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdigit() and int(count) > 0 for count in counts)


def _in_slurm() -> bool:
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", "")
    return "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ and tasks.isdigit() and int(tasks) > 1


def _of_slurm() -> dict[str, str]:
    """The variables of torchrun, from those of a step of srun."""
    variables: Mapping[str, str] = os.environ
    tasks = variables.get("SLURM_STEP_NUM_TASKS") or variables["SLURM_NTASKS"]
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST", "")
    on_a_node = re.match("[0-9]+", variables.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": variables.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": on_a_node[0] if on_a_node else "1",
        "MASTER_ADDR": variables.get("MASTER_ADDR") or first_host(nodes) or "127.0.0.1",
        # Two jobs on one machine must not meet.
        "MASTER_PORT": variables.get("MASTER_PORT") or str(20_000 + int(variables.get("SLURM_JOB_ID", "0")) % 20_000),
    }


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: `gpu[07-09,12],cpu1` is gpu07."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    return "" if found is None else f"{found[1]}{found[2] or ''}{found[3] if found[2] else ''}"


def _loopback() -> str:
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed
