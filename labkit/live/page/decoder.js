// Small networks that run in the page: stacks of linear layers, as labkit.live.decoder packs them.
//
// One picture is decoded in plain JavaScript, a batch (a grid of pictures) by a WebAssembly SIMD routine
// (simd.wat), or in plain JavaScript where there is none. Both read the same packed weights: panels of
// 8 columns, (inputs, 8) each, so that sums stay in registers and reading goes straight on.
// Before anything is shown, both are compared with what torch made of the same weights.

const DECODER_BOUND = 1e-4; // allowed |page - torch|, in units of max(1, largest |output|)
const DECODER_ROWS = 128; // samples that pass through the layers together; a multiple of 4
const DECODER_TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

const DECODER_ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  leaky_relu: (x, slope) => (x > 0 ? x : slope * x),
  tanh: (x) => Math.tanh(x),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + decoderErf(x * Math.SQRT1_2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  mish(x) { // x tanh(log(1 + e^x)), with one exponential
    const w = Math.exp(Math.min(x, 20)), n = w * (w + 2);
    return (x * n) / (n + 2);
  },
};

/**
 * Open what `labkit.live.decoder.pack` made, and compare its nets with torch.
 *
 * @param manifest Names, shapes and places in the buffer.
 * @param buffer DataView, ArrayBuffer or typed array with the bytes; copied, so it may go away.
 * @param wasm Bytes of simd.wasm, or null: then batches too are computed in plain JavaScript.
 * @returns {arrays: {name: {data, shape}}, nets: {name: net}, difference, simd, reason, swap}:
 *   `difference` is the largest |page - torch| over all nets and both ways of computing, in units of
 *   max(1, largest |output|) of the net; `reason` says why `simd` is false. `swap(manifest, buffer)`
 *   replaces all weights and arrays at once by a snapshot of the same layout; if that does not fit, or its
 *   nets compute something else, it throws and the old ones stay.
 */
export async function openAssets(manifest, buffer, wasm) {
  const plan = decoderPlan(manifest), machine = await decoderMachine(wasm, plan);
  const assets = { arrays: {}, nets: {}, difference: NaN, simd: false, reason: "" };
  for (const [name, spec] of Object.entries(plan.nets)) assets.nets[name] = new DecoderNet(spec, machine);
  const settle = (bytes) => {
    const { arrays, weights } = decoderRead(manifest, bytes, plan);
    const compare = (way) => decoderCompare(manifest, plan, arrays, way);
    assets.difference = compare({ memory: weights, routines: null });
    machine.memory.set(weights);
    for (const name in arrays) assets.arrays[name] = Object.assign(assets.arrays[name] ?? {}, arrays[name]);
    try {
      if (machine.routines) assets.difference = Math.max(assets.difference, compare(machine));
    } catch (error) { // and a wrong routine may have written anywhere
      Object.assign(machine, { memory: weights, routines: null, reason: error.message });
    }
    assets.simd = machine.routines !== null;
    assets.reason = machine.reason;
  };
  settle(buffer);
  assets.swap = (snapshot, bytes) => {
    decoderSameLayout(manifest, snapshot);
    settle(bytes);
  };
  return assets;
}

/** One network. What a method returns is overwritten by the next call of the same method. */
class DecoderNet {
  constructor(spec, machine) {
    Object.assign(this, spec, { machine, results: {} });
    this.scratch = [new Float32Array(this.widest), new Float32Array(this.widest)];
  }

  /** Decode one latent, (inputs) -> (outputs), in plain JavaScript. */
  one(z) { return this.plain(z, 1, "one"); }

  /** Decode n latents, (n * inputs) -> (n * outputs), by SIMD where it runs. */
  many(zs, n) { return this.machine.routines ? this.simd(zs, n) : this.plain(zs, n, "many"); }

  /** The same in plain JavaScript, whatever runs: what `many` falls back to and is tested against. */
  plainMany(zs, n) { return this.plain(zs, n, "plainMany"); }

  plain(zs, n, method) {
    const result = this.room(zs, n, method), { inputs, outputs } = this;
    for (let row = 0; row < n; row++) {
      let [x, y] = this.scratch;
      for (let i = 0; i < inputs; i++) x[i] = zs[row * inputs + i];
      for (const layer of this.layers) {
        decoderLinear(this.machine.memory, layer, x, y);
        for (const name of layer.after) decoderApply(name, y, 0, layer.outputs, layer.slope);
        [x, y] = [y, x];
      }
      for (let i = 0; i < outputs; i++) result[row * outputs + i] = x[i];
    }
    return this.finish(result);
  }

  simd(zs, n) {
    const result = this.room(zs, n, "many"), { inputs, outputs } = this, { memory, routines } = this.machine;
    const latents = zs instanceof Float32Array ? zs : Float32Array.from(zs);
    const width = decoderUp(inputs), columns = decoderUp(outputs);
    for (let start = 0; start < n; start += DECODER_ROWS) {
      const rows = Math.min(DECODER_ROWS, n - start);
      let [x, y] = this.blocks;
      for (let r = 0, z = start * inputs; r < rows; r++, z += inputs) {
        memory.set(latents.subarray(z, z + inputs), x + r * width);
      }
      for (const layer of this.layers) {
        routines.linear(4 * x, 4 * layer.weight, 4 * layer.bias, 4 * y, rows, layer.inputs, layer.columns);
        const size = rows * layer.columns;
        for (const name of layer.after) {
          if (name in routines) routines[name](4 * y, size);
          else decoderApply(name, memory, y, y + size, layer.slope);
        }
        [x, y] = [y, x];
      }
      for (let r = 0, from = x; r < rows; r++, from += columns) {
        result.set(memory.subarray(from, from + outputs), (start + r) * outputs);
      }
    }
    return this.finish(result);
  }

  room(zs, n, method) {
    if (zs.length !== n * this.inputs) {
      throw new Error(`decoder "${this.name}" takes ${n} x ${this.inputs} numbers, got ${zs.length}`);
    }
    const size = n * this.outputs;
    if (!(this.results[method]?.length >= size)) this.results[method] = new Float32Array(size);
    return this.results[method].subarray(0, size);
  }

  finish(result) {
    if (this.output !== "softmax") return result;
    for (let at = 0; at < result.length; at += this.outputs) decoderSoftmax(result, at, at + this.outputs);
    return result;
  }
}

/** Columns are padded to whole panels. */
const decoderUp = (columns) => Math.ceil(columns / 8) * 8;

/** y = x W + b for one sample, eight columns at a time. */
function decoderLinear(memory, { inputs, columns, weight, bias }, x, y) {
  for (let o = 0, k = weight, b = bias; o < columns; o += 8, b += 8) {
    let s0 = memory[b], s1 = memory[b + 1], s2 = memory[b + 2], s3 = memory[b + 3];
    let s4 = memory[b + 4], s5 = memory[b + 5], s6 = memory[b + 6], s7 = memory[b + 7];
    for (let i = 0; i < inputs; i++, k += 8) {
      const v = x[i];
      if (v === 0) continue; // half of all after a ReLU
      s0 += v * memory[k]; s1 += v * memory[k + 1]; s2 += v * memory[k + 2]; s3 += v * memory[k + 3];
      s4 += v * memory[k + 4]; s5 += v * memory[k + 5]; s6 += v * memory[k + 6]; s7 += v * memory[k + 7];
    }
    y[o] = s0; y[o + 1] = s1; y[o + 2] = s2; y[o + 3] = s3;
    y[o + 4] = s4; y[o + 5] = s5; y[o + 6] = s6; y[o + 7] = s7;
  }
}

function decoderApply(name, values, from, to, slope) {
  const activation = DECODER_ACTIVATIONS[name];
  for (let i = from; i < to; i++) values[i] = activation(values[i], slope);
}

function decoderSoftmax(values, from, to) {
  let top = -Infinity, sum = 0;
  for (let i = from; i < to; i++) top = Math.max(top, values[i]);
  for (let i = from; i < to; i++) sum += values[i] = Math.exp(values[i] - top);
  for (let i = from; i < to; i++) values[i] /= sum;
}

/** Error function to 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26). */
function decoderErf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = 1.421413741 + t * (-1.453152027 + t * 1.061405429);
  return Math.sign(x) * (1 - t * (0.254829592 + t * (-0.284496736 + t * tail)) * Math.exp(-x * x));
}

/** Where all lies in memory, in float32 numbers: the weights, then two blocks of samples for a batch. */
function decoderPlan(manifest) {
  const nets = {};
  let end = 0;
  const take = (count) => (end += count) - count;
  for (const [name, { layers: stored, ...entry }] of Object.entries(manifest.nets)) {
    const layers = stored.map(({ in: inputs, out: outputs, activation, slope }) => {
      const columns = decoderUp(outputs), after = activation === "none" ? [] : [activation];
      return { inputs, outputs, columns, weight: take(inputs * columns), bias: take(columns), after, slope };
    });
    if (entry.output === "sigmoid") layers.at(-1).after.push("sigmoid");
    const widest = Math.max(decoderUp(entry.inputs), ...layers.map((layer) => layer.columns));
    nets[name] = { name, ...entry, layers, widest };
  }
  const weights = end, block = DECODER_ROWS * Math.max(0, ...Object.values(nets).map((net) => net.widest));
  const blocks = [take(block), take(block)];
  for (const net of Object.values(nets)) net.blocks = blocks;
  return { nets, weights, size: end };
}

/** Memory and the routines that work on it, or the reason why there are none. */
async function decoderMachine(wasm, plan) {
  try {
    if (!wasm) throw new Error("no SIMD routine was given");
    const bytes = new Uint8Array(wasm.buffer ?? wasm, wasm.byteOffset ?? 0, wasm.byteLength).slice();
    const { exports } = (await WebAssembly.instantiate(bytes)).instance; // JupyterLab's buffer is refused
    exports.memory.grow(Math.ceil((4 * plan.size) / 65536));
    return { memory: new Float32Array(exports.memory.buffer), routines: exports, reason: "" };
  } catch (error) { // an old browser, or a page whose policy forbids WebAssembly
    return { memory: new Float32Array(plan.weights), routines: null, reason: error.message };
  }
}

/** The arrays, and the weights packed as `plan` says. */
function decoderRead(manifest, buffer, plan) {
  const given = new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);
  const bytes = given.slice().buffer; // aligned, and nobody else's
  if (bytes.byteLength !== manifest.bytes) {
    throw new Error(`the assets have ${bytes.byteLength} bytes, their manifest says ${manifest.bytes}`);
  }
  const arrays = {}, weights = new Float32Array(plan.weights);
  for (const [name, { dtype, shape, offset }] of Object.entries(manifest.arrays)) {
    arrays[name] = { data: new DECODER_TYPES[dtype](bytes, offset, shape.reduce((a, b) => a * b, 1)), shape };
  }
  const numbers = (offset, n) =>
    manifest.weights === "float16" ? decoderFromHalf(bytes, offset, n) : new Float32Array(bytes, offset, n);
  for (const [name, { layers }] of Object.entries(manifest.nets)) {
    layers.forEach((stored, l) => {
      const { inputs, outputs, columns, weight, bias } = plan.nets[name].layers[l];
      const w = numbers(stored.weight, inputs * outputs); // (inputs, outputs)
      for (let first = 0, k = weight; first < columns; first += 8) {
        const wide = Math.min(8, outputs - first);
        for (let i = 0; i < inputs; i++, k += 8) {
          for (let o = 0; o < wide; o++) weights[k + o] = w[i * outputs + first + o];
        }
      }
      if (stored.bias !== null) weights.set(numbers(stored.bias, outputs), bias);
    });
  }
  return { arrays, weights };
}

/** float16 -> float32: the bits moved to their places are the number divided by 2^112, tiny ones too. */
function decoderFromHalf(bytes, offset, n) {
  const half = new Uint16Array(bytes, offset, n);
  const bits = new Uint32Array(n), values = new Float32Array(bits.buffer);
  for (let i = 0; i < n; i++) bits[i] = ((half[i] & 0x8000) << 16) | ((half[i] & 0x7fff) << 13);
  for (let i = 0; i < n; i++) values[i] *= 2 ** 112;
  return values;
}

/** Largest |page - torch| over the nets, in units of their outputs; throws if it is more than allowed. */
function decoderCompare(manifest, plan, arrays, machine) {
  const { data, shape: [n, width] } = arrays[manifest.check.z];
  let largest = 0;
  for (const [name, spec] of Object.entries(plan.nets)) {
    const zs = new Float32Array(n * spec.inputs);
    for (let r = 0; r < n; r++) zs.set(data.subarray(r * width, r * width + spec.inputs), r * spec.inputs);
    const expected = arrays[manifest.check.nets[name]].data;
    const found = new DecoderNet(spec, machine).many(zs, n);
    const unit = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
    const off = expected.reduce((most, value, i) => Math.max(most, Math.abs(found[i] - value)), 0) / unit;
    if (!(off <= DECODER_BOUND)) { // NaN is within no bound
      const how = machine.routines ? "by SIMD" : "in plain JavaScript";
      throw new Error(`decoder "${name}" ${how} is off by ${off} from torch; ${DECODER_BOUND} is allowed`);
    }
    largest = Math.max(largest, off);
  }
  return largest;
}

/** Throws if a snapshot's names, shapes or layers are not those of the manifest in use. */
function decoderSameLayout(now, snapshot) {
  const places = ["offset", "weight", "bias"];
  const blank = (key, value) => (places.includes(key) && value !== null ? 0 : value);
  const sizes = (entry) => JSON.stringify(entry, blank);
  for (const kind of ["nets", "arrays"]) {
    for (const name in { ...now[kind], ...snapshot[kind] }) {
      if (sizes(now[kind][name]) === sizes(snapshot[kind][name])) continue;
      throw new Error(`swap: the snapshot's ${kind} differ in "${name}" from those open; open it instead`);
    }
  }
  if (JSON.stringify(now) !== JSON.stringify(snapshot)) {
    throw new Error("swap: the snapshot is stored otherwise than the assets open; open it instead");
  }
}
