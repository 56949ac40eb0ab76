"""Checks before a long run: each has a name, says what it measured, and names its remedy where it fails.

`preflight` runs the cheap ones (seconds); `overfit` (minutes) is the strongest: see `lab.overfit`. A new check is one
function in CHECKS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from partimento.config import Config
from partimento.errors import PartimentoError
from partimento.lab.overfit import OverfitResult, overfit
from partimento.lab.preflight import (
    backbone,
    condition,
    data,
    grids,
    learning,
    machine,
    model,
    prompts,
    sight,
    sound,
    targets,
    vocabulary,
)
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, skipped
from partimento.progress import Progress, Quiet
from partimento.runs.run import Run
from partimento.training import devices

__all__ = ["CHECKS", "Check", "OverfitResult", "overfit", "preflight"]

CHECKS: dict[str, Callable[[Bench], Check]] = {
    "device": machine.device_ready,
    "pack": data.pack_whole,
    "data": data.data_fits,
    "splits": data.splits_apart,
    "resume": data.same_run,
    "demos": data.demos_open,
    "disk": machine.disk_writable,
    "crops": grids.crops_spread,
    "ends": grids.ends_true,
    "silence": data.silence_share,
    "length": sound.crops_long,
    "delay": sound.pairs_in_time,
    "words": condition.words_fit,
    "dropping": condition.dropped_by_item,
    "guidance": condition.null_learned,
    "shape": model.shape_sound,
    "capacity": model.capacity_fits,
    "backbone": backbone.backbone_kept,
    "experts": backbone.experts_taken,
    "vocabulary": vocabulary.ids_return,
    "init": model.init_documented,
    "attention": model.attention_spread,
    "initial loss": model.initial_loss,
    "targets": targets.next_row_scored,
    "causality": sight.mask_is_causal,
    "receptive field": sight.field_reaches,
    "text": sight.text_is_read,
    "cache": sight.cache_agrees,
    "prompt": prompts.prompt_comes_back,
    "null condition": condition.null_is_one,
    "identity": sound.begins_as_identity,
    "players": sound.players_apart,
    "optimizer": learning.claimed_once,
    "gradients": learning.gradients_reach,
    "types": learning.types_kept,
    "frozen": learning.frozen_kept,
    "rate": learning.rate_bearable,
    "one batch": learning.one_batch_learned,
}
"""In the order in which they are made, the cheap ones first."""
NO_TASK = ("device", "pack", "data")
"""Checks that do not need the task, or are where it is made; without it, the others are not tried."""


def preflight(
    config: Config, *, runs: str | Path = "runs", run: str | None = None, progress: Progress | None = None
) -> list[Check]:
    """Run every cheap check and return them all, failed or not; what a check itself raises becomes its failure.

    `run` is the id of a run in `runs` that is to be resumed with this configuration. Raises RUN001 and RUN002 where
    there is no such run, and TRAIN005 where there is no such device.
    """
    progress = progress or Quiet()
    found = None if run is None else Run.open(Path(runs) / run)
    bench = Bench(config, Path(runs), found)
    done: list[Check] = []
    settings = config.train
    with devices.reproducible(bench.device, settings.deterministic), devices.precise(bench.device, settings.precision):
        for number, (name, check) in enumerate(CHECKS.items()):
            progress.stage(name, (check.__doc__ or "").split("\n")[0])
            if name not in NO_TASK and not bench.made:
                done.append(skipped(name, "not tried: data and model could not be made"))
                continue
            try:
                done.append(check(bench))
            except PartimentoError as err:
                why = f" ({err.why})" if err.why else ""
                remedy = err.next or f"partimento explain {err.code}"
                done.append(failed(name, f"{err.message}{why}", remedy, err.code))
            if done[-1].status == "failed":
                bench.failed.add(name)
            progress.update(number + 1, len(CHECKS))
    return done
