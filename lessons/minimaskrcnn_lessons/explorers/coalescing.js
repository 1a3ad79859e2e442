// Explorer of lesson 06: the bytes that one load of a warp touches, in NCHW and in NHWC.  Arithmetic on strides only;
// coalescing.py has the same functions, on torch's strides, and the golden values.

export const CHANNELS = 256, HEIGHT = 12, WIDTH = 64;
export const LANES = 32, SECTOR = 32, LINE = 128, WIDEST = 16;
const START = { layout: "NHWC", along: "C", itemsize: 4, per_lane: 4, y: 3, x: 8 };

// How many elements further the next c, y and x is.
export function strides(layout) {
  return layout === "NCHW" ? [HEIGHT * WIDTH, WIDTH, 1] : [1, WIDTH * CHANNELS, CHANNELS];
}

// The byte addresses of each active lane's elements; the map begins at address 0.
export function addresses(layout, along, itemsize, perLane, y, x) {
  const [sc, sy, sx] = strides(layout);
  const step = along === "C" ? sc : sx;
  const count = Math.min(LANES * perLane, along === "C" ? CHANNELS : WIDTH - x);
  const lanes = [];
  for (let i = 0; i < count; i++) {
    if (i % perLane === 0) lanes.push([]);
    lanes[lanes.length - 1].push((y * sy + x * sx + i * step) * itemsize);
  }
  return lanes;
}

// The aligned blocks of `size` bytes that hold these elements, by number.
export function touched(lanes, size) {
  return [...new Set(lanes.flat().map((a) => Math.floor(a / size)))].sort((a, b) => a - b);
}

// One if each lane's elements are neighbours, aligned, and at most 16 bytes; otherwise one for each element.
export function instructions(lanes, itemsize, perLane) {
  const width = itemsize * perLane;
  const whole = lanes.every(
    (lane) =>
      lane.length === perLane && lane[lane.length - 1] - lane[0] === width - itemsize && lane[0] % width === 0,
  );
  return whole && width <= WIDEST ? 1 : perLane;
}

export function measure(layout, along, itemsize, perLane, y, x) {
  const lanes = addresses(layout, along, itemsize, perLane, y, x);
  const requested = lanes.flat().length * itemsize;
  const sectors = touched(lanes, SECTOR).length;
  return {
    lanes: lanes.length,
    instructions: instructions(lanes, itemsize, perLane),
    requested,
    sectors,
    lines: touched(lanes, LINE).length,
    moved: sectors * SECTOR,
    efficiency: requested / (sectors * SECTOR),
  };
}

// What lies in a line of 128 bytes: its used bytes as [start, length], its touched sectors, its first and last lane.
export function lineContents(lanes, itemsize, line) {
  const used = [], sectors = new Set(), who = [];
  lanes.forEach((lane, number) => {
    for (const a of lane) {
      if (Math.floor(a / LINE) !== line) continue;
      used.push([a % LINE, itemsize]);
      sectors.add(Math.floor((a % LINE) / SECTOR));
      who.push(number);
    }
  });
  return { used, sectors: [...sectors].sort((a, b) => a - b), first: who[0], last: who[who.length - 1] };
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
// Lines that are drawn; the others are counted.
const DRAWN = 32;
const CELL = 12;

const CHOICES = [
  ["layout", "Layout", [["NCHW", "NCHW"], ["NHWC", "NHWC (channels-last)"]]],
  ["along", "Lanes along", [["C", "C, channels"], ["W", "W, columns"]]],
  ["itemsize", "Bytes an element", [[2, "2"], [4, "4"]]],
  ["per_lane", "Elements a lane", [[1, "1"], [2, "2"], [4, "4"], [8, "8"]]],
];

const STYLE = `
.mm-coalescing { background: #fff; color: #222; border: 1px solid #ccc; border-radius: 6px; padding: 12px;
  font: 14px/1.4 system-ui, sans-serif; max-width: 800px; box-sizing: border-box; }
.mm-coalescing * { box-sizing: border-box; }
.mm-coalescing fieldset { border: 1px solid #ccc; border-radius: 4px; margin: 0; padding: 2px 8px 5px; min-width: 0; }
.mm-coalescing legend { width: auto; margin: 0; font-size: 13px; color: #444; padding: 0 4px; }
.mm-coalescing label { margin-right: 10px; white-space: nowrap; color: #222; }
.mm-coalescing input { accent-color: #0072B2; margin: 0 4px 0 0; }
.mm-coalescing input:focus-visible { outline: 3px solid #E69F00; outline-offset: 2px; }
.mm-choices { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 10px; }
.mm-coalescing svg { display: block; width: 100%; height: auto; overflow: visible; }
.mm-coalescing p { margin: 8px 0 4px; font-size: 14px; color: #222; }
.mm-handle { cursor: grab; touch-action: none; outline: none; }
.mm-handle:active { cursor: grabbing; }
.mm-handle .mm-ring { stroke: none; }
.mm-handle:focus-visible .mm-ring { stroke: #B35900; stroke-width: 3; }
.mm-numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 6px; margin: 10px 0 6px; padding: 0; }
.mm-numbers div { background: #f4f4f4; border-radius: 4px; padding: 4px 8px; }
.mm-numbers dt { font-size: 13px; color: #444; margin: 0; font-weight: normal; }
.mm-numbers dd { margin: 0; font-size: 18px; font-weight: 600; color: #222; }
.mm-lines { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 6px 12px; margin: 0; }
.mm-lines > div { font-size: 13px; color: #333; }
.mm-lines svg { height: 16px; }
.mm-key { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: #333; margin: 6px 0; }
.mm-key span::before { content: ""; display: inline-block; width: 14px; height: 12px; margin-right: 6px;
  border: 1px solid #777; vertical-align: -1px; background: var(--mm-fill); }
`;

function make(tag, attributes = {}, text = null) {
  const svg = ["svg", "g", "rect", "path"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function controls(root, name, change) {
  const box = make("div", { class: "mm-choices" }), inputs = [];
  for (const [key, title, options] of CHOICES) {
    const set = make("fieldset");
    set.append(make("legend", {}, title));
    for (const [value, text] of options) {
      const label = make("label"), input = make("input", { type: "radio", name: `${name}-${key}`, value });
      input.addEventListener("change", () => change({ [key]: value }));
      label.append(input, text);
      set.append(label);
      inputs.push([input, key, value]);
    }
    box.append(set);
  }
  root.append(box);
  return (state) => inputs.forEach(([input, key, value]) => (input.checked = state[key] === value));
}

function mapView(root, get, change) {
  const view = `-2 -2 ${WIDTH * CELL + 4} ${HEIGHT * CELL + 4}`;
  const svg = make("svg", { viewBox: view, role: "group", "aria-label": "The feature map, seen from above" });
  let grid = "";
  for (let i = 0; i <= WIDTH; i++) grid += `M${i * CELL} 0V${HEIGHT * CELL}`;
  for (let i = 0; i <= HEIGHT; i++) grid += `M0 ${i * CELL}H${WIDTH * CELL}`;
  svg.append(make("rect", { width: WIDTH * CELL, height: HEIGHT * CELL, fill: "#fafafa" }));
  svg.append(make("path", { d: grid, stroke: "#cccccc", "stroke-width": 1 }));
  const handle = make("g", {
    class: "mm-handle", tabindex: 0, role: "slider", "aria-label": "Cell at which the load begins",
    "aria-valuemin": 0, "aria-valuemax": HEIGHT * WIDTH - 1,
  });
  // A finger needs more than a cell to hold.
  const grip = make("rect", { width: 5 * CELL, height: 5 * CELL, fill: "transparent" });
  const cells = make("rect", { height: CELL, fill: "#0072B2" });
  const ring = make("rect", { class: "mm-ring", height: CELL + 8, rx: 3, fill: "none" });
  handle.append(grip, cells, ring);
  svg.append(handle);
  root.append(svg);

  let grabbed = null;
  const at = (event) => {
    const box = svg.getBoundingClientRect(), scale = (WIDTH * CELL + 4) / box.width;
    return [((event.clientY - box.top) * scale - 2) / CELL, ((event.clientX - box.left) * scale - 2) / CELL];
  };
  const move = (y, x) => change({ y: clamp(y, 0, HEIGHT - 1), x: clamp(x, 0, WIDTH - 1) });
  handle.addEventListener("pointerdown", (event) => {
    const [y, x] = at(event), state = get();
    grabbed = [y - state.y, x - state.x];
    handle.setPointerCapture(event.pointerId);
    handle.focus();
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (!grabbed) return;
    const [y, x] = at(event);
    move(Math.round(y - grabbed[0]), Math.round(x - grabbed[1]));
  });
  const release = () => (grabbed = null);
  handle.addEventListener("pointerup", release);
  handle.addEventListener("pointercancel", release);
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    move(get().y + step[0], get().x + step[1]);
  });

  return (state, found) => {
    const wide = state.along === "C" ? 1 : Math.min(LANES * state.per_lane, WIDTH - state.x);
    const [left, top] = [state.x * CELL, state.y * CELL];
    const place = (node, x, y, width) => Object.entries({ x, y, width }).forEach(([k, v]) => node.setAttribute(k, v));
    place(grip, left - 2 * CELL, top - 2 * CELL, (wide + 4) * CELL);
    place(cells, left, top, wide * CELL);
    place(ring, left - 4, top - 4, wide * CELL + 8);
    handle.setAttribute("aria-valuenow", state.y * WIDTH + state.x);
    handle.setAttribute("aria-valuetext", `row ${state.y}, column ${state.x}: ${found.sectors} sectors`);
  };
}

function tile(lanes, itemsize, line) {
  const { used, sectors, first, last } = lineContents(lanes, itemsize, line);
  const box = make("div"), svg = make("svg", { viewBox: "-0.5 -0.5 129 15", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (let s = 0; s < LINE / SECTOR; s++) {
    const fill = sectors.includes(s) ? "#F3D08A" : "#ffffff";
    svg.append(make("rect", { x: s * SECTOR, width: SECTOR, height: 14, fill, stroke: "#777777", "stroke-width": 0.7 }));
  }
  for (const [start, length] of used) {
    svg.append(make("rect", { x: start + 0.3, y: 2, width: length - 0.6, height: 10, fill: "#0072B2" }));
  }
  box.append(`line ${line}: ${first === last ? `lane ${first}` : `lanes ${first} to ${last}`}`, svg);
  return box;
}

let made = 0;

function render({ model, el }) {
  const root = make("div", { class: "mm-coalescing" });
  root.append(make("style", {}, STYLE));
  const get = () => ({ ...START, ...model.get("state") });
  const change = (part) => {
    model.set("state", { ...get(), ...part });
    model.save_changes();
    draw();
  };
  const setControls = controls(root, `mm-coalescing-${made++}`, change);
  root.append(make("p", {}, `The map from above: ${HEIGHT} rows, ${WIDTH} columns, ${CHANNELS} channels in each cell. Drag the blue cells, or use the arrow keys.`));
  const setMap = mapView(root, get, change);
  const numbers = make("dl", { class: "mm-numbers" }), said = make("p", { "aria-live": "polite" });
  const key = make("div", { class: "mm-key" });
  for (const [fill, text] of [["#0072B2", "bytes asked for"], ["#F3D08A", "moved with them, not used"], ["#ffffff", "sector not moved"]]) {
    const item = make("span", {}, text);
    item.style.setProperty("--mm-fill", fill);
    key.append(item);
  }
  const lines = make("div", { class: "mm-lines" }), more = make("p");
  root.append(numbers, said, key, lines, more);
  el.append(root);

  function draw() {
    const s = get();
    const how = [s.layout, s.along, s.itemsize, s.per_lane, s.y, s.x];
    const lanes = addresses(...how), found = measure(...how), all = touched(lanes, LINE);
    const percent = `${(100 * found.efficiency).toFixed(1)} %`;
    setControls(s);
    setMap(s, found);
    const rows = [
      ["lanes active", `${found.lanes} of ${LANES}`], ["instructions", found.instructions],
      ["bytes asked for", found.requested], ["32-byte sectors", found.sectors],
      ["128-byte lines", found.lines], ["bytes moved", found.moved], ["efficiency", percent],
    ];
    numbers.replaceChildren(
      ...rows.map(([name, value]) => {
        const item = make("div");
        item.append(make("dt", {}, name), make("dd", {}, String(value)));
        return item;
      }),
    );
    said.textContent = `Row ${s.y}, column ${s.x}: ${found.sectors} sectors are moved, and ${percent} of their bytes are used. A sector that several instructions need is counted once.`;
    lines.replaceChildren(...all.slice(0, DRAWN).map((line) => tile(lanes, s.itemsize, line)));
    more.textContent = all.length > DRAWN ? `... and ${all.length - DRAWN} more lines.` : "";
  }
  model.on("change:state", draw);
  draw();
  return () => {
    model.off?.("change:state", draw);
    root.remove();
  };
}

export default { render };
