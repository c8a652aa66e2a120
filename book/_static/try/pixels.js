/* From a picture's pixels to the network's input: resized exactly as Pillow's bicubic filter does, and normalized. */
"use strict";

const tryIt = {
  BITS: 22, // of the fixed-point weights: Pillow computes with whole numbers, too

  bicubic(x) {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  },

  /** For each of `size` pixels of a row: the first of the `from` old ones that count, and their weights. */
  weights(from, size) {
    const scale = from / size, stretch = Math.max(scale, 1), reach = 2 * stretch;
    return Array.from({length: size}, (_, i) => {
      const center = (i + 0.5) * scale;
      const first = Math.max(Math.trunc(center - reach + 0.5), 0);
      const end = Math.min(Math.trunc(center + reach + 0.5), from);
      const row = Array.from({length: end - first}, (_, k) => tryIt.bicubic((k + first - center + 0.5) / stretch));
      const sum = row.reduce((a, b) => a + b, 0);
      const whole = (w) => Math.trunc(w / sum * 2 ** tryIt.BITS + (w < 0 ? -0.5 : 0.5));
      return {first, row: row.map(whole)};
    });
  },

  /** Resize rows: pixels [height, width, 4] → [height, size, 4], without the fourth channel. */
  resizeRows({pixels, width, height}, size) {
    const out = new Uint8ClampedArray(height * size * 4), half = 2 ** (tryIt.BITS - 1), one = 2 ** tryIt.BITS;
    tryIt.weights(width, size).forEach(({first, row}, x) => {
      for (let y = 0; y < height; y++) {
        for (let channel = 0; channel < 3; channel++) {
          let sum = half, at = (y * width + first) * 4 + channel;
          for (const weight of row) { sum += weight * pixels[at]; at += 4; }
          out[(y * size + x) * 4 + channel] = Math.floor(sum / one); // the array clamps
        }
      }
    });
    return {pixels: out, width: size, height};
  },

  /** Rows become columns. */
  turned({pixels, width, height}) {
    const from = new Uint32Array(pixels.buffer), out = new Uint32Array(from.length);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out[x * height + y] = from[y * width + x];
    return {pixels: new Uint8ClampedArray(out.buffer), width: height, height: width};
  },

  /** To a square. Rows first, or columns first if they lose much more: so does Pillow, from 13 on. */
  resize(picture, side) {
    const {width, height} = picture, across = (of) => tryIt.resizeRows(of, side);
    const down = (of) => tryIt.turned(across(tryIt.turned(of)));
    return height > side && height - side > 2 * (width - side) ? across(down(picture)) : down(across(picture));
  },

  /** Pixels [height, width, 4] of any size → [3, side, side], normalized. */
  input(picture, {img_size: side, mean, std}) {
    const {pixels} = tryIt.resize(picture, side), area = side * side, out = new Float32Array(3 * area);
    for (let channel = 0; channel < 3; channel++) {
      const [shift, scale] = [mean[channel], std[channel]];
      for (let i = 0; i < area; i++) out[channel * area + i] = (pixels[4 * i + channel] / 255 - shift) / scale;
    }
    return out;
  },
};
