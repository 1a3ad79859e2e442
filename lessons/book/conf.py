"""Sphinx's settings for the web book; `python -m minimaskrcnn_lessons book` runs it on the pages that it makes."""

from pathlib import Path

project = "Mask R-CNN from its parts"
author = "the minimaskrcnn authors"
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["**.ipynb_checkpoints"]

nb_execution_mode = "off"
# Widgets have left the outputs; without this, myst-nb links their scripts on other servers.
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_render_text_lexer = "none"
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block"]
myst_heading_anchors = 3
# Tildes are used for "about", never for struck-out text.
myst_disable_syntax = ["strikethrough"]
pygments_style = "a11y-high-contrast-light"
highlight_language = "python"

mathjax_path = "mathjax/tex-svg.js"
# No menu: it would make each formula a stop of the Tab key, and fetch parts of MathJax that are not here.
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "local"}}

html_theme = "sphinx_book_theme"
html_title = project
html_context = {"default_mode": "auto"}
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
html_show_copyright = False
html_css_files = ["book.css"]
html_js_files = ["accessible.js", "explorers.js"]
templates_path = [str(Path(__file__).parent / "_templates")]
html_theme_options = {
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "use_download_button": False,
    "use_fullscreen_button": False,
    # The side bar has the search; above the page it would stand twice.
    "navbar_persistent": [],
    "home_page_in_toc": True,
    "toc_title": "On this page",
    "show_navbar_depth": 1,
    "max_navbar_depth": 1,
    "footer_content_items": ["license.html"],
}
