// Latents and labels by the contract of docs/contracts.md: image i of a seed is the same image in every language.
// No dependencies; runs in browsers, workers and Node. Numbers are float64, so normals are within 1e-6 of the contract's.

const KEY_PARITY = 0x1bd11bda;
const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];
const LABEL_COUNTER = 65536;

/** The largest number, by amount, in a latent. Draws from N(0, 1) never pass 9; far beyond, images become NaN inside. */
export const LARGEST_LATENT = 100;

/**
 * Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, SC 2011).
 *
 * @param {[number, number]} key two 32-bit words, the low one first
 * @param {number} c0 first counter word
 * @param {number} c1 second counter word
 * @returns {[number, number]} two random words, 0 to 2^32 - 1
 */
export function threefry2x32([k0, k1], c0, c1) {
  const keys = [k0, k1, KEY_PARITY ^ k0 ^ k1];
  let x0 = (c0 + k0) | 0;
  let x1 = (c1 + k1) | 0;
  for (let round = 0; round < 20; round += 1) {
    const distance = ROTATIONS[round % 8];
    x0 = (x0 + x1) | 0;
    x1 = ((x1 << distance) | (x1 >>> (32 - distance))) ^ x0;
    if (round % 4 === 3) {
      const step = (round + 1) / 4;
      x0 = (x0 + keys[step % 3]) | 0;
      x1 = (x1 + keys[(step + 1) % 3] + step) | 0;
    }
  }
  return [x0 >>> 0, x1 >>> 0];
}

/**
 * A seed as the generator's key.
 *
 * @param {bigint | number | string} seed 0 to 2^63 - 1; above 2^53 give a BigInt or a string, a number has lost digits
 * @returns {[number, number]}
 */
export function keyOf(seed) {
  if (!/^\d+$/.test(seed) || BigInt(seed) >> 63n) throw new RangeError(`a seed is a whole number from 0 to 2^63 - 1, found ${seed}`);
  const whole = BigInt(seed);
  return [Number(whole & 0xffffffffn), Number(whole >> 32n)];
}

/**
 * Latents `start` to `start + count - 1` of a seed.
 *
 * @param {bigint | number | string} seed 0 to 2^63 - 1
 * @param {number} start index of the first, start + count at most 2^32
 * @param {number} count
 * @param {number} latentDim length of a latent, see the model's spec
 * @returns {Float32Array} count * latentDim standard normals, row by row
 */
export function latents(seed, start, count, latentDim) {
  const key = keyOf(seed);
  const z = new Float32Array(count * latentDim);
  for (let i = 0; i < count; i += 1) {
    for (let at = 0; at < latentDim; at += 2) {
      const [x0, x1] = threefry2x32(key, start + i, at / 2);
      const radius = Math.sqrt(-2 * Math.log(((x0 >>> 8) + 1) / 2 ** 24)); // Box and Muller (1958)
      const angle = (2 * Math.PI * (x1 >>> 8)) / 2 ** 24;
      z[i * latentDim + at] = radius * Math.cos(angle);
      if (at + 1 < latentDim) z[i * latentDim + at + 1] = radius * Math.sin(angle);
    }
  }
  return z;
}

/**
 * Refuse latents that no model can take.
 *
 * @param {Float32Array} z any number of latents
 * @throws {RangeError} one holds something that is no number, or beyond LARGEST_LATENT
 */
export function checkLatents(z) {
  const at = z.findIndex((value) => !(Math.abs(value) <= LARGEST_LATENT));
  if (at < 0) return;
  throw new RangeError(`a latent holds numbers from -${LARGEST_LATENT} to ${LARGEST_LATENT}, drawn from N(0, 1); found ${z[at]} at ${at}`);
}

/**
 * Labels of latents `start` to `start + count - 1` of a seed, where nobody asks for others.
 *
 * @param {bigint | number | string} seed 0 to 2^63 - 1
 * @param {number} start
 * @param {number} count
 * @param {number} classes number of classes of the model
 * @returns {BigInt64Array} from 0 to classes - 1, as the model's input `label` wants them
 */
export function labels(seed, start, count, classes) {
  const key = keyOf(seed);
  return BigInt64Array.from({ length: count }, (_, i) => {
    const [word] = threefry2x32(key, start + i, LABEL_COUNTER);
    return (BigInt(classes) * BigInt(word)) >> 32n;
  });
}
