"use strict";
const $ = id => document.getElementById(id);
const facts = JSON.parse($("data").textContent);
$("title").textContent = facts.title;
const make = (name, cls, text) => {
  const element = document.createElement(name);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  return element;
};
const shown = token => token.replace(/ /g, "\u00b7").replace(/\n/g, "\u21b5").replace(/\t/g, "\u2192") || "\u2205";
const short = x => {
  if (x === -Infinity) return "\u2212\u221e";
  const size = Math.abs(x);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e5) return x.toExponential(2);
  return x.toPrecision(4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
};
const percent = share => (share > 0 && share < 0.001 ? "<0.1" : (100 * share).toFixed(1)) + "%";
const norm = row => Math.sqrt(row.reduce((sum, x) => sum + x * x, 0));

// The numbers of all layers, in the order in which they were written.
const layers = (() => {
  const text = atob(facts.numbers);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  const numbers = new Float32Array(bytes.buffer);
  let at = 0;
  const matrix = (rows, columns) => {
    const values = numbers.subarray(at, (at += rows * columns));
    return { rows, columns, values, row: i => values.subarray(i * columns, (i + 1) * columns) };
  };
  return facts.layers.map(about => {
    const { queries: t, keys: s, headDim: k, width: d } = about;
    const shared = Array.from({ length: about.keyHeads }, () => ({ key: matrix(s, k), value: matrix(s, k) }));
    const heads = Array.from({ length: about.heads }, (_, number) => ({
      ...shared[about.keyHead[number]], query: matrix(t, k), products: matrix(t, s), scores: matrix(t, s),
      weights: matrix(t, s), attended: matrix(t, k), contribution: matrix(t, d),
    }));
    return { ...about, heads, bias: matrix(1, d), output: matrix(t, d) };
  });
})();

let at = { layer: 0, head: 0, place: facts.place };
const [target, source] = [facts.tokens, facts.source].map(tokens => tokens.map(shown));
const texts = layer => (layer.cross || layer.ofSource ? source : target);
// What looks in the chosen layer.
let own = null;

// Colours of the page, as numbers.
let colors = {};
function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["card", "heat", "valid", "line", "ember", "soft"]) {
    const probe = make("canvas");
    probe.width = probe.height = 1;
    const context = probe.getContext("2d");
    context.fillStyle = style.getPropertyValue("--" + name).trim();
    context.fillRect(0, 0, 1, 1);
    colors[name] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  }
}
const mixed = (from, to, share) => from.map((x, i) => x + (to[i] - x) * share);

// A picture of a matrix, a pixel a number; what is not seen is checkered.
function picture(matrix, most, signed, hidden) {
  const image = new ImageData(matrix.columns, matrix.rows);
  for (let i = 0; i < matrix.values.length; i += 1) {
    const x = matrix.values[i], row = Math.floor(i / matrix.columns), column = i % matrix.columns;
    let color;
    if (hidden && hidden(row, column)) color = (row + column) % 2 ? colors.card : mixed(colors.card, colors.line, 0.8);
    else if (signed) color = mixed(colors.card, x < 0 ? colors.valid : colors.heat, Math.min(1, Math.sqrt(Math.abs(x) / most)));
    else color = mixed(colors.card, colors.heat, Math.sqrt(Math.max(0, x)));
    image.data.set([...color, 255], 4 * i);
  }
  const canvas = make("canvas");
  canvas.width = matrix.columns;
  canvas.height = matrix.rows;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
const largest = values => {
  let most = 0;
  for (const x of values) if (Number.isFinite(x)) most = Math.max(most, Math.abs(x));
  return most || 1;
};

const LABEL = 11, GAP = 4;
const clipped = text => (text.length > 8 ? text.slice(0, 7) + "\u2026" : text);

function map(name, matrix, options) {
  const { signed = true, hidden = null, columns = null, rows = own, queries = true, wide = 330 } = options;
  const figure = make("figure", "map");
  figure.append(make("figcaption", "", `${name}  [${matrix.rows}, ${matrix.columns}]`));
  const most = signed ? largest(matrix.values) : 1;
  const small = picture(matrix, most, signed, hidden);
  const canvas = make("canvas"), context = canvas.getContext("2d"), font = `${LABEL}px ui-monospace, Menlo, Consolas, monospace`;
  context.font = font;
  const space = labels => Math.ceil(Math.max(...labels.map(text => context.measureText(clipped(text)).width))) + GAP;
  // Tokens are named where there is room for their names.
  const left = 11 * matrix.rows <= 480 ? space(rows) : 0;
  const top = columns && left && 11 * matrix.columns <= wide - left ? space(columns) : 0;
  // Whole pixels a number, unless there are too many numbers.
  const size = Math.max(1, Math.min(18, Math.floor((wide - left) / matrix.columns), Math.floor(480 / matrix.rows)));
  const high = left ? Math.max(size, 11) : size;
  const [width, height] = [matrix.columns * size, matrix.rows * high];
  const sharp = Math.max(1, devicePixelRatio || 1);
  canvas.width = Math.round((left + width) * sharp);
  canvas.height = Math.round((top + height) * sharp);
  canvas.style.width = left + width + "px";
  context.scale(sharp, sharp);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, left, top, width, height);
  context.font = font;
  context.textBaseline = "middle";
  const name_ = (text, place, chosen) => {
    context.fillStyle = `rgb(${chosen ? colors.ember : colors.soft})`;
    context.fillText(clipped(text), 0, place);
  };
  if (left) rows.forEach((text, row) => name_(text, top + (row + 0.5) * high, queries && row === at.place));
  if (top) {
    context.rotate(-Math.PI / 2);
    columns.forEach((text, column) => {
      context.fillStyle = `rgb(${colors.soft})`;
      context.fillText(clipped(text), GAP - top, left + (column + 0.5) * size);
    });
    context.rotate(Math.PI / 2);
  }
  if (queries) {
    context.strokeStyle = `rgb(${colors.ember})`;
    context.lineWidth = Math.min(2, high);
    const inset = context.lineWidth / 2;
    context.strokeRect(left + inset, top + at.place * high + inset, width - 2 * inset, Math.max(1, high - 2 * inset));
  }
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${name}, ${matrix.rows} rows of ${matrix.columns} numbers`);
  const cell = event => {
    const box = canvas.getBoundingClientRect(), scale = (left + width) / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - left) / size);
    const row = Math.floor(((event.clientY - box.top) * scale - top) / high);
    const inside = row >= 0 && column >= 0 && row < matrix.rows && column < matrix.columns;
    return inside ? { row, column } : null;
  };
  canvas.addEventListener("pointermove", event => {
    const found = cell(event);
    if (!found) return untip();
    const { row, column } = found;
    const isHidden = hidden && hidden(row, column);
    const value = isHidden ? "not seen" : signed ? short(matrix.row(row)[column]) : percent(matrix.row(row)[column]);
    const to = columns ? `${column} ${columns[column]}` : "number " + column;
    tip(`${row} ${rows[row]} \u2192 ${to}: ${value}`, event);
  });
  canvas.addEventListener("pointerleave", untip);
  if (queries) {
    canvas.addEventListener("click", event => {
      const found = cell(event);
      if (found) follow(found.row);
    });
  }
  figure.append(canvas);
  const scale = make("span", "scale soft");
  const bar = make("i", signed ? "both" : "one");
  scale.append(make("span", "", signed ? short(-most) : "0%"), bar, make("span", "", signed ? short(most) : "100%"));
  figure.append(scale);
  return figure;
}

function tip(text, event) {
  const box = $("tip");
  box.textContent = text;
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = Math.max(4, Math.min(innerWidth - width - 4, event.clientX + 12)) + "px";
  box.style.top = Math.max(4, Math.min(innerHeight - height - 4, event.clientY + 16)) + "px";
}
const untip = () => ($("tip").hidden = true);

function step(number, title, text, formula, ...maps) {
  const section = make("section", "card step");
  const heading = make("h3", "", `${number}. ${title}`);
  heading.id = "step-" + number;
  section.setAttribute("aria-labelledby", heading.id);
  section.append(heading, make("p", "soft", text));
  if (formula) section.append(make("p", "formula", formula));
  if (maps.length) {
    const row = make("div", "maps");
    row.append(...maps);
    section.append(row);
  }
  return section;
}

const derived = (matrix, each) => {
  const values = Float64Array.from(matrix.values, (x, i) => each(x, Math.floor(i / matrix.columns), i % matrix.columns));
  const { rows, columns } = matrix;
  return { rows, columns, values, row: i => values.subarray(i * columns, (i + 1) * columns) };
};

function showSteps() {
  const layer = layers[at.layer], head = layer.heads[at.head], keys = texts(layer);
  const place = at.place, name = `${place} ${own[place]}`;
  const hidden = (row, column) => head.scores.row(row)[column] === -Infinity;
  const best = [...head.weights.row(place)].reduce((top, x, i, all) => (x > all[top] ? i : top), 0);
  const product = head.products.row(place)[best];
  const to = `${best} ${keys[best]}`;
  const slope = layer.slopes[at.head];
  const offset = layer.causal ? layer.keys - layer.queries : 0;
  const steps = [];
  const add = (title, text, formula, ...maps) => steps.push(step(steps.length + 1, title, text, formula, ...maps));
  const widen = () => steps[steps.length - 1].classList.add("wide");
  const narrow = { wide: 230 };
  const shares = layer.heads.length > layer.keyHeads
    ? ` Keys and values are those of key/value head ${layer.keyHead[at.head]}, which ${layer.heads.length / layer.keyHeads} heads share.` : "";
  add("Q, K, V", `Every token asks with a query, offers a key, and has a value to give, each of ${layer.headDim} numbers.` +
    " They are shown as attention takes them, after any norm and rotation." + shares, "",
    map("Q", head.query, narrow),
    map("K", head.key, { ...narrow, rows: keys, queries: false }),
    map("V", head.value, { ...narrow, rows: keys, queries: false }));
  widen();
  add("QK\u1d40", "How well each query fits each key: the sum of their products. Rows ask, columns are asked.",
    `Q[${name}] \u00b7 K[${to}] = ${short(product)}`, map("QK\u1d40", head.products, { columns: keys }));
  const scaled = derived(head.products, x => x * layer.scale);
  add("Scaled", `Times ${short(layer.scale)}, so that the scores stay of one size whatever the width of a head.`,
    `${short(product)} \u00d7 ${short(layer.scale)} = ${short(scaled.row(place)[best])}`, map("scaled", scaled, { columns: keys }));
  let scores = scaled;
  if (layer.softCap) {
    const cap = layer.softCap, before = scores;
    scores = derived(before, x => cap * Math.tanh(x / cap));
    add("Capped", `Kept within \u00b1 ${cap}, gently: cap \u00d7 tanh(score / cap).`,
      `${short(before.row(place)[best])} \u2192 ${short(scores.row(place)[best])}`, map("capped", scores, { columns: keys }));
  }
  if (slope !== null) {
    const before = scores;
    scores = derived(before, (x, row, column) => x - slope * Math.abs(row + offset - column));
    add("Less with distance", `ALiBi takes ${short(slope)} off for each position between the two.`,
      `${short(before.row(place)[best])} \u2212 ${short(slope)} \u00d7 ${Math.abs(place + offset - best)} = ${short(scores.row(place)[best])}`,
      map("less with distance", scores, { columns: keys }));
  }
  const sight = layer.causal ? "No token sees what comes after it" : "Every token sees all others";
  const window = layer.window ? `, nor what is ${layer.window} or more away` : "";
  add("Masked", `${sight}${window}: what is not seen is checkered, and counts as \u2212\u221e.`, "",
    map("masked", head.scores, { columns: keys, hidden }));
  add("Softmax", "Each row becomes shares that sum to one: e to the power of each score, over the sum of the row.",
    `${name} \u2192 ${to}: ${percent(head.weights.row(place)[best])}`,
    map("weights", head.weights, { columns: keys, hidden, signed: false }));
  steps[steps.length - 1].querySelector(".maps").append(table(layer, head, keys));
  widen();
  const difference = layer.differences[at.head];
  add("Times V", "The values of all tokens, each times its share, summed: what this head has found for each token." +
    ` The weights above times V give what the model itself computed, to within ${difference.toExponential(0)}.`,
    `${name}: ${layer.headDim} numbers of norm ${short(norm(head.attended.row(place)))}`, map("weights \u00d7 V", head.attended, {}));
  const all = norm(layer.output.row(place));
  add("Projection", `The head's rows of the output matrix turn its ${layer.headDim} numbers into ${layer.width}: its part of what attention adds to the stream.` +
    " The parts of all heads, with the bias where there is one, are what the model goes on with.",
    `${name}: norm ${short(norm(head.contribution.row(place)))}, of ${short(all)} that all ${layer.heads.length} heads write together`,
    map(`head ${at.head}`, head.contribution, { wide: 640 }), map("all heads", layer.output, { wide: 640 }));
  widen();
  $("steps").replaceChildren(...steps);
}

function table(layer, head, keys) {
  const box = make("div", "scroll"), grid = make("table"), top = make("tr");
  for (const name of ["token", "QK\u1d40", "score", "share", ""]) {
    const cell = make("th", "", name);
    cell.scope = "col";
    top.append(cell);
  }
  const head_ = make("thead");
  head_.append(top);
  const body = make("tbody"), place = at.place;
  const order = [...keys.keys()].sort((a, b) => head.weights.row(place)[b] - head.weights.row(place)[a]);
  const most = head.weights.row(place)[order[0]];
  for (const key of order.slice(0, 12)) {
    const score = head.scores.row(place)[key], weight = head.weights.row(place)[key];
    if (score === -Infinity) continue;
    const row = make("tr"), first = make("td"), bar = make("td", "bar"), fill = make("i");
    first.append(`${key} `, make("code", "", keys[key]));
    fill.style.setProperty("--share", weight / most);
    bar.append(fill);
    row.append(first, make("td", "", short(head.products.row(place)[key])), make("td", "", short(score)), make("td", "", percent(weight)), bar);
    body.append(row);
  }
  grid.append(head_, body);
  grid.setAttribute("aria-label", `What token ${place} looks at, most first`);
  box.append(grid);
  return box;
}

// Radio groups: one of them can be tabbed to, arrow keys choose another.
function radio(button, checked) {
  button.setAttribute("role", "radio");
  button.setAttribute("aria-checked", checked);
  button.tabIndex = checked ? 0 : -1;
}

function buildTokens() {
  $("tokens").replaceChildren(...own.map((text, place) => {
    const button = make("button", "", text);
    button.type = "button";
    button.title = `token ${place}`;
    button.addEventListener("click", () => follow(place));
    return button;
  }));
}

function buildHeads() {
  $("heads").replaceChildren(...layers.map((layer, number) => {
    const group = make("div", "layer"), row = make("div");
    const stack = layer.path.split(".")[0], title = `${stack} ${layer.layer}${layer.cross ? ", to the source" : ""}`;
    group.append(make("p", "soft", title), row);
    row.setAttribute("role", "radiogroup");
    row.setAttribute("aria-label", title);
    layer.heads.forEach((head, index) => {
      const button = make("button");
      button.type = "button";
      button.setAttribute("aria-label", `${title}, head ${index}`);
      button.append(make("canvas"), make("span", "", "head " + index));
      button.addEventListener("click", () => look(number, index));
      row.append(button);
    });
    return group;
  }));
}

function paintHeads() {
  $("heads").querySelectorAll(".layer").forEach((group, number) => {
    group.querySelectorAll("button").forEach((button, index) => {
      const head = layers[number].heads[index];
      const hidden = (row, column) => head.scores.row(row)[column] === -Infinity;
      button.querySelector("canvas").replaceWith(picture(head.weights, 1, false, hidden));
    });
  });
}

function mark() {
  const layer = layers[at.layer], weights = layer.heads[at.head].weights.row(at.place);
  [...$("tokens").children].forEach((button, place) => {
    radio(button, place === at.place);
    button.style.setProperty("--share", layer.cross ? 0 : weights[place]);
  });
  $("heads").querySelectorAll(".layer").forEach((group, number) => {
    group.querySelectorAll("button").forEach((button, index) => {
      const chosen = number === at.layer && index === at.head;
      radio(button, chosen);
      // Every layer can be tabbed to.
      if (number !== at.layer && index === 0) button.tabIndex = 0;
    });
  });
}

const buttonOf = () => $("heads").querySelectorAll(".layer")[at.layer].querySelectorAll("button")[at.head];
function show() { untip(); mark(); showSteps(); keep(); }
function follow(place) { at.place = place; show(); }
function look(layer, head) { turn(layer, head); show(); }
// A translator's encoder reads other tokens than its decoder.
function turn(layer, head) {
  at.layer = layer;
  at.head = head;
  const tokens = layers[layer].ofSource ? source : target;
  if (tokens === own) return;
  own = tokens;
  at.place = Math.min(at.place, own.length - 1);
  buildTokens();
}

// The address says what is looked at, so that it can be gone back to and sent on.
function keep() { history.replaceState(null, "", `#layer=${at.layer}&head=${at.head}&token=${at.place}`); }
function recall() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const within = (name, length, other) => {
    const number = asked.has(name) ? Number(asked.get(name)) : other;
    return Number.isInteger(number) && number >= 0 && number < length ? number : other;
  };
  const layer = within("layer", layers.length, 0);
  turn(layer, within("head", layers[layer].heads.length, 0));
  at.place = within("token", own.length, Math.min(facts.place, own.length - 1));
}

const moved = (number, by, length) => Math.max(0, Math.min(length - 1, number + by));
$("tokens").addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -own.length, End: own.length }[event.key];
  if (!by) return;
  event.preventDefault();
  follow(moved(at.place, by, own.length));
  $("tokens").children[at.place].focus();
});
$("heads").addEventListener("keydown", event => {
  const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  if (!move) return;
  event.preventDefault();
  const layer = moved(at.layer, move[0], layers.length);
  look(layer, moved(at.head, move[1], layers[layer].heads.length));
  buttonOf().focus();
});

function paint() {
  readColors();
  paintHeads();
  show();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
addEventListener("hashchange", () => { recall(); show(); });
recall();
buildHeads();
paint();
