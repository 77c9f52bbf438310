"use strict";
const $ = id => document.getElementById(id);
let key = sessionStorage.getItem("emberlm-key") || "";
let about = null, shows = 0, running = null, curves = null, pieces = [], chosen = -1, asked = "";

const make = (name, cls, text) => {
  const element = document.createElement(name);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  return element;
};
const count = number => Number(number).toLocaleString("en");
const percent = share => (share < 0.001 ? "<0.1" : (100 * share).toFixed(1)) + "%";
const shown = token => token.replace(/ /g, "\u00b7").replace(/\n/g, "\u21b5").replace(/\t/g, "\u2192") || "\u2205";

async function fetched(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = "Bearer " + key;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const document = await response.json().catch(() => null);
  const error = new Error(document?.error?.message || "the server answers " + response.status);
  error.status = response.status;
  throw error;
}
const get = async path => (await fetched(path)).json();

async function open() {
  const health = await get("/health");
  if (health.key_required && !key) return knock("");
  let models;
  try {
    models = (await get("/v1/models")).data;
  } catch (error) {
    if (error.status !== 401) throw error;
    return knock("That was not the key.");
  }
  $("door").hidden = true;
  $("room").hidden = false;
  $("model").replaceChildren(...models.map(model => new Option(model.id)));
  $("model").hidden = false;
  await show(models[0].id);
  $("prompt").focus();
}

function knock(message) {
  key = "";
  sessionStorage.removeItem("emberlm-key");
  $("wrong").textContent = message;
  $("room").hidden = true;
  $("door").hidden = false;
  $("secret").focus();
}

$("door").addEventListener("submit", event => {
  event.preventDefault();
  key = $("secret").value;
  sessionStorage.setItem("emberlm-key", key);
  $("secret").value = "";
  open().catch(fail);
});

async function show(name) {
  const own = ++shows;
  try {
    await describe(name, own);
  } catch (error) {
    // Of a model that is not shown any more.
    if (own === shows) throw error;
  }
}

async function describe(name, own) {
  const path = "/api/models/" + encodeURIComponent(name);
  const found = await get(path);
  // Another model may have been selected meanwhile.
  if (own !== shows) return;
  about = found;
  const { model, summary } = about;
  if (!$("prompt").value) $("prompt").value = about.prompt || "";
  $("max_tokens").max = about.max_tokens;
  // A translation ends with its context.
  $("slide").disabled = model.architecture === "encoder-decoder";
  $("facts").textContent = `${count(about.parameters)} parameters, context ${count(about.context_length)}`;
  const facts = [
    ["Run", about.id], ["Architecture", model.architecture], ["Parameters", count(about.parameters)],
    ["Layers", model.n_layers], ["Heads", model.n_heads], ["Width", model.d_model],
    ["Context", count(about.context_length)], ["Vocabulary", count(about.vocab_size)],
    ["Tokenizer", about.tokenizer.kind], ["Backend", about.backend + ", " + about.weights],
    ["Chat template", about.chat_template],
    ["Trained on", summary && count(summary.tokens) + " tokens"],
    ["Validation loss", (summary?.final_val_loss ?? summary?.best_val_loss)?.toFixed(4)],
    ["Source entropy", summary?.source_entropy?.toFixed(4)],
  ].filter(fact => fact[1] !== undefined && fact[1] !== null);
  $("about").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  const losses = await get(path + "/losses");
  if (own !== shows) return;
  curves = losses;
  draw();
}
$("model").addEventListener("change", () => show($("model").value).catch(fail));

function fail(error) {
  if (error.name !== "AbortError") $("error").textContent = error.message;
}

function request() {
  const number = id => ($(id).value === "" ? undefined : Number($(id).value));
  return {
    model: about.id, prompt: $("prompt").value, stream: true, logprobs: 5,
    stream_options: { include_usage: true },
    max_tokens: number("max_tokens"), temperature: number("temperature"), top_p: number("top_p"),
    min_p: number("min_p") || undefined, top_k: number("top_k"), seed: number("seed"),
    repetition_penalty: number("repetition_penalty"),
    stop: $("stop_text").value || undefined,
    overflow: $("slide").checked && !$("slide").disabled ? "slide" : "stop",
  };
}

$("ask").addEventListener("submit", event => {
  event.preventDefault();
  generate().catch(fail);
});

async function generate() {
  running?.abort();
  const own = running = new AbortController();
  const started = performance.now();
  $("error").textContent = "";
  $("pace").textContent = "";
  pieces = [];
  choose(-1);
  asked = $("prompt").value;
  $("answer").replaceChildren(make("span", "given", asked));
  $("stop").disabled = false;
  $("on").disabled = true;
  let waiting = [], tokens = 0, why = "stopped";
  try {
    const body = JSON.stringify(request());
    const headers = { "Content-Type": "application/json" };
    const response = await fetched("/v1/completions", { method: "POST", body, headers, signal: own.signal });
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        const found = choice.logprobs;
        (found?.tokens || []).forEach((token, at) => waiting.push({
          token, share: Math.exp(found.token_logprobs[at]),
          top: Object.entries(found.top_logprobs[at]).map(([name, log]) => [name, Math.exp(log)])
            .sort((one, other) => other[1] - one[1]),
        }));
        if (choice.text) {
          add(choice.text, waiting);
          waiting = [];
        }
        if (choice.finish_reason) why = choice.finish_reason === "stop" ? "ended" : "length reached";
      }
      tokens = event.usage?.completion_tokens ?? tokens + 1;
    }
  } finally {
    if (own === running) {
      running = null;
      $("stop").disabled = true;
      $("on").disabled = !pieces.length;
      const seconds = (performance.now() - started) / 1000;
      if (tokens) $("pace").textContent = `${count(tokens)} tokens, ${count(Math.round(tokens / seconds))} a second, ${why}`;
    }
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function add(text, tokens) {
  const share = tokens.reduce((product, token) => product * token.share, 1);
  const span = make("span", "token", text);
  // Squared, so that only what is rather unlikely stands out.
  span.style.setProperty("--doubt", tokens.length ? ((1 - share) ** 2).toFixed(3) : "0");
  span.dataset.at = pieces.length;
  pieces.push({ span, tokens, text });
  $("answer").append(span);
}

function choose(at) {
  pieces[chosen]?.span.classList.remove("chosen");
  chosen = at;
  const piece = pieces[at];
  if (!piece) return;
  piece.span.classList.add("chosen");
  const parts = piece.tokens.flatMap(({ token, share, top }) => {
    const all = top.some(([name]) => name === token) ? top : [...top, [token, share]];
    const list = make("div", "likely");
    for (const [name, likely] of all) {
      const taken = name === token ? " taken" : "";
      const bar = make("div", "bar" + taken);
      bar.append(make("i"));
      bar.style.setProperty("--share", likely.toFixed(4));
      const label = make("code", "", shown(name));
      const value = make("span", "percent", percent(likely));
      if (taken) label.title = "the one that was chosen";
      list.append(label, bar, value);
    }
    return [list];
  });
  const note = parts.length ? "Probabilities by the model itself, before sampling." : "Nothing is known of this text.";
  $("token").replaceChildren(...parts, make("div", "soft", note));
}

const pointed = event => {
  const span = event.target.closest?.(".token");
  if (span) choose(Number(span.dataset.at));
};
$("answer").addEventListener("pointerover", pointed);
$("answer").addEventListener("click", pointed);
$("answer").addEventListener("keydown", event => {
  const steps = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10, Home: -1e9, End: 1e9 };
  if (!(event.key in steps) || !pieces.length) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(pieces.length - 1, chosen + steps[event.key])));
  pieces[chosen].span.scrollIntoView({ block: "nearest" });
});
$("stop").addEventListener("click", () => running?.abort());
$("on").addEventListener("click", () => {
  $("prompt").value = asked + pieces.map(piece => piece.text).join("");
  $("prompt").focus();
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && about) $("ask").requestSubmit();
});
$("colours").addEventListener("change", () => $("answer").classList.toggle("coloured", $("colours").checked));
for (const output of document.querySelectorAll("output[for]")) {
  const input = $(output.htmlFor.value);
  const update = () => { output.textContent = Number(input.value).toFixed(2); };
  input.addEventListener("input", update);
  update();
}

const SVG = "http://www.w3.org/2000/svg";
const shape = (name, attributes, text) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};
// Round numbers, about so many of them.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const all = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at++) all.push(at * step);
  return all;
}
let scale = null;
function draw() {
  const svg = $("curves"), width = svg.clientWidth, height = svg.clientHeight;
  const all = curves ? [...curves.train, ...curves.valid] : [];
  svg.replaceChildren();
  $("point").textContent = all.length ? "" : "This run has no history.";
  scale = null;
  if (!all.length || !width) return;
  const [left, right, top, bottom] = [40, 8, 8, 22];
  const last = Math.max(...all.map(point => point[0]), 1);
  const low = Math.min(...all.map(point => point[1])), high = Math.max(...all.map(point => point[1]));
  const margin = (high - low || 1) * 0.05;
  const x = step => left + step / last * (width - left - right);
  const y = loss => top + (high + margin - loss) / (high - low + 2 * margin || 1) * (height - top - bottom);
  for (const loss of ticks(Math.max(0, low - margin), high + margin, 4)) {
    svg.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: y(loss), y2: y(loss) }),
      shape("text", { x: left - 8, y: y(loss) + 4, "text-anchor": "end" }, Number(loss.toPrecision(4))));
  }
  for (const step of ticks(0, last, width > 500 ? 6 : 3)) {
    const anchor = step === 0 ? "start" : x(step) > width - 30 ? "end" : "middle";
    svg.append(shape("text", { x: x(step), y: height - 4, "text-anchor": anchor }, count(step)));
  }
  for (const split of ["train", "valid"]) {
    const points = curves[split];
    if (points.length === 1) {
      svg.append(shape("circle", { class: split, cx: x(points[0][0]), cy: y(points[0][1]), r: 3 }));
    } else if (points.length) {
      const path = points.map(([step, loss], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`);
      svg.append(shape("path", { class: split, d: path.join("") }));
    }
  }
  const cursor = shape("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cursor);
  scale = { left, right, width, last, x, cursor };
}
$("curves").addEventListener("pointermove", event => {
  if (!scale) return;
  const at = event.clientX - $("curves").getBoundingClientRect().left;
  const step = (at - scale.left) / (scale.width - scale.left - scale.right) * scale.last;
  const near = points => points.length
    ? points.reduce((best, it) => Math.abs(it[0] - step) < Math.abs(best[0] - step) ? it : best) : null;
  const [train, valid] = [near(curves.train), near(curves.valid)];
  const shown = train || valid;
  scale.cursor.setAttribute("x1", scale.x(shown[0]));
  scale.cursor.setAttribute("x2", scale.x(shown[0]));
  scale.cursor.setAttribute("visibility", "visible");
  const told = [`step ${count(shown[0])}`];
  if (train) told.push(train[1].toFixed(4));
  if (valid) told.push(`validation ${valid[1].toFixed(4)} at ${count(valid[0])}`);
  $("point").textContent = told.join(", ");
});
$("curves").addEventListener("pointerleave", () => {
  if (!scale) return;
  scale.cursor.setAttribute("visibility", "hidden");
  $("point").textContent = "";
});
new ResizeObserver(draw).observe($("curves"));
open().catch(error => {
  $("door").hidden = true;
  $("facts").textContent = error.message;
});
