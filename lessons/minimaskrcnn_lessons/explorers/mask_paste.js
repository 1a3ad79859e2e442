// A small mask, resized onto a box that the reader drags, and cut at a threshold.
// The rule is minimaskrcnn/ops/paste.py's; boxes are [x1, y1, x2, y2] in pixels, pixel i covers [i, i + 1).

const SIZE = 20; // units of the drawing for one pixel
const STEP = 0.25; // pixels for one arrow key, and the grid that a dragged box keeps to
const LEAST = 1; // pixels: the narrowest box
const LIGHT = [255, 255, 255];
const DARK = [8, 81, 156];

/** The box about its centre, (m + 2) / m times as large: what one ring of padding adds to an m x m mask. */
export function growBox(box, m) {
  const [x1, y1, x2, y2] = box;
  const factor = (m + 2) / m;
  const [cx, cy] = [(x2 + x1) * 0.5, (y2 + y1) * 0.5];
  const [halfWidth, halfHeight] = [(x2 - x1) * 0.5 * factor, (y2 - y1) * 0.5 * factor];
  return [cx - halfWidth, cy - halfHeight, cx + halfWidth, cy + halfHeight];
}

/** First and last column and row of the grown box: its corners cut to integers, towards zero. */
export function cutBox(box, m) {
  return growBox(box, m).map((corner) => Math.trunc(corner) + 0);
}

/** The mask with one ring of zeros. */
export function padMask(mask) {
  const empty = new Array(mask.length + 2).fill(0);
  return [empty, ...mask.map((row) => [0, ...row, 0]), empty];
}

/** The two samples nearest to a pixel of first..last, and the weight of the second. */
function neighbours(pixel, first, last, samples) {
  const length = Math.max(last - first + 1, 1);
  const source = (pixel - first + 0.5) * (samples / length) - 0.5;
  const place = Math.min(Math.max(source, 0), samples - 1);
  const low = Math.min(Math.floor(place), samples - 1);
  return [low, Math.min(low + 1, samples - 1), place - low];
}

/** The resized mask in a picture of height x width pixels, 0 outside of the cut box. */
export function pasteValues(mask, box, height, width) {
  const padded = padMask(mask);
  const [x1, y1, x2, y2] = cutBox(box, mask.length);
  const values = Array.from({ length: height }, () => new Array(width).fill(0));
  for (let y = Math.max(y1, 0); y <= Math.min(y2, height - 1); y++) {
    const [top, bottom, down] = neighbours(y, y1, y2, padded.length);
    for (let x = Math.max(x1, 0); x <= Math.min(x2, width - 1); x++) {
      const [left, right, across] = neighbours(x, x1, x2, padded.length);
      const upper = padded[top][left] * (1 - across) + padded[top][right] * across;
      const lower = padded[bottom][left] * (1 - across) + padded[bottom][right] * across;
      values[y][x] = upper * (1 - down) + lower * down;
    }
  }
  return values;
}

/** Which pixels belong to the object: those strictly above the threshold. */
export function pastePixels(mask, box, height, width, threshold) {
  return pasteValues(mask, box, height, width).map((row) => row.map((value) => value > threshold));
}

/** The box moved by (dx, dy) as far as the picture allows, or with one corner moved; in steps of STEP. */
export function moveBox(box, part, dx, dy, height, width) {
  const snap = (value, low, high) => Math.min(Math.max(Math.round(value / STEP) * STEP, low), high);
  const [x1, y1, x2, y2] = box;
  if (part === "first") return [snap(x1 + dx, 0, x2 - LEAST), snap(y1 + dy, 0, y2 - LEAST), x2, y2];
  if (part === "last") return [x1, y1, snap(x2 + dx, x1 + LEAST, width), snap(y2 + dy, y1 + LEAST, height)];
  const [x, y] = [snap(x1 + dx, 0, width - (x2 - x1)), snap(y1 + dy, 0, height - (y2 - y1))];
  return [x, y, x + x2 - x1, y + y2 - y1];
}

const CSS = `
.mm-paste { box-sizing: border-box; background: #ffffff; color: #222222; border: 1px solid #bbbbbb; border-radius: 8px;
  padding: 12px; font: 15px/1.45 system-ui, sans-serif; max-width: 720px; }
.mm-paste *, .mm-paste *::before { box-sizing: border-box; }
.mm-paste-row { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.mm-paste-small { flex: 1 1 150px; max-width: 190px; }
.mm-paste-large { flex: 3 1 300px; min-width: 0; }
.mm-paste p.mm-paste-title { margin: 0 0 4px; font-size: 15px; font-weight: 600; color: #222222; }
.mm-paste svg { display: block; width: 100%; height: auto; background: #ffffff; }
.mm-paste-handle { cursor: grab; touch-action: none; outline: none; }
.mm-paste-handle:focus-visible { stroke: #000000; stroke-width: 4; }
.mm-paste label { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-top: 10px; }
.mm-paste input { flex: 1 1 160px; min-width: 0; accent-color: #08519c; }
.mm-paste input:focus-visible { outline: 3px solid #000000; outline-offset: 2px; }
.mm-paste ul { list-style: none; margin: 8px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 16px;
  font-size: 14px; }
.mm-paste li { margin: 0; color: #222222; }
.mm-paste-key { display: inline-block; width: 22px; height: 12px; margin-right: 6px; vertical-align: -1px; }
.mm-paste p { margin: 8px 0 0; color: #222222; }
.mm-paste-numbers { font-variant-numeric: tabular-nums; }`;

const LEGEND = [
  ["border: 3px solid #A34700", "the box"],
  ["border: 2px dashed #444444", "grown for the padding"],
  ["border: 3px dotted #00664B", "cut to integers: these pixels are resized onto"],
  ["border: 2px solid #E69F00; background: #08519c", "pasted: above the threshold"],
];

function shade(value) {
  return `rgb(${LIGHT.map((light, i) => Math.round(light + (DARK[i] - light) * value)).join(",")})`;
}

function html(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

function place(node, [x1, y1, x2, y2]) {
  const sides = { x: x1 * SIZE, y: y1 * SIZE, width: (x2 - x1) * SIZE, height: (y2 - y1) * SIZE };
  for (const [name, value] of Object.entries(sides)) node.setAttribute(name, value);
}

function drawMask(mask) {
  const padded = padMask(mask);
  const side = padded.length * SIZE;
  const label = `The mask of ${mask.length} by ${mask.length} probabilities, with its ring of zeros`;
  const root = svg("svg", { viewBox: `-2 -2 ${side + 4} ${side + 4}`, role: "img", "aria-label": label });
  padded.forEach((row, y) => row.forEach((value, x) => {
    svg("rect", { x: x * SIZE, y: y * SIZE, width: SIZE, height: SIZE, fill: shade(value), stroke: "#cccccc" }, root);
  }));
  const inner = svg("rect", { fill: "none", stroke: "#A34700", "stroke-width": 3 }, root);
  place(inner, [1, 1, mask.length + 1, mask.length + 1]);
  return root;
}

function drawPicture(height, width) {
  const view = `-3 -3 ${width * SIZE + 6} ${height * SIZE + 6}`;
  const root = svg("svg", { viewBox: view, role: "group", "aria-label": `A picture of ${height} by ${width} pixels` });
  const cells = Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) =>
    svg("rect", { x: x * SIZE, y: y * SIZE, width: SIZE, height: SIZE, stroke: "#cccccc" }, root)));
  const frames = cells.map((row, y) => row.map((_, x) => svg("rect", {
    x: x * SIZE + 2, y: y * SIZE + 2, width: SIZE - 4, height: SIZE - 4, fill: "none", stroke: "#E69F00",
    "stroke-width": 2.5,
  }, root)));
  const cut = svg("rect", { fill: "none", stroke: "#00664B", "stroke-width": 4, "stroke-dasharray": "1 7",
    "stroke-linecap": "round" }, root);
  const grown = svg("rect", { fill: "none", stroke: "#444444", "stroke-width": 2, "stroke-dasharray": "7 5" }, root);
  const handles = {
    body: svg("rect", { fill: "transparent", stroke: "#A34700", "stroke-width": 3 }, root),
    first: svg("circle", { r: 9, fill: "#ffffff", stroke: "#A34700", "stroke-width": 3 }, root),
    last: svg("circle", { r: 9, fill: "#ffffff", stroke: "#A34700", "stroke-width": 3 }, root),
  };
  const names = { body: "The box: move it", first: "Its top left corner", last: "Its bottom right corner" };
  for (const [part, node] of Object.entries(handles)) {
    const about = { tabindex: 0, role: "slider", "aria-label": names[part], class: "mm-paste-handle", "data-part": part };
    for (const [name, value] of Object.entries(about)) node.setAttribute(name, value);
  }
  return { root, cells, frames, cut, grown, handles };
}

function update(state, picture, parts) {
  const { mask, box, threshold, height, width } = state;
  const values = pasteValues(mask, box, height, width);
  let area = 0;
  values.forEach((row, y) => row.forEach((value, x) => {
    picture.cells[y][x].setAttribute("fill", shade(value));
    picture.frames[y][x].setAttribute("visibility", value > threshold ? "visible" : "hidden");
    area += value > threshold ? 1 : 0;
  }));
  const [grown, cut] = [growBox(box, mask.length), cutBox(box, mask.length)];
  place(picture.grown, grown);
  place(picture.cut, [cut[0], cut[1], Math.max(cut[2], cut[0]) + 1, Math.max(cut[3], cut[1]) + 1]);
  place(picture.handles.body, box);
  for (const [part, x, y] of [["first", box[0], box[1]], ["last", box[2], box[3]]]) {
    picture.handles[part].setAttribute("cx", x * SIZE);
    picture.handles[part].setAttribute("cy", y * SIZE);
  }
  for (const [part, node] of Object.entries(picture.handles)) {
    const [x, y] = part === "last" ? [box[2], box[3]] : [box[0], box[1]];
    const numbers = { "aria-valuemin": 0, "aria-valuemax": width, "aria-valuenow": x, "aria-valuetext": `x ${x}, y ${y}` };
    for (const [name, value] of Object.entries(numbers)) node.setAttribute(name, value);
  }
  const list = (numbers) => `(${numbers.map((number) => Number(number.toFixed(2))).join(", ")})`;
  parts.boxes.textContent = `Box ${list(box)}, grown ${list(grown)}, cut ${list(cut)}.`;
  parts.live.textContent = `${area} pixels above ${threshold.toFixed(2)}: columns ${cut[0]} to ${cut[2]} and rows ${cut[1]} `
    + `to ${cut[3]} are resized onto.`;
  parts.shown.textContent = threshold.toFixed(2);
  parts.input.value = threshold;
}

function build(model, el) {
  const { mask, height, width, threshold } = model.get("state");
  const root = html("div", { class: "mm-paste", role: "group", "aria-label": "Paste a mask into a picture" });
  const picture = drawPicture(height, width);
  const input = html("input", { type: "range", min: 0.05, max: 0.95, step: 0.05, value: threshold, "aria-label": "threshold" });
  const shown = html("output", { class: "mm-paste-numbers" });
  const boxes = html("p", { class: "mm-paste-numbers" });
  const live = html("p", { "aria-live": "polite" });
  const legend = LEGEND.map(([style, text]) => html("li", {}, html("span", { class: "mm-paste-key", style }), text));
  const small = html("div", { class: "mm-paste-small" },
    html("p", { class: "mm-paste-title" }, `Mask ${mask.length} × ${mask.length}, padded`), drawMask(mask));
  const large = html("div", { class: "mm-paste-large" },
    html("p", { class: "mm-paste-title" }, "The picture: drag the box or a corner"), picture.root);
  root.append(html("style", {}, CSS), html("div", { class: "mm-paste-row" }, small, large),
    html("label", {}, "threshold", input, shown), live, boxes, html("ul", {}, ...legend),
    html("p", {}, "Keys: Tab chooses the box or a corner, arrows move it by a quarter of a pixel, with Shift by a pixel."));
  el.append(root);
  return { root, picture, parts: { input, shown, boxes, live } };
}

function render({ model, el }) {
  const { root, picture, parts } = build(model, el);
  const refresh = () => update(model.get("state"), picture, parts);
  const set = (change) => {
    model.set("state", { ...model.get("state"), ...change });
    model.save_changes();
    refresh();
  };
  const move = (box, part, dx, dy) => {
    const { height, width } = model.get("state");
    set({ box: moveBox(box, part, dx, dy, height, width) });
  };
  const stop = new AbortController();
  const listen = (node, name, f) => node.addEventListener(name, f, { signal: stop.signal });
  let drag = null;
  for (const [part, node] of Object.entries(picture.handles)) {
    listen(node, "pointerdown", (event) => {
      const scale = picture.root.getBoundingClientRect().width / picture.root.viewBox.baseVal.width;
      drag = { part, x: event.clientX, y: event.clientY, box: model.get("state").box, scale: scale * SIZE };
      node.setPointerCapture(event.pointerId);
      node.focus({ preventScroll: true });
      event.preventDefault();
    });
    listen(node, "pointermove", (event) => {
      if (!drag || drag.part !== part) return;
      move(drag.box, part, (event.clientX - drag.x) / drag.scale, (event.clientY - drag.y) / drag.scale);
    });
    for (const name of ["pointerup", "pointercancel"]) listen(node, name, () => { drag = null; });
    listen(node, "keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way) return;
      const step = event.shiftKey ? 1 : STEP;
      move(model.get("state").box, part, way[0] * step, way[1] * step);
      event.preventDefault();
      event.stopPropagation();
    });
  }
  listen(parts.input, "input", () => set({ threshold: Number(parts.input.value) }));
  model.on("change:state", refresh);
  refresh();
  return () => {
    stop.abort();
    if (model.off) model.off("change:state", refresh);
    root.remove();
  };
}

export default { render };
