// RoIPool, RoIWarp and RoIAlign of one box: drag it by quarters of a pixel and see which cells are read.
// Coordinates are pixels unless a name says cells; pixel i covers [i, i + 1).  A plane is an array of rows.

export const WIDTH = 256;
export const HEIGHT = 192;
const BINS = 4;
const SAMPLES = 2;
const SMALLEST = 8;

// ---- the mathematics, tested against minimaskrcnn.ops.reference ----

/** A soft disc and a bar, blurred to the stride: what a feature map of this picture could look like, 0..0.9. */
export function plane(stride) {
  const soft = (inside) => 1 / (1 + Math.exp(-inside / (stride / 4)));
  const rows = [];
  for (let i = 0; i < HEIGHT / stride; i++) {
    const row = [];
    for (let j = 0; j < WIDTH / stride; j++) {
      const y = (i + 0.5) * stride, x = (j + 0.5) * stride;
      const disc = 0.9 * soft(40 - Math.hypot(x - 100, y - 84));
      const bar = soft(12 - Math.abs(y - 120)) * soft(56 - Math.abs(x - 168));
      row.push(Math.max(disc, 0.6 * bar));
    }
    rows.push(row);
  }
  return rows;
}

/** The value between the four cells around a point, in cells; 0 beyond one cell outside of the map. */
export function bilinear(rows, y, x) {
  const height = rows.length, width = rows[0].length;
  if (y < -1 || y > height || x < -1 || x > width) return 0;
  y = Math.min(Math.max(y, 0), height - 1);
  x = Math.min(Math.max(x, 0), width - 1);
  const top = Math.floor(y), left = Math.floor(x);
  const bottom = Math.min(top + 1, height - 1), right = Math.min(left + 1, width - 1);
  const fy = y - top, fx = x - left;
  const upper = (1 - fx) * rows[top][left] + fx * rows[top][right];
  const lower = (1 - fx) * rows[bottom][left] + fx * rows[bottom][right];
  return (1 - fy) * upper + fy * lower;
}

/** RoIAlign's sample points of each bin on one axis, in cells, aligned. */
export function samplePoints(start, end, stride, bins, samples) {
  const size = (end - start) / stride / bins;
  const first = start / stride - 0.5;
  return Array.from({ length: bins }, (_, b) =>
    Array.from({ length: samples }, (_, i) => first + b * size + ((i + 0.5) * size) / samples));
}

/** The mean of samples × samples bilinear samples in each bin. */
export function roiAlign(rows, box, stride, bins, samples) {
  const [x1, y1, x2, y2] = box;
  const ys = samplePoints(y1, y2, stride, bins, samples), xs = samplePoints(x1, x2, stride, bins, samples);
  return ys.map((binYs) => xs.map((binXs) => {
    let sum = 0;
    for (const y of binYs) for (const x of binXs) sum += bilinear(rows, y, x);
    return sum / (samples * samples);
  }));
}

/** C's round: halves away from zero. */
function toCell(x) {
  return Math.sign(x) * Math.floor(Math.abs(x) + 0.5);
}

/** The whole cells that RoIPool and RoIWarp give a box: [left, top, right, bottom], in cells, the last two past the end. */
export function wholeCells(box, stride) {
  const [x1, y1, x2, y2] = box.map((corner) => toCell(corner / stride));
  return [x1, y1, x1 + Math.max(x2 - x1 + 1, 1), y1 + Math.max(y2 - y1 + 1, 1)];
}

/** RoIPool's cells of each bin on one axis: pairs (first, one past the last). */
export function cellsOfBins(start, end, bins, extent) {
  const size = (end - start) / bins;
  const clip = (cell) => Math.min(Math.max(cell, 0), extent);
  return Array.from({ length: bins }, (_, b) =>
    [clip(start + Math.floor(b * size)), clip(start + Math.ceil((b + 1) * size))]);
}

/** The largest cell of each bin; 0 for a bin without cells. */
export function roiPool(rows, box, stride, bins) {
  const [left, top, right, bottom] = wholeCells(box, stride);
  const ys = cellsOfBins(top, bottom, bins, rows.length), xs = cellsOfBins(left, right, bins, rows[0].length);
  return ys.map(([y1, y2]) => xs.map(([x1, x2]) => {
    const cells = rows.slice(y1, y2).flatMap((row) => row.slice(x1, x2));
    return cells.length ? Math.max(...cells) : 0;
  }));
}

/** RoIAlign of the whole cells. */
export function roiWarp(rows, box, stride, bins, samples) {
  return roiAlign(rows, wholeCells(box, stride).map((cell) => cell * stride), stride, bins, samples);
}

/** The box that a pooling really reads, in pixels. */
export function readBox(pooling, box, stride) {
  return pooling === "RoIAlign" ? box.slice() : wholeCells(box, stride).map((cell) => cell * stride);
}

/** How far each side of what is read lies from the box's, in pixels. */
export function misalignment(pooling, box, stride) {
  return readBox(pooling, box, stride).map((side, i) => side - box[i]);
}

/** A box inside of the picture with sides of at least SMALLEST, in quarters of a pixel. */
export function held(box, resized) {
  let [x1, y1, x2, y2] = box.map((corner) => Math.round(corner * 4) / 4);
  if (resized) {
    return [x1, y1, Math.min(Math.max(x2, x1 + SMALLEST), WIDTH), Math.min(Math.max(y2, y1 + SMALLEST), HEIGHT)];
  }
  const dx = Math.max(-x1, Math.min(0, WIDTH - x2)), dy = Math.max(-y1, Math.min(0, HEIGHT - y2));
  return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
}

// ---- what one sees ----

const COLOUR = { RoIPool: "#D55E00", RoIWarp: "#00795A", RoIAlign: "#0072B2" };
const NAMES = Object.keys(COLOUR);
const CSS = `
.mm-roi { background: #fff; color: #222; border: 1px solid #bbb; border-radius: 6px; padding: 12px; max-width: 860px;
  font: 14px/1.4 system-ui, sans-serif; box-sizing: border-box; }
.mm-roi * { box-sizing: border-box; }
.mm-roi fieldset { border: 0; padding: 0; margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 2px 14px; }
.mm-roi legend { float: left; width: auto; padding: 0; margin: 0 10px 0 0; font: inherit; font-weight: 600; }
.mm-roi label { white-space: nowrap; }
.mm-roi .mm-body { display: flex; flex-wrap: wrap; gap: 14px; }
.mm-roi .mm-stage { flex: 1 1 320px; min-width: 0; }
.mm-roi svg { display: block; width: 100%; height: auto; border: 1px solid #bbb; }
.mm-roi .mm-side { flex: 1 1 300px; min-width: 0; }
.mm-roi .mm-grids { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px; }
.mm-roi .mm-name { font-weight: 600; font-size: 14px; }
.mm-roi .mm-grid { display: grid; grid-template-columns: repeat(4, 1fr); border: 2px solid; }
.mm-roi .mm-grid span { aspect-ratio: 1; display: flex; align-items: center; justify-content: center; font-size: 13px; }
.mm-roi table { border-collapse: collapse; width: 100%; margin-top: 10px; font-size: 13px; color: #222; background: #fff; }
.mm-roi th, .mm-roi td { text-align: right; padding: 3px 4px; border-bottom: 1px solid #ddd; color: #222; background: #fff; }
.mm-roi th:first-child { text-align: left; }
.mm-roi .mm-handle { cursor: move; touch-action: none; }
.mm-roi .mm-corner { cursor: nwse-resize; }
.mm-roi .mm-handle:focus { outline: none; }
.mm-roi .mm-handle:focus-visible { stroke: #7A0099; stroke-width: 4; }
.mm-roi input:focus-visible { outline: 3px solid #7A0099; outline-offset: 2px; }
.mm-roi p { margin: 8px 0 0; }
`;
const px = (number) => `${number > 0 ? "+" : number < 0 ? "−" : ""}${Math.abs(number).toFixed(2)}`;
const shade = (value) => {
  const light = 1 - 0.55 * Math.min(Math.max(value, 0), 1);
  return `rgb(${Math.round(255 * light)}, ${Math.round(255 * (0.25 + 0.75 * light))}, ${Math.round(255 * (0.5 + 0.5 * light))})`;
};
let count = 0;

function html(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

const rectangle = ([x1, y1, x2, y2], look) => shape("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, ...look });

function radios(title, key, values, group, choose) {
  const field = html("fieldset", {}, html("legend", {}, title));
  for (const value of values) {
    const input = html("input", { type: "radio", name: `${group}-${key}`, value });
    input.addEventListener("change", () => choose(value));
    field.append(html("label", {}, input, ` ${value}`));
  }
  return field;
}

/** What the chosen pooling reads: RoIPool's bins of whole cells, the others' samples. */
function drawReading(layer, pooling, box, stride) {
  const colour = COLOUR[pooling], read = readBox(pooling, box, stride);
  layer.replaceChildren(rectangle(read, { fill: colour, "fill-opacity": 0.22, stroke: colour, "stroke-width": 1.5 }));
  if (pooling === "RoIPool") {
    const [left, top, right, bottom] = wholeCells(box, stride);
    const inset = Math.min(2, stride / 6);
    for (const [y1, y2] of cellsOfBins(top, bottom, BINS, HEIGHT / stride))
      for (const [x1, x2] of cellsOfBins(left, right, BINS, WIDTH / stride))
        if (x2 > x1 && y2 > y1)
          layer.append(rectangle([x1 * stride + inset, y1 * stride + inset, x2 * stride - inset, y2 * stride - inset],
            { fill: "none", stroke: colour, "stroke-width": 1 }));
    return;
  }
  const place = (points) => points.flat().map((cell) => (cell + 0.5) * stride);
  for (const y of place(samplePoints(read[1], read[3], stride, BINS, SAMPLES)))
    for (const x of place(samplePoints(read[0], read[2], stride, BINS, SAMPLES)))
      layer.append(shape("circle", { cx: x, cy: y, r: 2, fill: colour, stroke: "#fff", "stroke-width": 0.6 }));
}

function drawMap(layer, stride, rows) {
  const line = { stroke: "#9fb0c0", "stroke-width": stride > 8 ? 0.4 : 0.12 };
  layer.replaceChildren(...rows.flatMap((row, i) => row.map((value, j) =>
    shape("rect", { x: j * stride, y: i * stride, width: stride, height: stride, fill: shade(value), ...line }))));
}

function drawGrid(grid, values) {
  grid.replaceChildren(...values.flat().map((value) => {
    const cell = html("span", { style: `background: ${shade(value)}; color: #111` });
    cell.textContent = String(Math.round(100 * value));
    return cell;
  }));
}

function build(root, group, change) {
  root.append(html("style", {}, CSS));
  const card = html("div", { class: "mm-roi", role: "group", "aria-label": "RoIPool against RoIAlign" });
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "feature map with a box" });
  const [map, reading, outline] = [shape("g", {}), shape("g", {}), shape("g", {})];
  const slider = { tabindex: 0, role: "slider", "aria-valuemin": 0 };
  const box = shape("rect", { class: "mm-handle", fill: "transparent", stroke: "#111", "stroke-width": 2.5, ...slider,
    "aria-valuemax": WIDTH, "aria-label": "the box: arrow keys move it by a quarter of a pixel, with shift by four" });
  const corner = shape("circle", { class: "mm-handle mm-corner", r: 6, fill: "#fff", stroke: "#111", "stroke-width": 2.5,
    ...slider, "aria-valuemax": WIDTH, "aria-label": "the lower right corner: arrow keys resize the box" });
  outline.append(box, corner);
  svg.append(map, reading, outline);
  const strides = radios("Stride", "stride", [4, 8, 16, 32], group, (stride) => change({ stride }));
  const poolings = radios("Show what is read by", "pooling", NAMES, group, (pooling) => change({ pooling }));
  const grids = {}, rows = {}, panel = html("div", { class: "mm-grids" });
  const body = html("tbody", {});
  for (const name of NAMES) {
    grids[name] = html("div", { class: "mm-grid", style: `border-color: ${COLOUR[name]}` });
    panel.append(html("div", {}, html("div", { class: "mm-name", style: `color: ${COLOUR[name] === "#D55E00" ? "#A34700" : COLOUR[name]}` }, name), grids[name]));
    rows[name] = ["left", "top", "right", "bottom"].map(() => html("td", {}));
    body.append(html("tr", {}, html("th", { scope: "row" }, name), ...rows[name]));
  }
  const head = html("tr", {}, ...["pixels off", "left", "top", "right", "bottom"].map((t) => html("th", { scope: "col" }, t)));
  const live = html("p", { "aria-live": "polite" });
  const note = html("p", {}, "Pooled numbers are in hundredths. Drag the box or its corner.");
  card.append(strides, poolings, html("div", { class: "mm-body" }, html("div", { class: "mm-stage" }, svg, live),
    html("div", { class: "mm-side" }, panel, html("table", {}, html("thead", {}, head), body), note)));
  root.append(card);
  return { card, svg, map, reading, box, corner, strides, poolings, grids, rows, live };
}

function drag(node, svg, start, move, listen) {
  let from = null;
  const here = (event) => {
    const scale = WIDTH / svg.getBoundingClientRect().width;
    return [event.clientX * scale, event.clientY * scale];
  };
  listen(node, "pointerdown", (event) => {
    node.setPointerCapture(event.pointerId);
    node.focus({ focusVisible: false });
    from = { at: here(event), box: start() };
    event.preventDefault();
  });
  listen(node, "pointermove", (event) => {
    if (!from) return;
    const [x, y] = here(event);
    move(from.box, x - from.at[0], y - from.at[1]);
  });
  for (const end of ["pointerup", "pointercancel"]) listen(node, end, () => { from = null; });
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  listen(node, "keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    const size = event.shiftKey ? 4 : 0.25;
    move(start(), step[0] * size, step[1] * size);
    event.preventDefault();
  });
}

function render({ model, el }) {
  const state = () => ({ box: [54, 29, 131, 104], stride: 16, pooling: "RoIPool", ...model.get("state") });
  const change = (part) => {
    model.set("state", { ...state(), ...part });
    model.save_changes();
    draw();
  };
  const root = html("div", {});
  el.append(root);
  const view = build(root, `mm-roi-${count++}`, change);
  let drawn = null;
  let rows = null;
  function draw() {
    const { box, stride, pooling } = state();
    if (drawn !== stride) {
      rows = plane(stride);
      drawMap(view.map, stride, rows);
      drawn = stride;
    }
    drawReading(view.reading, pooling, box, stride);
    const [x1, y1, x2, y2] = box;
    for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) view.box.setAttribute(key, value);
    view.corner.setAttribute("cx", x2);
    view.corner.setAttribute("cy", y2);
    const said = `left ${x1}, top ${y1}, right ${x2}, bottom ${y2} pixels`;
    view.box.setAttribute("aria-valuenow", x1);
    view.box.setAttribute("aria-valuetext", said);
    view.corner.setAttribute("aria-valuenow", x2);
    view.corner.setAttribute("aria-valuetext", said);
    drawGrid(view.grids.RoIPool, roiPool(rows, box, stride, BINS));
    drawGrid(view.grids.RoIWarp, roiWarp(rows, box, stride, BINS, SAMPLES));
    drawGrid(view.grids.RoIAlign, roiAlign(rows, box, stride, BINS, SAMPLES));
    for (const name of NAMES) misalignment(name, box, stride).forEach((off, i) => { view.rows[name][i].textContent = px(off); });
    for (const input of view.strides.querySelectorAll("input")) input.checked = Number(input.value) === stride;
    for (const input of view.poolings.querySelectorAll("input")) input.checked = input.value === pooling;
    const worst = Math.max(...misalignment(pooling, box, stride).map(Math.abs));
    view.live.textContent = `The box goes from (${x1}, ${y1}) to (${x2}, ${y2}). At stride ${stride}, ${pooling} reads ` +
      (worst ? `a region whose worst side is ${worst.toFixed(2)} pixels off.` : "exactly this box.");
  }
  const stop = new AbortController();
  const listen = (node, type, f) => node.addEventListener(type, f, { signal: stop.signal });
  const moved = (box, dx, dy) => change({ box: held([box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy], false) });
  const resized = (box, dx, dy) => change({ box: held([box[0], box[1], box[2] + dx, box[3] + dy], true) });
  drag(view.box, view.svg, () => state().box, moved, listen);
  drag(view.corner, view.svg, () => state().box, resized, listen);
  model.on("change:state", draw);
  draw();
  return () => {
    stop.abort();
    if (model.off) model.off("change:state", draw);
    root.remove();
  };
}

export default { render };
