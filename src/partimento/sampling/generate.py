"""Playing: a decoder continues its own grid, step by step, from nothing or from a prompt.

Every step feeds the rows that the cache does not hold yet and draws the next row. Past the context the cache starts
again with the last half of the rows at positions from 0: the state of a training window that begins in the middle of a
clip, so never one that was not trained (no BOS, no position beyond the window).
Shapes: B items, T frames, S grid steps, K codebooks, V outputs, D condition width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder
from partimento.models.linear import packed
from partimento.progress import Progress, Quiet
from partimento.sampling.guidance import Told, check_guidance
from partimento.sampling.row import write_row
from partimento.sampling.rules import Noise, Rules
from partimento.sampling.sheet import Sheet
from partimento.sampling.static import StaticSteps, write_static
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
    memory_BMD: Tensor | None = None,
    memory_mask_BM: Tensor | None = None,
    null_memory_BMD: Tensor | None = None,
    null_memory_mask_BM: Tensor | None = None,
    guidance: float = 1.0,
    stop_at_eos: bool = True,
    static: bool | None = None,
    progress: Progress | None = None,
) -> list[Played]:
    """Plays one item for each seed, `frames` frames each with the prompt counted, fewer if an item ends before.

    `context` is the number of rows (input steps) of a training window. Noise belongs to (seed, grid step), so an item
    does not depend on the others of its batch, a shorter result is the beginning of a longer one, and continuing a
    beginning with its own seed gives the same music (all up to the rounding of matrix products).

    The memory is what cross attention reads, and the null memory what it reads for the other side of the guidance
    (without one: nothing, as an item whose text was dropped in training). With `static` every step is one and the same
    program (see `static`; None: everywhere but on a CPU); what is played does not depend on it.
    Raises SAMPLE001 (frames, context or prompt impossible), SAMPLE002 (guidance without a null), SAMPLE003 (the
    specials are not the model's), TOKEN002 (a prompt id is not a code).
    """
    told = Told(condition_BD, memory_BMD, memory_mask_BM)
    null = Told(null_BD, null_memory_BMD, null_memory_mask_BM)
    check_guidance(guidance, told, null)
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
        told = told.followed_by(null)
    copies = 1 if guidance == 1 else 2
    if static is None:
        static = device.type != "cpu"
    gradless = torch.no_grad() if static else torch.inference_mode()  # XLA has no inference mode
    with gradless, _evaluating(decoder), packed(decoder, len(seeds) * copies):
        noise = Noise(seeds, pattern.codebooks, device)
        look = _Looks(sheet, progress or Quiet())
        if static:
            starts = window_starts(sheet.first, sheet.steps, context)
            steps = StaticSteps(decoder, sheet, rules, noise, told, starts=starts, context=context, guidance=guidance)
            entropy_SBK = write_static(steps, look)
        else:
            entropy_SBK = _write_all(decoder, sheet, rules, noise, told, context, guidance, look)
        look.over()
    # Copies made outside of inference mode, so that the codes may also be trained on.
    return [_played(sheet, item, entropy_SBK[:, item].clone()) for item in range(len(seeds))]


def _write_all(
    decoder: CodeDecoder,
    sheet: Sheet,
    rules: Rules,
    noise: Noise,
    told: Told,
    context: int,
    guidance: float,
    look: Callable[[int], bool],
) -> Tensor:
    """Draws every free row of the sheet in turn; the entropies_SBK of what was drawn from.

    For a CPU, where the work counts and not the number of programs: rows without a draw are fed with the next one, and
    attention reads the filled part of the cache only.
    """
    copies = 1 if guidance == 1 else 2
    entropy_SBK = torch.zeros(sheet.grid_BSK.transpose(0, 1).shape, device=sheet.grid_BSK.device)
    cache = decoder.make_cache(len(sheet.end_B) * copies, min(context, sheet.steps), static=False)
    start = fed = window_start(sheet.first, context)
    for step in range(sheet.first, sheet.steps):
        if not sheet.some_free[step]:
            continue  # nothing to draw; the row is fed together with the next one
        if (begin := window_start(step, context)) != start:
            start = fed = begin
            cache.reset()
        rows_BSK = sheet.grid_BSK[:, fed:step].repeat(copies, 1, 1)
        logits_BKV = decoder(rows_BSK, cache=cache, last=True, **told.arguments())[:, -1]
        fed = step
        entropy_SBK[step] = write_row(sheet, step, logits_BKV, rules, noise.at(step), guidance)
        if look(step):
            break
    return entropy_SBK


class _Looks:
    """Called after every step: at some of them tells the progress, and whether all items have ended."""

    def __init__(self, sheet: Sheet, progress: Progress) -> None:
        self.sheet, self.progress = sheet, progress

    def __call__(self, step: int) -> bool:
        if step % _LOOK:
            return False
        self.progress.update(step, self.sheet.steps)
        return self.sheet.finished(step + 1)

    def over(self) -> None:
        self.progress.update(self.sheet.steps, self.sheet.steps)


def window_start(step: int, context: int) -> int:
    """First of the rows that the model sees when it predicts row `step`: a function of the step alone.

    0 while the rows fit the context; when they do not, the window starts again with the last context // 2 rows (at
    least one), grows to the context, and so on.
    """
    if step <= context:
        return 0
    slide = context + 1 - max(1, context // 2)
    return ((step - context - 1) // slide + 1) * slide


def window_starts(first: int, steps: int, context: int) -> dict[int, int]:
    """{step: first row of its window} for step `first` and every later one below `steps` at which a window starts."""
    begins = {step: window_start(step, context) for step in range(first, steps)}
    return {step: begin for step, begin in begins.items() if begin != begins.get(step - 1)}


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
