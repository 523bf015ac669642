// A lab in a page: controls, pictures, error box, state line. The page computes what it can (labs.js);
// the kernel is asked for the rest, newest state first, at most two requests under way.
import { openAssets } from "./decoder.js";
import { element, makeFigure, paint, repaint, short, toPlane, GAP, SIDE } from "./draw.js";
import { LABS } from "./labs.js";

const STEPS = 1000; // positions of a slider over real numbers
const ASKED = -2, SHOWN = -1; // guess: none yet, or refused; otherwise the option that was chosen
const OURS = { "data-lm-suppress-shortcuts": "true" }; // keys belong to the control, not to JupyterLab
const TYPES = { uint8: Uint8Array, float32: Float32Array, int32: Int32Array };

function render({ model, el }) {
  const spec = model.get("spec");
  const root = element("section", { class: "labkit", "aria-label": spec.title, "data-lab": spec.name });
  const stage = element("div", { class: "lk-stage" }), status = element("p", { class: "lk-status", role: "status" });
  const box = element("p", { class: "lk-error", role: "alert", hidden: "" });
  const numbers = element("ul", { class: "lk-numbers" }), places = new Map();
  const lab = { model, spec, root, stage, status, box, numbers, places, state: { ...model.get("state") },
    covers: new Set(), glance: null, assets: null, due: false, view: Math.random().toString(36).slice(2), flying: new Map(), pause: 0, wanted: false, asked: "", last: 0, drawn: 0, patience: 1000 };
  if (spec.question && model.get("guess") === ASKED) lab.covers = new Set(spec.question.hides);
  const controls = buildControls(lab), line = buildLine(lab);
  lab.refresh = () => {
    controls.forEach((control) => control.show(lab.state));
    line.value = toLine(spec, lab.state);
  };
  lab.change = (changes, commit) => {
    lab.state = { ...lab.state, ...changes };
    lab.glance = null;
    say(lab, "");
    lab.refresh();
    redraw(lab);
    if (commit) save(lab);
  };
  stage.append(numbers); // last, by the style sheet
  root.append(element("h3", {}, spec.title), question(lab), controls.panel, training(lab), box, stage, line.row, help(spec), status);
  el.replaceChildren(root);
  lab.refresh();
  const show = () => !lab.assets && draw(lab, decodePictures(model.get("pictures")), lab.state);
  const stateSet = () => {
    if (toLine(spec, model.get("state")) !== toLine(spec, lab.state)) lab.change(model.get("state"), false);
  };
  const errorSet = () => say(lab, model.get("error"));
  const guessSet = () => lab.reveal(model.get("guess"));
  const message = (content, buffers) => receive(lab, content, buffers || []);
  show();
  errorSet();
  guessSet();
  openLine(lab, model.get("line")); // a page without a kernel: the state in its address
  model.on("change:pictures", show);
  model.on("change:state", stateSet);
  model.on("change:error", errorSet);
  model.on("change:guess", guessSet);
  model.on("msg:custom", message);
  root.addEventListener("labkit:ping", (event) => model.send({ type: "ping", seq: event.detail }));
  if (spec.page) model.send({ type: "assets" });
  const unwatch = watchColours(root, () => places.forEach(repaint));
  return () => {
    unwatch();
    model.off("change:pictures", show);
    model.off("change:state", stateSet);
    model.off("change:error", errorSet);
    model.off("change:guess", guessSet);
    model.off("msg:custom", message);
    lab.flying.forEach(clearTimeout);
    clearTimeout(lab.pause);
    clearTimeout(lab.naming);
  };
}

// Pictures -----------------------------------------------------------------------------------------

function redraw(lab) {
  if (!lab.assets) {
    step(lab); // ask at once: the answer is drawn in a frame of its own
  } else if (!lab.due) {
    lab.due = true;
    requestAnimationFrame(() => { lab.due = false; step(lab); });
  }
}

/** What is looked at: the state, or what a hovering pointer would make of it. */
const looked = (lab) => ({ ...lab.state, ...lab.glance });

function step(lab) {
  if (!lab.assets) {
    lab.wanted = toLine(lab.spec, looked(lab)) !== lab.asked; // a key is an input and a change: one question
    pump(lab);
    return;
  }
  try {
    draw(lab, LABS[lab.spec.page](looked(lab), lab.assets, lab.spec.facts), looked(lab));
  } catch (error) {
    say(lab, String(error.message || error));
  }
}

function draw(lab, pictures, state) {
  const drawn = toLine(lab.spec, state);
  for (const [name, picture] of Object.entries(pictures)) {
    if (picture.kind === "figures") {
      showNumbers(lab, picture.rows, lab.covers.has(name));
      continue;
    }
    let place = lab.places.get(name);
    if (!place) {
      place = makeFigure(name);
      lab.places.set(name, place);
      place.figure.classList.toggle("lk-covered", lab.covers.has(name));
      lab.stage.append(place.figure);
      listen(lab, place);
    }
    paint(place, picture);
    place.canvas.dataset.state = drawn;
  }
  describe(lab);
}

/** Words for screen readers, when the picture stands still. They are of the whole lab: none while it asks. */
function describe(lab) {
  clearTimeout(lab.naming);
  lab.naming = setTimeout(() => lab.places.forEach((place, name) => {
    place.canvas.setAttribute("aria-label", lab.covers.size ? name : `${name}. ${place.picture.alt}`);
  }), 150);
}

/** Act when the colour of text may be another: now in the page, JupyterLab's theme, the system's scheme. */
function watchColours(root, act) {
  const attached = new ResizeObserver(() => { attached.disconnect(); act(); });
  const theme = new MutationObserver(act), scheme = matchMedia("(prefers-color-scheme: dark)");
  attached.observe(root);
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name"] });
  scheme.addEventListener("change", act);
  return () => {
    attached.disconnect();
    theme.disconnect();
    scheme.removeEventListener("change", act);
  };
}

function showNumbers({ numbers: list, covers }, rows, covered) {
  const names = rows.map((row) => row.name).join("\n");
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    list.replaceChildren(...rows.map((row) => {
      const item = element("li", covered || covers.has(row.name) ? { class: "lk-covered" } : {});
      item.append(element("b", {}, row.name), element("span"));
      return item;
    }));
  }
  rows.forEach((row, i) => {
    const span = list.children[i].lastChild, text = ` ${short(row.value)} ${row.unit}`;
    if (span.textContent !== text) span.textContent = text;
  });
}

/** Records as they travel -> records as they are drawn: every array {data, shape}. */
function decodePictures(value, packed) {
  if (Array.isArray(value)) return value.map((item) => decodePictures(item, packed));
  if (value === null || typeof value !== "object") return value;
  if ("dtype" in value) {
    const bytes = packed || value.data, at = value.at || 0, type = TYPES[value.dtype];
    const length = value.shape.reduce((a, b) => a * b, type.BYTES_PER_ELEMENT);
    const from = bytes.buffer ? bytes.byteOffset + at : at; // a view, or the buffer itself
    return { data: new type((bytes.buffer || bytes).slice(from, from + length)), shape: value.shape };
  }
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, decodePictures(item, packed)]));
}

// The kernel ---------------------------------------------------------------------------------------

/** Ask for the newest state; a reply frees the place, and a lost request is given up after a while. */
function pump(lab) {
  if (!lab.wanted || lab.pause || lab.flying.size >= 2) return;
  lab.wanted = false;
  lab.pause = setTimeout(() => { lab.pause = 0; pump(lab); }, 8); // two answers in a frame are one picture
  const seq = ++lab.last;
  lab.asked = toLine(lab.spec, looked(lab));
  lab.flying.set(seq, setTimeout(() => {
    lab.flying.delete(seq);
    lab.patience = Math.min(2 * lab.patience, 60000); // a slow model, or no kernel at all
    lab.status.textContent = "The kernel has not answered; the picture may be old.";
    lab.wanted = lab.wanted || lab.flying.size === 0;
    pump(lab);
  }, lab.patience));
  lab.model.send({ type: "ask", view: lab.view, seq, state: looked(lab) });
}

async function receive(lab, content, buffers) {
  if (content.type === "answer") {
    if (content.view !== lab.view) return; // of another view of the same lab
    clearTimeout(lab.flying.get(content.seq));
    lab.flying.delete(content.seq);
    lab.status.textContent = "";
    lab.patience = 1000;
    if (content.error) {
      lab.asked = ""; // may be asked again
      say(lab, content.error);
    } else if (content.pictures && content.seq > lab.drawn && !lab.assets) {
      lab.drawn = content.seq;
      draw(lab, decodePictures(content.pictures, buffers[0]), content.state);
    }
    pump(lab);
  } else if (content.type === "assets" && !lab.assets) {
    try {
      const assets = await openAssets(content.manifest, buffers[0], buffers[1] || null);
      lab.assets = assets;
      lab.root.dataset.difference = assets.difference;
      lab.root.dataset.simd = assets.simd;
      lab.root.dataset.reason = assets.reason; // why plain JavaScript decodes grids too, if it does
      step(lab);
    } catch (error) {
      lab.status.textContent = `This page cannot run the decoder (${error.message}); the kernel does.`;
    }
  } else if (content.type === "weights" && lab.assets) {
    try {
      lab.assets.swap(content.manifest, buffers[0]);
      step(lab);
    } catch (error) { // the weights before stay in place
      lab.status.textContent = `A snapshot of the model did not fit: ${error.message}`;
    }
  } else if (content.type === "pong") {
    lab.root.dispatchEvent(new CustomEvent("labkit:pong", { detail: content.seq }));
  }
}

/** Tell the kernel, once the hand has come to rest: what it computes then must not slow the hand. */
function save(lab) {
  clearTimeout(lab.saving);
  lab.saving = setTimeout(() => {
    lab.model.set("state", { ...lab.state });
    lab.model.save_changes();
  }, 200);
}

function say(lab, text) {
  if (lab.box.textContent === text) return;
  lab.box.textContent = text;
  lab.box.hidden = !text;
}

// Controls -----------------------------------------------------------------------------------------

function buildControls(lab) {
  const panel = element("div", { class: "lk-controls" });
  const made = lab.spec.controls.filter((c) => !c.hidden).map((c) => {
    const control = (c.kind === "toggle" ? makeToggle : c.kind === "choice" ? makeChoice : makeRange)(lab, c);
    panel.append(control.row);
    return control;
  });
  const row = element("div", { class: "lk-presets", role: "group", "aria-label": "presets" });
  for (const [name, values] of Object.entries({ ...lab.spec.presets, Reset: {} })) {
    const button = element("button", { ...OURS, type: "button" }, name);
    button.addEventListener("click", () => lab.change({ ...defaults(lab.spec), ...values }, true));
    row.append(button);
  }
  panel.append(row);
  return Object.assign(made, { panel });
}

const defaults = (spec) => Object.fromEntries(spec.controls.map((c) => [c.name, c.default]));

function inLabel(control, input) {
  const row = element("label", { class: `lk-${control.kind}`, title: control.help });
  row.append(element("span", {}, control.label), input);
  return row;
}

function makeRange(lab, control) {
  const real = control.kind === "number", warp = control.log ? Math.log : (v) => v;
  const low = warp(control.low), high = warp(control.high);
  const input = element("input", { ...OURS, type: "range", name: control.name,
    min: real ? 0 : control.low, max: real ? STEPS : control.high, step: 1, "aria-label": control.label });
  const value = () => {
    if (!real) return Number(input.value);
    if (input.value === "0") return control.low;
    if (Number(input.value) === STEPS) return control.high;
    const at = low + (high - low) * input.value / STEPS;
    return Number((control.log ? Math.exp(at) : at).toPrecision(4));
  };
  const output = element("output");
  input.addEventListener("input", () => { lab.held = true; lab.change({ [control.name]: value() }, false); });
  input.addEventListener("change", () => { lab.held = false; lab.change({ [control.name]: value() }, true); });
  const row = inLabel(control, input);
  row.append(output);
  return { row, show: (state) => {
    const now = state[control.name], text = `${short(now)} ${control.unit}`.trim();
    const place = String(real ? Math.round((warp(now) - low) / (high - low) * STEPS) : now);
    if (input.value !== place) input.value = place;
    if (output.textContent === text) return;
    input.setAttribute("aria-valuetext", text);
    output.textContent = text;
  } };
}

function makeToggle(lab, control) {
  const input = element("input", { ...OURS, type: "checkbox", name: control.name });
  input.addEventListener("change", () => lab.change({ [control.name]: input.checked }, true));
  return { row: inLabel(control, input), show: (state) => { input.checked = state[control.name]; } };
}

function makeChoice(lab, control) {
  const input = element("select", { ...OURS, name: control.name });
  input.append(...control.options.map((option) => element("option", { value: option }, option)));
  input.addEventListener("change", () => lab.change({ [control.name]: input.value }, true));
  return { row: inLabel(control, input), show: (state) => { input.value = state[control.name]; } };
}

/** Pointer and arrow keys on a picture, where the lab says what they set (spec.gestures). */
function listen(lab, place) {
  const gesture = lab.spec.gestures[place.name], { canvas } = place;
  if (!gesture) return;
  canvas.tabIndex = 0;
  canvas.setAttribute("data-lm-suppress-shortcuts", "true");
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", gesture.says);
  const limits = Object.fromEntries(lab.spec.controls.map((c) => [c.name, c]));
  const fit = (fields, values) => Object.fromEntries(fields.map((name, i) => {
    const { low, high, kind } = limits[name], inside = Math.max(low, Math.min(high, values[i]));
    return [name, kind === "whole" ? Math.round(inside) : Number(inside.toPrecision(4))];
  }));
  const set = (fields, values, commit) => lab.change(fit(fields, values), commit);
  const local = (event) => {
    const box = canvas.getBoundingClientRect(), { picture } = place;
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    if (picture.kind === "plane") return toPlane(picture, x * SIDE, y * SIDE);
    const [rows, columns, height, width] = picture.pixels.shape;
    return [Math.floor((y * canvas.height - GAP / 2) / (height + GAP)), Math.floor((x * canvas.width - GAP / 2) / (width + GAP))]
      .map((v, axis) => Math.max(0, Math.min([rows, columns][axis] - 1, v)));
  };
  let fields = gesture.fields[0];
  const nearest = (point) => {
    const far = (names) => Math.hypot(...names.map((name, i) => lab.state[name] - point[i]));
    return gesture.fields.reduce((a, b) => (far(b) < far(a) ? b : a));
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    lab.held = true;
    if (place.picture.kind === "plane") fields = nearest(local(event));
    set(fields, local(event), false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (lab.held) set(fields, local(event), false);
    else if (gesture.hover && event.pointerType !== "touch") glance(fit(fields, local(event)));
  });
  const glance = (changes) => { lab.glance = changes; redraw(lab); };
  if (gesture.hover) canvas.addEventListener("pointerleave", () => { if (!lab.held) glance(null); });
  const release = () => { if (lab.held) { lab.held = false; lab.change({}, true); } };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("keydown", (event) => {
    const plane = place.picture.kind === "plane", step = plane ? place.picture.half / 40 : 1;
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.key === "Enter" && gesture.fields.length > 1) {
      fields = gesture.fields[(gesture.fields.indexOf(fields) + 1) % gesture.fields.length];
    }
    if (!move) return;
    event.preventDefault();
    const [dx, dy] = plane ? move : [-move[1], move[0]]; // a cell is (row, column)
    set(fields, [lab.state[fields[0]] + dx * step, lab.state[fields[1]] + dy * step], true);
  });
}

// State line, help, question -----------------------------------------------------------------------

const toText = (control, value) => (control.kind === "toggle" ? String(Number(value)) : String(value));

/** The state as `name?field=value&...`: what the notebook's `states` parameter takes. */
function toLine(spec, state) {
  const pairs = spec.controls.map((c) => [c.name, toText(c, state[c.name])]);
  return `${spec.name}?${new URLSearchParams(pairs)}`;
}

function fromLine(spec, line) {
  const [name, query] = line.trim().includes("?") ? line.trim().split(/\?(.*)/s) : [spec.name, line.trim()];
  if (name && name !== spec.name) throw new Error(`this lab is ${spec.name}; the line is of ${name}`);
  const state = defaults(spec);
  for (const [field, text] of new URLSearchParams(query)) {
    const control = spec.controls.find((c) => c.name === field);
    if (!control) throw new Error(`unknown field '${field}'; this lab has ${spec.controls.map((c) => c.name).join(", ")}`);
    state[field] = parseField(control, text);
  }
  return state;
}

function parseField(control, text) {
  const { kind, name, low, high, options } = control;
  if (kind === "toggle" && /^[01]$/.test(text)) return text === "1";
  if (kind === "choice" && options.includes(text)) return text;
  const value = text.trim() === "" ? NaN : Number(text), whole = kind === "whole";
  if ((whole || kind === "number") && value >= low && value <= high && (!whole || Number.isInteger(value))) return value;
  const allowed = kind === "toggle" ? "0 or 1" : kind === "choice" ? `one of ${options.join(", ")}`
    : `a ${whole ? "whole " : ""}number from ${low} to ${high}`;
  throw new Error(`${name} must be ${allowed}, got '${text}'`);
}

function openLine(lab, line) {
  if (!line) return;
  try {
    lab.change(fromLine(lab.spec, line), true);
    if (lab.covers.size) guessed(lab, SHOWN); // who sends a state means what it shows
  } catch (error) {
    say(lab, `This is no state of this lab: ${error.message}.`);
  }
}

function buildLine(lab) {
  const row = element("div", { class: "lk-line" });
  const input = element("input", { ...OURS, type: "text", spellcheck: "false", "aria-label": "state line: copy it, or paste one and press Enter" });
  const copy = element("button", { type: "button" }, "Copy state");
  input.addEventListener("change", () => openLine(lab, input.value));
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") openLine(lab, input.value); });
  copy.addEventListener("click", async () => {
    input.select();
    try {
      await navigator.clipboard.writeText(input.value);
      lab.status.textContent = "State copied.";
    } catch { // no permission: the text is selected, Ctrl-C does it
      lab.status.textContent = "State selected: copy it with Ctrl-C.";
    }
  });
  row.append(input, copy);
  return { row, get value() { return input.value; }, set value(text) { if (document.activeElement !== input) input.value = text; } };
}

function help(spec) {
  const details = element("details", { class: "lk-help" }), list = element("dl");
  for (const c of spec.controls.filter((each) => !each.hidden)) list.append(element("dt", {}, c.label), element("dd", {}, c.help));
  details.append(element("summary", {}, "What the controls do"), list);
  return details;
}

/** Train the model anew; the pictures follow it while it learns. */
function training(lab) {
  const row = element("div", { class: "lk-training", role: "group", "aria-label": "training" });
  if (!lab.spec.trains) return row;
  const start = element("button", { type: "button" }, "Train it yourself"), text = element("span", { role: "status" });
  const stop = element("button", { type: "button" }, "Stop");
  start.addEventListener("click", () => lab.model.send({ type: "train" }));
  stop.addEventListener("click", () => lab.model.send({ type: "stop" }));
  const show = () => {
    const progress = lab.model.get("progress");
    start.disabled = progress.running;
    stop.disabled = !progress.running;
    text.textContent = progress.text;
  };
  lab.model.on("change:progress", show);
  show();
  row.append(start, stop, text);
  return row;
}

/** Predict, then reveal: what answers is covered, and shown at the state that answers, once a guess is made. */
function question(lab) {
  const asked = lab.spec.question, form = element("form", { class: "lk-question" });
  const field = element("fieldset"), words = element("p", { role: "status", tabindex: -1 });
  lab.reveal = (guess) => {
    if (!asked || guess === ASKED) return;
    lab.covers.clear();
    lab.root.querySelectorAll(".lk-covered").forEach((item) => item.classList.remove("lk-covered"));
    field.querySelector("[type=button]")?.remove();
    describe(lab);
    if (!(guess >= 0)) return;
    const right = guess === asked.answer ? "Yes." : `Rather: ${asked.options[asked.answer]}.`;
    field.remove();
    words.textContent = `Your guess: ${asked.options[guess]}. ${right} ${asked.why}`;
  };
  if (!asked) return form;
  field.append(element("legend", {}, `Predict: ${asked.text}`));
  asked.options.forEach((option, i) => {
    const label = element("label");
    label.append(element("input", { ...OURS, type: "radio", name: `guess-${lab.spec.name}`, value: i, required: "" }), ` ${option}`);
    field.append(label);
  });
  field.append(element("button", { ...OURS, type: "submit" }, "Reveal"));
  if (lab.covers.size) {
    const skip = element("button", { ...OURS, type: "button" }, "Show without a guess");
    skip.addEventListener("click", () => { guessed(lab, SHOWN); field.querySelector("input").focus(); });
    field.append(skip);
  }
  form.append(field, words);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    guessed(lab, Number(new FormData(form).get(`guess-${lab.spec.name}`)));
    words.focus();
    lab.change(asked.then, true);
  });
  return form;
}

/** The guess belongs to the lab, not to this view of it: other views, and this one drawn again, know it, too. */
function guessed(lab, guess) {
  lab.model.set("guess", guess);
  lab.model.save_changes();
  lab.reveal(guess);
}

export default { render };
