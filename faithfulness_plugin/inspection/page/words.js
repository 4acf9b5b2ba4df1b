// A feature in the model's words: tokens that it raises, lowers and reads, tokens and positions at which it fires.
const word = (place) => data.meta.words[place]; // undefined where there is none

function tokenList(n, name, i) {
  const line = element("p", { className: "tokens" }), values = exact(of_(n, `${name}.values`), of_(n, `${name}.scale`), i);
  Array.from(row(of_(n, name), i)).forEach((place, k) => line.append(
    element("span", { text: shownWord(word(place)), title: number(values[k]) }), " "));
  return line;
}

// Line ends and tabs as signs, and spaces as well where there is nothing else to see.
const shownWord = (text) => {
  if (text === undefined) return "";
  const signs = text.replaceAll("\n", "\u21b5").replaceAll("\r", "\u240d").replaceAll("\t", "\u21e5");
  return signs === "" ? "\u2205" : signs.trim() === "" ? signs.replaceAll(/\s/g, "\u2423") : signs;
};
const wordsOf = (n, name, i, most) => Array.from(row(of_(n, `first.${name}`) ?? of_(n, name), i)).slice(0, most).map((place) => shownWord(word(place)).trim()).join("  ");

function words(n, i) {
  const parts = [["raised", "Raises"], ["lowered", "Lowers"], ["read", "Reads"]].filter(([name]) => data.arrays[`${n}.${name}`]);
  if (!parts.length) return [];
  const said = [];
  if (data.arrays[`${n}.raised`]) said.push("Raises and lowers: the logits that an activation of 1 adds by the direct path, " +
    "W_dec through the final norm's weight and the unembedding, less the mean over the vocabulary, for a last residual row of size 1.");
  if (data.arrays[`${n}.read`]) said.push("Reads: what the token's embedding alone would add to its pre-activation, through the " +
    "norm before the layer, less the mean over the vocabulary.");
  const table = element("table", { className: "words" });
  for (const [name, title] of parts) table.append(element("tr", {}, element("th", { text: title }), element("td", {}, tokenList(n, name, i))));
  return [element("h3", { text: "In the model's words" }), table, element("p", { className: "note", text: said.join(" ") })];
}

function firesOn(n, i) {
  if (!data.arrays[`${n}.fires`]) return [];
  const line = element("p", { className: "tokens" }), counts = row(of_(n, "fires.counts"), i), rates = row(of_(n, "fires.rates"), i);
  Array.from(row(of_(n, "fires"), i)).forEach((place, k) => {
    if (!counts[k]) return;
    line.append(element("span", { text: shownWord(word(place)) }),
      element("small", { text: ` ${number(100 * rates[k])} % of ${number(Math.round(counts[k] / rates[k]))} ` }));
  });
  const first = of_(n, "positions.first"), rate = exact(of_(n, "positions"), of_(n, "positions.scale"), i);
  const length = data.arrays.tokens.shape[1];
  const names = Array.from(first, (p, b) => `${p}\u2013${(first[b + 1] ?? length) - 1}`);
  return [element("h3", { text: "Tokens on which it fires most often" }), line,
    plot("Firing rate by position in the prompt.", () => ({ traces: [bars(rate, names, {})], height: 160,
      xaxis: { title: { text: "position" }, type: "category" }, yaxis: { title: { text: "rate" }, rangemode: "tozero" } }))];
}
