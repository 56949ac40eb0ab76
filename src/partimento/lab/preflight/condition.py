"""Checks of the condition: its words, how often it is dropped, that its null is one in training and playing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some, warned
from partimento.models.conditions import Told
from partimento.models.dia import TextModel
from partimento.models.mixture import MixtureModel
from partimento.sampling.guidance import UNGUIDED, Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.text import NO_WORDS, TagWords, Words
from partimento.training import compiled
from partimento.training.built import Decoder
from partimento.training.tasks.codes import CodesTask
from partimento.training.tasks.words import MOST_TEXTS, texts_of

PARITY = 1e-5  # of the largest value of a condition
DRAWS = 1024  # items whose dropping is looked at
SIGMAS = 5.0  # of the share that is dropped
CUT_SHARE = 0.05  # of the texts


def _conditional(bench: Bench) -> CodesTask | None:
    """The task, if its model is told anything."""
    task = bench.codes
    return None if task is None or (isinstance(task.coder, TagWords) and not task.coder.tags) else task


def words_fit(bench: Bench) -> Check:
    """Clips have words, the model has a place for all of them, and the demos ask for what is there."""
    task = _conditional(bench)
    if task is None:
        return skipped("words", "the model is told nothing")
    draw, coder = task.train, task.coder
    words = texts_of(draw)
    bare = sum(not one for one in words)
    if bare == len(words):
        remedy = 'labels (docs/labels.md), or family = "rvq", which needs none'
        return warned("words", "no clip has tags or a caption: what encodes them learns nothing", remedy)
    known = {tag for one in words for tag in one.tags}
    asked = [tag for prompt in bench.config.demo.prompts for tag in Words.parse(prompt).tags]
    if strange := sorted(set(asked) - known):
        remedy = "name tags that there are (partimento pack stats lists them)"
        return warned("words", f"the demos ask for tags that no clip has: {some(strange)}", remedy)
    found = f"{len(words) - bare:,} of {len(words):,} clips have words, {len(known)} different tags"
    if isinstance(coder, TagWords):
        return passed("words", found)
    cut = sum(coder.cut(one) for one in words)
    found += f"; {cut:,} texts are cut at {coder.length} ids"
    if cut > CUT_SHARE * len(words):
        longer = f"a larger model.text_length ({coder.length} now)" if not bench.weights else "shorter captions"
        return warned("words", found, longer)
    return passed("words", found)


def null_learned(bench: Bench) -> Check:
    """Guidance and playing without words are possible: some items are trained without a condition."""
    task = _conditional(bench)
    if task is None:
        return skipped("guidance", "the model has no condition")
    share, demo = task.player.null_share, bench.config.demo
    if share > 0:
        return passed("guidance", f"{100 * share:.0f} % of the items have the null condition")
    found = "no item has the null condition (data.null_share = 0)"
    if task.player.knows_null:
        return passed("guidance", f"{found}, but the weights that it starts from know it")
    prompts = [Words.parse(prompt) for prompt in demo.prompts]
    guided = [scale for scale in demo.guidance if scale != 1]
    if demo.temperatures and (guided or not all(prompts)):
        needs = f"have guidance {guided[0]:g}" if guided else "play without words"
        remedy = "data.null_share=0.1, or words for every demo (demo.prompts) and demo.guidance=[1.0]"
        return failed("guidance", f"{found}, and the demos {needs}", remedy, "SAMPLE005")
    return warned("guidance", f"{found}: guidance and playing without words will be refused", "data.null_share=0.1")


def dropped_by_item(bench: Bench) -> Check:
    """Every item draws on its own whether it loses its condition, and as many lose it as were asked for."""
    task = _conditional(bench)
    if task is None:
        return skipped("dropping", "the model has no condition")
    draw = task.train
    items = draw.items(np.arange(DRAWS))
    dropped_N = np.asarray([not item.keep for item in items])
    real, asked = float(dropped_N.mean()), draw.expected_null_share
    found = f"{100 * real:.1f} % of {DRAWS} items lost their condition, {100 * asked:.1f} % expected"
    slack = SIGMAS * math.sqrt(max(asked * (1 - asked), 1 / DRAWS) / DRAWS)
    bare = draw.tag_dropout > 0  # then some lose all of their tags one by one
    if real < asked - slack or (real > asked + slack and not bare):
        remedy = "a share that is drawn is kept where its draw is at or above it (tokens.draw): undo the change"
        return failed("dropping", found, remedy)
    batch = max(2, bench.config.optim.batch)
    groups_NB = dropped_N[: DRAWS // batch * batch].reshape(-1, batch)
    mixed, share = int((groups_NB.any(1) & ~groups_NB.all(1)).sum()), min(max(real, 0.0), 1.0)
    expected = len(groups_NB) * (1 - share**batch - (1 - share) ** batch)
    if expected > 20 and mixed < expected / 2:
        found += f"; in {mixed} of {len(groups_NB)} batches some did and some did not, {expected:.0f} expected"
        return failed("dropping", found, "draw by item, not by batch: the same items would be conditioned together")
    alone = [draw.item(index).keep for index in range(0, DRAWS, DRAWS // 16)]
    if alone != [items[index].keep for index in range(0, DRAWS, DRAWS // 16)]:
        found = "an item that is drawn alone has another condition than the same item in a batch"
        return failed("dropping", found, "draw by the key of the item (keyed), not from a stream")
    return passed("dropping", f"{found}; drawn item by item")


def null_is_one(bench: Bench) -> Check:
    """Training's dropped item and playing's unconditional branch are told the same, and so are those with words."""
    task = _conditional(bench)
    if task is None:
        return skipped("null condition", "the model has no condition")
    player = task.player
    words = some_words(task)
    if words is None:
        return skipped("null condition", "no clip has words")
    with _Told(player.decoder) as learned:
        _train_on(bench, task, [words, words, NO_WORDS], [True, False, False])
    if not learned.seen:
        return failed("null condition", "training does not use the model's condition", "call the model's told in it")
    rules, guided = Rules(temperature=0.0), player.knows_null
    task.module.eval()
    with _Told(player.decoder) as played:
        guidance = Guidance(2.0) if guided else UNGUIDED
        player.play(frames=1, seeds=[0], rules=rules, words=words, guidance=guidance, static=False)
    pairs = [("with words", 0, played, 0)]
    if guided:
        with _Told(player.decoder) as free:
            player.play(frames=1, seeds=[0], rules=rules, static=False)
        pairs += [("guidance's unconditional branch", 1, played, 1), ("playing without words", 2, free, 0)]
    task.module.train()
    for what, row, heard, other in pairs:
        off = _apart(learned.seen[0], row, heard.seen[0], other)
        if off > PARITY:
            found = f"{what} is told something else than training told: {_share(off)}"
            return failed("null condition", found, "both sides must call the one function of models.conditions")
    if not guided:
        return passed("null condition", "words are told alike; the null condition is never trained nor played")
    kind = f" ({task.module.null})" if isinstance(task.module, TextModel) else ""
    kind = " (none: the BOS alone)" if isinstance(task.module, MixtureModel) else kind
    return passed("null condition", f"training and playing tell the same, with words and without{kind}")


def some_words(task: CodesTask) -> Words | None:
    """Of a clip that has any which the model knows."""
    found = (task.train.words_of(clip) for clip in task.train.clips[:MOST_TEXTS].tolist())
    if isinstance(task.coder, TagWords):
        return Words(task.coder.tags[:1])
    return next((words for words in found if words and not task.coder.cut(words)), None)


def _train_on(bench: Bench, task: CodesTask, words_B: list[Words], keep_B: list[bool]) -> None:
    """A pass of the objective without gradients; as in training, unless that would drop at random what is compared."""
    grid_BSK, _, weights_K, *_ = task.inputs(task.batch(0, 0))
    assert grid_BSK is not None
    condition = [tensor.to(bench.device) for tensor in task.coder.batch(words_B)]
    if task.objective.both_ways:
        condition.append(torch.zeros(len(words_B), dtype=torch.bool, device=bench.device))
    task.objective.train(not compiled.draws(task.objective))
    with torch.no_grad():
        rows_BSK = grid_BSK[:1].repeat(len(words_B), 1, 1)
        task.objective(rows_BSK, torch.tensor(keep_B, device=bench.device), weights_K, *condition)
    task.objective.train()


def _apart(one: Told, row: int, other: Told, place: int) -> float:
    """Largest relative difference of what two items are told; infinite where they do not even read the same places."""
    mine, theirs = _parts(one, row), _parts(other, place)
    if len(mine) != len(theirs) or any(a.shape != b.shape for a, b in zip(mine, theirs, strict=True)):
        return math.inf
    sizes = [float(a.abs().max().clamp(min=1e-12)) if a.numel() else 1.0 for a in mine]
    offs = [float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip(mine, theirs, strict=True)]
    return max((off / size for off, size in zip(offs, sizes, strict=True)), default=0.0)


def _parts(told: Told, row: int) -> list[Tensor]:
    """What an item reads: its condition; its memory at the places of its mask, and those places."""
    parts = [] if told.condition_BD is None else [told.condition_BD[row]]
    if told.memory_BMD is not None:
        length = told.memory_BMD.shape[1]
        mask_M = torch.ones(length, dtype=torch.bool) if told.mask_BM is None else told.mask_BM[row].bool().cpu()
        parts += [told.memory_BMD[row][mask_M.to(told.memory_BMD.device)], mask_M.nonzero().float()]
    if told.prefix is not None:
        prefix, mask_M = told.prefix, told.prefix.mask_BM[row].bool()
        parts += [layer[row][:, mask_M] for layers in (prefix.keys_L, prefix.values_L) for layer in layers]
        parts += [mask_M.nonzero().float(), prefix.count_B[row].float()]
    return parts


def _share(off: float) -> str:
    return "it reads other places of the text" if math.isinf(off) else f"{100 * off:.2g} % off"


class _Told:
    """What a decoder is told, in playing (its forward) and in training (its loss)."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.seen: list[Told] = []

    def __enter__(self) -> _Told:
        self._handle = self._decoder.register_forward_pre_hook(
            lambda module, args, kwargs: self._note(kwargs), with_kwargs=True
        )
        loss: Callable[..., Any] = self._decoder.loss

        def noted(*args: Any, **kwargs: Any) -> Any:
            self._note(kwargs)
            return loss(*args, **kwargs)

        vars(self._decoder)["loss"] = noted
        return self

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()
        del vars(self._decoder)["loss"]

    def _note(self, kwargs: dict[str, Any]) -> None:
        told = [kwargs.get(name) for name in ("condition_BD", "memory_BMD", "memory_mask_BM")]
        if kwargs.get("prefix") is not None:
            self.seen.append(Told(prefix=kwargs["prefix"]))
        elif told[0] is not None or told[1] is not None:
            self.seen.append(Told(*(None if tensor is None else tensor.detach().clone() for tensor in told)))
