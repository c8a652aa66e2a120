/* What lies between the two graphs and behind them: anchors, decoding, suppression. "Without PyTorch" has it, too. */
"use strict";

Object.assign(tryIt, {
  /** Run the first graph on pixels [H, W, 4]; what it answers, with the anchors' levels. */
  async look(picture) {
    const {settings, ort, graphs} = tryIt, side = settings.img_size;
    const input = new ort.Tensor("float32", tryIt.input(picture, settings), [1, 3, side, side]);
    const seen = await graphs.picture.run({picture: input});
    const sides = [2, 3, 4, 5].map((k) => seen[`p${k}`].dims.slice(2));
    sides.push(sides[3].map((cells) => Math.ceil(cells / 2)));
    let start = 0;
    const shapes = settings.anchors[0].length;
    const levels = sides.map(([rows, columns]) => {
      const level = {start, rows, columns, shapes};
      start += rows * columns * shapes;
      return level;
    });
    return {...seen, levels};
  },

  /** Anchor `i` of a level: row by row, column by column, and for each cell its shapes. */
  anchor(level, {columns, shapes}, i) {
    const {strides, anchors, anchor_offset: offset} = tryIt.settings, cell = Math.floor(i / shapes);
    const x = (cell % columns + offset) * strides[level], y = (Math.floor(cell / columns) + offset) * strides[level];
    const [x1, y1, x2, y2] = anchors[level][i % shapes];
    return [x + x1, y + y1, x + x2, y + y2];
  },

  /** A box, moved by four of the deltas and clipped to the square. */
  decode([x1, y1, x2, y2], deltas, at, weights = [1, 1, 1, 1]) {
    const {delta_clamp: most, img_size: side} = tryIt.settings, width = x2 - x1, height = y2 - y1;
    const [dx, dy, dw, dh] = weights.map((weight, k) => deltas[at + k] / weight);
    const x = x1 + width / 2 + dx * width, y = y1 + height / 2 + dy * height;
    const halfWidth = width / 2 * Math.exp(Math.min(dw, most)), halfHeight = height / 2 * Math.exp(Math.min(dh, most));
    const corners = [x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight];
    return corners.map((value) => Math.min(Math.max(value, 0), side));
  },

  /** Boxes by falling score, without small ones. `by` is the kept one that drops a box, or null if it is kept. */
  suppress(boxes, threshold, least) {
    const large = boxes.filter(({box: [x1, y1, x2, y2]}) => x2 - x1 >= least && y2 - y1 >= least), kept = [];
    for (const one of large) {
      one.by = kept.find((better) => touch.iou(better.box, one.box) > threshold) ?? null;
      if (!one.by) kept.push(one);
    }
    return large;
  },

  /** The numbers of the highest `count` values, and no others than `from` to `end`. */
  best(values, from, end, count) {
    const own = values.slice(from, end), least = Float64Array.from(own).sort().at(-count) ?? -Infinity;
    const numbers = Array.from(own.keys()).filter((i) => own[i] >= least);
    return numbers.sort((a, b) => own[b] - own[a] || a - b).slice(0, count);
  },

  /** The proposals of a picture by falling objectness: {box, score, level}. */
  propose(seen) {
    const {pre_nms: many, post_nms: most, rpn_nms_thr: threshold, min_side: least} = tryIt.settings;
    const logits = seen.logits.data, deltas = seen.deltas.data;
    const found = seen.levels.flatMap((of, level) => {
      const end = seen.levels[level + 1]?.start ?? logits.length;
      const boxes = tryIt.best(logits, of.start, end, many).map((i) => {
        const logit = logits[of.start + i], box = tryIt.decode(tryIt.anchor(level, of, i), deltas, 4 * (of.start + i));
        return {box, logit, score: 1 / (1 + Math.exp(-logit)), level: level + 2};
      });
      return tryIt.suppress(boxes, threshold, least).filter((one) => !one.by);
    });
    return found.sort((a, b) => b.logit - a.logit).slice(0, most);
  },

  /** Run the second graph on proposals; each gets its probabilities and its deltas by class. */
  async classify(seen, proposals) {
    if (!proposals.length) return;
    const {ort, graphs, settings: {names}} = tryIt, count = proposals.length, {p2, p3, p4, p5} = seen;
    const regions = new ort.Tensor("float32", Float32Array.from(proposals.flatMap((one) => one.box)), [count, 4]);
    const images = new ort.Tensor("int64", new BigInt64Array(count), [count]);
    const answer = await graphs.regions.run({p2, p3, p4, p5, regions, images});
    const logits = answer.class_logits.data, deltas = answer.class_deltas.data, classes = names.length;
    proposals.forEach((one, k) => {
      const own = logits.subarray(k * classes, (k + 1) * classes), most = Math.max(...own);
      const powers = Array.from(own, (logit) => Math.exp(logit - most)), sum = powers.reduce((a, b) => a + b);
      one.probabilities = powers.map((power) => power / sum);
      one.deltas = deltas.subarray(4 * k * classes, 4 * (k + 1) * classes);
    });
  },

  /** Class by class: boxes whose score is above the threshold, by falling score; `by` names the one that drops it. */
  detect(regions, score, threshold) {
    const {names, score_thr: above, box_weights: weights, min_box: least, max_dets: most} = tryIt.settings, all = [];
    for (let label = 1; label < names.length; label++) {
      const sure = regions.filter((one) => one.probabilities[label] > above && one.probabilities[label] >= score);
      const boxes = sure.map((one) => {
        const box = tryIt.decode(one.box, one.deltas, 4 * label, weights);
        return {box, label, score: one.probabilities[label], region: one};
      });
      all.push(...tryIt.suppress(boxes.sort((a, b) => b.score - a.score), threshold, least));
    }
    all.sort((a, b) => b.score - a.score);
    return {before: all, kept: all.filter((one) => !one.by).slice(0, most)};
  },
});
