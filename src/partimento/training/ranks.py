"""How a process finds its place among the ranks of a training: torchrun's environment, or Slurm's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from partimento.errors import PartimentoError


@dataclass(frozen=True)
class Place:
    """One process among `world`: `local_rank` of `local_world` on its machine. They meet at address and port, or, where
    address is "", where torchrun's environment says."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str = ""
    port: int = 0


def place_here(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place that torchrun, `spawn` or srun gave this process; None if it was started alone.

    Of Slurm's variables those of the step count: a batch script without srun has the job's too, and would wait for
    ranks that nobody started. Raises TRAIN030.
    """
    if any(name in environment for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")):
        wanted = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if missing := [name for name in wanted if name not in environment]:
            raise _no_place(f"{', '.join(missing)} is not set, and others of torchrun's variables are")
        rank, world, local, _ = (
            _number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        )
        local_world = _number(environment, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environment else local + 1
        return _checked(Place(rank, world, local, local_world))
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    world = _number(environment, "SLURM_STEP_NUM_TASKS")
    if world == 1:
        return None
    of_step = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
    if missing := [name for name in of_step if name not in environment]:
        raise _no_place(f"{', '.join(missing)} is not set, and this is a step of a Slurm job")
    rank, local = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_LOCALID")
    each = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    local_world = int(each[0]) if each else local + 1
    if "SLURM_GPUS_PER_TASK" in environment:  # each task sees one device only, which is its number 0
        local, local_world = 0, 1
    port = rendezvous_port(environment["SLURM_JOB_ID"])
    return _checked(Place(rank, world, local, local_world, first_host(environment["SLURM_STEP_NODELIST"]), port))


def first_host(nodes: str) -> str:
    """The first of a Slurm node list: "gpu[03-05,9],cpu1" -> "gpu03"."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]


def rendezvous_port(job: str) -> int:
    """A port that all processes of a job agree on, and jobs on one machine seldom share."""
    return 20000 + int(re.sub(r"\D", "", job) or 0) % 20000


def _number(environment: Mapping[str, str], name: str) -> int:
    if not environment[name].isdecimal():
        raise _no_place(f"{name} is {environment[name]!r}, which is not a number")
    return int(environment[name])


def _checked(place: Place) -> Place:
    if not (place.rank < place.world and place.local_rank < place.local_world):
        raise _no_place(f"rank {place.rank} of {place.world}, local rank {place.local_rank} of {place.local_world}")
    return place


def _no_place(why: str) -> PartimentoError:
    return PartimentoError(
        "TRAIN030",
        "the environment says only half of which rank this process is",
        why=why,
        next="start with `partimento train --nproc N`, torchrun or srun; or `unset RANK WORLD_SIZE LOCAL_RANK`",
    )
