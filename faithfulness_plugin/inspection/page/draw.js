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
