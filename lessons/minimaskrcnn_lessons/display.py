"""Figures with alternative text, and progress bars, as HTML: JupyterLab, the book and code hosts all show it."""

import base64
import html
import io
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = TypeVar("Item")
ALT_LENGTH = range(30, 501)
# Colours of a PNG: a plot has few.  MAXCOVERAGE keeps the rare ones, where median cut mixes them.
COLOURS = 256
# From so many colours on a figure holds photographs, which 256 would turn into posters.
PHOTOGRAPH = 8192
# Seconds between two updates of a progress bar.
STEP = 0.2


def show(figure: "Figure", alt: str) -> None:
    """Display a figure with its alternative text, and close it.

    Raises ValueError unless `alt` says, in 30 to 500 characters, what a reader who cannot see it needs to know.
    """
    display_html(picture_html(figure, alt))


def display_html(text: str) -> None:
    """Display HTML as a cell's output."""
    # Here and not above: the package imports where no notebook is installed, to say what to install.
    from IPython.display import HTML, display

    display(HTML(text))


def picture_html(figure: "Figure", alt: str) -> str:
    """The figure as an <img> that holds its own data, PNG or for photographs JPEG; closes the figure."""
    import matplotlib.pyplot as plt
    from PIL import Image

    if len(alt) not in ALT_LENGTH:
        raise ValueError(f"alternative text of {len(alt)} characters: expected 30 to 500: {alt!r}")
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", facecolor="white")
    plt.close(figure)
    image = Image.open(raw).convert("RGB")
    if image.getcolors(PHOTOGRAPH) is None:
        kind = "jpeg"
        image.save(small, format=kind, quality=90, subsampling=0, optimize=True)
    else:
        kind = "png"
        image = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        image.save(small, format=kind, optimize=True)
    data = base64.b64encode(small.getvalue()).decode("ascii")
    style = f"max-width: 100%; width: {image.width}px"
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}" style="{style}">'


def progress(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Pass the items on, and show how many of them are done; at the end, how long it took."""
    from IPython.display import HTML, display

    total = len(items) if isinstance(items, Sized) else None
    start = last = time.perf_counter()
    handle = display(HTML(_bar(what, 0, total)), display_id=True)
    for done, item in enumerate(items, 1):
        yield item
        if time.perf_counter() - last > STEP:
            last = time.perf_counter()
            handle.update(HTML(_bar(what, done, total)))
    handle.update(HTML(f"<p>{html.escape(what)}: done in {time.perf_counter() - start:.1f} s</p>"))


def _bar(what: str, done: int, total: int | None) -> str:
    label = html.escape(what)
    if total is None:
        return f"<p>{label}: {done}</p>"
    bar = f'<progress aria-label="{label}" value="{done}" max="{total}"></progress>'
    return f"<p>{label}: {done} of {total} {bar}</p>"
