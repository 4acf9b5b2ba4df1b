// What removing and doubling a feature does to the next token and to later blocks.
const DONE = ["Removed", "Doubled"];

function intervened(n, i) {
  if (!data.arrays[`${n}.intervened.features`]) return [];
  const f = of_(n, "intervened.features").indexOf(i);
  if (f < 0) return [];
  const title = element("h3", { text: "Removed and doubled" });
  const of = (name, d) => row(of_(n, `intervened.${name}`), f, d), prompts = of_(n, "intervened.prompts")[f];
  if (!prompts) return [title, element("p", { className: "note",
    text: "It does not fire on this sample: there is nothing to remove or to double." })];
  const table = element("table", { className: "plain" });
  table.append(element("tr", {}, ...["", "KL in the model", "KL in the spliced model", "tokens changed"].map((text) => element("th", { text }))));
  const cell = (text) => element("td", { text });
  DONE.forEach((done, d) => table.append(element("tr", {}, element("th", { text: done }), ...[of("kl", d)[0], of("kl_spliced", d)[0],
    of("changed", d)[0]].map((value) => cell(number(value))))));
  const plots = element("div", { className: "plots wide" });
  DONE.forEach((done, d) => plots.append(tokensMoved(n, f, d, done), laterBlocks(n, f, d, done)));
  return [title, element("p", { className: "note", text: `What it writes is taken away, or added once more, at every token where it fires, on ${prompts} prompts: ` +
    "in the model itself, and in the spliced model, which has the transcoder in the layer's place. KL: nats of the next token's prediction, mean over tokens where it fires (64 at most)." }), table, plots];
}

function tokensMoved(n, f, d, done) {
  const places = row(of_(n, "intervened.tokens"), f, d), moves = row(of_(n, "intervened.moves"), f, d);
  const spliced = row(of_(n, "intervened.moves_spliced"), f, d);
  const there = Array.from(moves.keys()).filter((k) => !Number.isNaN(moves[k]));
  const cut = (text) => ([...text].length > 24 ? `${[...text].slice(0, 23).join("")}\u2026` : text);
  const names = there.map((k) => plain(cut(shownWord(word(places[k]))))), at = there.map((_, k) => k);
  const shown = (values, name, fill) => ({ type: "bar", orientation: "h", name, y: at, x: there.map((k) => values[k]), text: names, textposition: "none",
    marker: { color: colour(fill) }, hovertemplate: "%{text}: %{x:.3g}<extra></extra>" });
  return plot(`${done}: the tokens whose log-probability moves most, mean over tokens where it fires.`, () => ({
    traces: [shown(moves, "model", "text"), shown(spliced, "spliced model", "accent")], height: 110 + 24 * there.length, barmode: "group",
    yaxis: { tickvals: at, ticktext: names, autorange: "reversed" }, xaxis: { title: { text: "change of log p" }, nticks: 5 },
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" } }));
}

function laterBlocks(n, f, d, done) {
  const stages = data.meta.transcoders[n].stages;
  const line = (name, title, fill, dash) => ({ mode: "lines+markers", name: title, x: stages, y: Array.from(row(of_(n, `intervened.${name}`), f, d)),
    line: { color: colour(fill), dash }, hovertemplate: "after block %{x}: %{y:.3g}<extra></extra>" });
  return plot(`${done}: the effect on the residual stream after each block, in the spliced model against the model's.`, () => ({
    traces: [line("cosine", "cosine", "accent"), line("error", "relative error", "warm", "dash")],
    xaxis: { title: { text: "block" }, type: "category" }, yaxis: { rangemode: "tozero" } }));
}
