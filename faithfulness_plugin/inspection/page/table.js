// The table of features: only the rows on the screen are elements, so that a hundred thousand are quick.
const ROW_HEIGHT = 31, SPARE = 8; // SPARE: rows above and below the screen
// order: the features that pass the filters, as they are sorted
const table = { columns: [], by: "unbacked", down: true, order: new Uint32Array(0), first: -1, texts: null };

// Columns: the name of their tooltip, whether they are text, the value of feature i.
function columns(n) {
  const t = data.meta.transcoders[n];
  const numeric = (title, name, says = name) => ({ title, name: says, value: (i) => of_(n, name)[i], shown: (i) => number(of_(n, name)[i]) });
  const text = (title, name, value) => ({ title, name, text: true, value, shown: value });
  const list = [
    { title: "feature", name: "feature", value: (i) => i, shown: (i) => String(i) },
    numeric("unbacked", "unbacked"), ...(data.arrays[`${n}.faithfulness`] ? [numeric("faithful", "faithfulness")] : []),
    numeric("datapoint", "score"), numeric("fires", "firing_rate"), numeric("carried", "carried"),
    numeric("of ‖J‖²", "jacobian_share"), numeric("masking", "masking")];
  if (t.circuits.length) list.push(text("circuit", "circuit", (i) => (of_(n, "circuit")[i] < 0 ? "" : t.circuits[of_(n, "circuit")[i]])),
    numeric("cosine", "circuit_cosine"));
  if (data.arrays[`${n}.raised`]) list.push(text("raises", "raised", (i) => wordsOf(n, "raised", i, 2)));
  if (data.meta.text) list.push(text("top token", "top", (i) => shownWord(tokenAt(firstAt(n, i)))));
  if (data.arrays[`${n}.twin`]) list.push(numeric("nearest", "twin_cosine", "twin"));
  return list;
}

const textAt = (place) => data.meta.vocabulary[data.arrays.tokens[place]];

function beginsAt(place) { // of a token that only continues a character, the one that begins it
  const start = place - (place % data.arrays.tokens.shape[1]);
  while (place > start && textAt(place) === "") place -= 1;
  return place;
}

const firstAt = (n, i) => row(of_(n, "first.top_at") ?? of_(n, "top_at"), i)[0];

function tokenAt(place) {
  return place < 0 ? undefined : textAt(beginsAt(place));
}

function showTable() {
  const holder = document.getElementById("table-holder");
  Object.assign(table, { columns: columns(chosen.transcoder), by: "unbacked", down: true, texts: null });
  const heads = table.columns.map((column) => {
    const button = element("button", { type: "button", text: column.title });
    button.onclick = () => sortBy(column.name);
    return element("th", { scope: "col", title: SAYS[column.name] ?? "", className: column.text ? "text" : "" }, button);
  });
  const scroll = element("div", { className: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...heads)), element("tbody")));
  scroll.onscroll = () => requestAnimationFrame(() => drawRows());
  scroll.onclick = (event) => {
    const line = event.target.closest("tbody tr[data-feature]");
    if (line) choose(Number(line.dataset.feature));
  };
  holder.replaceChildren(scroll, element("p", { className: "info" }));
  filter();
  move(0);
}

function sortBy(name) {
  Object.assign(table, { down: table.by === name && !table.down, by: name });
  document.querySelector("#table-holder .scroll").scrollTop = 0;
  filter();
}

// What is not known is last, either way; equal ones are in the order of their numbers.
function sorted(features) {
  const { text, value } = table.columns.find((column) => column.name === table.by), sign = table.down ? -1 : 1;
  if (text) {
    const texts = new Map(Array.from(features, (i) => [i, value(i)])), { compare } = new Intl.Collator("en");
    return features.sort((a, b) => sign * compare(texts.get(a), texts.get(b)) || a - b);
  }
  const keys = Float64Array.from({ length: data.meta.transcoders[chosen.transcoder].d_sae }, (_, i) => sign * value(i));
  keys.forEach((key, i) => { if (Number.isNaN(key)) keys[i] = Infinity; });
  return features.sort((a, b) => (keys[a] === keys[b] ? a - b : keys[a] - keys[b]));
}

// Each word has to stand in the number or in a text of the row.
function searching(words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return () => true;
  const texts = table.columns.filter((column) => column.text);
  table.texts ??= Array.from({ length: data.meta.transcoders[chosen.transcoder].d_sae },
    (_, i) => texts.map(({ value }) => value(i)).join("\n").toLowerCase());
  return (i) => wanted.every((word) => String(i) === word || table.texts[i].includes(word));
}

function filter() {
  const value = (id) => document.getElementById(id).value, checked = (id) => document.getElementById(id).checked;
  const n = chosen.transcoder, rates = of_(n, "firing_rate"), scores = of_(n, "score");
  const least = Number(value("least-score")), from = Number(value("least-rate"));
  const to = value("most-rate") === "" ? Infinity : Number(value("most-rate"));
  const hideDead = checked("hide-dead"), flagged = checked("flagged-only"), found = searching(value("search"));
  const passes = (i) => scores[i] >= least && rates[i] >= from && rates[i] <= to &&
    (!hideDead || rates[i] > 0) && (!flagged || scores[i] >= data.meta.flagged) && found(i);
  const all = Uint32Array.from({ length: rates.length }, (_, i) => i);
  table.order = sorted(all.filter(passes));
  table.first = -1;
  const left = rates.length === table.order.length ? "" : ` of ${number(rates.length)}`;
  document.querySelector("#table-holder .info").textContent = `${number(table.order.length)} features${left}`;
  drawRows();
  if (table.order.length && !table.order.includes(chosen.feature)) choose(table.order[0]);
}

// The lines of the features on the screen, and room for those above and below.
function drawRows() {
  const scroll = document.querySelector("#table-holder .scroll"), { order } = table;
  if (!scroll) return;
  const most = Math.ceil(scroll.clientHeight / ROW_HEIGHT) + 2 * SPARE;
  const first = Math.max(0, Math.min(order.length - most, Math.floor(scroll.scrollTop / ROW_HEIGHT) - SPARE));
  if (first === table.first) return;
  table.first = first;
  const shown = order.subarray(first, first + most);
  const room = (rows) => element("tr", { className: "room", style: `height: ${rows * ROW_HEIGHT}px` });
  const lines = Array.from(shown, (i) => {
    const line = element("tr", { className: i === chosen.feature ? "chosen" : "" },
      ...table.columns.map((column) => element("td", { className: column.text ? "text" : "", text: column.shown(i) })));
    line.dataset.feature = i;
    return line;
  });
  if (!lines.length) lines.push(element("tr", {}, element("td", { colSpan: table.columns.length, text: "No feature passes these filters." })));
  const below = order.length - first - shown.length;
  scroll.querySelector("tbody").replaceChildren(...(first ? [room(first)] : []), ...lines, ...(below > 0 ? [room(below)] : []));
  scroll.querySelectorAll("th").forEach((head, k) => {
    head.ariaSort = table.columns[k].name === table.by ? (table.down ? "descending" : "ascending") : "none";
  });
}

function choose(feature) {
  chosen.feature = feature;
  for (const line of document.querySelectorAll("#table-holder tr[data-feature]")) {
    line.classList.toggle("chosen", Number(line.dataset.feature) === feature);
  }
  if (!framed) location.replace(`#${chosen.transcoder}/${feature}`);
  showFeature(document.getElementById("feature"), chosen.transcoder, feature);
  if (data.meta.transcoders.length > 1) compareStale = true;
}

function move(by) {
  if (!table.order.length) return;
  const scroll = document.querySelector("#table-holder .scroll"), now = Math.max(0, table.order.indexOf(chosen.feature));
  const next = Math.max(0, Math.min(table.order.length - 1, now + by)), top = next * ROW_HEIGHT;
  const room = scroll.clientHeight - scroll.querySelector("thead").offsetHeight - ROW_HEIGHT;
  if (top < scroll.scrollTop || top > scroll.scrollTop + room) scroll.scrollTop = top - room / 2;
  drawRows();
  choose(table.order[next]);
}

addEventListener("resize", () => { table.first = -1; drawRows(); });
