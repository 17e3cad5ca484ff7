// PNG files, with text, of one picture or of several in turn. By "Portable Network Graphics (PNG) Specification, third
// edition" (W3C, 2025): chunks are of section 5.3, text of 11.3.3, animation of 11.3.6. Runs in browsers, workers and Node.

const SIGNATURE = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
const UP = 2; // the filter that says by how much a byte is more than the one above it: rows that repeat become zeros

const CRCS = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit += 1) rest = rest & 1 ? 0xedb88320 ^ (rest >>> 1) : rest >>> 1;
  return rest;
});

/** The CRC of annex D. */
const crcOf = (bytes) => ~bytes.reduce((crc, byte) => CRCS[(crc ^ byte) & 255] ^ (crc >>> 8), -1) >>> 0;

function joined(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Whole numbers of 1, 2 or 4 bytes each, the most significant byte first: pairs of a size and a value. */
const numbers = (...pairs) =>
  Uint8Array.from(pairs.flatMap(([size, value]) => Array.from({ length: size }, (_, i) => (value >>> (8 * (size - 1 - i))) & 255)));

const latin = (text) => Uint8Array.from(text, (character) => character.charCodeAt(0));

function chunk(type, ...parts) {
  const body = joined(latin(type), ...parts);
  return joined(numbers([4, body.length - 4]), body, numbers([4, crcOf(body)]));
}

const textOf = ([key, value]) =>
  /^[\n\x20-\x7e\xa1-\xff]*$/.test(value)
    ? chunk("tEXt", latin(`${key}\0${value}`))
    : chunk("iTXt", latin(`${key}\0\0\0\0\0`), new TextEncoder().encode(value)); // not compressed, of no language

/** Rows of colours, each after its filter, as a zlib stream. */
async function packed(colours, stride) {
  const rows = new Uint8Array((colours.length / stride) * (stride + 1));
  for (let from = 0, to = 0; from < colours.length; from += stride) {
    rows[to++] = UP;
    for (let i = from; i < from + stride; i += 1) rows[to++] = colours[i] - (colours[i - stride] ?? 0);
  }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * A PNG.
 *
 * @param {{width: number, height: number, colours: Uint8Array | Uint8ClampedArray}[]} frames red, green and blue of each
 *   pixel, row by row; several frames, of one size, are shown in turn, for ever
 * @param {Record<string, string>} facts text to go with it, by keyword: 1 to 79 characters of Latin-1
 * @param {number} milliseconds that each of several frames is shown, up to 65535
 * @returns {Promise<Uint8Array>}
 */
export async function pngOf(frames, facts = {}, milliseconds = 100) {
  const [{ width, height }] = frames;
  const moves = frames.length > 1;
  const size = numbers([4, width], [4, height]);
  const parts = [SIGNATURE, chunk("IHDR", size, numbers([1, 8], [1, 2], [1, 0], [1, 0], [1, 0])), ...Object.entries(facts).map(textOf)];
  if (moves) parts.push(chunk("acTL", numbers([4, frames.length], [4, 0])));
  let count = 0; // of the chunks that have a number
  for (const [i, { colours }] of frames.entries()) {
    if (moves) parts.push(chunk("fcTL", numbers([4, count++]), size, numbers([4, 0], [4, 0], [2, milliseconds], [2, 1000], [1, 0], [1, 0])));
    const data = await packed(colours, 3 * width);
    parts.push(i === 0 ? chunk("IDAT", data) : chunk("fdAT", numbers([4, count++]), data));
  }
  return joined(...parts, chunk("IEND"));
}
