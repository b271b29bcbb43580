"use strict";
/* A line chart: hover values, toggle runs, logarithmic axes, seeds as a band. */

const SVG = "http://www.w3.org/2000/svg";
const MARKERS = {
  0: "M0-4.2a4.2 4.2 0 1 0 .01 0Z", // circle
  1: "M-3.7-3.7h7.4v7.4h-7.4Z", // square
  2: "M0-5L5 0L0 5L-5 0Z", // diamond
  3: "M0-4.8L4.6 3.6H-4.6Z", // triangle
  4: "M0 4.8L-4.6-3.6H4.6Z", // triangle, down
  5: "M-1.7-4.8h3.4v3.1h3.1v3.4h-3.1v3.1h-3.4v-3.1h-3.1v-3.4h3.1Z", // plus
  6: "M-4.6-2.4L-2.4-4.6L0-2.2L2.4-4.6L4.6-2.4L2.2 0L4.6 2.4L2.4 4.6L0 2.2L-2.4 4.6L-4.6 2.4L-2.2 0Z",
  7: "M-4.8 0L3.6-4.6V4.6Z", // triangle, left
};

function element(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function marker(run) {
  const path = element("svg:path", { d: MARKERS[run.marker], fill: "currentColor" });
  return element(
    "svg:svg",
    { viewBox: "-6 -6 12 12", width: 12, height: 12, class: "swatch", "aria-hidden": "true",
      style: `color: var(--run${run.colour})` },
    path,
  );
}

const plain = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 6 });

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${plain(value / 1e6)}M`;
  if (size >= 1e4) return `${plain(value / 1e3)}k`;
  return plain(Number(value.toPrecision(6)));
}

/* Round values in a range: multiples of 1, 2 or 5 times a power of ten. */
function linearTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step)
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  return ticks;
}

function logarithmicTicks(low, high, count) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const factor of [1, 2, 5]) ticks.push(factor * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  if (inside.length < 3) return linearTicks(low, high, count).filter((tick) => tick > 0);
  const powers = inside.filter((tick) => Number.isInteger(Math.log10(tick)));
  return inside.length > 2 * count && powers.length > 2 ? powers : inside;
}

/* Where a value lies between two pixels, on a linear or logarithmic axis. */
function axisOf(low, high, from, to, logarithmic) {
  const map = logarithmic ? Math.log : (value) => value;
  const [start, end] = [map(low), map(high)];
  const scale = (value) => from + ((map(value) - start) / (end - start || 1)) * (to - from);
  scale.ticks = (count) => (logarithmic ? logarithmicTicks : linearTicks)(low, high, count);
  return scale;
}

class Chart {
  constructor(root, spec, runs) {
    Object.assign(this, { root, spec });
    const drawn = new Set(spec.series.map((series) => series.run));
    this.runs = runs.filter((run) => drawn.has(run.id));
    this.hidden = new Set(this.runs.filter((run) => run.hidden).map((run) => run.id));
    if (this.hidden.size === this.runs.length) this.hidden.clear();
    this.chosen = Object.fromEntries(spec.choices.map(({ id, options }) => [id, options[0].id]));
    this.logarithmic = { y: spec.log, x: false };
    this.selects = {};
    this.plot = element("div", { class: spec.lines ? "plot lines" : "plot", tabindex: 0, role: "group" });
    this.tip = element("div", { class: "tip", hidden: "" });
    this.said = element("p", { class: "said", "aria-live": "polite" });
    const caption = root.querySelector("figcaption");
    caption.before(this.controls(), this.legend(), this.plot, this.said);
    this.listen();
    this.draw();
    new ResizeObserver(() => this.plot.clientWidth !== this.width && this.draw()).observe(this.plot);
  }

  controls() {
    const bar = element("div", { class: "controls" });
    for (const { id, label, options } of this.spec.choices) {
      if (options.length < 2) continue;
      const entries = options.map((option) => element("option", { value: option.id }, option.label));
      const select = element("select", { name: id }, ...entries);
      select.addEventListener("change", () => {
        this.chosen[id] = select.value;
        this.draw();
      });
      this.selects[id] = select;
      bar.append(element("label", {}, label, select));
    }
    for (const [axis, label] of [["y", "Logarithmic values"], ["x", "Logarithmic horizontal axis"]]) {
      const box = element("input", { type: "checkbox", name: `log-${axis}` });
      box.checked = this.logarithmic[axis];
      box.addEventListener("change", () => {
        this.logarithmic[axis] = box.checked;
        this.draw();
      });
      bar.append(element("label", {}, box, label));
    }
    return bar;
  }

  legend() {
    const items = this.runs.map((run) => {
      const shown = !this.hidden.has(run.id);
      const button = element("button", { type: "button", "aria-pressed": shown }, marker(run), run.label);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(run.id)) this.hidden.add(run.id);
        button.setAttribute("aria-pressed", !this.hidden.has(run.id));
        this.draw();
      });
      return element("li", {}, button);
    });
    return element("ul", { class: "legend", "aria-label": "Runs that are shown" }, ...items);
  }

  option(id) {
    const { options } = this.spec.choices.find((choice) => choice.id === id);
    return options.find((option) => option.id === this.chosen[id]);
  }

  /* The series of what is chosen, with the runs that they show. */
  visible() {
    return this.spec.series
      .filter((series) =>
        this.spec.choices.every(({ id }) => id === "x" || series[id] === this.chosen[id]))
      .filter((series) => series.x[this.chosen.x] || series.level)
      .map((series) => ({ ...series, xs: series.x[this.chosen.x] || [], of: this.runs.find((run) => run.id === series.run) }))
      .filter((series) => series.of && !this.hidden.has(series.run))
      .map((series) => this.positive(series));
  }

  /* What a logarithmic axis can show of a series. */
  positive(series) {
    const { x, y } = this.logarithmic;
    const keep = series.mean.map((_, index) =>
      (series.level || !x || series.xs[index] > 0) &&
      (!y || (series.low ? series.low[index] : series.mean[index]) > 0));
    const kept = (values) => values && values.filter((_, index) => keep[index]);
    return { ...series, xs: kept(series.xs), mean: kept(series.mean), low: kept(series.low), high: kept(series.high) };
  }

  draw() {
    this.series = this.visible();
    this.width = this.plot.clientWidth || 680;
    const height = Math.round(Math.min(440, Math.max(260, this.width * 0.46)));
    const box = { left: 58, right: this.width - 14, top: 26, bottom: height - 46 };
    const metric = this.option("metric"), against = this.option("x");
    const label = `${metric.label} against ${against.label.toLowerCase()}`;
    this.plot.setAttribute("aria-label", `${label}. Left and right arrow keys read the values.`);
    const svg = element("svg:svg", { viewBox: `0 0 ${this.width} ${height}`, role: "img", "aria-label": label });
    this.plot.replaceChildren(svg, this.tip);
    this.tip.hidden = true;
    const curves = this.series.filter((series) => !series.level);
    const xs = curves.flatMap((series) => series.xs);
    const ys = this.series.flatMap((series) => [...series.mean, ...(series.low || []), ...(series.high || [])]);
    if (!ys.length) {
      svg.append(element("svg:text", { x: this.width / 2, y: height / 2, "text-anchor": "middle" }, "Nothing to show: choose a run or a linear axis"));
      return;
    }
    this.xs = [...new Set(xs)].sort((a, b) => a - b);
    this.scales(xs, ys, box);
    this.frame(svg, box, metric.label, against.label, height);
    for (const series of this.series) this.curve(svg, series, box);
    this.guide = element("svg:line", { class: "guide", y1: box.top, y2: box.bottom, visibility: "hidden" });
    svg.append(this.guide);
    this.box = box;
  }

  scales(xs, ys, box) {
    const { x, y } = this.logarithmic;
    const first = Math.min(...xs), last = Math.max(...xs);
    this.x = axisOf(x ? first : Math.min(0, first), xs.length ? last : 1, box.left + 4, box.right - 6, x);
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (y) [low, high] = low === high ? [low / 1.5, high * 1.5] : [low / (high / low) ** 0.06, high * (high / low) ** 0.06];
    else {
      const margin = (high - low || Math.abs(high) || 1) * 0.07;
      [low, high] = [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
    }
    this.y = axisOf(low, high, box.bottom, box.top, y);
  }

  frame(svg, box, metric, against, height) {
    for (const tick of this.y.ticks(5)) {
      const y = this.y(tick);
      svg.append(
        element("svg:line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y }),
        element("svg:text", { x: box.left - 8, y: y + 4, "text-anchor": "end" }, short(tick)));
    }
    let end = -Infinity;
    for (const tick of this.x.ticks(Math.max(3, Math.round((box.right - box.left) / 110)))) {
      const x = this.x(tick), half = 4 * short(tick).length;
      svg.append(element("svg:line", { class: "axis", x1: x, x2: x, y1: box.bottom, y2: box.bottom + 5 }));
      if (x - half < end + 8 || x + half > this.width) continue;
      svg.append(element("svg:text", { x, y: box.bottom + 19, "text-anchor": "middle" }, short(tick)));
      end = x + half;
    }
    svg.append(
      element("svg:line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      element("svg:text", { class: "title", x: 4, y: 13 }, metric),
      element("svg:text", { class: "title", x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, against));
  }

  curve(svg, series, box) {
    const colour = `color: var(--run${series.of.colour})`;
    const line = (points, kind) => element("svg:polyline", { class: kind, style: colour, stroke: "currentColor", points: points.join(" ") });
    if (series.level) {
      const y = this.y(series.mean[0]);
      svg.append(line([`${box.left},${y}`, `${box.right},${y}`], "line level"));
      return;
    }
    const at = (values) => values.map((value, index) => `${this.x(series.xs[index]).toFixed(1)},${this.y(value).toFixed(1)}`);
    if (series.low)
      svg.append(element("svg:polygon", { class: "band", style: colour, fill: "currentColor",
        points: [...at(series.low), ...at(series.high).reverse()].join(" ") }));
    svg.append(line(at(series.mean), series.published ? "line published" : "line"));
    if (this.spec.lines || series.published) return;
    series.mean.forEach((value, index) =>
      svg.append(element("svg:path", { class: "point", style: colour, fill: "currentColor", d: MARKERS[series.of.marker],
        transform: `translate(${this.x(series.xs[index])} ${this.y(value)})` })));
  }

  listen() {
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.xs?.length) return;
      const bounds = this.plot.getBoundingClientRect();
      const pixel = ((event.clientX - bounds.left) / bounds.width) * this.width;
      const distance = (index) => Math.abs(this.x(this.xs[index]) - pixel);
      this.show(this.xs.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), 0));
    });
    this.plot.addEventListener("pointerleave", () => this.hide());
    this.plot.addEventListener("blur", () => this.hide());
    this.plot.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key === "Escape") this.hide();
      if (!(event.key in moves) || !this.xs?.length) return;
      event.preventDefault();
      const from = this.index ?? (event.key === "ArrowRight" ? -1 : this.xs.length);
      this.show(Math.min(this.xs.length - 1, Math.max(0, from + moves[event.key])));
      this.said.textContent = this.tip.innerText.replace(/\n+/g, ", ");
    });
  }

  /* The values of every run at one place of the axis. */
  show(index) {
    this.index = index;
    const at = this.xs[index], x = this.x(at), digits = this.option("metric").digits;
    const form = (value) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    const rows = this.series
      .map((series) => ({ series, place: series.level ? 0 : series.xs.indexOf(at) }))
      .filter(({ place }) => place >= 0)
      .sort((a, b) => b.series.mean[b.place] - a.series.mean[a.place])
      .map(({ series, place }) => {
        const { low, high, mean, of } = series;
        const range = low ? ` (${form(low[place])} to ${form(high[place])})` : "";
        const name = of.label + (series.published ? ", published" : "");
        return element("p", { class: "row" }, marker(of), name, element("b", {}, form(mean[place]) + range));
      });
    const place = this.chosen.x === "steps" ? `${plain(at)} steps` : `${plain(Number(at.toPrecision(4)))} ${this.option("x").label.match(/in (\w+)/)?.[1] ?? ""}`;
    this.tip.replaceChildren(element("p", { class: "head" }, `${this.option("metric").label} at ${place}`), ...rows);
    this.tip.hidden = false;
    this.guide.setAttribute("visibility", "visible");
    this.guide.setAttribute("x1", x);
    this.guide.setAttribute("x2", x);
    const width = this.tip.offsetWidth;
    const left = x + 14 + width > this.width ? x - 14 - width : x + 14;
    this.tip.style.left = `${Math.min(Math.max(0, left), Math.max(0, this.width - width))}px`;
    this.tip.style.top = `${this.box.top + 6}px`;
  }

  hide() {
    this.index = undefined;
    this.tip.hidden = true;
    this.guide?.setAttribute("visibility", "hidden");
  }
}
