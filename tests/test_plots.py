"""Pictures: right values at right places, readable colours, files that stand alone."""

import base64
import subprocess
import sys

import matplotlib
import pytest

from phoenix_utils import plots
from phoenix_utils.statistics import Interval

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_bars_show_value_and_whiskers_in_the_models_colour():
    ax = plots.bars({"base": Interval(0.1, 0.05, 0.2, 40), "sft": Interval(1.0, 0.93, 1.0, 40)}, share=True)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [0.1, 1.0]
    assert texts(ax) == ["10%", "100%"]
    assert matplotlib.colors.to_hex(ax.patches[1].get_facecolor()).upper() == plots.MODEL_COLOURS["sft"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["base", "sft"]
    ends = ax.containers[1].lines[2][0].get_segments()[0][:, 0]
    assert list(ends) == pytest.approx([0.05, 0.2])


def test_bars_take_plain_numbers_and_values_without_interval():
    ax = plots.bars({"a": 3, "b": Interval(4.0, float("nan"), float("nan"), 1)}, digits=1)
    assert texts(ax) == ["3.0", "4.0"]
    plots.data_uri(ax.figure)


def test_bars_of_an_unknown_value_say_so():
    nan = float("nan")
    ax = plots.bars({"a": Interval(nan, nan, nan, 0), "b": 2.0})
    assert texts(ax)[0] == "n/a"
    plots.data_uri(ax.figure)


def test_intervals_mark_those_that_exclude_zero():
    ax = plots.intervals({"clear": Interval(-1, -2, -0.5, 9), "open": Interval(1, -1, 3, 9)})
    colours = [matplotlib.colors.to_hex(c.lines[0].get_color()).upper() for c in ax.containers]
    assert colours == [plots.BLUE, plots.GREY]


def test_intervals_of_shares_are_marked_in_points_and_unknown_ones_as_such():
    nan = float("nan")
    ax = plots.intervals({"a": Interval(0.1, -0.2, 0.4, 9), "b": Interval(nan, nan, nan, 0)}, share=True)
    ax.figure.canvas.draw()
    marks = [label.get_text() for label in ax.get_xticklabels()]
    assert "0" in marks and "+20" in marks
    assert texts(ax) == ["n/a"]


def test_curve_and_histogram_have_a_legend_only_for_several_series():
    assert plots.curve({"loss": [(1, 2.0), (2, 1.5)]}).get_legend() is None
    assert plots.curve({"sft": [(1, 2.0)], "dpo": []}).get_legend() is not None
    ax = plots.histogram({"en": [1, 2, 3], "de": [2, 3, 4]}, bins=4)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["en", "de"]


def test_data_uri_is_whole_and_repeatable():
    def drawn():
        figure = plots.detached_figure()
        plots.bars({"dpo": 1.0}, ax=figure.add_subplot())
        return plots.data_uri(figure)

    first = drawn()
    kind, _, body = first.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert b"<svg" in base64.b64decode(body)
    assert drawn() == first


@pytest.mark.parametrize("name", ["$\\frac$", "a $x_{$ b", "5 $ or 6 $"])
@pytest.mark.parametrize("draw", [plots.bars, plots.intervals])
def test_dollar_signs_in_a_name_are_no_formula(draw, name):
    ax = draw({name: Interval(0.5, 0.4, 0.6, 10)}, title=name)
    assert b"<svg" in base64.b64decode(plots.data_uri(ax.figure).partition(",")[2]) and name in plots.words(ax.figure)


def test_importing_the_module_does_not_load_matplotlib():
    code = "import sys, phoenix_utils.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_figures_words_are_its_titles_axes_rows_and_series():
    figure = plots.detached_figure()
    left, right = figure.subplots(1, 2)
    figure.suptitle("Two panels.")
    plots.bars({"base": 0.25, "SFT": 0.5}, title="Stops by itself", label="share", ax=left)
    plots.curve({"train": [(0, 1)], "held out": [(0, 2)]}, x="step", y="loss", ax=right)
    assert plots.words(figure) == (
        "Two panels. Stops by itself. Rows: base, SFT. Across: share. Across: step. Upwards: loss. "
        "Series: train, held out"
    )
