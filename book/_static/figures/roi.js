/* A box over a real map: ROI pooling reads whole cells and jumps, ROIAlign reads between the cells and glides. */
"use strict";

touch.figure("roi", (stage, {map, stride, box, out}) => {
  const rows = map.length, columns = map[0].length, sorted = map.flat().sort((x, y) => x - y);
  const [low, high] = [0.02, 0.98].map((part) => sorted[Math.floor(part * (sorted.length - 1))]);
  const clamp = (value, most) => Math.min(Math.max(value, 0), most);
  const number = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
  let chosen = 0;

  /** ROI pooling: the box in whole cells, and for each bin its cells and their maximum. */
  function pool(box) {
    const [x1, y1, x2, y2] = box.map((edge) => Math.floor(edge / stride + 0.5));
    const wide = (x2 - x1 + 1) / out, tall = (y2 - y1 + 1) / out;
    const bin = (i, j) => {
      const cells = map.slice(y1 + Math.floor(i * tall), y1 + Math.ceil((i + 1) * tall));
      const [left, right] = [x1 + Math.floor(j * wide), x1 + Math.ceil((j + 1) * wide)];
      return Math.max(...cells.flatMap((row) => row.slice(left, right)));
    };
    return {region: [x1, y1, x2 + 1, y2 + 1], values: grid(out, bin)};
  }

  /** ROIAlign: 2 × 2 samples for each bin, each with its place, the four cells around it and their weights. */
  function align([x1, y1, x2, y2]) {
    const at = (from, to, t) => from + ((t + 0.5) / (2 * out)) * (to - from);
    const samples = grid(2 * out, (i, j) => {
      const [px, py] = [at(x1, x2, j), at(y1, y2, i)];
      const [x, y] = [clamp(px / stride - 0.5, columns - 1), clamp(py / stride - 0.5, rows - 1)];
      const [c, r] = [Math.floor(x), Math.floor(y)], [alpha, beta] = [x - c, y - r];
      const corners = [[r, c, (1 - beta) * (1 - alpha)], [r, c + 1, (1 - beta) * alpha],
        [r + 1, c, beta * (1 - alpha)], [r + 1, c + 1, beta * alpha]];
      const parts = corners.map(([i, j, weight]) => [Math.min(i, rows - 1), Math.min(j, columns - 1), weight]);
      return {px, py, x, y, parts, value: parts.reduce((sum, [i, j, weight]) => sum + weight * map[i][j], 0)};
    });
    const value = (i, j) => [0, 1].flatMap((di) => [0, 1].map((dj) => samples[2 * i + di][2 * j + dj].value));
    return {samples: samples.flat(), values: grid(out, (i, j) => value(i, j).reduce((sum, one) => sum + one, 0) / 4)};
  }

  function grid(size, f) {
    return Array.from({length: size}, (_, i) => Array.from({length: size}, (_, j) => f(i, j)));
  }

  const svg = touch.panel(stage, 340, 340, "A box on a feature map");
  const view = touch.view([0, columns * stride], [0, rows * stride], [0, 340], [0, 340]);
  const cell = (r, c) => view.rect([c * stride, r * stride, (c + 1) * stride, (r + 1) * stride]);
  const heat = touch.make(svg, "g", {class: "touch-heat"});
  map.forEach((row, r) => row.forEach((value, c) => {
    const part = clamp((value - low) / (high - low), 1);
    touch.make(heat, "rect", {...cell(r, c), "fill-opacity": (0.85 * part).toFixed(3)});
  }));
  const region = touch.make(svg, "rect", {class: "touch-region ink-a"});
  const around = [0, 1, 2, 3].map(() => touch.make(svg, "rect", {class: "touch-around ink-c"}));
  const bounds = [0, 0, (columns - 1) * stride, (rows - 1) * stride];
  const options = {name: "Box", box, bounds, step: 0.5, key: 1, least: 2 * stride, color: "b"};
  touch.box(svg, view, {...options, changed: (next) => { box = next; show(); }});
  const bins = touch.make(svg, "path", {class: "touch-bins"});
  const dots = align(box).samples.map((_, k) => {
    const dot = touch.make(svg, "circle", {r: 3.5, class: "touch-sample"});
    dot.addEventListener("pointerenter", () => choose(k));
    return dot;
  });

  const side = touch.make(stage, "div", {class: "touch-side"});
  const write = touch.readings(side, ["box", "ROI pooling reads", "pooled", "ROIAlign"]);
  const curves = touch.panel(side, 340, 184, "Value of the first bin as the box moves to the right");
  const say = touch.announcer(stage);
  const range = {min: 1, max: dots.length, step: 1, value: 1};
  const slider = touch.slider(side, {label: "sample", ...range, act: (k) => choose(k - 1)});
  const formula = touch.make(side, "p", {class: "touch-formula flush"});

  function choose(k) {
    chosen = k;
    slider.set(k + 1);
    show();
  }

  function plot() {
    const width = box[2] - box[0], places = Array.from({length: 241}, (_, k) => (k / 240) * (bounds[2] - width));
    const moved = places.map((x) => [x, box[1], x + width, box[3]]);
    const lines = [[pool, "a", "pooling"], [align, "b", "ROIAlign"]];
    const values = lines.map(([read]) => moved.map((one) => read(one).values[0][0]));
    const [least, most] = [Math.min(...values.flat()), Math.max(...values.flat())];
    const chart = touch.view([0, bounds[2] - width], [most, least], [36, 332], [24, 142]);
    const edges = Array.from({length: Math.floor((bounds[2] - width) / 64) + 1}, (_, k) => 64 * k);
    curves.replaceChildren();
    const axes = {x: edges, y: [least, most], say: (value) => number(value, 1), sayX: String};
    touch.axes(curves, chart, {...axes, xlabel: "left edge of the box", ylabel: "first bin"});
    const here = chart.x(box[0]);
    touch.make(curves, "line", {x1: here, x2: here, y1: 18, y2: 146, class: "touch-mark"});
    lines.forEach(([read, ink, name], k) => {
      const points = values[k].map((value, n) => [places[n], value]);
      touch.make(curves, "path", {d: chart.path(points), class: `touch-curve ink-${ink}`});
      touch.make(curves, "text", {x: 190 + 70 * k, y: 12, class: `ink-${ink}`}, name);
      const now = {cx: here, cy: chart.y(read(box).values[0][0]), r: 4.5};
      touch.make(curves, "circle", {...now, class: `touch-spot ink-${ink}`});
    });
  }

  function show() {
    const pooled = pool(box), aligned = align(box), sample = aligned.samples[chosen];
    const inner = Array.from({length: out - 1}, (_, k) => (k + 1) / out);
    const across = inner.map((t) => [box[0] + t * (box[2] - box[0]), box[1] + t * (box[3] - box[1])]);
    const lines = across.map(([x, y]) => view.path([[x, box[1]], [x, box[3]]]) + view.path([[box[0], y], [box[2], y]]));
    touch.set(bins, {d: lines.join("")});
    touch.set(region, view.rect(pooled.region.map((edge) => edge * stride)));
    aligned.samples.forEach(({px, py}, k) => {
      touch.set(dots[k], {cx: view.x(px), cy: view.y(py), r: k === chosen ? 5.5 : 3.5});
    });
    sample.parts.forEach(([r, c, weight], k) => {
      touch.set(around[k], {...cell(r, c), "stroke-opacity": 0.25 + 0.75 * weight});
    });
    write("box", `${box.join(", ")}`);
    write("ROI pooling reads", pooled.region.map((edge) => edge * stride).join(", "));
    write("pooled", pooled.values.map((row) => row.map((value) => number(value)).join("  ")).join("\n"));
    write("ROIAlign", aligned.values.map((row) => row.map((value) => number(value)).join("  ")).join("\n"));
    const terms = sample.parts.map(([r, c, weight]) => `${number(weight)} · ${number(map[r][c])}`).join(" + ");
    formula.textContent = `at row ${number(sample.y)}, column ${number(sample.x)}: ${terms} = ${number(sample.value)}`;
    plot();
    say(`Pooling ${number(pooled.values[0][0])}, ROIAlign ${number(aligned.values[0][0])}`);
  }

  const hint = "Drag the orange box, or move it by arrow keys (with Shift they resize it). Blue is what " +
    "ROI pooling reads; the dots are ROIAlign's samples, four in each bin: point at one for its weights. " +
    "The stronger a cell, the more it stands out from the page.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});
