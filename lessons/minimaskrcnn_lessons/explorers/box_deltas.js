// Box deltas: drag a reference box and a target box; see the four numbers that take one to the other.
// A box is [x1, y1, x2, y2] in continuous pixels.  The mathematics is in the exported functions, the rest draws.

export const WEIGHTS = { rpn: [1, 1, 1, 1], head: [10, 10, 5, 5] };
export const MAX_LOG_SCALE = Math.log(1000 / 16);
const PLANE = [24, 16]; // width, height
const LEAST = 0.25; // the smallest side that a box can be dragged to
const STEP = 0.25;

export function centreForm([x1, y1, x2, y2]) {
  return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1];
}

export function encodeDeltas(box, reference, weights) {
  const [cx, cy, w, h] = centreForm(box);
  const [rx, ry, rw, rh] = centreForm(reference);
  const plain = [(cx - rx) / rw, (cy - ry) / rh, Math.log(w / rw), Math.log(h / rh)];
  return plain.map((value, i) => value * weights[i]);
}

export function decodeDeltas(deltas, reference, weights) {
  const [rx, ry, rw, rh] = centreForm(reference);
  const [dx, dy, dw, dh] = deltas.map((value, i) => value / weights[i]);
  const [cx, cy] = [rx + dx * rw, ry + dy * rh];
  const w = rw * Math.exp(Math.min(dw, MAX_LOG_SCALE));
  const h = rh * Math.exp(Math.min(dh, MAX_LOG_SCALE));
  return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2];
}

export function boxIou(a, b) {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

// The box with one handle ("start", "end" or "centre") moved to (x, y), kept in the plane and in order.
export function moveHandle([x1, y1, x2, y2], handle, x, y, [width, height] = PLANE) {
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const snap = (value) => Math.round(value / STEP) * STEP;
  if (handle === "start") {
    return [clamp(snap(x), 0, x2 - LEAST), clamp(snap(y), 0, y2 - LEAST), x2, y2];
  }
  if (handle === "end") {
    return [x1, y1, clamp(snap(x), x1 + LEAST, width), clamp(snap(y), y1 + LEAST, height)];
  }
  const [w, h] = [x2 - x1, y2 - y1];
  const left = clamp(snap(x - w / 2), 0, width - w);
  const top = clamp(snap(y - h / 2), 0, height - h);
  return [left, top, left + w, top + h];
}

const CSS = `
.mm-deltas { background: #fff; color: #222; border: 1px solid #c8c8c8; border-radius: 6px; padding: 12px;
  font: 14px/1.45 system-ui, sans-serif; max-width: 720px; box-sizing: border-box; }
.mm-deltas * { box-sizing: border-box; }
.mm-deltas svg { display: block; width: 100%; height: auto; user-select: none; }
.mm-deltas fieldset { border: 0; margin: 0 0 8px; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 16px; }
.mm-deltas legend { float: left; width: auto; padding: 0; margin: 0 8px 0 0; font: inherit; font-weight: 600; }
.mm-deltas label { display: inline-flex; align-items: center; gap: 5px; min-height: 24px; color: #222; }
.mm-deltas table { border-collapse: collapse; width: 100%; margin: 8px 0 0; background: #fff; color: #222; }
.mm-deltas caption { text-align: left; font-weight: 600; color: #222; padding: 2px 0; }
.mm-deltas th, .mm-deltas td { text-align: left; padding: 3px 8px 3px 0; border: 0; border-top: 1px solid #ddd;
  font-variant-numeric: tabular-nums; font-size: 14px; color: #222; background: #fff; }
.mm-deltas .mm-formula { white-space: nowrap; }
.mm-deltas td.mm-value, .mm-deltas th.mm-value { text-align: right; font-weight: 600; white-space: nowrap; padding-right: 0; }
.mm-deltas .mm-live { margin: 8px 0 0; min-height: 2.9em; color: #222; }
.mm-deltas .mm-keys { margin: 6px 0 0; color: #555; font-size: 13px; }
.mm-deltas .mm-handle { cursor: grab; touch-action: none; outline: none; }
.mm-deltas .mm-handle:focus-visible .mm-ring { stroke: #222; stroke-width: 3px; }
.mm-deltas input:focus-visible { outline: 3px solid #0072B2; outline-offset: 2px; }
`;
const STYLES = {
  reference: { stroke: "#0072B2", dash: "7 5", name: "reference" },
  target: { stroke: "#A34700", dash: "", name: "target" },
};
// Later ones lie on top: the corners of a tiny box can still be caught.
const HANDLES = { centre: "centre", start: "top left corner", end: "bottom right corner" };

function svg(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.appendChild(node);
  return node;
}

function html(name, attributes, parent, text = "") {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  parent?.appendChild(node);
  return node;
}

const short = (value) => (Math.abs(value) < 5e-4 ? "0" : value.toFixed(3).replace(/\.?0+$/, "").replace("-", "−"));
const list = (values) => `(${values.map(short).join(", ")})`;

function at(box, handle) {
  const [cx, cy] = centreForm(box);
  return { start: [box[0], box[1]], end: [box[2], box[3]], centre: [cx, cy] }[handle];
}

function drawGrid(root) {
  const [width, height] = PLANE;
  const line = { stroke: "#ddd", "stroke-width": 1, "vector-effect": "non-scaling-stroke" };
  for (let x = 0; x <= width; x++) svg("line", { x1: x, x2: x, y1: 0, y2: height, ...line }, root);
  for (let y = 0; y <= height; y++) svg("line", { x1: 0, x2: width, y1: y, y2: y, ...line }, root);
}

function drawBoxes(root) {
  const parts = { handles: {} };
  const common = { fill: "none", "stroke-width": 3, "vector-effect": "non-scaling-stroke" };
  for (const [key, style] of Object.entries(STYLES)) {
    const look = { ...common, stroke: style.stroke, "stroke-dasharray": style.dash };
    parts[key] = svg("rect", { ...look, fill: style.stroke, "fill-opacity": 0.08, "data-box": key }, root);
    parts[`${key}-name`] = svg("text", { fill: style.stroke, "font-weight": 700, "aria-hidden": "true" }, root);
    parts[`${key}-name`].textContent = style.name;
  }
  parts.decoded = svg("rect", { ...common, stroke: "#007A5A", "stroke-dasharray": "2 4", "data-box": "decoded" }, root);
  parts.arrow = svg("line", { ...common, stroke: "#555", "stroke-width": 1.5, "pointer-events": "none" }, root);
  for (const [key, style] of Object.entries(STYLES)) {
    for (const handle of Object.keys(HANDLES)) {
      const group = svg("g", { class: "mm-handle", tabindex: 0, role: "slider", "data-handle": `${key}-${handle}` }, root);
      group.setAttribute("aria-label", `${style.name}, ${HANDLES[handle]}`);
      group.setAttribute("aria-valuemin", 0);
      group.setAttribute("aria-valuemax", PLANE[0]);
      svg("circle", { class: "mm-hit", fill: "transparent" }, group);
      const filled = handle === "centre" ? "#fff" : style.stroke;
      const ring = { class: "mm-ring", fill: filled, stroke: style.stroke, "stroke-width": 2 };
      svg("circle", { ...ring, "vector-effect": "non-scaling-stroke" }, group);
      parts.handles[`${key}-${handle}`] = group;
    }
  }
  return parts;
}

const ROWS = [
  ["dx", "(cx′ − cx) / w", (t, r) => `(${short(t[0])} − ${short(r[0])}) / ${short(r[2])}`],
  ["dy", "(cy′ − cy) / h", (t, r) => `(${short(t[1])} − ${short(r[1])}) / ${short(r[3])}`],
  ["dw", "log(w′ / w)", (t, r) => `log(${short(t[2])} / ${short(r[2])})`],
  ["dh", "log(h′ / h)", (t, r) => `log(${short(t[3])} / ${short(r[3])})`],
];

function build(el) {
  const card = html("div", { class: "mm-deltas" }, el);
  html("style", {}, card, CSS);
  const field = html("fieldset", {}, card);
  html("legend", {}, field, "Weights");
  const group = `mm-weights-${Math.random().toString(36).slice(2)}`;
  const radios = {};
  for (const [key, text] of [["rpn", "RPN (1, 1, 1, 1)"], ["head", "box head (10, 10, 5, 5)"]]) {
    const label = html("label", {}, field);
    radios[key] = html("input", { type: "radio", name: group, value: key }, label);
    label.append(text);
  }
  const [width, height] = PLANE;
  const root = svg("svg", { viewBox: `-0.6 -0.6 ${width + 1.2} ${height + 1.2}`, role: "group" }, card);
  root.setAttribute("aria-label", `A plane of ${width} by ${height} pixels with a reference box and a target box`);
  drawGrid(root);
  const parts = drawBoxes(root);
  const table = html("table", {}, card);
  html("caption", {}, table, "Deltas that take the reference to the target");
  const head = html("tr", {}, html("thead", {}, table));
  for (const [text, kind] of [["delta", ""], ["definition, with these boxes", ""], ["value", "mm-value"]]) {
    html("th", { scope: "col", class: kind }, head, text);
  }
  const body = html("tbody", {}, table);
  const cells = ROWS.map(([name, formula]) => {
    const row = html("tr", {}, body);
    html("th", { scope: "row" }, row, name);
    const cell = html("td", {}, row);
    const definition = html("span", { class: "mm-formula" }, cell);
    cell.append(" "); // where a narrow card breaks the line
    const sum = html("span", { class: "mm-formula" }, cell);
    return { formula, definition, sum, value: html("td", { class: "mm-value", "data-delta": name }, row) };
  });
  const live = html("p", { class: "mm-live", "aria-live": "polite" }, card);
  html("p", { class: "mm-keys" }, card,
    "Drag a corner or a centre. Keys: Tab to a handle, arrows move it by ¼ pixel, with Shift by 1 pixel.");
  return { card, root, parts, radios, cells, live };
}

function place(rect, [x1, y1, x2, y2]) {
  for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) {
    rect.setAttribute(key, value);
  }
}

function drawState(view, state) {
  const { parts, root } = view;
  const unit = (PLANE[0] + 1.2) / Math.max(root.clientWidth || 600, 1); // plane pixels in one screen pixel
  const weights = WEIGHTS[state.weights];
  const deltas = encodeDeltas(state.target, state.reference, weights);
  const decoded = decodeDeltas(deltas, state.reference, weights);
  for (const key of Object.keys(STYLES)) {
    const box = state[key];
    place(parts[key], box);
    const name = parts[`${key}-name`];
    const inside = key === "reference" ? box[3] + 18 * unit > PLANE[1] : box[1] < 18 * unit;
    const below = key === "reference" ? !inside : inside;
    name.setAttribute("font-size", 14 * unit);
    name.setAttribute("x", Math.min(box[0] + 12 * unit, PLANE[0] - 68 * unit));
    name.setAttribute("y", key === "reference" ? box[3] + (below ? 16 : -7) * unit : box[1] + (below ? 18 : -7) * unit);
    for (const handle of Object.keys(HANDLES)) {
      const node = parts.handles[`${key}-${handle}`];
      const [x, y] = at(box, handle);
      node.childNodes[0].setAttribute("r", 14 * unit);
      node.childNodes[1].setAttribute("r", 6.5 * unit);
      for (const circle of node.childNodes) { circle.setAttribute("cx", x); circle.setAttribute("cy", y); }
      node.setAttribute("aria-valuenow", x);
      node.setAttribute("aria-valuetext", `x ${x}, y ${y}`);
    }
  }
  place(parts.decoded, decoded);
  const [from, to] = [at(state.reference, "centre"), at(state.target, "centre")];
  for (const [key, value] of Object.entries({ x1: from[0], y1: from[1], x2: to[0], y2: to[1] })) {
    parts.arrow.setAttribute(key, value);
  }
  for (const [key, radio] of Object.entries(view.radios)) radio.checked = key === state.weights;
  drawNumbers(view, state, weights, deltas, decoded);
}

function drawNumbers(view, state, weights, deltas, decoded) {
  const [target, reference] = [centreForm(state.target), centreForm(state.reference)];
  view.cells.forEach((cell, i) => {
    const factor = weights[i] === 1 ? "" : `${weights[i]} · `;
    cell.definition.textContent = `${factor}${cell.formula} =`;
    cell.sum.textContent = factor + ROWS[i][2](target, reference);
    cell.value.textContent = short(deltas[i]);
  });
  const growth = Math.max(target[2] / reference[2], target[3] / reference[3]);
  const cut = growth > 62.5 ? ` Growth of ${short(growth)} times is cut at 62.5: the target is not reached.` : "";
  view.live.textContent =
    `Reference ${list(state.reference)}, target ${list(state.target)}, IoU ${short(boxIou(state.reference, state.target))}. ` +
    `Decoded (dotted): ${list(decoded)}.${cut}`;
}

function render({ model, el }) {
  const view = build(el);
  const draw = () => drawState(view, model.get("state"));
  const change = (part) => {
    model.set("state", { ...model.get("state"), ...part });
    model.save_changes();
    draw();
  };
  const aborter = new AbortController();
  const on = (node, kind, f) => node.addEventListener(kind, f, { signal: aborter.signal });
  for (const [key, radio] of Object.entries(view.radios)) on(radio, "change", () => change({ weights: key }));
  for (const [name, node] of Object.entries(view.parts.handles)) {
    const [key, handle] = name.split("-");
    const move = (x, y) => change({ [key]: moveHandle(model.get("state")[key], handle, x, y) });
    on(node, "pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      node.focus();
      event.preventDefault();
    });
    on(node, "pointermove", (event) => {
      if (!node.hasPointerCapture(event.pointerId)) return;
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(view.root.getScreenCTM().inverse());
      move(point.x, point.y);
    });
    on(node, "keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      const [x, y] = at(model.get("state")[key], handle);
      const step = event.shiftKey ? 1 : STEP;
      move(x + way[0] * step, y + way[1] * step);
    });
  }
  model.on("change:state", draw);
  const observer = new ResizeObserver(draw);
  observer.observe(view.card);
  draw();
  return () => {
    aborter.abort();
    observer.disconnect();
    model.off?.("change:state", draw);
    view.card.remove();
  };
}

export default { render };
