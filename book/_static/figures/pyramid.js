/* One step of the feature pyramid on numbers: a 1 × 1 convolution, the level above enlarged, their sum, a 3 × 3. */
"use strict";

touch.figure("pyramid", (stage, {low, high, weight, kernel}) => {
  const size = low.length;
  const number = (value) => String(+value.toFixed(Math.abs(value) < 100 ? 1 : 0)).replace("-", "−");
  let at = [1, 2], step = 4;
  const svg = touch.panel(stage, 340, 292, "Five small maps of numbers");
  const maps = {};

  function draw(name, title, x, y, cells, from) {
    const look = {class: "touch-map", transform: `translate(${x} ${y})`};
    const group = touch.make(svg, "g", look), wide = 100 / cells;
    touch.make(group, "text", {x: 50, y: -6, class: "title"}, title);
    const squares = Array.from({length: cells * cells}, (_, n) => {
      const [r, c] = [Math.floor(n / cells), n % cells];
      const rect = touch.make(group, "rect", {x: c * wide, y: r * wide, width: wide, height: wide});
      const text = touch.make(group, "text", {x: (c + 0.5) * wide, y: (r + 0.5) * wide + 4});
      if (cells === size) for (const part of [rect, text]) part.addEventListener("click", () => choose(r, c));
      return {rect, text};
    });
    const frame = touch.make(group, "rect", {class: "frame", width: wide, height: wide});
    if (cells === size) group.classList.add("asked");
    maps[name] = {group, squares, cells, from, frame: cells === size ? frame : group.removeChild(frame)};
  }
  draw("C", "C, from below", 6, 22, size, 0);
  draw("L", "1 × 1", 120, 22, size, 1);
  draw("M above", "M, from above", 6, 168, high.length, 0);
  draw("up", "enlarged", 120, 168, size, 2);
  draw("M", "sum", 234, 22, size, 3);
  draw("P", "3 × 3: P", 234, 168, size, 4);

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const says = ["two maps", "1 × 1", "enlarge", "add", "3 × 3"];
  const steps = {label: "step", min: 0, max: 4, step: 1, value: step, say: (k) => says[k]};
  touch.slider(panel, {...steps, act: (value) => { step = value; show(); }});
  const bend = {label: "1 × 1 weight", min: -2, max: 2, step: 0.5, value: weight, say: number};
  touch.slider(panel, {...bend, act: (value) => { weight = value; show(); }});
  const write = touch.readings(panel, ["cell", "1 × 1", "enlarged", "sum", "3 × 3"]);
  const announce = touch.announcer(stage);

  /** All maps, in order. */
  function compute() {
    const ratio = size / high.length;
    const each = (f) => low.map((row, r) => row.map((_, c) => f(r, c)));
    const lateral = each((r, c) => weight * low[r][c]);
    const up = each((r, c) => high[Math.floor(r / ratio)][Math.floor(c / ratio)]);
    const sum = each((r, c) => lateral[r][c] + up[r][c]);
    const out = each((r, c) => near(r, c).reduce((total, [i, j, k]) => total + k * sum[i][j], 0));
    return {C: low, L: lateral, "M above": high, up, M: sum, P: out};
  }

  /** The cells that the 3 × 3 kernel reads around one, with their weights; beyond the edge is 0. */
  function near(r, c) {
    const all = kernel.flatMap((row, i) => row.map((value, j) => [r + i - 1, c + j - 1, value]));
    return all.filter(([i, j]) => i >= 0 && j >= 0 && i < size && j < size);
  }

  function choose(r, c) {
    at = [r, c].map((index) => Math.min(Math.max(index, 0), size - 1));
    show();
  }

  function show() {
    const values = compute(), [r, c] = at, ratio = size / high.length;
    const own = {"M above": [[Math.floor(r / ratio), Math.floor(c / ratio)]], M: step > 3 ? near(r, c) : [[r, c]]};
    for (const [name, {group, squares, cells, from, frame}] of Object.entries(maps)) {
      group.style.opacity = from > step ? 0.15 : 1;
      touch.set(frame, {x: (c * 100) / size, y: (r * 100) / size});
      squares.forEach(({rect, text}, n) => {
        const [i, j] = [Math.floor(n / cells), n % cells];
        const used = (own[name] ?? [[r, c]]).some(([a, b]) => a === i && b === j);
        rect.setAttribute("class", cells === size && i === r && j === c ? "chosen" : used ? "source" : "");
        text.textContent = from > step ? "" : number(values[name][i][j]);
      });
    }
    const then = (from, text) => (step >= from ? text : "not yet");
    const [l, u, m, p] = ["L", "up", "M", "P"].map((name) => number(values[name][r][c]));
    write("cell", `row ${r}, column ${c}`);
    write("1 × 1", then(1, `${number(weight)} · ${number(low[r][c])} = ${l}`));
    write("enlarged", then(2, u));
    write("sum", then(3, `${l} + ${u} = ${m}`));
    const terms = near(r, c).map(([i, j, k]) => k * values.M[i][j]);
    write("3 × 3", then(4, `${number(terms[0])} + … + ${number(terms.at(-1))} = ${p}`));
    announce(`row ${r}, column ${c}: ${then(4, p)}`);
    touch.set(maps.P.group, {"aria-label": `Cell in row ${r}, column ${c}. Arrow keys choose another.`});
  }

  touch.set(maps.P.group, {tabindex: 0, role: "application"});
  touch.arrows(maps.P.group, (dx, dy) => choose(at[0] + dy, at[1] + dx));
  const hint = "Touch a cell, or focus the last map and use arrow keys: orange are the cells that it is made of. " +
    "Beyond the edge, the 3 × 3 reads zeros.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});
