// Puts the page together.
const SIDES = ["accent", "warm"];
const data = await unpacked(document.getElementById("payload").textContent);
const of_ = (n, name) => data.arrays[`${n}.${name}`];
const script = async (id) => {
  const text = await inflated(document.getElementById(id).textContent).text();
  return URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
};
const { default: DataTable } = await import(await script("table-library"));
// the larger library is for plots alone: the page answers before it is there
const plotting = new Promise((ready) => {
  setTimeout(async () => document.head.append(element("script", { src: await script("plots-library"), onload: ready })));
});
const best = (n) => of_(n, "unbacked").reduce((first, s, i, scores) => (s > scores[first] ? i : first), 0);
const chosen = { transcoder: 0, feature: best(0) };

// page.html#0/35: feature 35 of the first transcoder
function chooseByAddress() {
  const [, n, i] = location.hash.match(/^#(\d+)\/(\d+)$/) ?? [];
  if (i === undefined || Number(i) >= (data.meta.transcoders[Number(n)]?.d_sae ?? 0)) return false;
  Object.assign(chosen, { transcoder: Number(n), feature: Number(i) });
  document.getElementById("which").value = n;
  if (of_(chosen.transcoder, "firing_rate")[chosen.feature] === 0) document.getElementById("hide-dead").checked = false;
  return true;
}

function dark(on) {
  document.documentElement.classList.toggle("dark", on);
  drawAgain();
}
const preferred = matchMedia("(prefers-color-scheme: dark)");
dark(preferred.matches);
preferred.addEventListener("change", (event) => dark(event.matches));
document.getElementById("theme").onclick = () => dark(!document.documentElement.classList.contains("dark"));

const tabs = [...document.querySelectorAll("[role=tab]")];
function open_(tab) {
  for (const each of tabs) {
    const here = each === tab;
    each.setAttribute("aria-selected", here);
    each.tabIndex = here ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = !here;
  }
  dispatchEvent(new Event("resize")); // plots that were hidden when the window changed
  if (tab.id === "tab-features") { if (table) table.columns.adjust(); else showTable(); }
  if (tab.id === "tab-compare") showCompare(document.getElementById("compare"));
}
for (const tab of tabs) {
  tab.onclick = () => open_(tab);
  tab.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const there = tabs.filter((t) => !t.hidden);
    const next = there[(there.indexOf(tab) + step + there.length) % there.length];
    next.focus();
    open_(next);
  };
}

const two = data.meta.transcoders.length > 1;
document.getElementById("tab-compare").hidden = !two || data.meta.set;
document.getElementById("which-label").hidden = !two;
const which = document.getElementById("which");
data.meta.transcoders.forEach((t, n) => which.append(element("option", { value: n, text: t.name })));
which.onchange = () => {
  const n = Number(which.value);
  Object.assign(chosen, { transcoder: n, feature: best(n) });
  showTable();
};
const shape = data.meta.set ? `${data.meta.transcoders.length} layers, ${number(data.meta.transcoders.reduce((n, t) => n + t.d_sae, 0))} features`
  : data.meta.transcoders.map((t) => `${t.architecture}, ${number(t.d_sae)} features`).join("; ");
document.getElementById("about").textContent = `${data.meta.layer}: ${shape}; ${number(data.meta.rows)} rows`;

document.getElementById("filters").addEventListener("input", (event) => { if (event.target !== which) filter(); });
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("table-holder").addEventListener("keydown", (event) => {
  if (event.target.closest("th")) return; // headers sort by Enter and space
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity }[event.key];
  if (by !== undefined) { event.preventDefault(); move(by); }
  if (event.key === "Enter") document.getElementById("feature").focus();
});
document.addEventListener("keydown", (event) => {
  const typing = /INPUT|SELECT/.test(event.target.tagName);
  if (event.key === "/" && !typing) { event.preventDefault(); open_(document.getElementById("tab-features")); document.getElementById("search").focus(); }
  if (event.key === "Escape") document.getElementById("table-holder").focus();
});

showOverview(document.getElementById("overview"));
if (chooseByAddress()) open_(document.getElementById("tab-features"));
// a link to a feature: filters that it does not pass are cleared
function follow() {
  const shown = !document.getElementById("features").hidden && location.hash === `#${chosen.transcoder}/${chosen.feature}`;
  if (shown || !chooseByAddress()) return;
  const { feature } = chosen;
  open_(document.getElementById("tab-features"));
  showTable();
  if (!table.rows({ search: "applied" }).data().toArray().includes(feature)) {
    for (const id of ["search", "least-score", "least-rate", "most-rate"]) document.getElementById(id).value = "";
    document.getElementById("flagged-only").checked = false;
    chosen.feature = feature;
    showTable();
  }
  document.getElementById("feature").scrollIntoView({ block: "start" });
}
addEventListener("hashchange", follow);
// a link to the address that is there already changes none
document.addEventListener("click", (event) => { if (event.target.closest('a[href^="#"]')?.hash === location.hash) follow(); });
document.documentElement.dataset.ready = "yes";
