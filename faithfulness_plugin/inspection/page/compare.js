// Two transcoders of one layer: their features beside each other.
let compareStale = true;

function showCompare(container) {
  if (!compareStale) return;
  compareStale = false;
  forget(container);
  const [a, b] = data.meta.transcoders;
  container.append(element("h2", { text: `${a.name} and ${b.name}` }), element("p", { className: "note",
    text: "A feature's nearest is the other transcoder's feature whose directions are most like its own: the cosine of what " +
      "they read (0 where they read opposite directions) times that of what they write. It is a twin if it is the nearest the other way round as well, " +
      `with ${data.meta.twin} or more; a feature without a twin is one that the other does not have. 1: the same mechanism is in both.` }));
  const plots = element("div", { className: "plots" }), scores = [0, 1].map(liveScores);
  plots.append(plot("Features by the likeness of their nearest.", () => histogram(
    [a, b].map((t, n) => ({ name: t.name, values: twins(n) })), { start: -0.2, end: 1, size: 0.04 }, { title: "likeness" })));
  plots.append(plot("Datapoint scores of the hundred features with the largest, and those of their nearest.", () => ({
    traces: [a, b].map((t, n) => ({ mode: "markers", name: plain(t.name), x: scores[n].map(([s]) => s),
      y: scores[n].map(([, s]) => s), text: scores[n].map(([, , i]) => `feature ${i}`),
      hovertemplate: "%{text}: %{x:.3g}, nearest %{y:.3g}<extra></extra>",
      marker: { color: colour(SIDES[n]), symbol: n ? "diamond-open" : "circle", size: 7, opacity: 0.7 } })),
    xaxis: { title: { text: "score" } }, yaxis: { title: { text: "score of the nearest" } } })));
  container.append(plots, element("h2", { text: "Side by side: the feature that is chosen in the table, and its nearest" }));
  const sides = element("div", { className: "sides" });
  const pair = [chosen.feature, of_(chosen.transcoder, "twin")[chosen.feature]];
  [chosen.transcoder, 1 - chosen.transcoder].forEach((n, k) => {
    const side = element("article", { className: "side" });
    sides.append(side);
    showFeature(side, n, pair[k]);
  });
  container.append(sides);
}

const isTwin = (n, i) => {
  const nearest = of_(n, "twin")[i];
  return of_(1 - n, "twin")[nearest] === i && of_(n, "twin_cosine")[i] >= data.meta.twin;
};
const twins = (n) => Array.from(of_(n, "twin_cosine")).filter((_, i) => of_(n, "firing_rate")[i] > 0);

// The hundred largest are enough to see: the others are at the origin.
function liveScores(n) {
  const score = of_(n, "score"), twin = of_(n, "twin");
  return Array.from(score, (s, i) => [s, of_(1 - n, "score")[twin[i]], i]).sort((p, q) => q[0] - p[0]).slice(0, 100);
}
