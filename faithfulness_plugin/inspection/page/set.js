// The overview of a set: a row a layer, scores by layer, and the least faithful features of all layers.
function showSet(container) {
  const of = data.meta.transcoders, names = Object.keys(of[0].scores);
  const scores = element("table", { className: "plain" });
  scores.append(element("tr", {}, ...["transcoder", ...names].map((text) => element("th", { text }))));
  of.forEach((t, n) => scores.append(element("tr", {}, element("th", {}, featureLink(n, best(n), true)),
    ...names.map((name) => element("td", { text: number(t.scores[name]) })))));
  container.append(element("h2", { text: "Scores" }), element("div", { className: "scrolled" }, scores), element("p", { className: "note",
    text: "A link opens the layer at the feature that its table begins with. FVU: share of the output's variance that is unexplained. " +
      "Jacobian error: relative, in all directions, and along differences between inputs (data)." }));
  const plots = element("div", { className: "plots" });
  for (const name of names) plots.append(plot(`${name}, layer by layer.`, () => ({
    traces: [{ mode: "lines+markers", x: of.map((t) => plain(t.name)), y: of.map((t) => t.scores[name]), line: { color: colour("accent") } }],
    height: 190, xaxis: { type: "category" }, yaxis: { rangemode: "tozero" } })));
  container.append(...leastFaithfulOfAll(of), plots);
}

function leastFaithfulOfAll(of) {
  const every = of.flatMap((t, n) => t.least_faithful.map((i) => [n, i, of_(n, "unbacked")[i]]));
  if (!every.length) return [];
  const table = element("table", { className: "plain partners" }), words = hasWords(every[0][0]);
  const heads = [["feature", "feature"], ["faithful", "faithfulness"], ["unbacked", "unbacked"], ["carried", "carried"], ["fires", "firing_rate"]];
  table.append(element("tr", {}, ...heads.map(([text, name]) => element("th", { text, title: SAYS[name] })), element("th", { text: words ? "raises" : "" })));
  for (const [n, i] of every.sort((a, b) => b[2] - a[2]).slice(0, 10)) {
    const cells = [faithful(n, i), ...["unbacked", "carried", "firing_rate"].map((name) => number(of_(n, name)[i]))];
    table.append(element("tr", {}, element("th", {}, featureLink(n, i, true)), ...cells.map((text) => element("td", { text })),
      element("td", { className: "tokens", text: hint(n, i) })));
  }
  return [element("h2", { text: "The least faithful features that matter most, of all layers" }), table];
}
