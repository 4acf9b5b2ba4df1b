// Base64 of gzip, as a response that gives text or bytes.
function inflated(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < characters.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

// The payload: base64 of gzip of header length, header, arrays (packing.py).
async function unpacked(text) {
  const buffer = await inflated(text).arrayBuffer();
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, { kind, shape, at }] of Object.entries(header.arrays)) {
    const size = shape.reduce((a, b) => a * b, 1);
    arrays[name] = Object.assign(new globalThis[kind](buffer, 8 + length + at, size), { shape });
  }
  for (const [n] of header.meta.transcoders.entries()) { // of a large page some arrays hold some features alone
    const features = arrays[`${n}.detailed`], places = features && new Map(Array.from(features, (i, k) => [i, k]));
    if (features) for (const name of header.meta.detailed) if (arrays[`${n}.${name}`]) arrays[`${n}.${name}`].places = places;
  }
  return { meta: header.meta, arrays };
}

// Row i of an array of any number of dimensions, as a view.
function row(array, ...index) {
  if (array.places) index[0] = array.places.get(index[0]);
  const rest = array.shape.slice(index.length);
  const size = rest.reduce((a, b) => a * b, 1);
  const at = index.reduce((total, i, n) => total * array.shape[n] + i, 0) * size;
  return Object.assign(array.subarray(at, at + size), { shape: rest });
}

// Back from int8 parts of the largest.
function exact(array, scales, ...index) {
  const scale = row(scales, ...index)[0];
  return Array.from(row(array, ...index), (part) => (part / 127) * scale);
}
