"use strict";
const $ = id => document.getElementById(id);
const report = JSON.parse($("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
// Told apart by people who confuse some colours, too (Okabe and Ito 2008); the last for many runs.
const HUES = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const colour = number => HUES[number] ?? `hsl(${(number * 137.5) % 360} 60% ${dark.matches ? 60 : 40}%)`;
const shown = report.runs.map(() => true);
let plot = null;

function made(name, properties = {}, ...inside) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...inside);
  return element;
}

function short(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(1);
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= unit) return `${+(value / (name === "k" ? 1e3 : unit)).toPrecision(4)}${name}`;
  }
  return String(+value.toPrecision(5));
}

function lasting(seconds) {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/* Curves. */

/** The points of a curve that have a place on the axis, in its order, smoothed. */
function points(curve, smoothing) {
  const axis = $("x").value, quantity = $("y").value;
  const xs = [], ys = [];
  let mean = 0, weight = 0;
  for (const point of curve) {
    const x = point[axis];
    if (x === null || ($("logx").checked && x <= 0)) continue;
    mean = smoothing * mean + (1 - smoothing) * point.loss;
    weight = smoothing * weight + (1 - smoothing);
    const loss = mean / weight;
    if (xs.length && xs.at(-1) === x) { ys[ys.length - 1] = quantity === "loss" ? loss : Math.exp(loss); continue; }
    xs.push(x);
    ys.push(quantity === "loss" ? loss : Math.exp(loss));
  }
  return [xs, ys];
}

function draw() {
  const tables = [], series = [{}];
  report.runs.forEach((run, number) => {
    const both = [["train", 1, false], ["valid", 2, true]];
    for (const [split, width, dots] of both) {
      if (split === "train" && !$("train").checked) continue;
      const [xs, ys] = points(run.curves[split], split === "train" ? +$("smooth").value : 0);
      if (!xs.length) continue;
      tables.push([xs, ys]);
      series.push({
        label: `${run.name}, ${split === "train" ? "training" : "validation"}`,
        stroke: colour(number), width, alpha: split === "train" ? 0.55 : 1, show: shown[number],
        spanGaps: true, points: { show: dots, size: 6, fill: colour(number) },
      });
    }
  });
  const place = $("plot");
  plot?.destroy();
  plot = null;
  place.replaceChildren();
  if (!tables.length) { place.append("There is no loss to show over this."); return; }
  const ink = getComputedStyle(document.body).getPropertyValue("--soft");
  const line = getComputedStyle(document.body).getPropertyValue("--line");
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  plot = new uPlot({
    width: place.clientWidth, height: Math.max(280, Math.min(460, innerHeight * 0.55)),
    series, legend: { show: false },
    scales: { x: { time: false, distr: $("logx").checked ? 3 : 1 }, y: { distr: $("logy").checked ? 3 : 1 } },
    axes: [
      { ...axis, values: (_, values) => values.map(short) },
      { ...axis, size: 56, values: (_, values) => values.map(short) },
    ],
    cursor: { drag: { x: true, y: false } },
    hooks: { setCursor: [tell] },
  }, uPlot.join(tables), place);
}

/** What is under the pointer, in words. */
function tell(plot) {
  const at = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null;
  if (at === null) return;
  const near = plot.series.slice(1).flatMap((series, number) => {
    if (!series.show) return [];
    const ys = plot.data[number + 1];
    let best = -1;
    plot.data[0].forEach((x, place) => {
      if (ys[place] != null && (best < 0 || Math.abs(x - at) < Math.abs(plot.data[0][best] - at))) best = place;
    });
    return best < 0 ? [] : [`${series.label} ${ys[best].toFixed(4)}`];
  });
  $("point").textContent = `${short(at)} ${$("x").selectedOptions[0].text}: ${near.join(" · ")}`;
}

/* Tables. */

function table(element, heads, rows) {
  element.append(
    made("thead", {}, made("tr", {}, ...heads.map(head => made("th", { scope: "col" }, head)))),
    made("tbody", {}, ...rows),
  );
}

function results() {
  const measure = name => run => run.measured?.measures.find(it => it.name === name)?.value ?? null;
  const of = key => run => run.summary?.[key] ?? null;
  const last = key => run => (run.curves.train.at(-1) ?? run.curves.valid.at(-1))?.[key] ?? null;
  const decimals = value => value.toFixed(4);
  const percent = value => `${(100 * value).toFixed(1)}%`;
  // Best of what can be compared: tokens of other tokenizers cost other amounts, a text is harder
  // than another, and the first windows of models with other contexts are other parts of one.
  const sameLoss = report.same_task && report.same_tokenizer && report.same_validation;
  const least = sameLoss ? "least" : null;
  const read = new Set(report.runs.flatMap(run => run.measured?.examples ?? []));
  const sameText = report.same_task && report.same_text;
  const sameTokens = sameText && report.same_tokenizer && read.size < 2;
  // Name, value, how it is written, and whether the least or the most is best.
  const rows = [
    ["parameters", run => run.parameters, short],
    ["FLOPs a token", run => run.flops_per_token, short],
    ["steps", last("step"), short],
    ["tokens", last("tokens"), short],
    ["FLOPs", last("flops"), short],
    ["time of its steps", last("seconds"), lasting],
    ["tokens a second", of("tokens_per_s"), short],
    ["best validation loss", of("best_val_loss"), decimals, least],
    ["final validation loss", of("final_val_loss"), decimals, least],
    ["source entropy", of("source_entropy"), decimals],
    ["measured: loss", measure("loss"), decimals, sameTokens && "least"],
    ["measured: perplexity", measure("perplexity"), value => short(value), sameTokens && "least"],
    ["measured: bits a byte", measure("bits a byte"), decimals, (sameTokens || (sameText && report.whole)) && "least"],
  ];
  const names = new Set(report.runs.flatMap(run => run.measured?.measures.map(it => it.name) ?? []));
  for (const name of names) {
    if (name.startsWith("top-")) rows.push([`measured: ${name}`, measure(name), percent, sameTokens && "most"]);
  }
  const body = rows.flatMap(([name, value, write, best]) => {
    const values = report.runs.map(value);
    const known = values.filter(it => it !== null);
    if (!known.length) return [];
    const winner = best && known.length > 1 ? Math[best === "least" ? "min" : "max"](...known) : null;
    return [made("tr", {}, made("th", { scope: "row" }, name), ...values.map(it =>
      made("td", { className: it !== null && it === winner ? "best" : "" }, it === null ? "" : write(it))))];
  });
  table($("results"), ["", ...report.runs.map(run => run.name)], body);
  const protocols = new Set(report.runs.flatMap(run => run.measured
    ? [`Measured on ${run.measured.data}: ${run.measured.protocol}.`] : []));
  $("protocols").append(...[...protocols].map(text => made("p", {}, text)));
}

function settings() {
  if (!report.differences.length) {
    if (report.runs.length < 2) { $("differences").closest("section").hidden = true; return; }
    $("differences").replaceWith(made("p", { className: "soft" }, "None."));
    return;
  }
  const rows = report.differences.map(({ key, values }) => made("tr", {}, made("th", { scope: "row" }, key),
    ...values.map(value => made("td", { className: "setting" }, value === null ? "" : JSON.stringify(value)))));
  table($("differences"), ["", ...report.runs.map(run => run.name)], rows);
}

function texts() {
  if (!report.texts.length) { $("written").hidden = true; return; }
  for (const { prompt, seed, texts } of report.texts) {
    $("texts").append(made("p", { className: "soft" }, `seed ${seed}`));
    const side = made("div", { className: "texts" });
    texts.forEach((text, number) => {
      if (text === null) return;
      const block = made("div", { className: "text" }, made("span", { className: "soft" }, report.runs[number].name),
        made("p", {}, made("span", { className: "given" }, prompt), text));
      block.style.setProperty("--of-run", colour(number));
      side.append(block);
    });
    $("texts").append(side);
  }
}

function legend() {
  $("legend").replaceChildren(...report.runs.map((run, number) => {
    const key = made("span", { className: "key" });
    key.style.setProperty("--of-run", colour(number));
    const button = made("button", { type: "button" }, key, run.name);
    button.setAttribute("aria-pressed", shown[number]);
    button.addEventListener("click", () => {
      shown[number] = !shown[number];
      button.setAttribute("aria-pressed", shown[number]);
      draw();
    });
    return button;
  }));
}

$("facts").textContent = `${report.runs.length} runs · ${report.date.slice(0, 10)} · version ${report.version}`;
$("x").value = { steps: "step", tokens: "tokens", flops: "flops", time: "seconds" }[report.axis];
for (const id of ["x", "y", "train", "logx", "logy", "smooth"]) $(id).addEventListener("input", draw);
$("whole").addEventListener("click", draw);
dark.addEventListener("change", () => { legend(); draw(); });
legend();
results();
settings();
texts();
draw();
new ResizeObserver(() => plot?.setSize({ width: $("plot").clientWidth, height: plot.height })).observe($("plot"));
