// Anchors on a grid, and an object to be dragged over them (lesson 02).
// All boxes are [x1, y1, x2, y2] in pixels of a picture of WIDTH x HEIGHT.

export const WIDTH = 256;
export const HEIGHT = 160;
export const RATIOS = { 1: [1], 3: [0.5, 1, 2], 5: [0.25, 0.5, 1, 2, 4] };
export const SIZES = { "32": [32], "64": [64], "32,64": [32, 64], "32,64,128": [32, 64, 128] };
const STRIDES = [8, 16, 32];
const LEAST = 6; // pixels: the shortest side of the object

// Halves go to the even neighbour, as in torch.
export function roundHalfEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

// Anchors of one cell at the origin, by ratio and then size; computed in float32, as the package does.
export function cellAnchors(sizes, ratios, rounded = false) {
  const f = Math.fround;
  const found = [];
  for (const ratio of ratios) {
    const root = f(Math.sqrt(f(ratio)));
    for (const size of sizes) {
      let w = f(f(f(size) / root) / 2);
      let h = f(f(f(size) * root) / 2);
      if (rounded) [w, h] = [roundHalfEven(w), roundHalfEven(h)];
      found.push([-w, -h, w, h]);
    }
  }
  return found;
}

// All anchors of a grid: row, column, ratio, size.
export function gridAnchors(rows, columns, stride, sizes, ratios, rounded = false) {
  const base = cellAnchors(sizes, ratios, rounded);
  const found = [];
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const [x, y] = [j * stride, i * stride];
      for (const [x1, y1, x2, y2] of base) found.push([x + x1, y + y1, x + x2, y + y2]);
    }
  }
  return found;
}

export function boxIou(a, b) {
  const w = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const h = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const inter = w * h;
  return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter);
}

export function overlaps(box, anchors) {
  return anchors.map((anchor) => boxIou(box, anchor));
}

// How many reach `high`, how many stay under `low`, and the first of the best.
export function summary(ious, high, low) {
  let best = 0;
  ious.forEach((value, place) => {
    if (value > ious[best]) best = place;
  });
  const above = ious.filter((value) => value >= high).length;
  const below = ious.filter((value) => value < low).length;
  return { total: ious.length, high: above, low: below, between: ious.length - above - below, best, iou: ious[best] };
}

// The box after one part of it ("body", "first" or "second" corner) moved by (dx, dy), kept inside the picture.
export function moved(box, part, dx, dy) {
  let [x1, y1, x2, y2] = box;
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  if (part === "body") {
    dx = within(dx, -x1, WIDTH - x2);
    dy = within(dy, -y1, HEIGHT - y2);
    return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  }
  if (part === "first") {
    return [within(x1 + dx, 0, x2 - LEAST), within(y1 + dy, 0, y2 - LEAST), x2, y2];
  }
  return [x1, y1, within(x2 + dx, x1 + LEAST, WIDTH), within(y2 + dy, y1 + LEAST, HEIGHT)];
}

// Cividis at a few places: dark blue is 0, yellow is 1, told apart by everyone and in grey.
const PALETTE = [[0, 34, 78], [67, 78, 108], [125, 124, 120], [188, 175, 111], [254, 232, 56]];
function colour(value) {
  const at = Math.min(Math.max(value, 0), 1) * (PALETTE.length - 1);
  const low = Math.min(Math.floor(at), PALETTE.length - 2);
  const mix = PALETTE[low].map((c, k) => Math.round(c + (PALETTE[low + 1][k] - c) * (at - low)));
  return `rgb(${mix.join(",")})`;
}

const STYLE = `
.mm-anchors { background: #fff; color: #222; border: 1px solid #ccc; border-radius: 6px; padding: 12px; max-width: 860px;
  box-sizing: border-box; font: 15px/1.45 system-ui, sans-serif; color-scheme: light; }
.mm-anchors * { box-sizing: border-box; }
.mm-anchors .mm-controls { display: flex; flex-wrap: wrap; gap: 6px 18px; margin-bottom: 8px; }
.mm-anchors label { display: inline-flex; gap: 6px; align-items: center; color: #222; }
.mm-anchors select { font: inherit; color: #222; background: #fff; border: 1px solid #767676; border-radius: 4px; padding: 2px 4px; }
.mm-anchors svg { display: block; width: 100%; height: auto; }
.mm-anchors .mm-drag { cursor: grab; touch-action: none; }
.mm-anchors .mm-drag:focus { outline: none; }
.mm-anchors .mm-drag:focus-visible { stroke: #000; stroke-width: 3.5px; }
.mm-anchors select:focus-visible { outline: 3px solid #000; outline-offset: 1px; }
.mm-anchors .mm-legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0; }
.mm-anchors .mm-key { display: inline-block; width: 24px; height: 0; border-top: 3px solid; vertical-align: middle; margin-right: 6px; }
.mm-anchors .mm-numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 6px; margin: 6px 0; }
.mm-anchors .mm-number { border: 1px solid #ddd; border-radius: 4px; padding: 4px 8px; }
.mm-anchors .mm-number b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.mm-anchors .mm-cell, .mm-anchors .mm-help { margin: 4px 0; }
.mm-anchors .mm-help { color: #444; font-size: 14px; }
`;

const SVG = "http://www.w3.org/2000/svg";
function shape(parent, name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.appendChild(element);
  return element;
}

function html(parent, name, attributes = {}, text = "") {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  parent.appendChild(element);
  return element;
}

function choice(parent, text, values, listeners, onChange) {
  const label = html(parent, "label", {}, text);
  const select = html(label, "select");
  for (const [value, name] of values) html(select, "option", { value }, name);
  const heard = () => onChange(select.value);
  select.addEventListener("change", heard);
  listeners.push(() => select.removeEventListener("change", heard));
  return select;
}

function place(element, [x1, y1, x2, y2]) {
  element.setAttribute("x", x1);
  element.setAttribute("y", y1);
  element.setAttribute("width", x2 - x1);
  element.setAttribute("height", y2 - y1);
}

const NAMES = { body: "the object", first: "the object's upper left corner", second: "the object's lower right corner" };
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function render({ model, el }) {
  const listeners = [];
  const root = html(el, "div", { class: "mm-anchors", role: "group", "aria-label": "Anchors and an object" });
  html(root, "style", {}, STYLE);
  const controls = html(root, "div", { class: "mm-controls" });
  const set = (key) => (value) => change({ [key]: value });
  const stride = choice(controls, "stride", STRIDES.map((s) => [s, `${s} pixels`]), listeners, (v) => change({ stride: +v }));
  const sizes = choice(controls, "anchor sizes", Object.keys(SIZES).map((s) => [s, s.replaceAll(",", ", ")]), listeners, set("sizes"));
  const ratios = choice(
    controls, "ratios (height / width)",
    [["1", "1"], ["3", "½, 1, 2"], ["5", "¼, ½, 1, 2, 4"]], listeners, set("ratios"),
  );
  const svg = shape(root, "svg", { viewBox: `-8 -8 ${WIDTH + 16} ${HEIGHT + 16}`, role: "group", "aria-label": "Grid of cells with a movable object" });
  const layers = Object.fromEntries(["grid", "close", "dots"].map((name) => [name, shape(svg, "g", { "aria-hidden": "true" })]));
  const thin = { "vector-effect": "non-scaling-stroke" };
  const body = shape(svg, "rect", { ...thin, fill: "#0072B2", "fill-opacity": 0.16, stroke: "#0072B2", "stroke-width": 2.5, class: "mm-drag" });
  const best = shape(svg, "rect", { ...thin, fill: "none", stroke: "#B34700", "stroke-width": 3, "stroke-dasharray": "7 4", "pointer-events": "none" });
  const corners = ["first", "second"].map(() => shape(svg, "circle", { ...thin, r: 5, fill: "#fff", stroke: "#0072B2", "stroke-width": 2.5, class: "mm-drag" }));
  const handles = { body, first: corners[0], second: corners[1] };
  const legend = html(root, "div", { class: "mm-legend" });
  for (const [css, text] of [["#0072B2", "the object: drag it or its corners"], ["#B34700", "its best anchor (dashed)"], ["#00664B", "anchors of IoU ≥ 0.7"]]) {
    const key = html(legend, "span");
    html(key, "span", { class: "mm-key", style: `border-color: ${css}; ${css === "#B34700" ? "border-top-style: dashed" : ""}` });
    key.append(text);
  }
  html(legend, "span", {}, "dots, one on each cell's corner: large and yellow means a high IoU, small and dark a low one");
  const numbers = html(root, "div", { class: "mm-numbers" });
  const cards = ["best IoU", "anchors", "IoU ≥ 0.7", "IoU < 0.3", "between"].map((text) => {
    const card = html(numbers, "div", { class: "mm-number" });
    const value = html(card, "b");
    card.append(text);
    return value;
  });
  const cell = html(root, "p", { class: "mm-cell" });
  const said = html(root, "p", { class: "mm-cell", "aria-live": "polite" });
  html(root, "p", { class: "mm-help" }, "Keys: Tab to the object or a corner, arrows move it by 1 pixel, with Shift by 8.");

  const state = () => ({ stride: 8, sizes: "32", ratios: "3", box: [86, 58, 120, 92], ...model.get("state") });
  function change(part) {
    model.set("state", { ...state(), ...part });
    model.save_changes();
    draw();
  }

  function drawAnchors(now, anchors, ious, shapes) {
    for (const layer of Object.values(layers)) layer.replaceChildren();
    const line = (x1, y1, x2, y2) => shape(layers.grid, "line", { ...thin, x1, y1, x2, y2, stroke: "#BBB", "stroke-width": 1 });
    for (let x = 0; x <= WIDTH; x += now.stride) line(x, 0, x, HEIGHT);
    for (let y = 0; y <= HEIGHT; y += now.stride) line(0, y, WIDTH, y);
    ious.forEach((value, n) => {
      if (value < 0.7) return;
      const near = shape(layers.close, "rect", { ...thin, fill: "none", stroke: "#00664B", "stroke-width": 1.5 });
      place(near, anchors[n]);
    });
    for (let n = 0; n < anchors.length; n += shapes) {
      const value = Math.max(...ious.slice(n, n + shapes));
      const [x1, y1, x2, y2] = anchors[n];
      const r = (0.6 + 2.8 * Math.sqrt(value)) * (now.stride === 8 ? 0.8 : 1);
      shape(layers.dots, "circle", { ...thin, cx: (x1 + x2) / 2, cy: (y1 + y2) / 2, r, fill: colour(value), stroke: "#222", "stroke-width": 0.8 });
    }
  }

  let drawn = "";
  function draw() {
    const now = state();
    if (JSON.stringify(now) === drawn) return;
    drawn = JSON.stringify(now);
    const [size, ratio] = [SIZES[now.sizes], RATIOS[now.ratios]];
    [stride.value, sizes.value, ratios.value] = [now.stride, now.sizes, now.ratios];
    const anchors = gridAnchors(Math.ceil(HEIGHT / now.stride), Math.ceil(WIDTH / now.stride), now.stride, size, ratio);
    const ious = overlaps(now.box, anchors);
    const found = summary(ious, 0.7, 0.3);
    const shapes = size.length * ratio.length;
    drawAnchors(now, anchors, ious, shapes);
    place(body, now.box);
    place(best, anchors[found.best]);
    const [x1, y1, x2, y2] = now.box;
    [[x1, y1], [x2, y2]].forEach(([x, y], k) => {
      corners[k].setAttribute("cx", x);
      corners[k].setAttribute("cy", y);
    });
    const text = { body: `object of ${x2 - x1} by ${y2 - y1} pixels at x ${x1}, y ${y1}`, first: `x ${x1}, y ${y1}`, second: `x ${x2}, y ${y2}` };
    for (const [part, handle] of Object.entries(handles)) {
      handle.setAttribute("aria-valuenow", part === "second" ? x2 : x1);
      handle.setAttribute("aria-valuetext", `${text[part]}; best IoU ${found.iou.toFixed(3)}`);
    }
    [found.iou.toFixed(3), found.total, found.high, found.low, found.between].forEach((value, k) => (cards[k].textContent = value));
    const start = Math.floor(found.best / shapes) * shapes;
    const [bx1, by1, bx2, by2] = anchors[found.best];
    const list = ratio.flatMap((r, i) => size.map((s, j) => `size ${s}, ratio ${r}: ${ious[start + i * size.length + j].toFixed(2)}`));
    cell.textContent = `IoUs at the best anchor's cell (x ${(bx1 + bx2) / 2}, y ${(by1 + by2) / 2}): ${list.join(" · ")}.`;
    const verdict = found.iou >= 0.7 ? "positive for the RPN" : found.iou < 0.3 ? "background, were it not the best" : "under 0.7: it counts only as the object's best";
    said.textContent = `The object is ${x2 - x1} × ${y2 - y1} pixels. Its best anchor is ${(bx2 - bx1).toFixed(1)} × ${(by2 - by1).toFixed(1)}, IoU ${found.iou.toFixed(3)}: ${verdict}.`;
  }

  for (const [part, handle] of Object.entries(handles)) {
    const attributes = { tabindex: 0, role: "slider", "aria-label": NAMES[part], "aria-valuemin": 0, "aria-valuemax": WIDTH };
    for (const [key, value] of Object.entries(attributes)) handle.setAttribute(key, value);
    let from = null;
    const point = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return [at.x, at.y];
    };
    const down = (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus({ preventScroll: true });
      from = { at: point(event), box: state().box };
      event.preventDefault();
    };
    const move = (event) => {
      if (!from) return;
      const [x, y] = point(event);
      change({ box: moved(from.box, part, Math.round(x - from.at[0]), Math.round(y - from.at[1])) });
    };
    const up = () => (from = null);
    const key = (event) => {
      if (!(event.key in KEYS)) return;
      const step = event.shiftKey ? 8 : 1;
      change({ box: moved(state().box, part, KEYS[event.key][0] * step, KEYS[event.key][1] * step) });
      event.preventDefault();
    };
    for (const [name, heard] of [["pointerdown", down], ["pointermove", move], ["pointerup", up], ["pointercancel", up], ["keydown", key]]) {
      handle.addEventListener(name, heard);
      listeners.push(() => handle.removeEventListener(name, heard));
    }
  }
  // Handles of 10 screen pixels' radius, however wide the picture is.
  const sized = new ResizeObserver(() => {
    const scale = (WIDTH + 16) / Math.max(svg.getBoundingClientRect().width, 1);
    corners.forEach((corner) => corner.setAttribute("r", Math.min(10 * scale, 9)));
  });
  sized.observe(svg);
  listeners.push(() => sized.disconnect());
  model.on("change:state", draw);
  draw();
  return () => {
    listeners.forEach((remove) => remove());
    if (model.off) model.off("change:state", draw);
    root.remove();
  };
}

export default { render };
