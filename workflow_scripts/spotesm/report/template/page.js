"use strict";
// -- what things are, when pointed at -------------------------------------------------------------
const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${y + 16 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 16}px`;
}
document.addEventListener("pointermove", event => {
  if (event.target.id !== "map") showTip(event.target.dataset?.tip, event.clientX, event.clientY);
});
document.addEventListener("pointerleave", () => showTip(""));

// -- the map --------------------------------------------------------------------------------------
// Middling colours, each with a contrast of 3 or more to light paper and to dark.
const CATEGORIES = ["#2f6fde", "#d9480f", "#15915f", "#b83fc4", "#a87600", "#0b8fa5", "#d6336c", "#6f8f1c", "#7c5ce0",
                    "#a8643a", "#5f7a93", "#9c4f96"];
const SHAPES = [
  r => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  r => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  r => `M0 ${-1.2 * r}L${1.2 * r} ${r}H${-1.2 * r}z`,
  r => `M0 ${-1.35 * r}L${1.35 * r} 0L0 ${1.35 * r}L${-1.35 * r} 0z`,
];
const NEAR = 14, MARGIN = 24, SUGGESTIONS = 20, MOST_ZOOM = 200;
const source = document.getElementById("points");
const points = source && JSON.parse(source.textContent);
const canvas = document.getElementById("map");
const RADIUS = points?.ids.length > 2000 ? 3 : 4.5;
let view = {zoom: 1, x: 0, y: 0}, method = "PCA", marked = null, lit;
const colourOf = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function styleOf(category) {
  if (category === null) return {colour: colourOf("--none"), shape: 0, hollow: true};
  if (category < 0) return {colour: colourOf("--none"), shape: 0};
  return {colour: CATEGORIES[category], shape: category % SHAPES.length};
}
function mix(percent) {
  const stops = ["--low", "--middle", "--high"].map(colourOf);
  const [from, to] = percent < 50 ? stops : stops.slice(1), share = (percent % 50 || (percent >= 100 ? 50 : 0)) / 50;
  const channel = (colour, i) => parseInt(colour.slice(2 * i + 1, 2 * i + 3), 16);
  return `rgb(${[0, 1, 2].map(i => Math.round(channel(from, i) * (1 - share) + channel(to, i) * share)).join(" ")})`;
}
function pointStyles() {
  const known = new Map();
  return points.colours.map(place => {
    if (!known.has(place)) {
      known.set(place, points.scaled && place !== null ? {colour: mix(place), shape: 0} : styleOf(place));
    }
    return known.get(place);
  });
}
function screenOf(i) {
  const {clientWidth: width, clientHeight: height} = canvas, [x, y] = points.maps[method][i];
  const scale = fit() * view.zoom;
  return [width / 2 + x * scale + view.x, height / 2 - y * scale + view.y];
}
function fit() {
  const tallest = Math.max(...points.maps[method].map(([_, y]) => Math.abs(y)), 1e-9);
  const widest = Math.max(...points.maps[method].map(([x]) => Math.abs(x)), 1e-9);
  return Math.min((canvas.clientWidth / 2 - MARGIN) / widest, (canvas.clientHeight / 2 - MARGIN) / tallest);
}
function draw(density = devicePixelRatio || 1) {
  canvas.width = canvas.clientWidth * density;
  canvas.height = canvas.clientHeight * density;
  const brush = canvas.getContext("2d"), styles = pointStyles(), paths = SHAPES.map(shape => new Path2D(shape(RADIUS)));
  const scale = fit() * view.zoom, {clientWidth: width, clientHeight: height} = canvas;
  brush.scale(density, density);
  brush.lineWidth = 1.3;
  // Points without a colour of their own lie below the others.
  const order = points.colours.map((_, i) => i);
  if (!points.scaled) order.sort((a, b) => rank(points.colours[a]) - rank(points.colours[b]) || a - b);
  for (const i of order) {
    const [x, y] = points.maps[method][i], {colour, shape, hollow} = styles[i];
    const left = width / 2 + x * scale + view.x, top = height / 2 - y * scale + view.y;
    if (left < -9 || top < -9 || left > width + 9 || top > height + 9) continue;
    brush.globalAlpha = lit !== undefined && points.colours[i] !== lit ? 0.1 : 0.8;
    brush.fillStyle = brush.strokeStyle = colour;
    brush.translate(left, top);
    if (hollow) brush.stroke(paths[shape]); else brush.fill(paths[shape]);
    brush.translate(-left, -top);
  }
  brush.globalAlpha = 1;
  if (marked !== null) drawMark(brush);
}
const rank = category => category === null ? 0 : category < 0 ? 1 : 2;
function drawMark(brush) {
  const [x, y] = screenOf(marked), ink = colourOf("--ink"), paper = colourOf("--paper");
  brush.strokeStyle = ink;
  brush.lineWidth = 1;
  for (const other of points.neighbours[marked]) {
    const [left, top] = screenOf(other);
    brush.beginPath();
    brush.moveTo(x, y);
    brush.lineTo(left, top);
    brush.stroke();
    brush.stroke(new Path2D(`M${left - 6} ${top}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0z`));
  }
  brush.lineWidth = 2.5;
  brush.stroke(new Path2D(`M${x - 8} ${y}a8 8 0 1 0 16 0a8 8 0 1 0 -16 0z`));
  brush.font = `600 14px ${getComputedStyle(document.body).fontFamily}`;
  const text = points.ids[marked].length > 40 ? `${points.ids[marked].slice(0, 40)}…` : points.ids[marked];
  const width = brush.measureText(text).width, left = Math.max(6, Math.min(x - width / 2, canvas.clientWidth - width - 6));
  const base = y > 40 ? y - 16 : y + 28;
  brush.lineWidth = 4;
  brush.lineJoin = "round";
  brush.strokeStyle = paper;
  brush.strokeText(text, left, base);
  brush.fillStyle = ink;
  brush.fillText(text, left, base);
}
function describe(i) {
  const label = points.labels?.[i];
  return [points.ids[i], `${points.lengths[i].toLocaleString("en")} residues`, ...(label ? [label] : [])].join("\n");
}
function nearest(x, y) {
  let best = null, least = NEAR * NEAR;
  const scale = fit() * view.zoom, {clientWidth: width, clientHeight: height} = canvas;
  points.maps[method].forEach(([px, py], i) => {
    const across = width / 2 + px * scale + view.x - x, down = height / 2 - py * scale + view.y - y;
    const distance = across * across + down * down;
    if (distance < least) [best, least] = [i, distance];
  });
  return best;
}
function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const zoom = Math.min(Math.max(view.zoom * factor, 1), MOST_ZOOM), real = zoom / view.zoom;
  const across = x - canvas.clientWidth / 2, down = y - canvas.clientHeight / 2;
  view = zoom === 1 ? {zoom: 1, x: 0, y: 0}
    : {zoom, x: across - (across - view.x) * real, y: down - (down - view.y) * real};
  draw();
}
function panBy(x, y) {
  view.x += x;
  view.y += y;
  draw();
}
function mark(i) {
  marked = i;
  const [x, y] = screenOf(i), {clientWidth: width, clientHeight: height} = canvas;
  if (x < 0 || y < 0 || x > width || y > height) view = {zoom: 1, x: 0, y: 0};
  draw();
  const table = document.createElement("table"), head = table.createTHead().insertRow();
  for (const name of [`nearest to ${points.ids[i]}`, "residues", "cosine", ...(points.labels ? ["label"] : [])]) {
    head.append(Object.assign(document.createElement("th"), {textContent: name, scope: "col"}));
  }
  head.cells[0].className = "id";
  const body = table.createTBody();
  points.neighbours[i].forEach((other, rank) => {
    const row = body.insertRow(), cosine = points.cosines[i][rank].toFixed(3);
    for (const text of [points.ids[other], points.lengths[other], cosine, ...(points.labels ? [points.labels[other]] : [])]) {
      row.insertCell().textContent = text;
    }
    row.cells[0].className = "id";
  });
  return table;
}
function answer(...parts) {
  document.getElementById("neighbours").replaceChildren(...parts);
}
function find(typed) {
  const low = typed.toLowerCase(), equal = text => text === typed, alike = text => text.toLowerCase() === low;
  for (const same of [equal, alike]) {
    for (const names of [points.ids, points.accessions]) {
      const i = names.findIndex(same);
      if (typed && i >= 0) return [i];
    }
  }
  return typed ? points.ids.flatMap((id, i) => id.toLowerCase().includes(low) ? [i] : []) : [];
}
function note(text) {
  return Object.assign(document.createElement("p"), {textContent: text});
}

if (points) {
  const input = document.getElementById("protein"), choice = document.getElementById("method");
  input.addEventListener("input", () => {
    const typed = input.value.toLowerCase();
    const found = typed ? points.ids.filter(id => id.toLowerCase().includes(typed)).slice(0, SUGGESTIONS) : [];
    document.getElementById("proteins").replaceChildren(
      ...found.map(id => Object.assign(document.createElement("option"), {value: id})));
  });
  document.getElementById("search").addEventListener("submit", event => {
    event.preventDefault();
    const found = find(input.value.trim());
    if (!found.length) answer(note("No protein on the map has this id or accession."));
    else if (found.length === 1) answer(mark(found[0]));
    else answer(note(`${found.length.toLocaleString("en")} ids contain this; here is the first.`), mark(found[0]));
  });
  choice?.addEventListener("change", () => {
    method = choice.value;
    view = {zoom: 1, x: 0, y: 0};
    for (const text of document.querySelectorAll("[data-method]")) text.hidden = text.dataset.method !== method;
    draw();
  });
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => zoomBy(Number(button.dataset.zoom)));
  }
  const categories = [...document.querySelectorAll("[data-category]")];
  for (const button of categories) {
    const category = JSON.parse(button.dataset.category), {colour, shape, hollow} = styleOf(category);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", SHAPES[shape](4.5));
    path.style.fill = hollow ? "none" : colour;
    path.style.stroke = hollow ? colour : "none";
    button.querySelector("svg").append(path);
    button.addEventListener("click", () => {
      lit = lit === category ? undefined : category;
      for (const other of categories) other.setAttribute("aria-pressed", String(other === button && lit !== undefined));
      draw();
    });
  }

  let from = null, moved = false;
  canvas.addEventListener("pointerdown", event => {
    from = [event.clientX, event.clientY];
    moved = false;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    if (from) {
      const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
      if (!moved && Math.hypot(x, y) < 4) return;
      moved = true;
      from = [event.clientX, event.clientY];
      showTip("");
      panBy(x, y);
    } else {
      const i = nearest(event.offsetX, event.offsetY);
      canvas.style.cursor = i === null ? "" : "pointer";
      showTip(i === null ? "" : describe(i), event.clientX, event.clientY);
    }
  });
  canvas.addEventListener("pointerup", event => {
    const i = moved ? null : nearest(event.offsetX, event.offsetY);
    from = null;
    if (i !== null) {
      input.value = points.ids[i];
      answer(mark(i));
    }
  });
  canvas.addEventListener("pointercancel", () => { from = null; });
  canvas.addEventListener("pointerleave", () => showTip(""));
  canvas.addEventListener("dblclick", event => zoomBy(2, event.offsetX, event.offsetY));
  canvas.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls; a pinch has ctrlKey set
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 200), event.offsetX, event.offsetY);
  }, {passive: false});
  const KEYS = {"+": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), "0": () => zoomBy(0),
    ArrowLeft: () => panBy(40, 0), ArrowRight: () => panBy(-40, 0), ArrowUp: () => panBy(0, 40), ArrowDown: () => panBy(0, -40)};
  canvas.addEventListener("keydown", event => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  new ResizeObserver(() => draw()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(4));
  addEventListener("afterprint", () => draw());
}
