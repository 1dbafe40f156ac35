"""The page carries everything it shows, escapes what it is given, and has its facts beside it as JSON."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as Bitmap

from shared.errors import InputError
from shared.pictures import Window, label, montage, png_bytes, render, titled
from shared.report import Code, Picture, Report, Table


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not nest."""

    void = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


@pytest.fixture
def report():
    ramp = np.linspace(0, 2, 12).reshape(3, 4)
    page = Report("Brain <b>&</b> beyond", "R = 4", notice="Not for diagnosis")
    page.facts |= {"coils": 16, "acceleration": 2.5600001, "whitened": True, "voxel": (1.0, 2.0), "absent": None}
    page.warnings.append("<script>alert(1)</script>")
    page.section("Images", "First.\n\nSecond.", [Picture(ramp, "ramp", alt='a "ramp"'), Picture(ramp, "again", "b")])
    page.section("Errors", Table(("method", "NRMSE"), (("sense", 0.123456789), ("tv", float("nan")))), Code("a <b"))
    return page


def test_page_loads_nothing_from_elsewhere_and_nests(report):
    page = Page(report.html())
    assert all(tag not in ("script", "link", "iframe", "object") for tag, _ in page.tags)
    loaded = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(loaded) == 2
    assert all(value.startswith("data:image/png;base64,") for value in loaded)
    assert not re.search(r"url\(|@import|https?://", report.html())


def test_embedded_pictures_decode_to_the_rendered_array(report):
    sources = [attributes["src"] for tag, attributes in Page(report.html()).tags if tag == "img"]
    bitmap = np.asarray(Bitmap.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))))
    assert bitmap.shape == (3, 4, 3)
    assert (bitmap[0, 0, 0], bitmap[-1, -1, 0]) == (0, 255)


def test_given_text_is_escaped_everywhere(report):
    page = Page(report.html())
    assert "<script>alert(1)</script>" in page.words
    assert "Brain <b>&</b> beyond" in page.words
    assert "a <b" in page.words
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == ['a "ramp"', "b"]


def test_numbers_are_short_on_the_page_and_whole_in_the_json(report, tmp_path):
    page, beside = report.write(tmp_path / "brain.html")
    assert (page.name, beside.name) == ("brain.html", "brain.report.json")
    words = Page(page.read_text()).words
    assert "0.1235" in words
    assert "2.56\n" in words or "2.56" in words.split()
    assert "yes" in words
    facts = json.loads(beside.read_text())
    assert facts["facts"]["acceleration"] == 2.5600001
    table = facts["sections"][1]["parts"][0]["table"]
    assert table["rows"] == [["sense", 0.123456789], ["tv", None]]
    assert facts["warnings"] == report.warnings
    assert "window 0 to 1.99 (99.5th percentile)" in facts["sections"][0]["parts"][1]["pictures"][0]["caption"]
    assert facts["sections"][0]["parts"][0] == {"text": "First.\n\nSecond."}


def test_existing_page_or_json_is_refused_and_failure_leaves_nothing(report, tmp_path, monkeypatch):
    (tmp_path / "a.report.json").write_text("precious")
    with pytest.raises(InputError, match="existing output"):
        report.write(tmp_path / "a.html")
    assert [p.name for p in tmp_path.iterdir()] == ["a.report.json"]
    report.write(tmp_path / "a.html", overwrite=True)
    assert len(list(tmp_path.iterdir())) == 2

    def fail(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "html", fail)
    with pytest.raises(KeyboardInterrupt):
        report.write(tmp_path / "b.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.report.json"]


def test_table_with_a_short_row_is_refused():
    with pytest.raises(ValueError, match="1 values for 2 columns"):
        Table(("a", "b"), ((1,),))


def test_window_is_the_percentile_of_magnitude_and_symmetric_for_signed_values():
    values = np.arange(1000.0)
    assert Window.at_percentile(values, 90) == Window(0.0, pytest.approx(899.1), "90th percentile")
    signed = Window.at_percentile(values - 500, 100)
    assert (signed.low, signed.high) == (-500, 500)
    assert Window.at_percentile(np.zeros(4)).high == 1
    assert Window.at_percentile(np.array([np.nan, 3.0]), 100).high == 3
    spike = np.zeros(1000)
    spike[0] = 7
    assert Window.at_percentile(spike).high == 7


def test_render_maps_the_window_to_the_ends_of_the_colours_and_clips():
    bitmap = np.asarray(render(np.array([[-1.0, 0.0, 0.5, 1.0, 9.0, np.nan]]), Window(0, 1)))
    assert bitmap[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]
    signed = np.asarray(render(np.array([[-1.0, 0.0, 1.0]]), Window(-1, 1), colours="signed"))
    assert signed.tolist() == [[[5, 48, 97], [247, 247, 247], [103, 0, 31]]]


def test_heat_colours_grow_lighter_all_the_way():
    bitmap = np.asarray(render(np.linspace(0, 1, 200)[None], Window(0, 1), colours="heat")).astype(float)
    assert (np.diff(bitmap[0] @ (0.2126, 0.7152, 0.0722)) >= -0.5).all()


def test_montage_places_tiles_row_by_row_and_titles_stand_above():
    tiles = [render(np.full((4, 6), value), Window(0, 1)) for value in (0.2, 0.4, 0.6)]
    sheet = np.asarray(montage(tiles, columns=2, gap=2))
    assert sheet.shape == (10, 14, 3)
    assert [sheet[0, 0, 0], sheet[0, 8, 0], sheet[6, 0, 0]] == [51, 102, 153]
    large = render(np.zeros((40, 300)), Window(0, 1))
    under = np.asarray(titled(large, ["hello", "x" * 500]))
    assert under.shape[1] == 300
    np.testing.assert_array_equal(under[-40:], np.asarray(large))
    assert under[:-40].max() > 200
    assert under[:-40, -4:].max() < 50


@pytest.mark.parametrize(
    ("at", "region"), [("left", np.s_[30:70, :30]), ("right", np.s_[30:70, 70:]), ("bottom", np.s_[70:, 30:70])]
)
def test_label_stands_at_its_edge(at, region):
    bitmap = render(np.zeros((100, 100)), Window(0, 1))
    label(bitmap, "R", at=at)
    pixels = np.asarray(bitmap).max(axis=-1)
    assert (pixels[region] > 200).any()
    pixels = pixels.copy()
    pixels[region] = 0
    assert pixels.max() < 50


def test_png_bytes_round_trip():
    bitmap = render(np.random.default_rng(0).random((5, 7)), Window(0, 1))
    np.testing.assert_array_equal(np.asarray(Bitmap.open(io.BytesIO(png_bytes(bitmap)))), np.asarray(bitmap))
