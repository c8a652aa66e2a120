"""Names in a figure are drawn letter by letter."""

import io
import warnings

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from frcnn_common import letters
from frcnn_common.letters import font_with, spell_out

mpl.use("Agg")
NOBODYS = "\U0010fffe"  # of those that Unicode will never define


def drawn(text):
    """A text as it comes out of a figure; a warning is an error."""
    figure = Figure()
    FigureCanvasAgg(figure)
    artist = figure.text(0.5, 0.5, text)
    spell_out(artist)
    with warnings.catch_warnings(action="error"):
        figure.savefig(io.BytesIO(), format="png")
    return artist


@pytest.mark.parametrize("text", ["$_$", "100 $ or $x^$", r"\\frac{", "a_b^c", "é", ""])
def test_what_looks_like_a_formula_is_text(text):
    assert drawn(text).get_text() == text


def test_a_letter_that_no_font_has_is_drawn_by_its_number():
    with pytest.warns(UserWarning, match=f"no font of this machine has {NOBODYS}"):
        assert drawn(f"a{NOBODYS}b").get_text() == "aU+10FFFEb"


def test_a_letter_of_another_font_is_taken_from_there(monkeypatch):
    """The cat's sign, if a font here has it; otherwise DejaVu Sans is asked for what DejaVu Sans Mono lacks."""
    monkeypatch.setitem(mpl.rcParams, "font.family", "DejaVu Sans Mono")
    letter = next(chr(n) for n in range(0x250, 0x2FFF) if chr(n).isprintable() and lacks_mono(chr(n)))
    artist = drawn(letter)
    assert artist.get_text() == letter and artist.get_fontfamily()[1:] == [font_with(letter)]


def lacks_mono(letter):
    mono = mpl.font_manager.findfont("DejaVu Sans Mono")
    return not letters._has(mono, letter) and font_with(letter) is not None


def test_known_letters_change_no_font():
    text = Text(text="person 0.99")
    before = list(text.get_fontfamily())
    spell_out(text)
    assert text.get_fontfamily() == before
