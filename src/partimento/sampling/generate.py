"""Playing: a decoder continues its own grid, step by step, from nothing or from a prompt.

Every step feeds the rows that the cache does not hold yet and draws the next row. Past the context the cache starts
again with the last half of the rows at positions from 0: the state of a training window that begins in the middle of a
clip, so never one that was not trained (no BOS, no position beyond the window).
Shapes: B items, T frames, S grid steps, K codebooks, V outputs, D condition width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder
from partimento.models.linear import packed
from partimento.models.loss import code_entropy
from partimento.progress import Progress, Quiet
from partimento.sampling.guidance import check_guidance, guide
from partimento.sampling.rules import Noise, Rules, draw
from partimento.sampling.sheet import Sheet
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

# Steps between looks whether all items have ended (a look waits for the device), and between progress updates.
_LOOK = 16


@dataclass(frozen=True)
class Played:
    """One item.

    codes_TK   int64 on the CPU, the prompt included
    ended      True if it ended by an EOS, False if it was cut at the frames asked for
    entropy_K  mean entropy in nats of the model's distribution over codes where it drew (guided, at temperature 1,
               before top-k and top-p); NaN when nothing was drawn
    """

    codes_TK: Tensor
    ended: bool
    entropy_K: Tensor


def generate(
    decoder: CodeDecoder,
    pattern: Pattern,
    specials: Specials,
    *,
    frames: int,
    seeds: Sequence[int],
    rules: Rules,
    context: int,
    prompt_BTK: Tensor | None = None,
    condition_BD: Tensor | None = None,
    null_BD: Tensor | None = None,
    guidance: float = 1.0,
    stop_at_eos: bool = True,
    progress: Progress | None = None,
) -> list[Played]:
    """Plays one item for each seed, `frames` frames each with the prompt counted, fewer if an item ends before.

    `context` is the number of rows (input steps) of a training window. Noise belongs to (seed, grid step), so an item
    does not depend on the others of its batch, a shorter result is the beginning of a longer one, and continuing a
    beginning with its own seed gives the same music (all up to the rounding of matrix products).
    Raises SAMPLE001 (frames, context or prompt impossible), SAMPLE002 (guidance without a null), SAMPLE003 (the
    specials are not the model's), TOKEN002 (a prompt id is not a code).
    """
    check_guidance(guidance, condition_BD, null_BD)
    cardinality = _check_specials(decoder, specials)
    device = decoder.embedding.device
    prompt_BTK = _check_request(pattern, frames, seeds, context, prompt_BTK, cardinality, decoder)
    sheet = Sheet(
        pattern,
        specials,
        frames=frames,
        prompt_BTK=prompt_BTK,
        cardinality=cardinality,
        stops=stop_at_eos and specials.eos is not None,
        device=device,
    )
    if guidance != 1:
        assert condition_BD is not None and null_BD is not None  # checked above
        condition_BD = torch.cat([condition_BD, null_BD])
    rows = len(seeds) * (1 if guidance == 1 else 2)
    with torch.inference_mode(), _evaluating(decoder), packed(decoder, rows):
        noise = Noise(seeds, pattern.codebooks, device)
        entropy_SBK = _write_all(decoder, sheet, rules, noise, context, condition_BD, guidance, progress or Quiet())
    # Copies made outside of inference mode, so that the codes may also be trained on.
    return [_played(sheet, item, entropy_SBK[:, item].clone()) for item in range(len(seeds))]


def _write_all(
    decoder: CodeDecoder,
    sheet: Sheet,
    rules: Rules,
    noise: Noise,
    context: int,
    condition_BD: Tensor | None,
    guidance: float,
    progress: Progress,
) -> Tensor:
    """Draws every free row of the sheet in turn; the entropies_SBK of what was drawn from."""
    guided = guidance != 1
    items, cardinality = len(sheet.end_B), sheet.cardinality
    entropy_SBK = torch.zeros(sheet.grid_BSK.transpose(0, 1).shape, device=sheet.grid_BSK.device)
    cache = decoder.make_cache(items * (1 + guided), min(context, sheet.steps))
    start = fed = window_start(sheet.first, context)
    for step in range(sheet.first, sheet.steps):
        if not sheet.some_free[step]:
            continue  # nothing to draw; the row is fed together with the next one
        if (begin := window_start(step, context)) != start:
            start = fed = begin
            cache.reset()
        rows_BSK = sheet.grid_BSK[:, fed:step]
        if guided:
            rows_BSK = rows_BSK.repeat(2, 1, 1)
        logits_BKV = decoder(rows_BSK, condition_BD=condition_BD, cache=cache, last=True)[:, -1]
        fed = step
        if guided:
            conditional_BKV, null_BKV = logits_BKV.chunk(2)
            logits_BKV = guide(conditional_BKV, null_BKV, guidance)
        entropy_SBK[step] = code_entropy(logits_BKV, cardinality)
        sheet.ban(logits_BKV, step)
        sheet.write(step, draw(logits_BKV, rules, noise.at(step)))
        if step % _LOOK == 0:
            progress.update(step, sheet.steps)
            if sheet.finished(step + 1):
                break
    progress.update(sheet.steps, sheet.steps)
    return entropy_SBK


def window_start(step: int, context: int) -> int:
    """First of the rows that the model sees when it predicts row `step`: a function of the step alone.

    0 while the rows fit the context; when they do not, the window starts again with the last context // 2 rows (at
    least one), grows to the context, and so on.
    """
    if step <= context:
        return 0
    slide = context + 1 - max(1, context // 2)
    return ((step - context - 1) // slide + 1) * slide


def _played(sheet: Sheet, item: int, entropy_SK: Tensor) -> Played:
    frames, ended = sheet.ends()[item]
    drawn_SK = (sheet.frame_SK >= sheet.prompt_frames) & (sheet.frame_SK < frames)
    entropy_K = (entropy_SK * drawn_SK).sum(0) / drawn_SK.sum(0)
    return Played(sheet.codes(item, frames), ended, entropy_K.cpu())


def _check_specials(decoder: CodeDecoder, specials: Specials) -> int:
    """The cardinality, V. Raises SAMPLE003 when the model was not built for these specials."""
    config = decoder.config
    cardinality = config.outputs - (specials.eos is not None)
    fits = specials.eos is None or specials.eos == cardinality
    if not fits or min(specials.pad, specials.bos) < cardinality or specials.rows != config.rows:
        raise PartimentoError(
            "SAMPLE003",
            f"{specials} do not belong to a model with {config.rows} rows and {config.outputs} outputs a codebook",
            next="use the specials that are stored with the run",
        )
    return cardinality


def _check_request(
    pattern: Pattern,
    frames: int,
    seeds: Sequence[int],
    context: int,
    prompt_BTK: Tensor | None,
    cardinality: int,
    decoder: CodeDecoder,
) -> Tensor:
    """The prompt, empty if there is none. Raises SAMPLE001 and TOKEN002."""
    books = pattern.codebooks
    prompt = torch.zeros(len(seeds), 0, books, dtype=torch.int64) if prompt_BTK is None else prompt_BTK
    for fits, why in (
        (len(seeds) > 0, "there is no seed, so no item"),
        (books == decoder.config.codebooks, f"the pattern has {books} codebooks, not the model's"),
        (
            1 <= context <= decoder.config.max_positions,
            f"context {context} is not 1..{decoder.config.max_positions}",
        ),
        (
            prompt.ndim == 3 and prompt.shape[0] == len(seeds) and prompt.shape[2] == books,
            f"the prompt is {list(prompt.shape)}, not [{len(seeds)} seeds, frames, {books} codebooks]",
        ),
        (
            frames > prompt.shape[1],
            f"{frames} frames asked for, and the prompt has {prompt.shape[1]} (it is counted)",
        ),
    ):
        if not fits:
            raise PartimentoError("SAMPLE001", "this cannot be played", why=why, next="correct the request: see why")
    if prompt.numel() and not 0 <= int(prompt.min()) <= int(prompt.max()) < cardinality:
        raise PartimentoError(
            "TOKEN002",
            f"the prompt holds ids {int(prompt.min())}..{int(prompt.max())}, codes are 0..{cardinality - 1}",
            next="encode the prompt with the codec of the model's pack",
        )
    return prompt.long()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off inside, and the module as it was after."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
