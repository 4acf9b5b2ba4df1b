"use strict";
(() => {
  const data = JSON.parse(document.getElementById("board-data").textContent);
  const filters = document.getElementById("board-filters");
  const table = document.getElementById("board-table");
  const card = document.getElementById("board-card");
  const SVG = "http://www.w3.org/2000/svg";
  let sorted = { by: "rank", up: true };

  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const draw = (parent, name, attributes) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  };
  const picture = (width, height, label) => {
    const svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of Object.entries({ width, height, role: "img", "aria-label": label })) svg.setAttribute(key, value);
    draw(svg, "title", {}).textContent = label;
    return svg;
  };
  const within = (value) => Math.min(1, Math.max(0, value));
  const digits = (value) => value.toFixed(3);

  const said = (at) => {
    if (!at) return "not run";
    if (at.headline) return `${digits(at.headline[0])} [${digits(at.headline[1])}, ${digits(at.headline[2])}]`;
    return at.nearest ? `not reached: ${digits(at.nearest[1])} at L0 ${at.nearest[0].toFixed(2)}` : "no scores";
  };
  const small = (task, at) => {
    const svg = picture(74, 16, `${task.title}: ${said(at)}`);
    const x = (value) => 5 + 64 * within(value);
    draw(svg, "line", { class: "axis", x1: 5, x2: 69, y1: 8, y2: 8 });
    if (at && at.headline) {
      draw(svg, "line", { class: "ends", x1: x(at.headline[1]), x2: x(at.headline[2]), y1: 8, y2: 8 });
      draw(svg, "circle", { class: "dot", cx: x(at.headline[0]), cy: 8, r: 3.5 });
    } else if (at && at.nearest) {
      draw(svg, "circle", { class: "hollow", cx: x(at.nearest[1]), cy: 8, r: 3.5 });
    }
    return svg;
  };
  const sweep = (task, points) => {
    const svg = picture(150, 96, `${task.title}: headline over L0`);
    const most = Math.max(task.l0 * 1.5, ...points.map((point) => point[0]));
    const x = (l0) => 24 + (120 * l0) / most;
    const y = (headline) => 80 - 70 * within(headline);
    draw(svg, "line", { class: "axis", x1: 24, x2: 144, y1: 80, y2: 80 });
    draw(svg, "line", { class: "axis", x1: 24, x2: 24, y1: 10, y2: 80 });
    draw(svg, "line", { class: "axis", x1: x(task.l0), x2: x(task.l0), y1: 10, y2: 80, "stroke-dasharray": "3 3" });
    draw(svg, "polyline", { class: "line", points: points.map((point) => `${x(point[0])},${y(point[1])}`).join(" ") });
    for (const point of points) draw(svg, "circle", { class: "dot", cx: x(point[0]), cy: y(point[1]), r: 2.5 });
    for (const [value, place] of [["1", 14], ["0", 84]]) draw(svg, "text", { x: 12, y: place }).textContent = value;
    draw(svg, "text", { x: 144, y: 93, "text-anchor": "end" }).textContent = `L0 to ${most.toFixed(1)}`;
    return svg;
  };

  const value = (method, by) => {
    if (by === "name") return method.name;
    if (by === "rank") return method.rank;
    if (by === "reached") return -method.reached;
    const at = method.at[by];
    return at && at.headline ? -at.headline[0] : 2;
  };
  const chosen = () => {
    const wanted = new FormData(filters);
    const keep = (method) =>
      ["architecture", "term", "skip"].every((name) => !wanted.get(name) || String(method[name]) === wanted.get(name)) &&
      method.name.includes(wanted.get("search").trim());
    const order = (a, b) => (value(a, sorted.by) < value(b, sorted.by) ? -1 : value(a, sorted.by) > value(b, sorted.by) ? 1 : a.rank - b.rank);
    const methods = data.methods.filter(keep).sort(order);
    return sorted.up ? methods : methods.reverse();
  };

  const showHead = () => {
    const row = make("tr");
    const columns = [["name", "method"], ["rank", "mean rank"], ["reached", "reached"], ...data.tasks.map((task) => [task.name, task.title])];
    for (const [by, title] of columns) {
      const head = make("th", undefined, { scope: "col" });
      if (by === sorted.by) head.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
      const button = make("button", title, { type: "button" });
      button.addEventListener("click", () => {
        sorted = { by, up: by === sorted.by ? !sorted.up : true };
        show();
      });
      head.append(button);
      row.append(head);
    }
    table.tHead.replaceChildren(row);
  };
  const show = () => {
    const methods = chosen();
    const ranked = data.tasks.filter((task) => task.ranked).length;
    showHead();
    table.tBodies[0].replaceChildren(
      ...methods.map((method) => {
        const row = make("tr");
        const open = make("button", method.name, { type: "button" });
        open.addEventListener("click", () => (location.hash = `method=${encodeURIComponent(method.name)}`));
        row.append(make("td"), make("td", method.rank.toFixed(1), { class: "number" }), make("td", `${method.reached} of ${ranked}`, { class: "number" }));
        row.firstChild.append(open);
        for (const task of data.tasks) {
          const cell = make("td");
          cell.append(small(task, method.at[task.name]));
          row.append(cell);
        }
        return row;
      }),
    );
    document.getElementById("board-count").textContent = `${methods.length} of ${data.methods.length} methods`;
  };

  const showCard = () => {
    const name = decodeURIComponent((location.hash.match(/^#method=(.*)$/) || [])[1] || "");
    const method = data.methods.find((of) => of.name === name);
    card.hidden = !method;
    if (!method) return;
    const place = data.methods.indexOf(method) + 1;
    const scores = make("table");
    const head = make("tr");
    head.append(make("th", "at the layer's own L0"), ...Object.values(data.scores).map((title) => make("th", title)));
    scores.append(head);
    const sweeps = make("div", undefined, { class: "sweeps" });
    for (const task of data.tasks.filter((of) => method.at[of.name])) {
      const at = method.at[task.name];
      const row = make("tr");
      row.append(make("td", `${task.title} (L0 ${task.l0})`));
      for (const score of Object.keys(data.scores)) {
        const text = at[score] ? digits(at[score][0]) : score === "headline" ? said(at) : "—";
        row.append(make("td", text, at[score] ? { title: `[${digits(at[score][1])}, ${digits(at[score][2])}]` } : {}));
      }
      scores.append(row);
      const figure = make("figure");
      figure.append(sweep(task, method.sweep[task.name]), make("figcaption", task.title));
      sweeps.append(figure);
    }
    const wide = make("div", undefined, { class: "wide" });
    wide.append(scores);
    card.replaceChildren(
      make("h3", method.name),
      make("p", `Place ${place} of ${data.methods.length}, mean rank ${method.rank.toFixed(1)}. Below, the headline over L0 along the sweep of its strengths (means over seeds); the dashed line is the layer's own L0.`),
      wide,
      sweeps,
    );
    card.focus();
  };

  for (const name of ["architecture", "term"]) {
    const values = [...new Set(data.methods.map((method) => method[name]))].sort();
    filters.elements[name].append(make("option", "any", { value: "" }), ...values.map((text) => make("option", text, { value: text })));
  }
  filters.addEventListener("input", show);
  filters.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", showCard);
  show();
  showCard();
})();
