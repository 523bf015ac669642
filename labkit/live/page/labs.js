// What labs compute in the page: one pure function a lab, (state, assets, facts) -> pictures.
// Each is the twin of a Python `compute` in labkit.live, which the tests compare it with.
import { short } from "./draw.js";

export const LABS = { fusion: fusionLab, probe: probeLab, plane: planeLab, between: betweenLab, matrix: matrixLab };

const view = (data, ...shape) => ({ data, shape });

/** Product of experts with the prior N(0, I); experts: [{mean, logvar}], one latent. */
export function product(experts, latent) {
  const mean = new Float32Array(latent), logvar = new Float32Array(latent);
  for (let d = 0; d < latent; d++) {
    let total = 1, sum = 0;
    for (const expert of experts) {
      const precision = Math.exp(-expert.logvar[d]);
      total += precision;
      sum += precision * expert.mean[d];
    }
    mean[d] = sum / total;
    logvar[d] = -Math.log(total);
  }
  return { mean, logvar };
}

/** Nats from the prior to a diagonal Gaussian. */
export function klFromPrior({ mean, logvar }) {
  let sum = 0;
  mean.forEach((m, d) => { sum += 0.5 * (m * m + Math.exp(logvar[d]) - 1 - logvar[d]); });
  return sum;
}

/** Probabilities in [0, 1] to 255ths, as Python rounds them. */
export function toPixels(values, out = new Uint8Array(values.length)) {
  for (let i = 0; i < values.length; i++) out[i] = Math.floor(255 * values[i] + 0.5);
  return out;
}

/** Row of an array (leading axes...) as a view without copying. */
function at(array, ...index) {
  const size = array.shape.slice(index.length).reduce((a, b) => a * b, 1);
  const row = index.reduce((sum, i, axis) => sum * array.shape[axis] + i, 0);
  return array.data.subarray(row * size, (row + 1) * size);
}

/** Modality switches, a digit and a certainty for each: messages, their product, what it decodes to. */
function fusionLab(state, { arrays, nets }, facts) {
  const names = facts.modalities, scripts = facts.images, latent = arrays.noise.shape[1];
  const digit = (name) => state[`digit_${name}`] ?? state.digit;
  const input = Object.fromEntries(names.map((name) => {
    const level = state[`noise_${name}`] ?? state.noise, grain = arrays[`grain_${name}`].data, most = scripts.includes(name) ? 255 : 1;
    const values = Float32Array.from(at(arrays[`seen_${name}`], digit(name), state.sample));
    return [name, values.map((v, i) => v / most + level * facts.inputs[name].size * grain[i])];
  }));
  const messages = names.map((name) => {
    const surer = state[`surer_${name}`] ?? 0, { center, scale } = facts.inputs[name];
    const out = nets[`encode ${name}`].one(input[name].map((v) => (v - center) / scale));
    const logvar = out.slice(latent).map((v) => facts.bound * Math.tanh(v / facts.bound) - surer);
    return { name, mean: out.slice(0, latent), logvar };
  });
  const posterior = product(messages.filter(({ name }) => state[name]), latent);
  const sd = posterior.logvar.map((v) => Math.exp(v / 2));
  const pictures = {};
  const pixels = [], framed = [];
  for (const name of scripts) {
    pixels.push(toPixels(input[name].map((v) => Math.max(0, Math.min(1, v)))));
    framed.push(state[name] ? 1 : 0);
  }
  for (const name of scripts) pixels.push(toPixels(nets[name].one(posterior.mean)));
  const [height, width] = arrays[`seen_${scripts[0]}`].shape.slice(2), all = new Uint8Array(pixels.length * height * width);
  pixels.forEach((each, i) => all.set(each, i * height * width));
  const label = nets.label.one(posterior.mean).slice();
  const best = label.indexOf(Math.max(...label));
  const seen = names.filter((name) => state[name]).map((name) => `${name} ${digit(name)}`);
  const says = `Visible: ${seen.join(", ") || "nothing"}. The label decoder says ${best} (${Math.round(100 * label[best])} %).`;
  pictures.reconstruction = {
    kind: "images", pixels: view(all, 2, scripts.length, height, width), rows: ["seen", "decoded"],
    columns: scripts, framed: view(Uint8Array.from([...framed, ...framed.map(() => 0)]), 2, scripts.length), alt: says,
  };
  if (latent === 2) Object.assign(pictures, planes(messages.filter(({ name }) => state[name]), posterior, sd, arrays, facts, says));
  pictures.label = {
    kind: "bars", names: [...label.keys()].map(String), values: view(label, label.length), high: 1,
    colors: [], marks: view(new Float32Array(0), 0), unit: "probability", alt: says,
  };
  for (const name of names.filter((each) => !scripts.includes(each))) {
    const heard = input[name], decoded = nets[name].one(posterior.mean).slice();
    pictures[name] = {
      kind: "curves", x: view(Float32Array.from(heard.keys()), heard.length), xlabel: "coefficient", ylabel: "value", log: false,
      limits: [0, 1], marker: null, alt: says, lines: [
        { name: "seen", y: view(heard, heard.length), color: "", dash: [4, 3] },
        { name: "decoded", y: view(decoded, decoded.length), color: facts.colors[name], dash: [] },
      ],
    };
  }
  const spread = Math.exp(posterior.logvar.reduce((a, b) => a + b, 0) / (2 * latent));
  pictures.numbers = {
    kind: "figures", alt: "", rows: [
      { name: "knowledge", value: klFromPrior(posterior), unit: "nats from the prior" },
      { name: "spread", value: spread, unit: "posterior sd, geometric mean" },
      { name: "label probability", value: label[best], unit: `for ${best}` },
    ],
  };
  return pictures;
}

/** The whole latent plane, and a close-up that just holds all messages and their product. */
function planes(messages, posterior, sd, arrays, facts, says) {
  const ring = (name, mean, width, color, dash) => ({ name, mean: view(mean, 2), sd: view(width, 2), color, dash });
  const prior = ring("prior", new Float32Array(2), Float32Array.of(1, 1), facts.colors.prior, [2, 4]);
  const product = ring("product", posterior.mean, sd, "", []), noise = arrays.noise.data;
  let half = 3 * Math.max(...sd);
  const rings = messages.map(({ name, mean, logvar }) => {
    const width = logvar.map((v) => Math.exp(v / 2));
    mean.forEach((v, d) => { half = Math.max(half, Math.abs(v - posterior.mean[d]) + 1.3 * width[d]); });
    return ring(name, mean, width, facts.colors[name], [7, 4]);
  });
  const shared = {
    kind: "plane", points: arrays.points, classes: arrays.classes, axes: ["z₁", "z₂"], alt: says, path: none(0, 2), handles: none(0, 2),
    samples: view(noise.map((e, i) => posterior.mean[i % 2] + sd[i % 2] * e), noise.length / 2, 2),
  };
  return {
    "latent plane": { ...shared, ellipses: [prior, product], center: [0, 0], half: facts.half },
    "close-up": { ...shared, ellipses: [prior, ...rings, product], center: [...posterior.mean], half },
  };
}

// Latent labs --------------------------------------------------------------------------------------

const percent = (share) => `${Math.round(100 * share)} %`;
const argmax = (values) => values.indexOf(Math.max(...values));
const none = (...shape) => view(new Float32Array(0), ...shape);
const sheet = (pixels, rows, columns, size, rowNames, columnNames, alt, framed) => ({
  kind: "images", pixels: view(pixels, rows, columns, ...size), rows: rowNames, columns: columnNames,
  framed: view(framed || new Uint8Array(rows * columns), rows, columns), alt,
});
const curve = (name, y, color = "", dash = []) => ({ name, y: view(y, y.length), color, dash });

/** Distance to the aggregate posterior, whitened, and the share of held-out latents that lie nearer. */
function gauge(z, { center, whitener, reference }) {
  const D = z.length;
  let sum = 0;
  for (let r = 0; r < D; r++) {
    let value = 0;
    for (let c = 0; c <= r; c++) value += whitener.data[r * D + c] * (z[c] - center.data[c]);
    sum += value * value;
  }
  const distance = Math.sqrt(sum), farthest = reference.data[reference.data.length - 1];
  const nearer = reference.data.reduce((count, v) => count + (v < distance), 0) / reference.data.length;
  return { distance: distance / farthest, nearer };
}

/** Labels that a batch of latents decodes to: probabilities (n, C) and the best class of each. */
function labelled(nets, zs, n) {
  const p = nets.label.many(zs, n).slice(), C = p.length / n;
  return { p, C, best: Array.from({ length: n }, (_, i) => argmax(p.subarray(i * C, (i + 1) * C))) };
}

/** One latent pushed 100 times: the poster's Figure 3. */
function probeLab(state, { arrays, nets }, facts) {
  const random = state.direction === "random", z = at(arrays.mean, state.digit, state.sample), D = z.length, N = 100;
  const axis = random ? at(arrays.directions, state.index) : Float32Array.from(z, (_, d) => Number(d === state.index));
  const sd = (random ? arrays.spread : arrays.sd).data[state.index];
  const reach = state.amplitude * (state.unit === "prior sd" ? 1 : sd);
  const zs = new Float32Array(N * D);
  for (let i = 0; i < N; i++) {
    const shift = (i < 50 ? i - 50 : i - 49) * (reach / 50);
    for (let d = 0; d < D; d++) zs[i * D + d] = z[d] + shift * axis[d];
  }
  const before = argmax(nets.label.one(z)), after = labelled(nets, zs, N).best;
  const changed = after.filter((label) => label !== before).length / N;
  const says = `${random ? "random direction" : "latent"} ${state.index} pushed from -${short(reach)} to ${short(reach)}: `
    + `${percent(changed)} of the pushes change the label.`;
  const pictures = {};
  let hot = 0;
  for (const name of facts.images) {
    const logits = nets[name].many(zs, N);
    for (const v of logits) if (v > facts.saturated || v < -facts.saturated) hot++;
    pictures[name] = sheet(grey(logits, N, state.display), 10, 10, facts.size, [], [], `${name}: ${says}`);
  }
  const { amplitudes, flips, random_flips: others } = arrays, x = amplitudes.data, mean = new Float32Array(x.length);
  others.data.forEach((v, i) => { mean[i % x.length] += v / others.shape[0]; });
  pictures["flip rate"] = {
    kind: "curves", x: amplitudes, log: true, limits: [0, 1], alt: says,
    marker: Math.min(Math.max(reach, x[0]), x[x.length - 1]),
    xlabel: "push, standard deviations of the prior", ylabel: "share of labels changed", lines: [
      curve("this latent", at(flips, state.index)),
      curve("a random one", at(others, state.index), "#D55E00", [6, 4]), curve("all random, mean", mean, "#7f7f7f", [2, 3]),
    ],
  };
  const ends = [gauge(zs.subarray(0, D), arrays), gauge(zs.subarray((N - 1) * D), arrays)];
  const half = (name) => (ends[0][name] + ends[1][name]) / 2;
  pictures.numbers = { kind: "figures", alt: "", rows: [
    { name: "labels changed", value: changed, unit: "of the 100 pushes" },
    { name: "held-out latents nearer than the ends", value: half("nearer"), unit: "" },
    { name: "distance of the ends", value: half("distance"), unit: "times the farthest held-out one" },
    { name: "saturated pixels", value: hot / (N * facts.images.length * facts.size[0] * facts.size[1]), unit: `with |logit| > ${facts.saturated}` },
  ] };
  return pictures;
}

// round(255 sigmoid(x)) without an exponential a pixel, exactly: the grey at the lower end of a short
// stretch of logits, and the logit at which each grey gives way to the next (at most one a stretch).
const REACH = 7, FINE = 256;
const RISES = Float64Array.from({ length: 256 }, (_, k) => (k < 255 ? Math.log((k + 0.5) / (254.5 - k)) : Infinity));
const LOWEST = Uint8Array.from({ length: 2 * REACH * FINE + 1 }, (_, i) => RISES.findIndex((rise) => rise > i / FINE - REACH));

/** Logits of n images as pixels: probabilities, or each image stretched to its own range. */
function grey(logits, n, display) {
  const out = new Uint8Array(logits.length), size = logits.length / n;
  if (display === "sigmoid") {
    for (let i = 0; i < logits.length; i++) {
      const at = (Math.max(-REACH, Math.min(REACH, logits[i])) + REACH) * FINE | 0;
      out[i] = LOWEST[at] + (logits[i] >= RISES[LOWEST[at]]);
    }
    return out;
  }
  for (let image = 0; image < n; image++) {
    const part = logits.subarray(image * size, (image + 1) * size);
    let low = Infinity, high = -Infinity;
    for (const v of part) { if (v < low) low = v; if (v > high) high = v; }
    for (let i = 0; i < size; i++) out[image * size + i] = Math.floor(255 * (part[i] - low) / (high - low) + 0.5);
  }
  return out;
}

/** Images of one latent, one script after the other. */
function decoded(nets, names, z, size) {
  const all = new Uint8Array(names.length * size[0] * size[1]);
  names.forEach((name, i) => toPixels(nets[name].one(z), all.subarray(i * size[0] * size[1], (i + 1) * size[0] * size[1])));
  return all;
}

/** The plane of a two-dimensional latent space: a point decoded in every script. */
function planeLab(state, { arrays, nets }, facts) {
  const z = Float32Array.of(state.x, state.y), label = nets.label.one(z).slice(), best = argmax(label);
  const says = `At (${short(state.x)}, ${short(state.y)}) the label decoder says ${best} (${percent(label[best])}).`;
  return {
    map: {
      kind: "plane", points: arrays.points, classes: arrays.classes, half: facts.half, center: [0, 0], axes: ["z₁", "z₂"], alt: says,
      samples: none(0, 2), path: none(0, 2), handles: view(z, 1, 2),
      ellipses: [{ name: "prior", mean: view(new Float32Array(2), 2), sd: view(Float32Array.of(1, 1), 2), color: "#7f7f7f", dash: [2, 4] }],
    },
    decoded: sheet(decoded(nets, facts.images, z, facts.size), 1, facts.images.length, facts.size, [], facts.images, says),
    label: {
      kind: "bars", names: [...label.keys()].map(String), values: view(label, label.length), high: 1, colors: [],
      marks: none(0), unit: "probability", alt: says,
    },
    numbers: { kind: "figures", alt: "", rows: [
      { name: "label probability", value: label[best], unit: `for ${best}` },
      { name: "held-out latents nearer", value: gauge(z, arrays).nearer, unit: "(1 = beyond them all)" },
    ] },
  };
}

/** From one sample to another: a strip of the way, and the place where the slider is. */
function betweenLab(state, { arrays, nets }, facts) {
  const a = at(arrays.mean, state.start, state.start_sample), b = at(arrays.mean, state.end, state.end_sample), D = a.length;
  const dot = (u, v) => u.reduce((sum, value, d) => sum + value * v[d], 0);
  const angle = Math.acos(Math.max(-1, Math.min(1, dot(a, b) / Math.max(1e-8, Math.sqrt(dot(a, a) * dot(b, b))))));
  const bent = state.path === "spherical" && Math.abs(Math.sin(angle)) > 1e-4;
  const on = (t) => a.map((v, d) => (bent
    ? (Math.sin((1 - t) * angle) * v + Math.sin(t * angle) * b[d]) / Math.sin(angle) : (1 - t) * v + t * b[d]));
  const N = 41, path = new Float32Array(N * D), way = Float32Array.from({ length: N }, (_, i) => i / (N - 1));
  way.forEach((t, i) => path.set(on(t), i * D));
  const { p, C, best } = labelled(nets, path, N), here = on(state.t), label = nets.label.one(here).slice(), now = argmax(label);
  const says = `From ${state.start} to ${state.end}, ${state.path}: at ${state.t.toFixed(2)} of the way the label decoder `
    + `says ${now} (${percent(label[now])}).`;
  const of = (c) => Float32Array.from(way, (_, i) => p[i * C + c]), ends = [state.start, state.end];
  const other = Float32Array.from(way, (_, i) => Math.max(...p.subarray(i * C, (i + 1) * C).map((v, c) => (ends.includes(c) ? 0 : v))));
  const lines = [curve(String(state.start), of(state.start), "#0072B2")];
  if (state.end !== state.start) lines.push(curve(String(state.end), of(state.end), "#D55E00", [6, 4]));
  lines.push(curve("best other", other, "#7f7f7f", [2, 3]));
  const steps = facts.steps, every = (N - 1) / (steps - 1), size = facts.size[0] * facts.size[1], names = facts.images;
  const strip = new Uint8Array(names.length * steps * size), stops = new Float32Array(steps * D);
  for (let i = 0; i < steps; i++) stops.set(path.subarray(i * every * D, (i * every + 1) * D), i * D);
  names.forEach((name, row) => toPixels(nets[name].many(stops, steps), strip.subarray(row * steps * size, (row + 1) * steps * size)));
  return {
    "on the way": sheet(strip, names.length, steps, facts.size, names, [], says),
    here: sheet(decoded(nets, names, here, facts.size), 1, names.length, facts.size, [], names, says),
    label: {
      kind: "curves", x: view(way, N), lines, xlabel: "way", ylabel: "label probability", limits: [0, 1], log: false,
      marker: state.t, alt: says,
    },
    numbers: { kind: "figures", alt: "", rows: [
      { name: "label probability", value: label[now], unit: `for ${now}` },
      { name: "third digits on the way", value: new Set(best.filter((c) => !ends.includes(c))).size, unit: "" },
      { name: "length of z", value: Math.sqrt(dot(here, here)),
        unit: `(both ends: ${Math.sqrt(dot(a, a)).toFixed(2)}, ${Math.sqrt(dot(b, b)).toFixed(2)})` },
      { name: "held-out latents nearer", value: gauge(here, arrays).nearer, unit: "(1 = beyond them all)" },
    ] },
  };
}

/** Every visible set of one sample, and 16 draws from the posterior of the cell that was clicked. */
function matrixLab(state, { arrays, nets }, facts) {
  const S = facts.rows.length, D = arrays.noise.shape[1], names = facts.images, size = facts.size[0] * facts.size[1], N = arrays.noise.shape[0];
  const means = new Float32Array(S * D);
  for (let s = 0; s < S; s++) means.set(at(arrays.mean, s, state.digit, state.sample), s * D);
  const mean = at(arrays.mean, state.row, state.digit, state.sample), sd = at(arrays.logvar, state.row, state.digit, state.sample).map((v) => Math.exp(v / 2));
  const zs = arrays.noise.data.map((e, i) => mean[i % D] + state.tau * sd[i % D] * e);
  const right = labelled(nets, zs, N).best.filter((c) => c === state.digit).length / N, script = names[state.column];
  const says = `${script} drawn 16 times from ${facts.rows[state.row]}: ${percent(right)} are still labelled ${state.digit}.`;
  const grid = new Uint8Array(S * names.length * size);
  names.forEach((name, c) => {
    const rows = toPixels(nets[name].many(means, S));
    for (let s = 0; s < S; s++) grid.set(rows.subarray(s * size, (s + 1) * size), (s * names.length + c) * size);
  });
  const framed = Uint8Array.from({ length: S * names.length }, (_, i) => at(arrays.visible, Math.floor(i / names.length))[facts.modalities.indexOf(names[i % names.length])]);
  framed[state.row * names.length + state.column] = 2;
  const original = new Uint8Array(names.length * size);
  names.forEach((name, c) => original.set(at(arrays[`seen_${name}`], state.digit, state.sample), c * size));
  const drawn = nets[script].many(zs, N);
  let spread = 0;
  for (let i = 0; i < size; i++) {
    let sum = 0, squares = 0;
    for (let k = 0; k < N; k++) sum += drawn[k * size + i];
    for (let k = 0; k < N; k++) squares += (drawn[k * size + i] - sum / N) ** 2;
    spread += Math.sqrt(squares / (N - 1)) / size;
  }
  return {
    reconstructions: sheet(grid, S, names.length, facts.size, facts.rows, names, says, framed),
    original: sheet(original, 1, names.length, facts.size, [], names, says),
    draws: sheet(toPixels(drawn), 4, N / 4, facts.size, [], [], says),
    numbers: { kind: "figures", alt: "", rows: [
      { name: "labelled right", value: right, unit: "of the 16 draws" },
      { name: "spread of the draws", value: spread, unit: "grey, mean sd of a pixel" },
      { name: "posterior sd", value: Math.exp(sd.reduce((sum, v) => sum + Math.log(v), 0) / D), unit: "geometric mean" },
    ] },
  };
}
