// What a model says of itself, and its values as pixels. No dependencies; runs in browsers, workers and Node.

/**
 * The spec that a file of dcgan-export carries: runtimes for JavaScript do not show a file's metadata.
 *
 * @param {Uint8Array} bytes of an ONNX file
 * @returns {{latent_dim: number, num_classes: number, class_names: string[], image_shape: number[], value_range: number[]}}
 *   image_shape is [channels, height, width], value_range the values of black and of white
 * @throws {Error} the file has none
 */
export function specOf(bytes) {
  const text = (part) => new TextDecoder().decode(part);
  for (const [field, entry] of fieldsOf(bytes)) {
    if (field !== 14) continue; // ModelProto.metadata_props of onnx.proto: entries of a key and a value
    const [key, value] = [...fieldsOf(entry)].map(([, part]) => text(part));
    if (key === "dcgan.spec") return { class_names: [], ...JSON.parse(value) }; // files of 0.1 have no names
  }
  throw new Error("the file does not say what it makes (no dcgan.spec); give one of dcgan-export");
}

/** The numbers and bytes of a protocol buffer's fields of variable length; the others are skipped. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte % 128) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const end = varint() + at;
      yield [Math.floor(tag / 8), bytes.subarray(at, end)];
      at = end;
    } else return; // no protocol buffer
  }
}

/**
 * What the classes are called: their names, or their numbers.
 *
 * @returns {string[]} one for each class
 */
export const classesOf = ({ num_classes, class_names }) =>
  class_names.length ? class_names : Array.from({ length: num_classes }, (_, i) => `${i}`);

/**
 * The number of a class, from its name or its number.
 *
 * @returns {number} -1 for "-1", which is what the seed draws
 * @throws {RangeError} there is no such class
 */
export function classOf(spec, text) {
  const classes = classesOf(spec);
  const named = classes.indexOf(text);
  if (named >= 0 || text === "-1") return named;
  if (/^\d+$/.test(text) && Number(text) < classes.length) return Number(text);
  if (!classes.length) throw new RangeError("this model has no classes to choose from");
  const names = spec.class_names.length ? ` or ${classes.slice(0, 12).join(", ")}${classes.length > 12 ? ", ..." : ""}` : "";
  throw new RangeError(`a class is 0 to ${classes.length - 1}${names}, and -1 what the seed draws; found ${text}`);
}

/**
 * A text as classes: a letter or digit is the class that is called by it. `dcgan-infer 2026-11-25` has the same rule.
 *
 * @param {string} text full-width letters count as usual ones
 * @returns {{letter: string, label?: number}[]} for each character its class, -1 if there is none; no label for a character
 *   that is neither letter nor digit, and leaves its place empty
 */
export function classesOfText(spec, text) {
  const classes = classesOf(spec);
  const place = (letter) => (IS_LETTER.test(letter) ? { letter, label: classes.indexOf(letter) } : { letter });
  // All of NFKC would write 10² as 102.
  const usual = text.replace(/[\uff01-\uff5e]+/g, (found) => found.normalize("NFKC")).normalize("NFC");
  return Array.from(usual, place);
}

/** The names of classes that a text can call. */
export const lettersOf = (spec) => classesOf(spec).filter((name) => IS_LETTER.test(name));

const IS_LETTER = /^[\p{L}\p{N}]$/u;

/**
 * Pictures of what a model gave, with the channels last, as screens and image files want them.
 *
 * @param {Float32Array | Uint8Array} images values (N, C, H, W), or pictures already, which are returned as they are
 * @returns {Uint8Array | Uint8ClampedArray} (N, H, W, C), 0 is black
 */
export function toPictures(images, { image_shape: [channels, height, width], value_range: [low, high] }) {
  if (images instanceof Uint8Array) return images;
  const size = height * width;
  const pictures = new Uint8ClampedArray(images.length); // clips, and rounds to the nearest
  images.forEach((value, at) => {
    const plane = Math.floor(at / size);
    const first = (Math.floor(plane / channels) * size + (at % size)) * channels;
    pictures[first + (plane % channels)] = ((value - low) * 255) / (high - low);
  });
  return pictures;
}
