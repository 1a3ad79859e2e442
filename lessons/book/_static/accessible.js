// What is wider than its column can be scrolled with the arrow keys, so the Tab key must reach it.
"use strict";

const wide = "pre, .output, .pst-scrollable-table-container, div.math, .mm-live";

function reach(element) {
  const scrolls = element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== "visible";
  if (scrolls) element.tabIndex = 0;
  else element.removeAttribute("tabindex");
}

document.addEventListener("DOMContentLoaded", () => {
  const observer = new ResizeObserver((entries) => entries.forEach((entry) => reach(entry.target)));
  document.querySelectorAll(wide).forEach((element) => observer.observe(element));
});
