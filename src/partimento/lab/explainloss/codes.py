"""The loss of a run that learns codes (rvq, dia, mot), explained: verdict, floors, books, gap, noise."""

from __future__ import annotations

import math
from typing import Any

from partimento.lab.explainloss import trained, words
from partimento.lab.explainloss.explained import Cell, Explained, Part, percent
from partimento.lab.explainloss.floors import SLIGHT, Standing, bits, mean, perplexity, smoothed_floor
from partimento.lab.explainloss.judged import getting_worse, good_of, lines, scored, standing_of, valid_of, young_of
from partimento.lab.explainloss.record import Record, gaps
from partimento.lab.explainloss.yardstick import outputs_of, text_ids, yardstick
from partimento.lab.verdict import latest
from partimento.runs.events import Event, curve

GAP = 0.02  # nats between training and held-out under which they are alike


def explain(record: Record) -> Explained:
    valid, line, baseline = (
        valid_of(record),
        latest(record.events, "train") or {},
        latest(record.events, "baseline") or {},
    )
    standing = standing_of(record)
    young = young_of(record, standing, line)
    return Explained(
        run=record.run.id,
        family=record.run.record["family"],
        step=record.step,
        verdict=lines(record, standing, young),
        good=good_of(record, standing, young),
        young=young,
        parts=[
            Part("What the number is", _number(record, standing, line)),
            _where(record, standing, valid),
            *words.parts(record, valid, baseline),
            _books(standing),
            Part("Training and held-out music", _gap(record, standing, valid)),
            Part("Is there anything to learn?", _noise(standing)),
            *trained.parts(record),
        ],
        figures={
            **standing.to_json(),
            "loss": line.get("loss"),
            "eos_ce": valid.get("eos_ce"),
            "caption_ce": valid.get("caption_ce"),
            "unigram_caption_ce": baseline.get("unigram_caption_ce"),
            "llama_caption_ce": baseline.get("llama_caption_ce"),
            "text_ids": text_ids(record),
            **trained.figures(record),
        },
        missing=[*record.missing, *_missing(record, standing, valid, line, baseline)],
    )


def _number(record: Record, standing: Standing, line: Event) -> list[str]:
    """What it is a mean of, and what was added to it."""
    loss, data, model = record.section("loss"), record.section("data"), record.section("model")
    K = len(standing.books)
    said = "A cross entropy in nats: minus the logarithm of the probability that the model gave to what came next. "
    said += f"The training loss is its mean over the codes of {f'all {K} books' if K > 1 else 'the one book'}"
    outputs = outputs_of(record)
    ends = outputs is not None and record.cardinalities and outputs > max(record.cardinalities)
    if ends:
        said += ", and over the marks of an end (EOS) where a clip truly ends"
    elif outputs is None:
        said += " (and of the marks of an end, where the model has one: not recorded)"
    said += ". Begin marks and padding (BOS, PAD) are never a target and count nothing"
    told = {
        "rvq": "; tags are told, and never predicted",
        "dia": "; the text is read by an encoder, and never predicted",
        "mot": "; the text in front is read, and masked out of the loss",
    }
    said += f"{told.get(record.run.record['family'], '')}."
    prose = [said, *yardstick(record, bool(ends))]
    share = model.get("caption_share") or 0.0
    if share:
        ids = text_ids(record)
        floor = f" (a guess among all ids: ln {ids:,} = {math.log(ids):.2f})" if ids else ""
        prose.append(
            f"In {percent(share)} of the items with words it is turned round: from the sound to the words{floor}. "
            "Their ids are in the training loss too, so it compares with no run without them; the books' figures do."
        )
    prose.append(_added(loss, outputs))
    dropped = [
        f"{percent(data[key])} of the {what} dropped"
        for key, what in (("null_share", "conditions"), ("tag_dropout", "tags"), ("caption_dropout", "captions"))
        if data.get(key)
    ]
    if model.get("dropout"):
        dropped.append(f"dropout {model['dropout']:g}")
    if dropped:
        prose.append(
            f"Training is harder than the judging: {', '.join(dropped)}. Validation has none of it, always takes the "
            "same held-out windows, is plain (no weights, no smoothing), leaves EOS out and counts every book alike."
        )
    else:
        prose.append(
            "Validation takes the same held-out windows always, is plain, leaves EOS out, and counts every book alike."
        )
    return prose


def _added(loss: dict[str, Any], outputs: int | None) -> str:
    """Weights, smoothing and z-loss, and what each does to the number."""
    said = []
    rule = loss.get("codebook_weights", "equal")
    if rule != "equal":
        named = "a list of the configuration" if isinstance(rule, list) else f"the rule “{rule}”"
        said.append(f"books count by {named} (scaled to a mean of 1), so it is no mean of the table below")
    if smoothing := loss.get("label_smoothing"):
        least = f": even a perfect model is left with {smoothed_floor(smoothing, outputs):.2f}" if outputs else ""
        said.append(f"label smoothing of {smoothing:g} lifts it{least}")
    if z := loss.get("z_loss"):
        guess = f" (at a guess {z * math.log(outputs) ** 2:.2g})" if outputs else ""
        said.append(f"a z-loss of {z:g} times the squared log-sum-exp of the outputs is added{guess}")
    if not loss:
        return "Whether it was weighted or smoothed was not recorded."
    if not said:
        return "Nothing else is in it: every book counts alike, no label smoothing, no z-loss."
    return f"In the training loss alone: {'; '.join(said)}."


def _where(record: Record, standing: Standing, valid: Event) -> Part:
    floors, rate, K = standing.mean, record.frame_rate, len(standing.books)
    named = [
        ("guessing among the legal codes (ln V)", floors.random),
        ("unigram: how often each code occurs", floors.unigram),
        ("bigram: which code follows which", floors.bigram),
        ("the model, in training (last line)", standing.train),
        (f"the model, held-out{' (' + valid['weights'] + ')' if valid.get('weights') else ''}", standing.valid),
    ]
    rows: list[list[Cell]] = [
        [
            name,
            value,
            bits(value),
            None if value is None or rate is None else (bits(value) or 0.0) * rate * K,
            perplexity(value),
            percent(floors.share(value)),
        ]
        for name, value in named
    ]
    prose = [
        "Means over the books, on the same held-out codes but for the line of the training. Perplexity: the sides of a "
        "die that is as unsure. Both counting models are counted on the training codes."
    ]
    if (eos := valid.get("eos_ce")) is not None:
        prose.append(f"The mark of an end (EOS), apart: {eos:.2f} nats, of the few held-out windows that have one.")
    return Part(
        "Where it stands", prose, ["", "nats a code", "bits a code", "bits a second", "perplexity", "share"], rows
    )


def _books(standing: Standing) -> Part:
    rows: list[list[Cell]] = [
        [
            number,
            floors.random,
            floors.unigram,
            floors.bigram,
            value,
            perplexity(value),
            "noise to counting" if floors.blind else percent(floors.share(value)),
        ]
        for number, (floors, value) in enumerate(zip(standing.books, standing.values_K, strict=True), 1)
    ]
    prose = ["Book 1 is the coarsest. Shares are on each book's own scale, from guessing to the better of both counts."]
    blind = [str(number) for number, floors in enumerate(standing.books, 1) if floors.blind]
    if blind and not standing.mean.blind:
        which = f"Book{'s' * (len(blind) > 1)} {', '.join(blind)}"
        prose.append(
            f"{which}: counting comes less than 1 % under a guess, so a mean over all books hides what the coarse ones "
            "learn. Read these first."
        )
    worse = [
        str(n)
        for n, floors in enumerate(standing.books, 1)
        if floors.unigram and floors.random and floors.unigram > (1 + 2 * SLIGHT) * floors.random
    ]
    if worse:
        prose.append(
            f"In book{'s' * (len(worse) > 1)} {', '.join(worse)} the unigram costs more than a guess: held-out music "
            "uses other codes than the training music does. More music, and more varied, helps there; steps do not."
        )
    return Part("By book", prose, ["book", "guess", "unigram", "bigram", "model", "perplexity", "share"], rows)


def _gap(record: Record, standing: Standing, valid: Event) -> list[str]:
    if standing.valid is None:
        return ["There is no validation yet. A training loss alone says nothing of learning: memory lowers it too."]
    if standing.train is None:
        return ["The training loss was not logged by book, so it cannot be compared with the validation like for like."]
    gap = standing.valid - standing.train
    prose = []
    if abs(gap) < GAP:
        prose.append(f"Alike: held-out codes and those of the last training steps differ by {abs(gap):.3f} nats.")
    elif gap > 0:
        prose.append(
            f"Held-out codes cost {gap:.3f} nats more than those of the last training steps. Part of that is other "
            "music, not memory: the two are of different clips."
        )
    else:
        prose.append(
            f"Held-out codes cost {-gap:.3f} nats less than those of the last training steps, which have dropped "
            "conditions and dropout against them, are judged before each update, and by weights that are not averaged."
        )
    best_step, best = min(scored(record), key=lambda point: point[1])
    if getting_worse(record):
        prose.append(
            f"Held-out was best at step {best_step:,} ({best:.3f}) and has been getting worse since, while training "
            "goes on: the model learns its training music by heart. More music, a smaller model or fewer steps help."
        )
    lines_K = curve(record.events, "train", "ce_K")
    trained_on = [(step, value) for step, ce_K in lines_K if (value := mean(ce_K or ())) is not None]
    found = gaps(scored(record), trained_on)
    if len(found) > 1:
        (first, begun), (last, ended) = found[0], found[-1]
        way = "grows" if ended > begun + GAP else "does not grow"
        prose.append(f"It {way}: {begun:+.3f} at step {first:,}, {ended:+.3f} at step {last:,}.")
    prose.append(
        "What the gap does not say: whether the music is good, and, at one step alone, whether anything is memorised. "
        "That it grows says so."
    )
    return prose


def _noise(standing: Standing) -> list[str]:
    floors = standing.mean
    if floors.random is None or floors.counted is None or floors.unigram is None:
        return ["Not known: the floors were not recorded."]
    if floors.random == 0:
        return ["No: every book has one code, which costs nothing to tell."]
    seen = f"Guessing costs {floors.random:.2f}, the unigram {floors.unigram:.2f}"
    seen += f", the bigram {floors.bigram:.2f}" if floors.bigram is not None else ""
    if floors.entropy is not None:
        seen += f"; the training codes themselves have an entropy of {floors.entropy:.2f}"
    if standing.noise:
        return [
            f"It does not look like it. {seen}. All codes are as frequent, and none says anything of the next: that is "
            "what noise looks like, or shuffled or wrongly read codes.",
            "A model can still lower its training loss on noise, by heart. One did, to 5.66 in 300 steps, where real "
            "music gave 5.92 in 1,000 (both of 2,048 codes, a guess 7.62): the number alone tells nothing. Listen to "
            "the pack (partimento decode), and look at the order of its books and frames.",
        ]
    if floors.blind and standing.finds:
        return [f"Yes, though counting sees none of it: the model is under a guess on held-out codes. {seen}."]
    if floors.blind:
        return [
            f"It cannot be told yet. {seen}. Some codes are much more frequent than others, but not the same ones in "
            "held-out music: the training music is too little, or of another kind."
        ]
    gain = percent((floors.explained or 0.0) / floors.random, 1)
    return [f"Yes: counting alone explains {gain} of a guess. {seen}."]


def _missing(record: Record, standing: Standing, valid: Event, line: Event, baseline: Event) -> list[str]:
    found = []
    if not record.cardinalities:
        found.append("How many codes a book has: no readable checkpoint, and the pack is not there or is another one.")
    if not baseline:
        found.append("What counting reaches: the run logged no baseline.")
    if not valid:
        found.append("Held-out figures: no validation was logged.")
    if line and standing.train is None:
        found.append("The training loss by book: the last line of the log does not have it.")
    if valid and valid.get("eos_ce") is None:
        found.append("The cost of an end (EOS): no held-out window has one, or it was not logged.")
    return [*found, *words.missing(record, valid, baseline), *trained.missing(record)]
