"""Explorers: what the reader drags.  One ES module each, alive in JupyterLab and, without a kernel, in the web book.

An explorer is an anywidget with one trait, `state`, a plain object.  What it displays is the widget and, beside it in
the same output, a still picture in HTML that names the module and the state: where no widget lives, on a code host,
the picture is shown, and the web book's script puts the module in its place.
"""

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from minimaskrcnn_lessons.display import picture_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent


class Explorer(anywidget.AnyWidget):
    """`NAME.js` of this folder with a start state, and a still picture of that state."""

    state = traitlets.Dict().tag(sync=True)

    def __init__(self, name: str, state: dict[str, Any], still: "Figure", alt: str) -> None:
        self.name, self._still = name, picture_html(still, alt)
        super().__init__(state=state, _esm=(FOLDER / f"{name}.js").read_text(encoding="utf-8"))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        found = super()._repr_mimebundle_(**kwargs)
        data, metadata = found if isinstance(found, tuple) else (found, {})
        attributes = f'data-explorer="{self.name}" data-state="{html.escape(json.dumps(self.state))}"'
        return data | {"text/html": f"<div {attributes}>{self._still}</div>"}, metadata
