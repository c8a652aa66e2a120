/* Suppression of real proposals: the walk, step by step, beside the rounds that ask all boxes at once. */
"use strict";

touch.figure("nms", (stage, {picture, side, boxes, scores, threshold}) => {
  const count = boxes.length;
  const overlap = boxes.map((a) => boxes.map((b) => touch.iou(a, b)));
  let step = count;

  const svg = touch.panel(stage, 340, 340, "Proposals on the scene");
  const view = touch.view([0, side], [0, side], [0, 340], [0, 340]);
  touch.make(svg, "image", {href: picture, width: 340, height: 340, class: "touch-pale"});
  const frames = boxes.map((box) => touch.make(svg, "rect", view.rect(box)));
  const way = touch.make(svg, "path", {class: "touch-way bright"});

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const write = touch.readings(panel, ["box", "kept"]);
  const say = touch.announcer(stage);
  const words = (value) => value.toFixed(2);
  const act = (value) => { threshold = value; show(); };
  touch.slider(panel, {label: "threshold", min: 0.1, max: 0.95, step: 0.05, value: threshold, say: words, act});
  const steps = touch.slider(panel, {label: "step", min: 0, max: count, step: 1, value: step, act: go});
  const row = touch.make(panel, "div", {class: "touch-row"});
  const buttons = {start: () => 0, back: () => step - 1, "one step": () => step + 1, end: () => count};
  for (const [name, next] of Object.entries(buttons)) {
    touch.make(row, "button", {type: "button"}, name).addEventListener("click", () => go(next()));
  }
  const strip = touch.panel(panel, 340, 150, "For each box whether it is kept: in the walk, and in each round");

  /** The walk: for each box the kept one that drops it, or −1. */
  function walk() {
    const by = [];
    boxes.forEach((_, j) => {
      const over = by.flatMap((other, i) => (other < 0 && overlap[i][j] > threshold ? [i] : []));
      by.push(over.length ? over.reduce((most, i) => (overlap[i][j] > overlap[most][j] ? i : most)) : -1);
    });
    return by;
  }

  /** The fixed point: first all are kept, then those that no kept, better box overlaps too much, and so on. */
  function rounds() {
    const rows = [boxes.map(() => true)];
    for (;;) {
      const before = rows.at(-1);
      const next = boxes.map((_, j) => !before.some((kept, i) => kept && i < j && overlap[i][j] > threshold));
      if (next.every((kept, j) => kept === before[j])) return rows;
      rows.push(next);
    }
  }

  function go(next) {
    step = Math.min(Math.max(next, 0), count);
    steps.set(step);
    show();
  }

  function draw(rows) {
    const height = Math.min(16, 128 / rows.length), wide = 288 / count;
    strip.replaceChildren();
    rows.forEach(([name, kept], k) => {
      const y = k * (height + 3) + (k ? 8 : 0);
      touch.make(strip, "text", {x: 0, y: y + height - 3}, name);
      kept.forEach((value, j) => {
        const look = value === undefined ? "waiting" : value ? "kept" : "dropped";
        const place = {x: 52 + j * wide, y, width: wide - 1, height};
        const now = !k && j === step - 1 ? " now" : "";
        const cell = touch.make(strip, "rect", {...place, class: `touch-cell ${look}${now}`});
        cell.addEventListener("click", () => go(j + 1));
      });
    });
  }

  function show() {
    const by = walk(), now = step - 1;
    frames.forEach((frame, j) => {
      const look = j > now ? "waiting" : by[j] < 0 ? "kept" : "dropped";
      frame.setAttribute("class", `touch-frame ${look}${j === now && step < count ? " now" : ""}`);
    });
    const kept = by.filter((other, j) => other < 0 && j <= now).length;
    const middle = (j) => [(boxes[j][0] + boxes[j][2]) / 2, (boxes[j][1] + boxes[j][3]) / 2];
    const dropper = now >= 0 && step < count ? by[now] : -1;
    way.setAttribute("d", dropper < 0 ? "" : view.path([middle(now), middle(dropper)]));
    const most = now < 0 ? "all are still to come" : `${step} (${scores[now].toFixed(2)}): ` + (
      by[now] < 0 ? "kept" : `dropped by ${by[now] + 1}, IoU ${overlap[by[now]][now].toFixed(2)}`);
    write("box", most);
    write("kept", `${kept} of ${step}`);
    const asked = rounds();
    const named = asked.map((row, k) => [k ? `round ${k}` : "all", row]);
    draw([["walk", by.map((other, j) => (j > now ? undefined : other < 0))], ...named]);
    say(`${most}. ${kept} kept. ${asked.length - 1} rounds.`);
  }

  const hint = "Green is kept, dashed orange is dropped, white is still to come. A box is named by its rank, with " +
    "its score in brackets. Each column is one, the best on the left: touch it to walk there.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});
