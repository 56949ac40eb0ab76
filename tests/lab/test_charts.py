import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from partimento.lab import charts, pictures
from partimento.lab.charts import Level, Line, Panel

RATE = 44100


def draw(**rest):
    steps = list(range(1000))
    lines = [Line("train", steps, [math.exp(-s / 300) for s in steps], band=True), Line("valid", [0, 999], [1.0, 0.9])]
    return charts.line_chart("loss", lines, y_label="nats <per> code", levels=[Level("bigram", 0.5)], **rest)


def test_a_chart_is_small_well_formed_and_themed():
    svg = draw()
    ElementTree.fromstring(svg)
    assert len(svg) < 60_000
    assert "var(--blue)" in svg and "var(--muted)" in svg and "#0a00" not in svg
    assert "nats &lt;per&gt; code" in svg and "optimizer step" in svg and "bigram" in svg
    assert "http" not in svg and "<style" not in svg and "<metadata" not in svg


def test_ids_belong_to_their_chart():
    ids = re.findall(r'\bid="([^"]+)"', draw())
    assert ids and all(name.startswith("loss-") for name in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', draw())
    assert used and set(used) <= set(ids)


def test_the_same_curve_is_the_same_picture():
    assert draw() == draw()


def test_bins_keep_gaps_and_extremes():
    y = np.ones(1000)
    y[:100], y[500] = np.nan, 9.0
    x, mean, low, high = charts._binned(np.arange(1000.0), y)
    assert len(x) <= charts.MAX_POINTS
    assert np.isnan(mean[0]) and np.nanmax(high) == 9.0 and np.nanmin(low) == 1.0


def test_empty_single_and_flat_curves_are_drawn():
    lines = [Line("a", [10], [1.0]), Line("b", [1, 2], [math.nan, math.nan]), Line("c", [1, 2], [0.0, 0.0])]
    ElementTree.fromstring(charts.line_chart("odd", lines, y_label="y"))
    ElementTree.fromstring(charts.line_chart("none", [], y_label="y"))


def test_labels_at_one_height_are_moved_apart():
    lines = [Line(name, [0, 1], [1.0, 1.0 + i * 1e-4]) for i, name in enumerate(("one", "two", "three"))]
    svg = charts.line_chart("labels", lines, y_label="y")
    places = [float(re.search(r'y="([\d.]+)"', tag)[1]) for tag in re.findall(r"<text[^>]*>(?=one<|two<|three<)", svg)]
    assert len(places) == 3
    gaps = np.diff(sorted(places))
    assert gaps.min() > 8


def test_small_multiples_of_many_books():
    for books in (1, 4, 9, 18):
        panels = [Panel(f"Book {k}", [Line("", [1, 2], [2.0, 1.0])], [Level("", 1.5)]) for k in range(1, books + 1)]
        svg = charts.small_multiples(f"m{books}", panels, y_label="nats")
        ElementTree.fromstring(svg)
        assert f"Book {books}" in svg


def pixels(wave):
    image = Image.open(io.BytesIO(base64.b64decode(pictures.spectrogram_png(wave, RATE))))
    assert image.size == pictures.SIZE
    return np.asarray(image)[::-1]  # low frequencies first


def test_a_sine_is_a_line_at_its_frequency():
    wave = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    row = pixels(wave)[:, 300].argmax()
    expected = math.log(1000 / pictures.LOWEST_HZ) / math.log(RATE / 2 / pictures.LOWEST_HZ) * pictures.SIZE[1]
    assert abs(row - expected) < 4
    height, label = pictures.frequency_ticks(RATE)[1]
    assert label == "1 kHz" and abs(height * pictures.SIZE[1] - expected) < 1e-6


def test_silence_is_black_and_short_sounds_are_drawn():
    assert not pixels(np.zeros((2, RATE), np.float32)).any()
    pixels(np.ones((1, 3), np.float32))


def test_the_outline_is_the_level():
    wave = np.concatenate([np.full(RATE, 0.5), np.full(RATE, -2.0)]).astype(np.float32)
    numbers = [tuple(map(float, point.split())) for point in pictures.waveform_path(wave).strip("MZ").split("L")]
    assert min(y for _, y in numbers) == -0.5  # y grows downwards
    assert max(y for _, y in numbers) == 1.0  # cut at full scale
    assert len(pictures.waveform_path(np.zeros((1, 7), np.float32))) > 5
