from __future__ import annotations

import math

import pytest
import torch
from tiny_decoders import PATTERNS, SPECIALS, K, Rigged, V, tiny
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder
from partimento.sampling.generate import generate, window_start, window_starts
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Noise, Rules, draw
from partimento.sampling.sheet import FREE, Ending, Sheet
from partimento.sampling.static import StaticSteps, write_static
from partimento.tokens.patterns import NO_FRAME, Pattern, apply
from partimento.tokens.spec import Specials

FRAMES = 14
MODELS = {
    "default": {},
    "musicgen": {"norm": "layer", "activation": "gelu", "positions": "sinusoidal", "qk_norm": False},
    "learned": {"positions": "learned", "bias": True},
    "dia": {"kv_heads": 1, "head_width": 16, "qk_norm": False, "attention_scale": 0.5},
}
NEVER = Ending(eos="never")
SAMPLED = Rules(temperature=0.9, top_k=8, top_p=0.95)


def slow_loop(decoder, pattern, specials, frames, seeds, rules, context, prompt=None, stops=True):
    """The whole window again for every row, places filled one at a time, windows by a recursion."""
    steps, noise = pattern.steps(frames, ends=False), Noise(seeds, K, torch.device("cpu"))
    given = 0 if prompt is None else prompt.shape[1]
    grid = torch.full((len(seeds), steps, K), -1)
    begin, ends = 0, [None] * len(seeds)
    for step in range(steps):
        while step - begin > context:
            begin = begin + context + 1 - max(1, context // 2)
        drawn = None
        for k in range(K):
            place = step - 1 - pattern.delays[k]
            frame = place // pattern.stride
            for b in range(len(seeds)):
                if place < 0:
                    grid[b, step, k] = specials.bos
                elif place % pattern.stride:
                    grid[b, step, k] = specials.pad
                elif frame < given:
                    grid[b, step, k] = prompt[b, frame, k]
                elif ends[b] is not None and frame >= ends[b]:
                    grid[b, step, k] = specials.eos if frame == ends[b] else specials.pad
                else:
                    if drawn is None:
                        logits = decoder(grid[:, begin:step])[:, -1].clone()
                        first_may = stops and frame > 0 and k == 0
                        if specials.eos is not None:
                            logits[:, 1 if first_may else 0 :, specials.eos] = -torch.inf
                        drawn = draw(logits, rules, noise.at(step))
                    grid[b, step, k] = drawn[b, k]
        for b in range(len(seeds)):
            if stops and ends[b] is None and grid[b, step, 0] == specials.eos:
                ends[b] = (step - 1 - pattern.delays[0]) // pattern.stride
                for k in range(1, K):  # a book ahead of book 0 keeps what it drew, one in this row gives way
                    if step - 1 - pattern.delays[k] == ends[b] * pattern.stride:
                        grid[b, step, k] = specials.eos
                    elif (step - 1 - pattern.delays[k]) % pattern.stride == 0:
                        frame = (step - 1 - pattern.delays[k]) // pattern.stride
                        if frame > ends[b]:
                            grid[b, step, k] = specials.pad
    codes = []
    for b in range(len(seeds)):
        n = frames if ends[b] is None else min(frames, ends[b])
        codes.append(
            torch.tensor([[int(grid[b, pattern.step_of(t, k), k]) for k in range(K)] for t in range(n)]).view(n, K)
        )
    return codes


@pytest.mark.parametrize("rules", [Rules(temperature=0.0), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("context", [200, 9])
@pytest.mark.parametrize("given", [0, 5])
@pytest.mark.parametrize("name", PATTERNS)
@torch.inference_mode()
def test_against_the_slow_loop(name: str, given: int, context: int, rules: Rules) -> None:
    decoder, pattern = tiny(), PATTERNS[name]
    prompt = torch.randint(0, V, (2, given, K)) if given else None
    expected = slow_loop(decoder, pattern, SPECIALS, FRAMES, [1, 2], rules, context, prompt)
    request = {"frames": FRAMES, "seeds": [1, 2], "rules": rules, "context": context, "prompt_BTK": prompt}
    for static in (False, True):
        played = generate(decoder, pattern, SPECIALS, **request, static=static)
        for item, codes in zip(played, expected, strict=True):
            assert torch.equal(item.codes_TK, codes)
            assert given <= len(item.codes_TK) <= FRAMES


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", PATTERNS)
def test_greedy_playing_equals_teacher_forcing(name: str, model: str) -> None:
    """The codes played are the argmax of one forward over their own grid; the grid is laid out by `apply`."""
    decoder, pattern = tiny(**MODELS[model]), PATTERNS[name]
    # More frames than compared, since the overhang of the early books holds codes.
    more = FRAMES + pattern.max_delay
    (played,) = generate(
        decoder,
        pattern,
        SPECIALS,
        frames=more,
        seeds=[0],
        rules=Rules(temperature=0.0),
        context=250,
        ending=NEVER,
    )
    assert played.codes_TK.shape == (more, K) and not played.ended
    rows = pattern.steps(FRAMES, ends=False)
    grid = apply(played.codes_TK[None], pattern, SPECIALS, ends=False)[:, :rows]
    with torch.inference_mode():
        forced = decoder(grid[:, :-1])[..., :V].argmax(-1)
    frame_SK = torch.from_numpy(pattern.holds(1, rows - 1).copy())
    held = (frame_SK >= 0) & (frame_SK != NO_FRAME)
    assert torch.equal(forced[0][held], grid[0, 1:][held])
    (fewer,) = generate(
        decoder,
        pattern,
        SPECIALS,
        frames=FRAMES,
        seeds=[0],
        rules=Rules(temperature=0.0),
        context=250,
        ending=NEVER,
    )
    assert torch.equal(fewer.codes_TK, played.codes_TK[:FRAMES]), "a shorter result is the beginning of a longer one"


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("context", [250, 12])
def test_continuing_a_beginning_gives_the_same_music(name: str, context: int) -> None:
    decoder, pattern = tiny(), PATTERNS[name]

    def play(prompt: Tensor | None) -> Tensor:
        return generate(
            decoder,
            pattern,
            SPECIALS,
            frames=FRAMES,
            seeds=[7],
            rules=SAMPLED,
            context=context,
            prompt_BTK=prompt,
            ending=NEVER,
        )[0].codes_TK

    whole = play(None)
    for given in (1, 6, FRAMES - 1):
        assert torch.equal(play(whole[None, :given]), whole)
    assert not torch.equal(play((whole[None, :6] + 1) % V), whole)


def test_seeds_and_batches() -> None:
    decoder, pattern = tiny(), PATTERNS["delay"]

    def play(seeds: list[int]) -> list[Tensor]:
        made = generate(decoder, pattern, SPECIALS, frames=40, seeds=seeds, rules=Rules(), context=30, ending=NEVER)
        return [item.codes_TK for item in made]

    together = play([5, 6, 7])
    assert not torch.equal(together[0], together[1])
    for seed, codes in zip([5, 6, 7], together, strict=True):
        assert torch.equal(play([seed])[0], codes)
    again = play([7, 6, 5, 6])
    assert torch.equal(again[0], together[2]) and torch.equal(again[1], again[3])


@pytest.mark.parametrize("name", ["delay", "parallel", "flat", "dia", "random"])
@pytest.mark.parametrize("at", [0, 1, 6, 13, 14])
@pytest.mark.parametrize("given", [0, 6])
@pytest.mark.parametrize("static", [False, True])
def test_eos_ends_an_item_at_its_frame(name: str, at: int, given: int, static: bool) -> None:
    decoder, pattern = tiny(cls=Rigged), PATTERNS[name]
    decoder.at, decoder.pattern = (at,), pattern
    prompt = torch.randint(0, V, (2, given, K))
    request = {"frames": FRAMES, "seeds": [1, 2], "rules": Rules(), "context": 250, "prompt_BTK": prompt}
    request["static"] = static
    played = generate(decoder, pattern, SPECIALS, **request)
    never = generate(decoder, pattern, SPECIALS, **request, ending=NEVER)
    # An EOS at the first frame, or inside the prompt, cannot be drawn.
    ends = 0 < at < FRAMES and at >= given
    for item, endless in zip(played, never, strict=True):
        assert len(item.codes_TK) == (at if ends else FRAMES)
        assert item.ended == ends or at == FRAMES
        assert len(endless.codes_TK) == FRAMES and not endless.ended
        # Late books see the end coming, and may go on otherwise than in the endless item; book 0 does not.
        assert torch.equal(item.codes_TK[:, 0], endless.codes_TK[: len(item.codes_TK), 0])
    slow = slow_loop(decoder, pattern, SPECIALS, FRAMES, [1, 2], Rules(), 250, prompt)
    assert all(torch.equal(item.codes_TK, codes) for item, codes in zip(played, slow, strict=True))


@pytest.mark.parametrize("static", [False, True])
def test_items_of_a_batch_end_each_at_its_own_time(static: bool) -> None:
    decoder = tiny(cls=Rigged)
    decoder.at = (3, 50, 9)
    request = {"frames": 30, "seeds": [1, 2, 3], "rules": Rules(), "context": 250, "static": static}
    played = generate(decoder, PATTERNS["delay"], SPECIALS, **request)
    assert [(len(item.codes_TK), item.ended) for item in played] == [(3, True), (30, False), (9, True)]
    assert all(item.codes_TK.max() < V for item in played)


@pytest.mark.parametrize("static", [False, True])
def test_stops_early_when_all_have_ended(static: bool) -> None:
    class Counting(Rigged):
        calls = 0

        def forward(self, grid_BSK, **extra):  # type: ignore[override]
            type(self).calls += 1
            return super().forward(grid_BSK, **extra)

    decoder = tiny(cls=Counting)
    request = {"frames": 200, "seeds": [1], "rules": Rules(), "context": 250, "static": static}
    (played,) = generate(decoder, PATTERNS["delay"], SPECIALS, **request)
    assert len(played.codes_TK) == 6 and played.ended
    assert Counting.calls <= 6 + 3 + 16


@pytest.mark.parametrize("context", [1, 2, 3, 7, 12])
def test_window_start(context: int) -> None:
    begin = 0
    for step in range(1, 100):
        if step - begin > context:
            begin = step - max(1, context // 2)
        assert window_start(step, context) == begin
        assert 1 <= step - begin <= context
    begins = {step: window_start(step, context) for step in range(5, 40)}
    starts = window_starts(5, 40, context)
    assert [step for step in begins if step == 5 or begins[step] != begins[step - 1]] == list(starts)
    assert all(begins[step] == begin for step, begin in starts.items())


@pytest.mark.parametrize("static", [False, True])
def test_guidance_is_two_forwards_mixed(static: bool) -> None:
    decoder, pattern = tiny(tags=4), PATTERNS["delay"]
    tags = torch.eye(4)[:2]
    with torch.no_grad():
        condition = decoder.condition(tags, torch.tensor([True, True]))
        null = decoder.condition.null(2)

    def play(scale: float, given: Tensor | None = condition) -> list[Tensor]:
        made = generate(
            decoder,
            pattern,
            SPECIALS,
            frames=FRAMES,
            seeds=[1, 2],
            rules=Rules(temperature=0.0),
            context=200,
            told=Told(given),
            null=Told(null),
            guidance=Guidance(scale),
            ending=NEVER,
            static=static,
        )
        return [item.codes_TK for item in made]

    assert all(torch.equal(a, b) for a, b in zip(play(0.0), play(1.0, null), strict=True))
    guided = play(3.0)
    assert not torch.equal(guided[0], play(1.0)[0])
    rows = pattern.steps(FRAMES - pattern.max_delay, ends=False)
    for item in range(2):
        grid = apply(guided[item][None], pattern, SPECIALS, ends=False)[:, : rows - 1]
        with torch.inference_mode():
            u = decoder(grid, condition_BD=null[:1])
            c = decoder(grid, condition_BD=condition[item : item + 1])
        wanted = (u + 3 * (c - u))[0, :, :, :V].argmax(-1)
        for t in range(FRAMES - 2 * pattern.max_delay):
            for k in range(K):
                assert wanted[pattern.step_of(t, k) - 1, k] == guided[item][t, k]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("null", ["none", "given"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_memory_is_read_at_every_step(scale: float, null: str, static: bool) -> None:
    """Greedy codes are those of a forward without a cache, with the memory, its mask and those of the null."""
    decoder, pattern = tiny(cross_width=10, cross_kv_heads=2, kv_heads=2), PATTERNS["delay"]
    memory, mask = torch.randn(2, 5, 10), torch.tensor([[True] * 5, [True, True, False, False, False]])
    null_memory = null_mask = None
    if null == "given":
        null_memory, null_mask = torch.randn(2, 5, 10), torch.tensor([[True, False, False, False, False]] * 2)
    request = {"frames": FRAMES, "seeds": [1, 2], "rules": Rules(temperature=0.0), "context": 200, "ending": NEVER}
    played = generate(
        decoder,
        pattern,
        SPECIALS,
        **request,
        told=Told(memory_BMD=memory, mask_BM=mask),
        null=Told(memory_BMD=null_memory, mask_BM=null_mask),
        guidance=Guidance(scale),
        static=static,
    )
    plain = generate(decoder, pattern, SPECIALS, **request)
    rows = pattern.steps(FRAMES - pattern.max_delay, ends=False)
    codes_BTK = torch.stack([item.codes_TK for item in played])
    assert not torch.equal(codes_BTK[0], plain[0].codes_TK)
    grid = apply(codes_BTK, pattern, SPECIALS, ends=False)[:, : rows - 1]
    with torch.inference_mode():
        wanted = decoder(grid, memory_BMD=memory, memory_mask_BM=mask)
        if scale != 1:
            nothing = {} if null_memory is None else {"memory_BMD": null_memory, "memory_mask_BM": null_mask}
            u = decoder(grid, **nothing)
            wanted = u + scale * (wanted - u)
    for t in range(FRAMES - 2 * pattern.max_delay):
        for k in range(K):
            step = pattern.step_of(t, k)
            assert torch.equal(wanted[:, step - 1, k, :V].argmax(-1), codes_BTK[:, t, k])


@pytest.mark.parametrize("static", [False, True])
def test_entropy_is_that_of_teacher_forcing(static: bool) -> None:
    decoder, pattern = tiny(), PATTERNS["parallel"]
    (played,) = generate(
        decoder,
        pattern,
        SPECIALS,
        frames=FRAMES,
        seeds=[3],
        rules=SAMPLED,
        context=200,
        prompt_BTK=torch.zeros(1, 4, K, dtype=torch.long),
        ending=NEVER,
        static=static,
    )
    grid = apply(played.codes_TK[None], pattern, SPECIALS, ends=False)
    with torch.inference_mode():
        p = decoder(grid[:, :-1])[0, 4:, :, :V].softmax(-1)
    torch.testing.assert_close(played.entropy_K, -(p * p.log()).sum(-1).mean(0), rtol=1e-4, atol=1e-4)
    assert (played.entropy_K < math.log(V)).all()


class Counted(CodeDecoder):
    """Remembers the shapes that it was given."""

    shapes: list[tuple[int, ...]]

    def forward(self, grid_BSK, *, cache=None, **extra):  # type: ignore[override]
        self.shapes.append(tuple(grid_BSK.shape))
        return super().forward(grid_BSK, cache=cache, **extra)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("given", [0, 5, 11])
def test_a_static_playing_has_two_shapes(name: str, given: int) -> None:
    decoder = tiny(cls=Counted)
    decoder.shapes = []
    prompt = torch.randint(0, V, (1, given, K))
    request = {"frames": 2 * FRAMES, "seeds": [1], "rules": SAMPLED, "context": 9, "ending": NEVER}
    generate(decoder, PATTERNS[name], SPECIALS, **request, prompt_BTK=prompt, static=True)
    assert len(set(decoder.shapes)) == 2 and decoder.shapes.count((1, 1, K)) > len(decoder.shapes) / 2


@pytest.mark.parametrize(
    ("rules", "guidance", "ending"),
    [
        (Rules(temperature=0.0), Guidance(2.0), FREE),
        (SAMPLED, Guidance(2.0, "filter", 5, "linear"), Ending("argmax", "end")),
        (Rules(min_p=0.1), Guidance(2.0, end=0.5), Ending("never", "special")),
    ],
    ids=["greedy", "filter", "interval"],
)
def test_the_whole_step_is_one_program(rules: Rules, guidance: Guidance, ending: Ending) -> None:
    """Guidance, rules, noise, entropy, EOS and all: recorded without a break, and never again after the first."""
    decoder, pattern, programs = tiny(tags=4), PATTERNS["delay"], []
    condition = torch.randn(2, 32)
    null = decoder.condition.null(2).detach()
    frames, context, device = 3 * FRAMES, 16, torch.device("cpu")

    def count(module: torch.fx.GraphModule, _):
        programs.append(module)
        return module.forward

    prompt = torch.randint(0, V, (2, 7, K))
    sheet = Sheet(pattern, SPECIALS, frames=frames, prompt_BTK=prompt, cardinality=V, ending=ending, device=device)
    starts = window_starts(sheet.first, sheet.steps, context)
    assert len(starts) > 3
    with torch.no_grad():
        told = Told(condition).followed_by(Told(null))
        noise = Noise([1, 2], K, device)
        steps = StaticSteps(decoder, sheet, rules, noise, told, starts=starts, context=context, guidance=guidance)
        steps.step = torch.compile(steps.step, backend=count, fullgraph=True, dynamic=False)
        write_static(steps, lambda step: len(programs) > 1, steps.step)
    assert len(programs) == 1
    played = generate(
        decoder,
        pattern,
        SPECIALS,
        frames=frames,
        seeds=[1, 2],
        rules=rules,
        context=context,
        prompt_BTK=prompt,
        told=Told(condition),
        null=Told(null),
        guidance=guidance,
        ending=ending,
    )
    for item, (frames, ended) in enumerate(sheet.ends()):
        assert torch.equal(sheet.codes(item, frames), played[item].codes_TK) and ended == played[item].ended


def test_the_musicgen_preset_has_no_end() -> None:
    specials = Specials.musicgen(V)
    decoder = tiny(specials)
    for name in ("delay", "flat"):
        (played,) = generate(decoder, PATTERNS[name], specials, frames=FRAMES, seeds=[3], rules=Rules(), context=200)
        assert played.codes_TK.shape == (FRAMES, K) and not played.ended and played.codes_TK.max() < V


def test_dropout_is_off_and_the_mode_restored_and_codes_can_be_trained_on() -> None:
    decoder = tiny(dropout=0.5).train()
    request = {"frames": 8, "seeds": [3], "rules": Rules(), "context": 200, "ending": NEVER}
    (first,) = generate(decoder, PATTERNS["delay"], SPECIALS, **request)
    assert decoder.training
    assert torch.equal(first.codes_TK, generate(decoder.eval(), PATTERNS["delay"], SPECIALS, **request)[0].codes_TK)
    decoder(first.codes_TK[None]).sum().backward()


def test_requests_that_cannot_be_played() -> None:
    decoder, pattern = tiny(), PATTERNS["delay"]
    good = {"frames": 5, "seeds": [1], "rules": Rules(), "context": 20}
    prompt = torch.zeros(1, 5, K, dtype=torch.long)
    for changes, code in (
        ({"frames": 0}, "SAMPLE001"),
        ({"seeds": []}, "SAMPLE001"),
        ({"context": 0}, "SAMPLE001"),
        ({"context": 257}, "SAMPLE001"),
        ({"prompt_BTK": prompt}, "SAMPLE001"),
        ({"prompt_BTK": prompt[:, :2, :2]}, "SAMPLE001"),
        ({"prompt_BTK": prompt[:, :2].expand(2, -1, -1)}, "SAMPLE001"),
        ({"prompt_BTK": prompt[:, :2] + V}, "TOKEN002"),
        ({"prompt_BTK": prompt[:, :2] - 1}, "TOKEN002"),
        ({"guidance": Guidance(2.0)}, "SAMPLE002"),
        ({"told": Told(torch.zeros(2, 32))}, "SAMPLE001"),
        ({"null": Told(memory_BMD=torch.zeros(3, 2, 32))}, "SAMPLE001"),
    ):
        with pytest.raises(PartimentoError) as caught:
            generate(decoder, pattern, SPECIALS, **{**good, **changes})
        assert caught.value.code == code, changes
    with pytest.raises(PartimentoError, match="SAMPLE003"):
        generate(decoder, pattern, Specials.musicgen(V), **good)
    with pytest.raises(PartimentoError, match="SAMPLE001"):
        generate(decoder, Pattern((0, 1)), SPECIALS, **good)
