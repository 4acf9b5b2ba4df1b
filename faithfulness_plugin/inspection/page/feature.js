// One feature: numbers, weights, activations, where it is most active, its part of the Jacobian there.
const FACTS = { unbacked: "unbacked", moves: "of the layer's ‖J‖² there", carries: "of the output there", score: "datapoint score", concentration: "concentration", alone: "writes alone", firing_rate: "firing rate",
  mean_activation: "mean activation", max_activation: "largest activation", written: "written", carried: "carried",
  jacobian_share: "share of ‖J‖²", masking: "masking ratio" };

function showFeature(container, n, i) {
  forget(container);
  const t = data.meta.transcoders[n], flagged = of_(n, "score")[i] >= data.meta.flagged;
  const title = element("h2", { text: `Feature ${i}` });
  if (data.meta.transcoders.length > 1) title.append(` of ${t.name}`);
  if (flagged) title.append(" ", element("span", { className: "flag", text: "⚑ looks like a datapoint feature" }));
  container.append(title);
  if (t.neuronpedia) container.append(element("p", {}, element("a", {
    href: `${t.neuronpedia}/${i}`, target: "_blank", rel: "noreferrer noopener", text: "on Neuronpedia" })));
  const facts = element("dl");
  const fact = (name, value, says = "") => facts.append(element("div", { title: says }, element("dt", { text: name }), element("dd", { text: value })));
  if (data.arrays[`${n}.faithfulness`]) fact("faithful", faithful(n, i), SAYS.faithfulness);
  for (const [name, label] of Object.entries(FACTS)) {
    const array = of_(n, name);
    if (array && (!array.places || array.places.has(i))) fact(label, number(row(array, i)[0]), SAYS[name]);
  }
  if (t.circuits.length && of_(n, "circuit")[i] >= 0)
    fact(`nearest: ${t.circuits[of_(n, "circuit")[i]]}`, number(of_(n, "circuit_cosine")[i]));
  if (data.arrays[`${n}.twin`])
    fact(`${isTwin(n, i) ? "twin" : "no twin; nearest"}: ${of_(n, "twin")[i]}`, number(of_(n, "twin_cosine")[i]), SAYS.twin);
  if (!inDetail(n, i)) {
    container.append(facts, ...inShort(n, i));
    return;
  }
  container.append(facts, ...words(n, i));
  if (of_(n, "firing_rate")[i] === 0) {
    container.append(element("p", { className: "note", text: "It does not fire on this sample." }), ...between(n, i), ...intervened(n, i));
  } else {
    container.append(element("h3", { text: data.meta.text ? "Where it is most active" : "Rows where it is most active" }));
    container.append(examples(n, i, "top", 0));
    container.append(...bands(n, i), ...atRandom(n, i), ...aloneFrom(n, i), ...firesOn(n, i));
    container.append(...between(n, i), ...intervened(n, i));
    container.append(plot("Activations where it fires.", () => {
      const counts = row(of_(n, "histogram"), i), most = of_(n, "max_activation")[i];
      return { traces: [bars(counts, Array.from(counts, (_, b) => ((b + 0.5) * most) / counts.length), {})], height: 190,
        xaxis: { title: { text: "activation" }, rangemode: "tozero" }, yaxis: { title: { text: "rows" }, rangemode: "tozero" } };
    }));
    container.append(jacobianPart(n, i));
  }
  container.append(weightsPlot(n, i, "reads", "What it reads: W_enc", "x"), weightsPlot(n, i, "writes", "What it writes: W_dec", "y"));
}

const inDetail = (n, i) => !of_(n, "detailed") || of_(n, "top_rows").places.has(i);

// What a large page has of a feature that it does not show in detail.
function inShort(n, i) {
  const parts = [], place = data.meta.text ? firstAt(n, i) : -1, count = number(of_(n, "detailed").length);
  if (hasWords(n)) parts.push(element("h3", { text: "Raises" }), element("p", { className: "tokens" },
    ...Array.from(row(of_(n, "first.raised"), i)).flatMap((at) => [element("span", { text: shownWord(word(at)) }), " "])));
  if (place >= 0) parts.push(element("h3", { text: "Where it is most active" }), context(n, i, place, -1, of_(n, "max_activation")[i], 1, false));
  if (!of_(n, "firing_rate")[i]) parts.push(element("p", { className: "note", text: "It does not fire on this sample." }));
  return [...parts, element("p", { className: "note", text: `More examples, weights and partners are here of the ${count} features that this ` +
    "table begins with, so that the page stays small: faithfulness inspect with --blocks for fewer layers, or with a larger --details, shows those of others." })];
}

function weightsPlot(n, i, side, caption, letter) {
  const whole = data.arrays[`${n}.${side}`];
  const order = (coordinates) => coordinates.map((c) => `${letter}${c + 1}`);
  const values = whole ? row(whole, i) : exact(of_(n, `${side}.largest`), of_(n, `${side}.scale`), i);
  const names = whole ? order(Array.from(values.keys())) : order(Array.from(row(of_(n, `${side}.coordinates`), i)));
  const width = data.meta.transcoders[n][side === "reads" ? "d_in" : "d_out"];
  const said = whole ? `${caption}.` : `${caption}, the ${names.length} largest of ${width} coordinates.`;
  return plot(said, () => ({ traces: [bars(values, names, { fill: side === "reads" ? "accent" : "third" })], height: 180,
    xaxis: { type: "category" }, margin: { l: 46, r: 12, t: 10, b: 40 } }));
}

// Rows of a part ("top", "bands", "alone", "random"), from the k-th on; windows hold all of them one after the other.
function examples(n, i, part, from, count) {
  const name = part === "top" ? { at: "top_at", rows: "top_rows", values: "top_activations" }
    : { at: `${part}.at`, rows: `${part}.rows`, values: `${part}.activations` };
  const flat = (array) => Array.from(row(of_(n, array), i)).slice(from, count === undefined ? undefined : from + count);
  const parts = ["top_rows", "bands.rows", "alone.rows", "random.rows"]; // in the order of the windows
  const before = parts.slice(0, parts.indexOf(name.rows)).reduce((sum, each) => sum + width(n, each), 0) + from;
  const copies = part === "top" ? flat("top_copies") : [];
  return data.meta.text ? contexts(n, i, flat(name.at), flat(name.values), before, copies) : topRows(n, flat(name.rows), flat(name.values), copies);
}

const width = (n, name) => of_(n, name).shape.slice(1).reduce((a, b) => a * b, 1);

function bands(n, i) {
  const [low, middle, high] = row(of_(n, "bands.quartiles"), i), each = of_(n, "bands.rows").shape[2];
  const said = [`from ${number(middle)} to ${number(high)}, above the median`, `from ${number(low)} to ${number(middle)}, below it`,
    `up to ${number(low)}, the lowest quarter`];
  const any = said.map((_, b) => row(of_(n, "bands.rows"), i, b).some((r) => r >= 0));
  if (!any.some(Boolean)) return [];
  return [element("h3", { text: "And where it is less active" }), ...said.flatMap((text, b) => (any[b]
    ? [element("p", { className: "note", text: `Activations ${text}:` }), examples(n, i, "bands", b * each, each)] : []))];
}

function atRandom(n, i) {
  if (of_(n, "firing_rate")[i] * data.meta.rows <= width(n, "top_rows")) return []; // all of them are there already
  return [element("h3", { text: "At random, of all its firings" }), examples(n, i, "random", 0)];
}

function aloneFrom(n, i) {
  const near = of_(n, "near")[i];
  if (!near) return [];
  const of = near === 1 ? "its near-duplicate does" : `its ${near} near-duplicates do`;
  if (!row(of_(n, "alone.rows"), i).some((r) => r >= 0)) return [element("p", { className: "note", text: `It never fires where ${of} not.` })];
  return [element("h3", { text: `Where it fires and ${of} not` }), examples(n, i, "alone", 0)];
}

const faithful = (n, i) => {
  const [value, low, high] = ["faithfulness", "low", "high"].map((name) => of_(n, name)[i]);
  return Number.isNaN(value) || Number.isNaN(low) ? number(value) : `${number(value)} (${number(low)} to ${number(high)})`;
};

function contexts(n, i, at, values, from, copies) {
  const holder = element("div");
  at.forEach((place, k) => { if (place >= 0) holder.append(context(n, i, place, from + k, values[k], copies[k] ?? 1, false)); });
  return holder;
}

function context(n, i, place, k, activation, copies, whole) {
  const line = element("p", { className: "context" }), window = k < 0 ? [] : row(of_(n, "windows"), i, k), n_pos = data.arrays.tokens.shape[1];
  const prompt = Math.floor(place / n_pos), position = place % n_pos, most = of_(n, "max_activation")[i];
  const end = whole ? n_pos - 1 : Math.min(n_pos - 1, position + data.meta.after);
  const first = prompt * n_pos + (whole ? 0 : Math.max(0, position - data.meta.before));
  for (let p = beginsAt(first) - prompt * n_pos; p <= end;) { // a character of several tokens is one span
    const text = textAt(prompt * n_pos + p), lit = [], begun = p;
    do lit.push(window[p - position + data.meta.before] ?? 0); while (++p <= end && textAt(prompt * n_pos + p) === "");
    const token = element("span", { text }), value = Math.max(...lit);
    if (value) {
      token.style.background = `rgba(var(--lit), ${0.12 + (0.6 * value) / 255})`;
      token.title = lit.map((v) => number((v / 255) * most)).join(", ") + (lit.length > 1 ? ": tokens of one character" : "");
    }
    if (begun <= position && position < p) token.className = "most";
    line.append(token);
  }
  const more = element("button", { type: "button", className: "more", text: `prompt ${prompt}, token ${position}`,
    title: whole ? "Show less" : "Show the whole prompt; activations are known near this token alone" });
  more.onclick = () => line.replaceWith(context(n, i, place, k, activation, copies, !whole));
  line.append(" ", element("small", { text: number(activation) + (copies > 1 ? ` (×${copies})` : "") }), " ", more, documentOf(place));
  return line;
}

// The document that a token is from, and its position there; nothing where prompts are of no documents.
function documentOf(place) {
  const begins = data.arrays["documents.begins"];
  if (!begins) return "";
  let first = 0, last = begins.length - 1; // the run with the token, by halves
  while (first < last) {
    const middle = Math.ceil((first + last) / 2);
    if (begins[middle] <= place) first = middle; else last = middle - 1;
  }
  const document_ = data.arrays["documents.documents"][first], position = data.arrays["documents.positions"][first] + place - begins[first];
  if (document_ < 0) return "";
  const name = data.meta.documents[document_];
  return element("small", { className: "document", title: `document ${document_} of the text, in the order in which it was read`,
    text: ` of ${name || `document ${document_}`}, token ${position}` });
}

function topRows(n, rows, values, copies) {
  const shown = data.arrays[`${n}.shown.rows`];
  const table = element("table", { className: "plain" });
  table.append(element("tr", {}, ...["row", "activation", "alike", "x", "f(x)"].map((h) => element("th", { text: h }))));
  rows.forEach((r, k) => {
    if (r < 0) return;
    const place = shown ? shown.indexOf(r) : -1;
    const text = (name) => (place < 0 ? "–" : inputText(row(of_(n, name), place)));
    const cells = [r, number(values[k]), copies[k] === undefined ? "" : `×${copies[k]}`, text("shown.x"), text("shown.y").replaceAll("x", "y")];
    table.append(element("tr", {}, ...cells.map((c) => element("td", { text: c }))));
  });
  return table;
}

function jacobianPart(n, i) {
  const part = element("section", {}, element("h3", { text: "Its part of the Jacobian" }));
  const choice = element("select", { ariaLabel: "Row of the Jacobian" }), holder = element("div");
  const small = data.arrays[`${n}.example.x`], top = row(of_(n, "top_rows"), i);
  const option = (value, text) => choice.append(element("option", { value, text }));
  top.slice(0, of_(n, "along.gain").shape[1]).forEach((r, k) => { if (r >= 0) option(`top ${k}`, `where it is most active (${k + 1})`); });
  if (small) of_(n, "example.rows").forEach((r, e) => option(`example ${e}`, `whole, row ${r}: ${inputText(row(small, e))}`));
  choice.onchange = () => {
    forget(holder);
    const [kind, number_] = choice.value.split(" ");
    holder.append(...(kind === "top" ? alongReading(n, i, Number(number_)) : wholeParts(n, i, Number(number_))));
  };
  choice.onchange();
  part.append(choice, holder);
  return part;
}

function alongReading(n, i, k) {
  const [layer, transcoder, own] = row(of_(n, "along.gain"), i, k);
  const names = Array.from(row(of_(n, "along.coordinates") ?? of_(n, "writes.coordinates"), i), (c) => `y${c + 1}`);
  const text = `Along the direction that it reads, the output moves along what it writes by ${number(layer)} in the layer, ` +
    `${number(transcoder)} in the transcoder, of which ${number(own)} is its own part.`;
  return [element("p", { className: "note", text }),
    plot("J v with v the unit direction that it reads, on the coordinates that it writes most to.", () => ({
      traces: [bars(exact(of_(n, "along.layer"), of_(n, "along.layer.scale"), i, k), names, { title: "layer", fill: "faint" }),
        bars(exact(of_(n, "along.transcoder"), of_(n, "along.transcoder.scale"), i, k), names, { title: "transcoder", fill: "accent" }),
        bars(exact(of_(n, "along.own"), of_(n, "along.own.scale"), i), names, { title: "this feature", fill: "warm" })],
      barmode: "group", xaxis: { type: "category" } }))];
}

function wholeParts(n, i, e) {
  const active = row(of_(n, "example.activations"), e)[i] > 0;
  const each = [["layer", matrix(row(of_(n, "example.layer"), e))], ["transcoder", jacobianAt(n, e)]];
  if (active) each.push(["this feature's part", partOf(n, i)]);
  const most = largestOf(each.map(([, J]) => J));
  const plots = element("div", { className: "plots" });
  for (const [name, J] of each) plots.append(jacobianPlot(name, J, most, { narrow: true }));
  return active ? [plots] : [element("p", { className: "note", text: "It is not active there: it has no part." }), plots];
}
