// Scores, firing rates, Jacobians or spectra, and what the features are made of.
function showOverview(container) {
  if (data.meta.set) { showSet(container); return; }
  const of = data.meta.transcoders;
  const names = Object.keys(of[0].scores);
  const scores = element("table", { className: "plain" });
  scores.append(element("tr", {}, element("th", { text: "" }), ...of.map((t) => element("th", { text: t.name }))));
  for (const name of names) {
    const cells = of.map((t) => element("td", { text: number(t.scores[name]) }));
    scores.append(element("tr", {}, element("th", { text: name }), ...cells));
  }
  container.append(element("h2", { text: "Scores" }), scores, element("p", { className: "note",
    text: `On ${number(data.meta.rows)} rows${data.meta.left_out ? ` (${data.meta.left_out})` : ""}. FVU: share of the output's variance that is unexplained. Jacobian error: ` +
      "relative, in all directions, and along differences between inputs (data); 1 says that nothing of the layer's " +
      `Jacobian is there. Flagged: a datapoint score of ${data.meta.flagged} or more, which says that a feature fires ` +
      "on copies of one input and writes most of the output there." }));
  of.forEach((t, n) => container.append(...leastFaithful(t, n)));
  const plots = element("div", { className: "plots" });
  const rates = of.map((t, n) => ({ name: t.name, values: logs(of_(n, "firing_rate")) }));
  const least = Math.floor(Math.min(-1, ...rates.map(({ values }) => values.reduce((a, b) => Math.min(a, b), 0))));
  plots.append(plot("Features by firing rate (logarithmic); dead features are left out.", () => histogram(rates,
    { start: least, end: 0, size: 0.1 }, { title: "log10 firing rate" })));
  plots.append(plot("Features by datapoint score (those that fire); the dashed line is where flags begin.", () => histogram(
    of.map((t, n) => ({ name: t.name, values: Array.from(of_(n, "score")).filter((_, i) => of_(n, "firing_rate")[i] > 0) })),
    { start: 0, end: 1, size: 0.02 }, { title: "datapoint score", lines: [data.meta.flagged] })));
  if (of[0].spectrum) plots.append(plot("Singular values of the Jacobians, mean over rows, the largest first.", () => ({
    traces: [{ name: "layer", mode: "lines", y: of[0].spectrum.layer, line: { color: colour("text"), dash: "dash" } },
      ...of.map((t, n) => ({ name: plain(t.name), mode: "lines", y: t.spectrum.transcoder,
        line: { color: colour(SIDES[n]) } }))],
    xaxis: { title: { text: "rank" } }, yaxis: { title: { text: "singular value" } } })));
  container.append(plots);
  if (data.arrays["0.example.x"]) container.append(jacobiansAtRow());
  of.forEach((t, n) => { if (t.projected) container.append(projection(t, n)); });
}

// The ten features that write most without the layer moving so.
function leastFaithful(t, n) {
  if (!t.least_faithful.length) return [];
  const table = element("table", { className: "plain" }), names = ["unbacked", "carried", "score", "firing_rate"];
  const heads = [["feature", "feature"], ["faithful", "faithfulness"], ["unbacked", "unbacked"], ["carried", "carried"], ["datapoint", "score"], ["fires", "firing_rate"]];
  if (data.arrays[`${n}.raised`]) heads.push(["raises", "raised"]);
  table.append(element("tr", {}, ...heads.map(([text, name]) => element("th", { text, title: SAYS[name] }))));
  for (const i of t.least_faithful) {
    const cells = [faithful(n, i), ...names.map((name) => number(of_(n, name)[i]))].map((text) => element("td", { text }));
    if (data.arrays[`${n}.raised`]) cells.push(element("td", { className: "tokens", text: wordsOf(n, "raised", i, 3) }));
    table.append(element("tr", {}, element("th", {}, element("a", { href: `#${n}/${i}`, text: String(i) })), ...cells));
  }
  const title = "The least faithful features that matter most" + (data.meta.transcoders.length > 1 ? `: ${t.name}` : "");
  return [element("h2", { text: title }), table, element("p", { className: "note",
    text: "Faithful: on the rows where it fires, the feature's share of the layer's Jacobian for its share of the layer's output, from 0 to 1 " +
      "(95 % interval over at most 64 of these rows). Unbacked: carried times (1 - faithful), by which they are ranked." })];
}

const logs = (rates) => Array.from(rates).filter((r) => r > 0).map(Math.log10);

function jacobiansAtRow() {
  const part = element("section", {}, element("h2", { text: "Jacobians at one input" }));
  const choice = element("select", { ariaLabel: "Input" });
  const rows = of_(0, "example.rows");
  rows.forEach((r, i) => choice.append(element("option", { value: i, text: `row ${r}: ${inputText(row(of_(0, "example.x"), i))}` })));
  const plots = element("div", { className: "plots" });
  choice.onchange = () => {
    forget(plots);
    const i = Number(choice.value);
    const layer = matrix(row(of_(0, "example.layer"), i));
    const each = [["layer", layer], ...data.meta.transcoders.map((t, n) => [t.name, jacobianAt(n, i)])];
    const most = largestOf(each.map(([, J]) => J));
    for (const [name, J] of each) plots.append(jacobianPlot(`Jacobian of ${name}`, J, most));
  };
  choice.onchange();
  part.append(choice, plots);
  return part;
}

function projection(t, n) {
  const weights = of_(n, "projection"), residual = of_(n, "residual"), live = Array.from(of_(n, "live"));
  const strongest = (i) => t.projected.reduce((best, _, k) => (row(weights, k)[i] > row(weights, best)[i] ? k : best), 0);
  live.sort((a, b) => strongest(a) - strongest(b) || a - b);
  const caption = `What the features of ${t.name} are made of: weights over the layer's circuits; the last row is what no ` +
    "circuit explains.";
  return element("section", {}, element("h2", { text: `Circuits: ${t.name}` }), plot(caption, () => ({
    traces: [heatmap([...t.projected.map((_, k) => live.map((i) => row(weights, k)[i])), live.map((i) => residual[i])],
      { x: live.map((i) => `feature ${i}`), y: [...t.projected.map(plain), "rest"], most: 1 })],
    height: 110 + 15 * t.projected.length, yaxis: { autorange: "reversed", dtick: 1, tickfont: { size: 10 } },
    xaxis: { showticklabels: false, title: { text: "live features" } }, margin: { l: 90, r: 12, t: 10, b: 40 } })));
}
