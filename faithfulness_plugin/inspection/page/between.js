// Between features: partners in the layers before and behind, interference, and features that fire together.
const NO_PLACE = 65535;
const percent = (share) => `${number(Number((100 * share).toPrecision(2)))} %`;

function between(n, i) {
  return [...partnersOf(n, i), ...togetherOf(n, i)];
}

// Another feature by its number, in a set with its transcoder, as a link to it on this page.
function featureLink(n, i, named) {
  return element("a", { href: `#${n}/${i}`, text: named ? `${data.meta.transcoders[n].name} \u00b7 ${i}` : String(i) });
}

// What a feature is about, in a few tokens or by its circuit.
function hint(n, i) {
  const t = data.meta.transcoders[n], circuit = t.circuits.length ? of_(n, "circuit")[i] : -1;
  return data.arrays[`${n}.raised`] ? wordsOf(n, "raised", i, 3) : circuit < 0 ? "" : t.circuits[circuit];
}

function partnersOf(n, i) {
  if (!data.arrays[`${n}.up.places`]) return [];
  const up = partnerTable(n, i, "up"), down = partnerTable(n, i, "down");
  if (!up && !down) return [element("h3", { text: "Partners in other layers" }), element("p", { className: "note",
    text: of_(n, "firing_rate")[i] ? "It has none on this page." : "A feature that does not fire has none." })];
  const parts = [element("h3", { text: "Partners in other layers" }), element("p", { className: "note",
    text: "Strength: the part of the downstream feature's mean activation that the upstream one adds at its own, at one token, past attention; " +
      "by skips: how much of it passes skip connections of the transcoders between." })];
  if (up) parts.push(element("h4", { text: "Upstream: what adds to it" }), up, ...sources(n, i));
  if (down) parts.push(element("h4", { text: "Downstream: what it adds to" }), down);
  return parts;
}

function partnerTable(n, i, side) {
  const places = row(of_(n, `${side}.places`), i), features = row(of_(n, `${side}.features`), i);
  const of = (name) => row(of_(n, `${side}.${name}`), i), [strength, direct, skipped] = ["strength", "direct", "skipped"].map(of);
  const skips = of("skip_share"), together = of("together");
  const table = element("table", { className: "plain partners" });
  const heads = [["feature", ""], ["strength", SAYS.strength], ["weight", SAYS.weight], ["by skips", SAYS.by_skips],
    ["fires with it", side === "up" ? SAYS.up_together : SAYS.down_together], [hasWords(n) ? "raises" : "", ""]];
  table.append(element("tr", {}, ...heads.map(([text, title]) => element("th", { text, title }))));
  let any = false;
  places.forEach((place, k) => {
    if (place === NO_PLACE) return;
    any = true;
    const numbers = [number(strength[k]), number(direct[k] + skipped[k]), skips[k] ? percent(skips[k] / 255) : "0", percent(together[k] / 255)];
    const cells = numbers.map((text, c) => element("td", { text, title: c === 2 ? `direct ${number(direct[k])}, by skips ${number(skipped[k])}` : "" }));
    table.append(element("tr", {}, element("th", {}, featureLink(place, features[k], true)), ...cells,
      element("td", { className: "tokens", text: hint(place, features[k]) })));
  });
  return any ? table : null;
}

const hasWords = (n) => Boolean(data.arrays[`${n}.raised`]);

// Where its pre-activation comes from.
function sources(n, i) {
  if (!data.arrays[`${n}.from.partners`]) return [];
  const [partners, others, interference] = ["partners", "others", "interference"].map((name) => row(of_(n, `from.${name}`), i)[0]);
  const text = Number.isNaN(partners) ? "It fires by its bias, or on none of the tokens that were looked at: there is no share of what it reads to tell."
    : `Of what it reads where it fires, ${percent(partners)} come from these partners and ${percent(others)} from other features of earlier layers ` +
      `at the same token; the rest from tokens, attention, skip connections, errors and biases. Interference: ${percent(interference)}.`;
  return [element("p", { className: "note", title: SAYS.interference, text })];
}

function togetherOf(n, i) {
  if (!data.arrays[`${n}.together`]) return [];
  const features = row(of_(n, "together"), i), phi = row(of_(n, "together.phi"), i), share = row(of_(n, "together.share"), i);
  if (features.every((j) => j < 0)) return [];
  const table = element("table", { className: "plain partners" }), words = hasWords(n);
  const heads = [["feature", ""], ["phi", SAYS.phi], ["fires with it", SAYS.share], ["by chance", SAYS.chance], [words ? "raises" : "", ""]];
  table.append(element("tr", {}, ...heads.map(([text, title]) => element("th", { text, title }))));
  features.forEach((j, k) => {
    if (j < 0) return;
    const cells = [number(Number((phi[k] / 255).toFixed(2))), percent(share[k] / 255), percent(of_(n, "together.rates")[j])];
    table.append(element("tr", {}, element("th", {}, featureLink(n, j, false)), ...cells.map((text) => element("td", { text })),
      element("td", { className: "tokens", text: hint(n, j) })));
  });
  return [element("h3", { text: "Features that fire with it" }), table];
}
