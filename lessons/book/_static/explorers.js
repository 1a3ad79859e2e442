// Puts the living explorer in the place of its still picture, with a model of its own instead of a notebook's kernel.
// Where anything fails the picture stays.
"use strict";

const explorersFolder = new URL("explorers/", document.currentScript.src);

function modelOf(state) {
  const listeners = new Set();
  return {
    get: (key) => (key === "state" ? state : undefined),
    set: (key, value) => {
      if (key !== "state") return;
      state = value;
      listeners.forEach((listener) => listener());
    },
    save_changes: () => {},
    on: (event, listener) => event === "change:state" && listeners.add(listener),
    off: (event, listener) => (listener ? listeners.delete(listener) : listeners.clear()),
  };
}

// A classic script brings the module's text: `import` of a file is refused in pages that are read from a disk.
function textOf(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL(`${name}.js`, explorersFolder);
    script.onload = () => resolve(window.mmExplorers[name]);
    script.onerror = () => reject(new Error(`no explorer ${name}`));
    document.head.append(script);
  });
}

async function enliven(place) {
  const name = place.dataset.explorer;
  const still = [...place.childNodes];
  const el = document.createElement("div");
  el.className = "mm-live";
  try {
    const address = URL.createObjectURL(new Blob([await textOf(name)], { type: "text/javascript" }));
    const module = await import(address);
    place.append(el);
    await module.default.render({ model: modelOf(JSON.parse(place.dataset.state)), el });
    still.forEach((node) => node.remove());
  } catch (error) {
    el.remove();
    console.error(`explorer ${name}:`, error);
  }
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("[data-explorer]").forEach(enliven));
