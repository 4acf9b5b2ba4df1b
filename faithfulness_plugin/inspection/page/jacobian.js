// Whole Jacobians of small layers, from weights and gates.
const matrix = (array) => Array.from({ length: array.shape[0] }, (_, i) => row(array, i));

// J_t = sum of g_i W_dec^i (x) W_enc^i over active features, and the skip connection.
function jacobianAt(n, example) {
  const gates = row(of_(n, "example.activations"), example), { d_in, d_out } = data.meta.transcoders[n];
  const skip = data.arrays[`${n}.skip`];
  const J = Array.from({ length: d_out }, (_, o) => (skip ? Float64Array.from(row(skip, o)) : new Float64Array(d_in)));
  gates.forEach((g, i) => { if (g > 0) addPart(J, n, i); });
  return J;
}

function addPart(J, n, i) {
  const reads = row(of_(n, "reads"), i), writes = row(of_(n, "writes"), i);
  writes.forEach((w, o) => { if (w !== 0) reads.forEach((r, c) => { J[o][c] += w * r; }); });
}

function partOf(n, i) {
  const { d_in, d_out } = data.meta.transcoders[n];
  const J = Array.from({ length: d_out }, () => new Float64Array(d_in));
  addPart(J, n, i);
  return J;
}

function jacobianPlot(caption, J, most, { narrow = false } = {}) {
  const names = (letter, n) => Array.from({ length: n }, (_, i) => `${letter}${i + 1}`), labels = { showticklabels: !narrow };
  return plot(caption, () => ({
    traces: [{ ...heatmap(J, { x: names("x", J[0].length), y: names("y", J.length), most }), showscale: !narrow }],
    height: narrow ? 200 : 300, xaxis: labels, yaxis: { ...labels, autorange: "reversed" },
    margin: narrow ? { l: 4, r: 4, t: 4, b: 4 } : { l: 40, r: 12, t: 10, b: 30 } }));
}

function inputText(x) {
  const there = Array.from(x, (v, i) => [v, i]).filter(([v]) => Math.abs(v) > 1e-9);
  const shown = there.slice(0, 5).map(([v, i]) => `x${i + 1} = ${number(v)}`).join(", ");
  return (shown || "all zeros") + (there.length > 5 ? ", …" : "");
}
