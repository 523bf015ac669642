// Drawing: one function a kind of picture, each onto one canvas. Arrays are {data, shape}.

const INK_CLASSES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a6d00",
  "#56B4E9", "#7f7f7f", "#E69F00", "#666666", "#882255"];
const FRAMES = [0, 0xff009fe6, 0xffb27200]; // visible: orange; chosen: blue (little-endian RGBA words)
const FONT = "12px system-ui, sans-serif";
const AREA = 92000, COLOURED = 150000; // CSS pixels that a grid of images may cover, grey or in colour
export const GAP = 2; // pixels between images; a frame is drawn in the gap

const PAINTERS = { images: paintImages, bars: paintBars, curves: paintCurves, plane: paintPlane };

/** Make the elements of one picture: caption, canvas and, for images, labels. */
export function makeFigure(name) {
  const figure = element("figure", { class: "lk-figure", "data-view": name });
  const top = element("div", { class: "lk-columns", "aria-hidden": "true" });
  const side = element("div", { class: "lk-rows", "aria-hidden": "true" });
  const canvas = element("canvas", { role: "img", "aria-label": name });
  const body = element("div", { class: "lk-body" });
  body.append(element("span"), top, side, canvas);
  figure.append(body, element("figcaption", {}, name));
  return { figure, top, side, canvas, name, context: canvas.getContext("2d") };
}

/** Draw one picture. Sizes and labels are touched only when they change. */
export function paint(place, picture) {
  PAINTERS[picture.kind](place, picture);
  place.picture = picture;
}

/** Draw again what is shown: the colour of text is known only once the canvas stands in the page. */
export function repaint(place) {
  place.ink = null;
  if (place.picture) paint(place, place.picture);
}

export function element(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

function relabel(parent, labels) {
  const joined = labels.join("\n");
  if (parent.dataset.labels === joined) return;
  parent.dataset.labels = joined;
  parent.replaceChildren(...labels.map((label) => element("span", {}, label)));
}

function paintImages(place, picture) {
  const [rows, columns, height, width, colours = 1] = picture.pixels.shape;
  const wide = columns * (width + GAP) + GAP, high = rows * (height + GAP) + GAP;
  const { canvas, context } = place;
  if (!place.image || canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    const scale = Math.max(1, Math.min(4, Math.floor(Math.sqrt((colours === 3 ? COLOURED : AREA) / (wide * high)))));
    canvas.style.width = `${wide * scale}px`;
    canvas.classList.add("lk-pixels");
    place.image = context.createImageData(wide, high);
    place.words = new Uint32Array(place.image.data.buffer);
  }
  relabel(place.top, picture.columns);
  relabel(place.side, picture.rows);
  const { words } = place, source = picture.pixels.data, framed = picture.framed.data;
  const corner = (cell) => (GAP + Math.floor(cell / columns) * (height + GAP)) * wide + GAP + (cell % columns) * (width + GAP);
  words.fill(0);
  for (const code of [1, 2]) { // the chosen cell's frame over its neighbours'
    framed.forEach((frame, cell) => {
      if (frame !== code) return;
      for (let y = -GAP, line = corner(cell) - GAP * wide; y < height + GAP; y++, line += wide) {
        words.fill(FRAMES[code], line - GAP, line + width + GAP);
      }
    });
  }
  for (let cell = 0, from = 0; cell < rows * columns; cell++) {
    for (let y = 0, line = corner(cell); y < height; y++, line += wide) {
      if (colours === 3) for (let to = line; to < line + width; to++) words[to] = 0xff000000 | source[from++] | source[from++] << 8 | source[from++] << 16;
      else for (let to = line; to < line + width; to++) words[to] = 0xff000000 | (source[from++] * 0x010101);
    }
  }
  context.putImageData(place.image, 0, 0);
}

/** Make the canvas as large as the screen's pixels need; return a context in CSS pixels. */
function prepare(place, width, height) {
  const { canvas, context } = place, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    place.back = null;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const now = performance.now();
  if (!place.ink || now - place.looked > 500) { // the theme may have changed
    const ink = getComputedStyle(canvas).color;
    if (ink !== place.ink) place.back = null;
    place.ink = ink;
    place.looked = now;
  }
  context.strokeStyle = context.fillStyle = place.ink;
  context.font = FONT;
  context.textBaseline = "middle";
  context.lineWidth = 2;
  return context;
}

function paintBars(place, picture) {
  const count = picture.names.length, line = count > 6 ? 19 : 24;
  place.context.font = FONT;
  const left = 12 + Math.max(...picture.names.map((name) => place.context.measureText(name).width));
  const width = Math.max(220, 20 * Math.ceil((left + 100 + 52) / 20)); // bars have room beside long names
  const context = prepare(place, width, count * line + 8), length = width - left - 52;
  for (let i = 0; i < count; i++) {
    const y = 4 + i * line, value = picture.values.data[i];
    context.fillStyle = place.ink;
    context.textAlign = "right";
    context.fillText(picture.names[i], left - 6, y + line / 2);
    context.textAlign = "left";
    const shown = Math.max(0, Math.min(1, value / picture.high)) * length;
    const said = picture.unit === "probability" ? `${Math.round(100 * value)} %` : short(value);
    const at = i < picture.marks.data.length
      ? left + Math.max(0, Math.min(1, picture.marks.data[i] / picture.high)) * length : -Infinity;
    const apart = at - left - shown; // the number stands beside the bar, or beside the mark if that is near
    const past = apart > 0 && apart < 8 + context.measureText(said).width ? apart : 0;
    context.fillText(said, left + shown + past + 5, y + line / 2);
    context.fillStyle = picture.colors[i] || place.ink;
    context.fillRect(left, y + 3, shown, line - 6);
    if (i < picture.marks.data.length) {
      context.fillStyle = place.ink;
      context.fillRect(at - 1, y, 2, line);
    }
  }
}

function paintCurves(place, picture) {
  const width = 360, height = 230, box = { left: 46, right: width - 12, top: 26, bottom: 190 };
  const context = prepare(place, width, height);
  const warp = picture.log ? Math.log : (v) => v;
  const xs = picture.x.data, low = warp(xs[0]), high = warp(xs[xs.length - 1]);
  const [bottom, top] = picture.limits;
  const atX = (v) => box.left + (warp(v) - low) / (high - low) * (box.right - box.left);
  const atY = (v) => box.bottom - (v - bottom) / (top - bottom) * (box.bottom - box.top);
  context.lineWidth = 1;
  context.globalAlpha = 0.35;
  context.strokeRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  context.globalAlpha = 1;
  context.textAlign = "center";
  for (const v of ticks(xs[0], xs[xs.length - 1], picture.log)) {
    context.fillText(short(v), atX(v), box.bottom + 12);
  }
  context.fillText(picture.xlabel, (box.left + box.right) / 2, height - 9);
  context.textAlign = "right";
  for (const v of ticks(bottom, top, false)) context.fillText(short(v), box.left - 6, atY(v));
  context.textAlign = "left";
  let key = 8;
  if (picture.marker !== null) {
    context.globalAlpha = 0.6;
    context.fillRect(atX(picture.marker) - 1, box.top, 2, box.bottom - box.top);
    context.globalAlpha = 1;
  }
  for (const each of picture.lines) {
    context.strokeStyle = context.fillStyle = each.color || place.ink;
    context.lineWidth = 2;
    context.setLineDash(each.dash);
    context.beginPath();
    each.y.data.forEach((v, i) => context.lineTo(atX(xs[i]), atY(Math.max(bottom, Math.min(top, v)))));
    context.stroke();
    context.beginPath();
    context.moveTo(key, 11);
    context.lineTo(key + 16, 11);
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = place.ink;
    context.fillText(each.name, key + 20, 11);
    key += 32 + context.measureText(each.name).width;
  }
  context.save();
  context.translate(10, (box.top + box.bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText(picture.ylabel, 0, 0);
  context.restore();
}

export const SIDE = 236; // CSS pixels of the plane

/** Where (x, y) of the plane lies on its canvas, and back. */
export function toPlane(picture, px, py) {
  const unit = SIDE / (2 * picture.half), [x, y] = picture.center;
  return [x + (px - SIDE / 2) / unit, y + (SIDE / 2 - py) / unit];
}

function paintPlane(place, picture) {
  const context = prepare(place, SIDE, SIDE), unit = SIDE / (2 * picture.half), [left, low] = picture.center;
  const atX = (v) => SIDE / 2 + (v - left) * unit, atY = (v) => SIDE / 2 - (v - low) * unit;
  const where = `${picture.center} ${picture.half}`;
  if (!same(place.points, picture.points.data) || place.where !== where || !place.back) {
    place.back = background(place, picture, atX, atY);
    place.points = picture.points.data;
    place.where = where;
  }
  context.drawImage(place.back, 0, 0, SIDE, SIDE);
  scaleBar(context, picture.half, unit);
  context.globalAlpha = 0.5;
  const dots = picture.samples.data;
  for (let i = 0; i < dots.length; i += 2) context.fillRect(atX(dots[i]) - 1, atY(dots[i + 1]) - 1, 2, 2);
  context.globalAlpha = 1;
  const path = picture.path.data;
  context.beginPath();
  for (let i = 0; i < path.length; i += 2) context.lineTo(atX(path[i]), atY(path[i + 1]));
  context.stroke();
  // Boxes of the names so far: [middle x, middle y, half the width]. The axes' come first.
  const [across, up] = picture.axes.map((name) => context.measureText(`${name} →`).width / 2);
  const taken = [[SIDE - 5 - across, SIDE - 10, across], [5 + up, 10, up]];
  for (const each of picture.ellipses) {
    const [x, y] = each.mean.data, [a, b] = each.sd.data;
    context.strokeStyle = context.fillStyle = each.color || place.ink;
    context.lineWidth = each.dash.length ? 2 : 3;
    context.setLineDash(each.dash);
    context.beginPath();
    context.ellipse(atX(x), atY(y), Math.max(1.5, a * unit), Math.max(1.5, b * unit), 0, 0, 7);
    context.stroke();
    context.setLineDash([]);
    label(context, each.name, atX(x), atY(y), b * unit + 8, taken);
  }
  const handles = picture.handles.data;
  for (let i = 0; i < handles.length; i += 2) {
    context.beginPath();
    context.arc(atX(handles[i]), atY(handles[i + 1]), 8, 0, 7);
    context.fillStyle = "#fff";
    context.fill();
    context.strokeStyle = "#000";
    context.lineWidth = 3;
    context.stroke();
  }
}

/** Write a name above what it names, or below, or as far off as the names already there demand. */
function label(context, name, x, y, off, taken) {
  const half = context.measureText(name).width / 2 + 2, within = (v, room) => Math.min(Math.max(v, room), SIDE - room);
  const middle = within(x, half), places = [0, 14, 28].flatMap((more) => [y - off - more, y + off + more]).map((v) => within(v, 8));
  const free = (at) => taken.every(([tx, ty, th]) => Math.abs(at - ty) >= 13 || Math.abs(middle - tx) >= half + th);
  const at = places.find(free) ?? places[0];
  taken.push([middle, at, half]);
  context.textAlign = "center";
  context.fillText(name, middle, at);
}

const same = (a, b) => a === b || (a?.length === b.length && a.every((v, i) => v === b[i]));

/** How long a round number is, for there are no ticks. */
function scaleBar(context, half, unit) {
  const length = [1, 2, 5].map((m) => m * 10 ** Math.floor(Math.log10(half / 2))).filter((v) => v <= half / 2).pop();
  context.textAlign = "left";
  context.fillRect(10, SIDE - 10, length * unit, 2);
  context.fillText(short(length), 10, SIDE - 19);
}

/** Points and axes are drawn once: they stay while a handle moves. */
function background(place, picture, atX, atY) {
  const back = document.createElement("canvas"), ratio = window.devicePixelRatio || 1;
  back.width = back.height = Math.round(SIDE * ratio);
  const context = back.getContext("2d");
  context.scale(ratio, ratio);
  context.strokeStyle = place.ink;
  context.globalAlpha = 0.25;
  context.strokeRect(0.5, 0.5, SIDE - 1, SIDE - 1);
  context.beginPath();
  context.moveTo(0, atY(0));
  context.lineTo(SIDE, atY(0));
  context.moveTo(atX(0), 0);
  context.lineTo(atX(0), SIDE);
  context.stroke();
  context.globalAlpha = 0.8;
  context.fillStyle = place.ink;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  context.fillText(`↑ ${picture.axes[1]}`, 5, 5);
  context.textAlign = "right";
  context.textBaseline = "bottom";
  context.fillText(`${picture.axes[0]} →`, SIDE - 5, SIDE - 4);
  const points = picture.points.data, sums = new Map();
  context.globalAlpha = 0.45;
  picture.classes.data.forEach((c, i) => {
    const x = points[2 * i], y = points[2 * i + 1], sum = sums.get(c) || [0, 0, 0];
    context.fillStyle = INK_CLASSES[c % 10];
    context.fillRect(atX(x) - 1.5, atY(y) - 1.5, 3, 3);
    sums.set(c, [sum[0] + x, sum[1] + y, sum[2] + 1]);
  });
  context.globalAlpha = 1;
  context.font = "bold 15px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 3;
  for (const [c, [x, y, n]] of sums) {
    context.strokeStyle = "#fff";
    context.strokeText(c, atX(x / n), atY(y / n));
    context.fillStyle = "#000";
    context.fillText(c, atX(x / n), atY(y / n));
  }
  return back;
}

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let e = Math.ceil(Math.log10(low) - 1e-9); 10 ** e <= high * 1.0001; e++) found.push(10 ** e);
    return found;
  }
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const every = (high - low) / step > 5 ? 2 * step : step, found = [];
  for (let i = Math.ceil(low / every - 1e-9); i * every <= high + 1e-9 * every; i++) found.push(i * every);
  return found;
}

/** Three digits, as short as they go. */
export function short(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 1000 || size === 0) return String(Math.round(value));
  return String(Number(value.toPrecision(3)));
}
