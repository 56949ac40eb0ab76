"""Playing: a decoder continues its own grid, step by step, from nothing or from a prompt.

Every step feeds the rows that the cache does not hold yet and draws the next row. Past the context the cache starts
again with the last half of the rows at positions from 0: the state of a training window that begins in the middle of a
clip, so never one that was not trained (no BOS, no position beyond the window).
Shapes: B items, T frames, S grid steps, K codebooks, V outputs, D condition width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from partimento.errors import PartimentoError
from partimento.models.conditions import NOTHING, Told
from partimento.models.linear import packed
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.models.quantized import Weights, narrowed
from partimento.progress import Progress, Quiet
from partimento.sampling.frame import CompiledSteps, Decoder, Rows, check_compile, make_rows, played
from partimento.sampling.guidance import UNGUIDED, Guidance, check_guidance
from partimento.sampling.looks import Listener, Looks
from partimento.sampling.row import write_row
from partimento.sampling.rules import Noise, Rules
from partimento.sampling.sheet import FREE, Ending, Sheet
from partimento.sampling.static import StaticSteps, write_static
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials


@dataclass(frozen=True)
class Played:
    """One item.

    codes_TK   int64 on the CPU, the prompt included
    ended      True if it ended by an EOS, False if it was cut at the frames asked for
    entropy_K  mean entropy in nats of the model's distribution over codes where it drew (guided, but not filtered; at
               temperature 1, before top-k, top-p and min-p); NaN when nothing was drawn
    """

    codes_TK: Tensor
    ended: bool
    entropy_K: Tensor


def generate(
    decoder: Decoder,
    pattern: Pattern,
    specials: Specials,
    *,
    frames: int,
    seeds: Sequence[int],
    rules: Rules,
    context: int,
    prompt_BTK: Tensor | None = None,
    told: Told = NOTHING,
    null: Told = NOTHING,
    guidance: Guidance = UNGUIDED,
    ending: Ending = FREE,
    cardinalities: Sequence[int] | None = None,
    static: bool | None = None,
    compile: bool = False,
    weights: Weights = "full",
    listener: Listener | None = None,
    progress: Progress | None = None,
) -> list[Played]:
    """Plays one item for each seed, `frames` frames each with the prompt counted, fewer if an item ends before.

    `context` is the number of rows (input steps) of a training window. Noise belongs to (seed, grid step), so an item
    does not depend on the others of its batch, a shorter result is the beginning of a longer one, and continuing a
    beginning with its own seed gives the same music (all up to the rounding of matrix products).

    `told` is the condition of every item, `null` that of the other side of the guidance (a null without a memory reads
    nothing, as an item whose text was dropped in training). `cardinalities` are the codes of each book, where some have
    fewer than others. `listener` gets the frames while they are played (see
    `looks`). With `static` every step is one and the same program (see `static`; None: everywhere but on a CPU); what
    is played does not depend on it. With `compile` a step is compiled (see `frame`): on a CPU by a C++ compiler, once a
    machine, on a GPU by torch's, for a minute at the first playing of these shapes; what is played is the same up to
    rounding. `weights` are then read as bfloat16 or int8 where asked for (see `models.quantized`), and played is
    something a little else.
    Raises SAMPLE001 (frames, context or prompt impossible), SAMPLE002 (guidance without a null), SAMPLE003 (the
    specials are not the model's), SAMPLE011 (an ending that needs an EOS, without one), TOKEN002 (a prompt id is not a
    code, or an id that is none was drawn), SAMPLE020, SAMPLE021, SAMPLE023 (it cannot be compiled), SAMPLE022 (narrow
    weights, and not compiled), MODEL044 (a mixture that is told no text).
    """
    check_compile(decoder, compile, weights)
    check_guidance(guidance, told, null)
    cardinality = _check_specials(decoder, specials)
    device = decoder.embedding.device
    if isinstance(decoder, MixtureDecoder):
        decoder.require_prefix(told.prefix)
    _check_told(told, null, len(seeds))
    prompt_BTK = _check_request(pattern, frames, seeds, context, prompt_BTK, cardinality, decoder)
    sheet = Sheet(
        pattern,
        specials,
        frames=frames,
        prompt_BTK=prompt_BTK,
        cardinality=cardinality,
        ending=ending,
        device=device,
        cardinalities=cardinalities,
    )
    if not guidance.neutral:
        told = told.followed_by(null)
    copies = 1 if guidance.neutral else 2
    if static is None:
        static = device.type != "cpu"
    gradless = torch.no_grad() if static else torch.inference_mode()  # XLA has no inference mode
    items, rows = len(seeds) * copies, min(context, sheet.steps)
    with gradless, _evaluating(decoder), ExitStack() as stack:
        noise = Noise(seeds, pattern.codebooks, device)
        look = Looks(sheet, progress or Quiet(), listener)
        if not compile:
            stack.enter_context(packed(played(decoder), items))
        if static:
            stack.enter_context(narrowed(played(decoder), weights))
            starts = window_starts(sheet.first, sheet.steps, context)
            steps = StaticSteps(decoder, sheet, rules, noise, told, starts=starts, context=context, guidance=guidance)
            entropy_SBK = write_static(steps, look, CompiledSteps(steps) if compile else steps.step)
        else:
            predict = make_rows(decoder, items, rows, told, compile=compile, weights=weights)
            entropy_SBK = _write_all(predict, sheet, rules, noise, context, guidance, look)
        look.over()
    # Copies made outside of inference mode, so that the codes may also be trained on.
    return [_played(sheet, item, entropy_SBK[:, item].clone()) for item in range(len(seeds))]


def _write_all(
    predict: Rows,
    sheet: Sheet,
    rules: Rules,
    noise: Noise,
    context: int,
    guidance: Guidance,
    look: Callable[[int], bool],
) -> Tensor:
    """Draws every free row of the sheet in turn; the entropies_SBK of what was drawn from.

    For a CPU, where the work counts and not the number of programs: rows without a draw are fed with the next one, and
    attention reads the filled part of the cache only.
    """
    copies = 1 if guidance.neutral else 2
    entropy_SBK = torch.zeros(sheet.grid_BSK.transpose(0, 1).shape, device=sheet.grid_BSK.device)
    start = fed = window_start(sheet.first, context)
    for step in range(sheet.first, sheet.steps):
        if sheet.some_free[step]:  # else nothing to draw: the row is fed together with the next one
            if (begin := window_start(step, context)) != start:
                start = fed = begin
                predict.reset()
            books = sheet.free_books[step]
            logits_BKV = predict(sheet.grid_BSK[:, fed:step].repeat(copies, 1, 1), books)
            fed = step
            entropy_BK = write_row(sheet, step, logits_BKV, rules, noise.at(step), guidance, books)
            entropy_SBK[step, :, books] = entropy_BK
        if look(step):
            break
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


def window_starts(first: int, steps: int, context: int) -> dict[int, int]:
    """{step: first row of its window} for step `first` and every later one below `steps` at which a window starts."""
    begins = {step: window_start(step, context) for step in range(first, steps)}
    return {step: begin for step, begin in begins.items() if begin != begins.get(step - 1)}


def _played(sheet: Sheet, item: int, entropy_SK: Tensor) -> Played:
    frames, ended = sheet.ends()[item]
    drawn_SK = (sheet.frame_SK >= sheet.prompt_frames) & (sheet.frame_SK < frames)
    entropy_K = (entropy_SK * drawn_SK).sum(0) / drawn_SK.sum(0)
    return Played(sheet.codes(item, frames), ended, entropy_K.cpu())


def _check_specials(decoder: Decoder, specials: Specials) -> int:
    """The cardinality, V. Raises SAMPLE003 when the model was not built for these specials."""
    config = decoder.config
    cardinality = config.outputs - (specials.eos is not None)
    fits = specials.eos is None or specials.eos == cardinality
    # More rows than needed are harmless: Dia's tables have one that nothing uses.
    if not fits or min(specials.pad, specials.bos) < cardinality or specials.rows > config.rows:
        raise PartimentoError(
            "SAMPLE003",
            f"{specials} do not belong to a model with {config.rows} rows and {config.outputs} outputs a codebook",
            next="use the specials that are stored with the run",
        )
    return cardinality


def _check_told(told: Told, null: Told, items: int) -> None:
    """Raises SAMPLE001 for a condition that is not one for each item."""
    for name, side in (("told", told), ("null", null)):
        rows = {len(part) for part in (side.condition_BD, side.memory_BMD, side.mask_BM) if part is not None}
        if side.prefix is not None:
            rows.add(len(side.prefix.count_B))
        if rows - {items}:
            raise PartimentoError(
                "SAMPLE001",
                "this cannot be played",
                why=f"{name} is of {', '.join(map(str, sorted(rows)))} items, and there are {items} seeds",
                next="give one condition for each seed",
            )


def _check_request(
    pattern: Pattern,
    frames: int,
    seeds: Sequence[int],
    context: int,
    prompt_BTK: Tensor | None,
    cardinality: int,
    decoder: Decoder,
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
