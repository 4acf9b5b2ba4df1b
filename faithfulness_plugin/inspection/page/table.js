// The table of features: only the rows on the screen are elements, so that ten thousand are quick.
const ROW_HEIGHT = 31;
let table = null;

function columns(n) {
  const t = data.meta.transcoders[n];
  // what is not known (faithfulness, from 0 to 1) is put behind what is, the least first
  const numeric = (title, name, says = name) => ({ title, name: says, data: (i) => of_(n, name)[i], className: "dt-right",
    render: (value, kind) => (kind === "display" ? number(value) : Number.isNaN(value) ? 2 : value), searchable: false });
  const text = (title, name, value) => ({ title, name, data: value, className: "text", render: DataTable.render.text() });
  const list = [
    { title: "feature", name: "feature", data: (i) => i, className: "dt-right" },
    numeric("unbacked", "unbacked"), numeric("faithful", "faithfulness"),
    numeric("datapoint", "score"), numeric("fires", "firing_rate"), numeric("carried", "carried"),
    numeric("of ‖J‖²", "jacobian_share"), numeric("masking", "masking")];
  if (t.circuits.length) list.push(text("circuit", "circuit", (i) => (of_(n, "circuit")[i] < 0 ? "" : t.circuits[of_(n, "circuit")[i]])),
    numeric("cosine", "circuit_cosine"));
  if (data.arrays[`${n}.raised`]) list.push(text("raises", "raised", (i) => wordsOf(n, "raised", i, 2)));
  if (data.meta.text) list.push(text("top token", "top", (i) => tokenAt(row(of_(n, "top_at"), i)[0])));
  if (data.arrays[`${n}.twin`]) list.push(numeric("nearest", "twin_cosine", "twin"));
  return list;
}

const textAt = (place) => data.meta.vocabulary[data.arrays.tokens[place]];

function beginsAt(place) { // of a token that only continues a character, the one that begins it
  const start = place - (place % data.arrays.tokens.shape[1]);
  while (place > start && textAt(place) === "") place -= 1;
  return place;
}

function tokenAt(place) {
  return place < 0 ? "" : textAt(beginsAt(place));
}

function showTable() {
  const holder = document.getElementById("table-holder");
  table?.destroy();
  const made = element("table", { className: "compact stripe" });
  holder.replaceChildren(made);
  const n = chosen.transcoder;
  table = new DataTable(made, {
    data: Array.from({ length: data.meta.transcoders[n].d_sae }, (_, i) => i), columns: columns(n),
    order: [[1, "desc"]], scrollY: matchMedia("(max-width: 96rem)").matches ? "40vh" : "62vh", scrollX: true, scroller: { rowHeight: ROW_HEIGHT }, deferRender: true,
    paging: true, autoWidth: false, layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: null },
    language: { emptyTable: "No feature.", zeroRecords: "No feature passes these filters.", info: "_TOTAL_ features",
      infoEmpty: "0 features", infoFiltered: "of _MAX_" },
    createdRow: (line, i) => { line.classList.toggle("chosen", i === chosen.feature); },
  });
  const titles = made.closest(".dt-container").querySelectorAll(".dt-scroll-head th");
  columns(n).forEach(({ name }, k) => { titles[k].title = SAYS[name] ?? ""; });
  table.on("click", "tbody tr", (event) => {
    const feature = table.row(event.currentTarget).data(); // none where no feature passes
    if (feature !== undefined) choose(feature);
  });
  filter();
  move(0);
}

function filter() {
  const value = (id) => document.getElementById(id).value, checked = (id) => document.getElementById(id).checked;
  const n = chosen.transcoder, rates = of_(n, "firing_rate"), scores = of_(n, "score");
  const least = Number(value("least-score")), from = Number(value("least-rate"));
  const to = value("most-rate") === "" ? Infinity : Number(value("most-rate"));
  const hideDead = checked("hide-dead"), flagged = checked("flagged-only");
  table.search.fixed("filters", (_, i) => scores[i] >= least && rates[i] >= from && rates[i] <= to &&
    (!hideDead || rates[i] > 0) && (!flagged || scores[i] >= data.meta.flagged));
  table.search(value("search")).draw();
  const shown = table.rows({ search: "applied", order: "applied" }).data();
  if (shown.length && !shown.toArray().includes(chosen.feature)) choose(shown[0]);
}

function choose(feature) {
  chosen.feature = feature;
  for (const line of document.querySelectorAll("#table-holder tbody tr")) {
    line.classList.toggle("chosen", table.row(line).data() === feature);
  }
  location.replace(`#${chosen.transcoder}/${feature}`);
  showFeature(document.getElementById("feature"), chosen.transcoder, feature);
  if (data.meta.transcoders.length > 1) compareStale = true;
}

function move(by) {
  const places = table.rows({ search: "applied", order: "applied" }).indexes().toArray();
  if (!places.length) return;
  const now = Math.max(0, places.findIndex((place) => table.row(place).data() === chosen.feature));
  const next = places[Math.max(0, Math.min(places.length - 1, now + by))];
  table.row(next).scrollTo(false);
  choose(table.row(next).data());
}
