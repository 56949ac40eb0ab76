"""What the band knows: eight styles as data.

Patterns are one character a sixteenth, one string a bar (bars alternate through a tuple). Drums: `X` accent, `x`
stroke, `o` ghost, `?` ghost now and then. Bass: `r` root, `t` third, `f` fifth, `o` octave, `a` a step towards the next
root. Chords: `x` the chord, `u` its next note upwards. Lead: `x` a note. Everywhere `-` holds and `.` rests.
"""

from __future__ import annotations

from dataclasses import dataclass

Bars = tuple[str, ...]


@dataclass(frozen=True)
class Style:
    name: str
    tempi: tuple[int, ...]  # beats per minute
    beats: int  # per bar, quarter notes
    swing: float  # place of the off-beat within its pair; 0.5 is straight, 0.667 a triplet
    swing_steps: int  # length of that pair in sixteenths: 4 swings the eighths, 2 the sixteenths
    kit: str | None
    grooves: tuple[dict[str, Bars], ...]
    basses: tuple[str, ...]
    bass_lines: tuple[Bars, ...]
    comping: tuple[tuple[str, Bars], ...]  # chord instrument and its pattern
    leads: tuple[str, ...]
    lead_rhythms: tuple[tuple[str, ...], ...]  # motifs A and B, from which the melody is built
    progressions: dict[str, tuple[str, ...]]  # mode -> chords in Roman numerals
    levels: tuple[float, float, float, float]  # dB of drums, bass, chords, lead
    reverb: float  # share of the room
    loose: float  # standard deviation of the players' timing, in milliseconds
    pentatonic: bool = False
    ducking: float = 0.0  # how far the kick pushes bass and chords down


KEYS = {"major": ("C", "D", "F", "G", "A", "Bb"), "minor": ("C", "D", "E", "F", "G", "A")}

# fmt: off
STYLES: tuple[Style, ...] = (
    Style(
        "techno", (120, 128, 132), 4, 0.5, 4, "machine",
        grooves=(
            {"kick": ("X...X...X...X...",), "clap": ("....x.......x...",), "open hat": ("..x...x...x...x.",),
             "hat": ("o..oo..oo..oo.oo",)},
            {"kick": ("X...X...X...X...", "X...X...X...X..x"), "open hat": ("..x...x...x...x.",),
             "hat": ("ooxooooooooxoooo",), "rim": ("...x..x....x..?.",)},
        ),
        basses=("saw bass", "sub bass"),
        bass_lines=(("..r...r...r...r.",), ("r.rr..rr.rr.r.o.",), (".rro.rro.rro.rfo",)),
        comping=(("pad", ("x---------------",)), ("organ", ("..x...x....x..x.",)), ("organ", ("x--x--x---------",))),
        leads=("square lead", "saw lead"),
        lead_rhythms=(("x.xx.xx.x.xx.xx.", "x.xx.xx.x.x.x.x."), ("x..x..x.x..x..x.", "x..x..x...x.x...")),
        progressions={"minor": ("i i VI VII", "i VI i v", "i i iv v")},
        levels=(-1, -2, -9, -7), reverb=0.12, loose=0.5, pentatonic=True, ducking=0.6,
    ),
    Style(
        "ballad", (66, 72), 4, 0.5, 4, "room",
        grooves=(
            {"kick": ("x.......x.o.....",), "rim": ("....x.......x...",), "hat": ("x.o.x.o.x.o.x.o.",)},
            {"kick": ("x.....o.x.......",), "snare": ("....x.......x...",), "ride": ("x...x...x...x...",)},
        ),
        basses=("electric bass", "upright bass"),
        bass_lines=(("r-----f-r-----a-",), ("r---------f-a---",)),
        comping=(("piano", ("u-u-u-u-u-u-u-u-",)), ("electric piano", ("x-------x---u-u-",)),
                 ("piano", ("x---u-u-x---u-u-",))),
        leads=("violin", "flute"),
        lead_rhythms=(("x---x-x-x-----x-", "x-----x-x-------"), ("x-----x-x---x---", "x---x---x-------")),
        progressions={"major": ("I V vi IV", "I vi IV V", "I iii IV V")},
        levels=(-8, -5, -4, -2), reverb=0.25, loose=7.0,
    ),
    Style(
        "swing", (132, 144, 160), 4, 0.655, 4, "brushes",
        grooves=(
            {"ride": ("x...X.o.x...X.o.",), "hat": ("....x.......x...",), "kick": ("o...o...o...o...",),
             "snare": ("......?.......?.",)},
            {"ride": ("x...X.o.x.o.X.o.",), "hat": ("....x.......x...",), "snare": ("....o.?...?.o...",)},
        ),
        basses=("upright bass",),
        bass_lines=(("r---t---f---a---", "r---f---t---a---"), ("r---f---o---a---", "r---t---f---a---")),
        comping=(("piano", ("......x-....x-..", "x-....x-........")),
                 ("electric piano", ("x--...x-..x-....", "......x-......x-"))),
        leads=("vibraphone", "saxophone"),
        lead_rhythms=(("x.x-x.x---x.x-..", "..x.x-x.x-----.."), ("x---x.x.x.x-..x-", "x.x.x-----......")),
        progressions={"major": ("IM7 vi7 ii7 V7", "IM7 VI7 ii7 V7"), "minor": ("i7 vi0 ii0 V7", "i7 iv7 ii0 V7")},
        levels=(-5, -3, -7, -3), reverb=0.14, loose=6.0,
    ),
    Style(
        "rock", (112, 120, 132), 4, 0.5, 4, "room",
        grooves=(
            {"kick": ("X.......X.x.....", "X.....x.X.x....."), "snare": ("....X.......X...",),
             "hat": ("x.x.x.x.x.x.x.x.",)},
            {"kick": ("X.....x...x.....",), "snare": ("....X..o....X...",), "open hat": ("x...x...x...x...",)},
        ),
        basses=("electric bass",),
        bass_lines=(("r.r.r.r.r.r.r.a.",), ("r---r.r.r---f.a.",)),
        comping=(("distorted guitar", ("x.x.x.x.x.x.x.x.",)), ("distorted guitar", ("x-----x-x-----x-",)),
                 ("organ", ("x-------x-----x-",))),
        leads=("lead guitar", "saw lead"),
        lead_rhythms=(("x---x-x-x-x---x-", "x-x-x---x-------"), ("x-----x-x-x-x-x-", "x-----x---------")),
        progressions={"minor": ("i i VI VII", "i VI VII i"), "major": ("I IV V I", "I IV I V")},
        levels=(-1, -4, -4, -5), reverb=0.1, loose=4.0, pentatonic=True,
    ),
    Style(
        "bossa", (120, 132, 144), 4, 0.5, 4, "brushes",
        grooves=(
            {"kick": ("x.....x.x.....x.",), "rim": ("x.....x.....x...", "....x.....x....."),
             "shaker": ("x.o.x.o.x.o.x.o.",)},
            {"kick": ("x.....x.x.....x.",), "rim": ("....x.....x.....", "x.....x.....x..."),
             "hat": ("o.x.o.x.o.x.o.x.",)},
        ),
        basses=("upright bass",),
        bass_lines=(("r-----f-f-----r-",), ("r-----f-f-----a-",)),
        comping=(("nylon guitar", ("x---..x---..x---", "..x---..x---x---")),
                 ("nylon guitar", ("u-..x-..u-x-..x-",))),
        leads=("flute", "saxophone"),
        lead_rhythms=(("x-----x-x---x-x-", "x-----x-----....",), ("..x-x-x---x-x---", "x---x-----------")),
        progressions={"major": ("IM7 II7 ii7 V7", "IM7 vi7 ii7 V7"), "minor": ("i7 iv7 ii0 V7", "i7 VIM7 ii0 V7")},
        levels=(-8, -4, -3, -3), reverb=0.16, loose=5.0,
    ),
    Style(
        "drum and bass", (168, 174), 4, 0.54, 2, "machine",
        grooves=(
            {"kick": ("X.........x.....", "X.x.......x....."), "snare": ("....X..o.o..X...", "....X..o.o..X.?o"),
             "hat": ("x.x.x.x.x.x.x.x.",)},
            {"kick": ("X.....x...x.....",), "snare": ("....X.......X..o",), "hat": ("xoxoxoxoxoxoxoxo",),
             "open hat": ("......x.......x.",)},
        ),
        basses=("reese bass", "sub bass"),
        bass_lines=(("r---------r---f-",), ("r-----r-..o-r---", "r-----------a---")),
        comping=(("pad", ("x---------------",)), ("electric piano", ("x--...x-----....", "..x--...x-------"))),
        leads=("square lead", "bell"),
        lead_rhythms=(("x---x---..x---x-", "x-------x---...."), ("x-x-..x-x-..x---", "x---....x-------")),
        progressions={"minor": ("i VI iv i", "i VI iv v", "i i VI VII")},
        levels=(0, -2, -8, -6), reverb=0.15, loose=1.5, ducking=0.35,
    ),
    Style(
        "ambient", (60, 66), 4, 0.5, 4, None,
        grooves=({},),
        basses=("sub bass",),
        bass_lines=(("r---------------",), ("r-------r-------",)),
        comping=(("pad", ("x---------------",)), ("strings", ("x---------------",))),
        leads=("bell", "flute"),
        lead_rhythms=(("x-x-x-x-x-x-x-x-", "x-x-x-x-x---x---"), ("x---x---x-x-x---", "x---x---x-------")),
        progressions={"major": ("I IV vi IV", "I V IV I"), "minor": ("i VI iv i", "i VII VI i")},
        levels=(-10, -6, -3, -4), reverb=0.4, loose=5.0, pentatonic=True,
    ),
    Style(
        "waltz", (96, 108), 3, 0.5, 4, "brushes",
        grooves=({"kick": ("x...........",), "snare": ("....x...x...",), "ride": ("x...o...o.o.",)},
                 {"kick": ("x...........",), "hat": ("....x...x...",)}),
        basses=("upright bass", "electric bass"),
        bass_lines=(("r---........", "f---........"), ("r-----......", "r-----..a---")),
        comping=(("accordion", ("....x-..x-..",)), ("piano", ("....x-..x-..",))),
        leads=("violin", "accordion"),
        lead_rhythms=(("x-----x-x-x-", "x-------x---"), ("x---x-x-x-x-", "x-----x-----")),
        progressions={"major": ("I IV V7 I", "I vi ii V7"), "minor": ("i iv V7 i", "i VI iv V7")},
        levels=(-6, -3, -5, -3), reverb=0.2, loose=6.0,
    ),
)
# fmt: on
