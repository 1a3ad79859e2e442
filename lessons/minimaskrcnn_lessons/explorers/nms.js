// Greedy non-maximum suppression, box by box.  Boxes are [x1, y1, x2, y2] in pixels of the canvas.
// All mathematics is in the exported functions; `golden/nms.json` holds what the Python package makes of the same.

export const WIDTH = 400, HEIGHT = 250;
const SVG = "http://www.w3.org/2000/svg";

/** Width times height. */
export function area([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

/** Intersection over union; 0 where the union has no area. */
export function iou(a, b) {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const inter = width * height, union = area(a) + area(b) - inter;
  return union > 0 ? inter / union : 0;
}

/** Rows by descending score, ties to the lower row. */
export function order(scores) {
  return scores.map((_, row) => row).sort((a, b) => scores[b] - scores[a] || a - b);
}

/** One step for each box, best first: was it kept, who removed it, and with which waiting boxes it was compared. */
export function steps(boxes, scores, threshold) {
  const rows = order(scores), removedBy = new Map(), out = [];
  rows.forEach((current, place) => {
    const kept = !removedBy.has(current), compared = [];
    if (kept) {
      for (const other of rows.slice(place + 1)) {
        if (removedBy.has(other)) continue;
        const overlap = iou(boxes[current], boxes[other]), hit = overlap > threshold;
        compared.push({ other, iou: overlap, hit });
        if (hit) removedBy.set(other, current);
      }
    }
    out.push({ current, kept, by: kept ? null : removedBy.get(current), compared });
  });
  return out;
}

/** Indices of the kept boxes by descending score. */
export function nms(boxes, scores, threshold) {
  return steps(boxes, scores, threshold).filter((step) => step.kept).map((step) => step.current);
}

/** The box moved by (dx, dy), as far as the canvas reaches. */
export function moved(box, dx, dy) {
  const x = Math.min(Math.max(dx, -box[0]), WIDTH - box[2]);
  const y = Math.min(Math.max(dy, -box[1]), HEIGHT - box[3]);
  return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
}

/** What each box is after `done` steps: "current", "kept", "removed", "passed" (looked at, but removed before) or "waiting". */
export function standing(all, done, count) {
  const out = Array(count).fill("waiting");
  all.slice(0, done).forEach((step, place) => {
    if (step.kept) out[step.current] = place === done - 1 ? "current" : "kept";
    else if (place === done - 1) out[step.current] = "passed";
    for (const pair of step.compared) if (pair.hit) out[pair.other] = "removed";
  });
  return out;
}

export const START = {
  boxes: [[40, 60, 160, 180], [60, 70, 180, 190], [95, 75, 205, 195], [250, 40, 360, 130], [258, 56, 372, 150]],
  scores: [0.95, 0.9, 0.8, 0.85, 0.6],
  threshold: 0.5,
  step: 0,
};

const CSS = `
.mm-nms { background: #fff; color: #222; border: 1px solid #bbb; border-radius: 8px; padding: 12px; max-width: 640px;
  font: 15px/1.45 system-ui, sans-serif; box-sizing: border-box; }
.mm-nms * { box-sizing: border-box; }
.mm-nms svg { display: block; width: 100%; height: auto; background: #f7f7f7; border: 1px solid #ddd; }
.mm-nms text { font: 600 16px system-ui, sans-serif; fill: #222; pointer-events: none;
  paint-order: stroke; stroke: #f7f7f7; stroke-width: 4px; stroke-linejoin: round; }
.mm-nms g[role=slider] { cursor: move; touch-action: none; outline: none; }
.mm-nms g[role=slider]:focus-visible .mm-ring { stroke: #222; stroke-width: 2; stroke-dasharray: 2 3; }
.mm-nms .mm-ring { fill: none; stroke: none; }
.mm-nms .mm-row { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-top: 10px; }
.mm-nms button { font: inherit; color: #222; background: #eee; border: 1px solid #777; border-radius: 6px;
  padding: 6px 14px; cursor: pointer; }
.mm-nms button:disabled { color: #595959; background: #fafafa; border-color: #bbb; cursor: default; }
.mm-nms button:focus-visible, .mm-nms input:focus-visible { outline: 3px solid #0072B2; outline-offset: 2px; }
.mm-nms label { display: flex; gap: 8px; align-items: center; flex: 1 1 260px; }
.mm-nms input { flex: 1; min-width: 100px; accent-color: #0072B2; }
.mm-nms .mm-said { margin: 10px 0 0; min-height: 4.4em; }
.mm-nms ul { margin: 4px 0 0; padding-left: 1.3em; }
.mm-nms .mm-key { margin: 8px 0 0; font-size: 14px; color: #444; }`;

const LOOKS = {
  current: { stroke: "#0072B2", width: 5, dash: "", fill: "rgba(0,114,178,0.14)", sign: "now" },
  kept: { stroke: "#00664B", width: 4, dash: "", fill: "rgba(0,158,115,0.12)", sign: "kept" },
  removed: { stroke: "#777777", width: 2, dash: "4 5", fill: "none", sign: "gone" },
  passed: { stroke: "#0072B2", width: 4, dash: "4 5", fill: "none", sign: "passed over" },
  waiting: { stroke: "#A34700", width: 2, dash: "", fill: "none", sign: "" },
};

const name = (row) => String.fromCharCode(65 + row);
const clone = (state) => JSON.parse(JSON.stringify(state));

function make(tag, attributes = {}, parent = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function html(tag, attributes = {}, parent = null, text = "") {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

/** Sentences on the last step done. */
function account(state, all) {
  const { step: done, scores, threshold } = state;
  if (done === 0) return { lead: `${scores.length} boxes wait. The best is ${name(order(scores)[0])}.`, rows: [] };
  const last = all[done - 1], score = scores[last.current].toFixed(2), who = `${name(last.current)} (${score})`;
  const rows = last.compared.map((pair) => {
    const sign = pair.hit ? ">" : "≤";
    const end = pair.hit ? "removed" : "stays";
    return `${name(pair.other)}: IoU ${pair.iou.toFixed(3)} ${sign} ${threshold.toFixed(2)}, ${end}`;
  });
  let lead = `${who} was removed by ${name(last.by ?? 0)}: passed over, it removes nothing.`;
  if (last.kept) lead = rows.length ? `${who} is kept, and compared with those that wait:` : `${who} is kept; none is left to compare.`;
  if (done === all.length) {
    lead += ` Finished: ${all.filter((one) => one.kept).map((one) => name(one.current)).join(", ")} kept.`;
  }
  return { lead, rows };
}

function render({ model, el }) {
  const root = html("div", { class: "mm-nms" }, el), stop = new AbortController(), { signal } = stop;
  html("style", {}, root, CSS);
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Boxes with scores; each can be moved" });
  root.append(svg);
  const buttons = html("div", { class: "mm-row" }, root);
  const next = html("button", { type: "button" }, buttons, "Next box");
  const back = html("button", { type: "button" }, buttons, "Back");
  const again = html("button", { type: "button" }, buttons, "Start again");
  const label = html("label", { class: "mm-row" }, root);
  html("span", {}, label, "Threshold");
  const slider = html("input", { type: "range", min: "0", max: "1", step: "0.01", "aria-label": "IoU threshold" }, label);
  const value = html("output", {}, label);
  const said = html("div", { class: "mm-said", "aria-live": "polite" }, root);
  html("p", { class: "mm-key" }, root,
    "Thick blue: looked at now (dashed: passed over). Green: kept. Dashed grey: removed. Thin brown: waiting. Drag a box, or focus it and use the arrow keys (with Shift: 10 pixels).");

  const get = () => ({ ...clone(START), ...clone(model.get("state") ?? {}) });
  const set = (state) => { model.set("state", state); model.save_changes(); draw(); };
  const move = (row, dx, dy) => { const s = get(); s.boxes[row] = moved(s.boxes[row], dx, dy); set(s); };

  const handles = get().boxes.map((_, row) => {
    const group = make("g", { role: "slider", tabindex: "0", "aria-label": `Box ${name(row)}`, "aria-valuemin": "0" }, svg);
    const handle = { group, rect: make("rect", {}, group), ring: make("rect", { class: "mm-ring" }, group), text: make("text", {}, group), from: null };
    group.addEventListener("pointerdown", (event) => {
      group.setPointerCapture(event.pointerId);
      handle.from = { x: event.clientX, y: event.clientY, box: get().boxes[row] };
      group.focus({ preventScroll: true });
      event.preventDefault();
    }, { signal });
    group.addEventListener("pointermove", (event) => {
      if (!handle.from) return;
      const scale = WIDTH / svg.getBoundingClientRect().width, state = get();
      const dx = Math.round((event.clientX - handle.from.x) * scale), dy = Math.round((event.clientY - handle.from.y) * scale);
      state.boxes[row] = moved(handle.from.box, dx, dy);
      set(state);
    }, { signal });
    for (const end of ["pointerup", "pointercancel"]) group.addEventListener(end, () => { handle.from = null; }, { signal });
    group.addEventListener("keydown", (event) => {
      const by = event.shiftKey ? 10 : 1;
      const way = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
      if (!way) return;
      event.preventDefault();
      move(row, ...way);
    }, { signal });
    return handle;
  });

  function drawBox(handle, row, state, stands) {
    const [x1, y1, x2, y2] = state.boxes[row], look = LOOKS[stands[row]];
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    for (const [key, number] of Object.entries(place)) handle.rect.setAttribute(key, number);
    // A transparent inside still takes the pointer.
    handle.rect.setAttribute("fill", look.fill === "none" ? "rgba(0,0,0,0)" : look.fill);
    handle.rect.setAttribute("stroke", look.stroke);
    handle.rect.setAttribute("stroke-width", look.width);
    handle.rect.setAttribute("stroke-dasharray", look.dash);
    handle.ring.setAttribute("x", x1 - 4);
    handle.ring.setAttribute("y", y1 - 4);
    handle.ring.setAttribute("width", x2 - x1 + 8);
    handle.ring.setAttribute("height", y2 - y1 + 8);
    // Corners in turn, so that labels of boxes that overlap lie apart.
    const right = row % 2 === 1, low = row % 4 > 1;
    handle.text.setAttribute("x", right ? x2 - 5 : x1 + 5);
    handle.text.setAttribute("y", low ? y2 - 7 : y1 + 18);
    handle.text.setAttribute("text-anchor", right ? "end" : "start");
    handle.text.textContent = `${name(row)} ${state.scores[row].toFixed(2)}`;
    handle.group.setAttribute("aria-valuemax", String(WIDTH));
    handle.group.setAttribute("aria-valuenow", String(x1));
    const status = look.sign || "waiting";
    handle.group.setAttribute("aria-valuetext", `score ${state.scores[row].toFixed(2)}, left ${x1}, top ${y1}, ${status}`);
  }

  function draw() {
    const state = get(), all = steps(state.boxes, state.scores, state.threshold);
    const stands = standing(all, state.step, state.boxes.length);
    handles.forEach((handle, row) => drawBox(handle, row, state, stands));
    slider.value = String(state.threshold);
    slider.setAttribute("aria-valuetext", `IoU ${state.threshold.toFixed(2)}`);
    value.textContent = state.threshold.toFixed(2);
    next.disabled = state.step >= all.length;
    back.disabled = again.disabled = state.step === 0;
    const { lead, rows } = account(state, all), list = document.createElement("ul");
    for (const row of rows) html("li", {}, list, row);
    said.replaceChildren(html("div", {}, null, lead), ...(rows.length ? [list] : []));
  }

  const go = (change) => () => { const s = get(); s.step = change(s.step, s.boxes.length); set(s); };
  next.addEventListener("click", go((step, count) => Math.min(step + 1, count)), { signal });
  back.addEventListener("click", go((step) => Math.max(step - 1, 0)), { signal });
  again.addEventListener("click", go(() => 0), { signal });
  slider.addEventListener("input", () => set({ ...get(), threshold: Number(slider.value) }), { signal });
  model.on("change:state", draw);
  draw();
  return () => { stop.abort(); model.off?.("change:state", draw); root.remove(); };
}

export default { render };
