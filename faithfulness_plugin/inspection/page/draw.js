// Elements with text (never markup), numbers as people read them, and plots in the page's colours.
function element(tag, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return value.toLocaleString("en");
  return size >= 1e5 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
// plots read names as pseudo-HTML: what comes from outside is not to be any
const plain = (name) => name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const drawn = new Map(); // plot -> how to draw it, and again in other colours
const drawings = new Map(); // plot -> when that is done

function plot(caption, make) {
  const holder = element("div", { role: "img", ariaLabel: caption });
  const figure = element("figure", {}, holder, element("figcaption", { text: caption }));
  const draw = async () => {
    await plotting;
    if (!drawn.has(holder)) return;
    const { traces, ...layout } = make();
    const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true, exponentformat: "power" };
    const given = {};
    for (const name of Object.keys(layout).filter((n) => /^[xy]axis/.test(n))) given[name] = { ...axis, ...layout[name] };
    await Plotly.react(holder, traces, {
      height: 250, margin: { l: 46, r: 12, t: 26, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("text"), size: 12 }, bargap: 0.05, legend: { orientation: "h", y: 1.18 },
      xaxis: axis, yaxis: axis, ...layout, ...given,
    }, { displayModeBar: false, responsive: true });
  };
  drawn.set(holder, draw);
  whenSeen.observe(holder);
  return figure;
}

// A plot is drawn when it is first on the screen: hidden ones have no size, and cost nothing.
const whenSeen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting || !drawn.has(target)) continue;
    whenSeen.unobserve(target);
    drawings.set(target, drawn.get(target)());
  }
}, { rootMargin: "200px" });

function forget(container) {
  for (const holder of container.querySelectorAll('[role="img"]')) {
    whenSeen.unobserve(holder);
    drawn.delete(holder);
    drawings.get(holder)?.then(() => holder.data && Plotly.purge(holder)); // not while it is being drawn
    drawings.delete(holder);
  }
  container.replaceChildren();
}

function drawAgain() {
  for (const [holder, draw] of drawn) if (holder.data) drawings.set(holder, draw());
}

function heatmap(z, { x, y, title, most }) {
  const largest = (most ?? largestOf([z])) || 1;
  return {
    type: "heatmap", z: z.map((r) => Array.from(r)), x, y, zmin: -largest, zmax: largest,
    colorscale: [[0, colour("warm")], [0.5, colour("middle")], [1, colour("accent")]],
    hovertemplate: "%{y}, %{x}: %{z:.3g}<extra></extra>", colorbar: { thickness: 10, len: 0.9, exponentformat: "power" }, name: title,
  };
}

const largestOf = (matrices) => matrices.flat().reduce((most, r) => r.reduce((m, v) => Math.max(m, Math.abs(v)), most), 0);

function bars(values, names, { title, fill = "accent" }) {
  return { type: "bar", x: names, y: Array.from(values), name: title, marker: { color: colour(fill) },
    hovertemplate: "%{x}: %{y:.3g}<extra></extra>" };
}

// Counts of values in bins of one size, and an axis from 0 on which a bar of one is seen beside one of thousands.
function counted(values, { start, end, size }) {
  const counts = new Array(Math.round((end - start) / size)).fill(0);
  for (const v of values) counts[Math.max(0, Math.min(counts.length - 1, Math.floor((v - start) / size)))] += 1;
  return counts;
}

function histogram(of, bins, { title, lines = [] }) {
  const named = of.map(({ name, values }) => ({ name, counts: counted(values, bins) }));
  const most = Math.max(1, ...named.flatMap(({ counts }) => counts)), high = (c) => Math.log10(1 + c);
  const ticks = [0, ...Array.from({ length: 1 + Math.floor(Math.log10(most)) }, (_, e) => 10 ** e)];
  return {
    traces: named.map(({ name, counts }, n) => ({ type: "bar", name: plain(name), opacity: 0.7, width: bins.size,
      marker: { color: colour(SIDES[n]) }, x: counts.map((_, b) => bins.start + (b + 0.5) * bins.size), y: counts.map(high),
      customdata: counts.map((c, b) => [c, number(bins.start + b * bins.size), number(bins.start + (b + 1) * bins.size)]),
      hovertemplate: "%{customdata[0]} from %{customdata[1]} to %{customdata[2]}<extra></extra>" })),
    barmode: "overlay", xaxis: { title: { text: title }, range: [bins.start, bins.end] },
    yaxis: { title: { text: "features" }, range: [0, 1.05 * high(most)], tickvals: ticks.map(high), ticktext: ticks.map(String) },
    shapes: lines.map((x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: colour("warm"), dash: "dash" } })),
  };
}
