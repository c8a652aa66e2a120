/* The best proposals of a head in training, in one scene, and how many objects they reach in many. */
"use strict";

touch.figure("proposals", (stage, {picture, side, objects, threshold, heads, boxes, recalls, head, number}) => {
  const svg = touch.panel(stage, 340, 340, "Proposals on the scene");
  const view = touch.view([0, side], [0, side], [0, 340], [0, 340]);
  touch.make(svg, "image", {href: picture, width: 340, height: 340});
  const frames = touch.make(svg, "g");
  for (const box of objects) touch.make(svg, "rect", {...view.rect(box), class: "touch-goal"});

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const asked = {label: "proposals", min: 1, max: recalls[0].length, step: 1, value: number};
  const when = {label: "head", min: 0, max: heads.length - 1, step: 1, value: head, say: (k) => heads[k]};
  touch.slider(panel, {...when, act: (value) => { head = value; show(); }});
  touch.slider(panel, {...asked, act: (value) => { number = value; show(); }});
  const write = touch.readings(panel, ["objects found here", "recall in all scenes"]);
  const chart = touch.panel(panel, 340, 220, "Recall by the number of proposals");
  const plot = touch.view([0, 2], [1, 0], [30, 324], [20, 178]);
  const ticks = [1, 2, 5, 10, 20, 50, 100].map(Math.log10);
  const words = {xlabel: "proposals looked at", ylabel: `recall at an overlap of ${threshold}`};
  const sayX = (tick) => String(Math.round(10 ** tick));
  touch.axes(chart, plot, {...words, x: ticks, y: [0, 0.25, 0.5, 0.75, 1], sayX});
  const curves = recalls.map((curve) => {
    const points = curve.map((recall, k) => [Math.log10(k + 1), recall]);
    return touch.make(chart, "path", {d: plot.path(points), class: "touch-curve ink-faint"});
  });
  const line = touch.make(chart, "line", {class: "touch-mark", y1: 20, y2: 178});
  const mark = touch.make(chart, "circle", {r: 5, class: "touch-spot ink-a"});
  const announce = touch.announcer(stage);

  function show() {
    const best = boxes[head].slice(0, number);
    const hits = best.map((box) => objects.some((object) => touch.iou(box, object) >= threshold));
    const found = objects.filter((object) => best.some((box) => touch.iou(box, object) >= threshold)).length;
    const recall = recalls[head][number - 1];
    frames.replaceChildren();
    best.forEach((box, k) => {
      touch.make(frames, "rect", {...view.rect(box), class: `touch-frame ${hits[k] ? "kept" : "waiting"}`});
    });
    curves.forEach((curve, k) => {
      const look = k === head ? "ink-a" : "ink-faint", last = k === curves.length - 1 ? "dashed" : "";
      curve.setAttribute("class", `touch-curve ${look} ${last}`);
    });
    const x = plot.x(Math.log10(number));
    touch.set(line, {x1: x, x2: x});
    touch.set(mark, {cx: x, cy: plot.y(recall)});
    write("objects found here", `${found} of ${objects.length}`);
    write("recall in all scenes", recall.toFixed(2));
    announce(`${heads[head]}, ${number} proposals: ${found} objects found here, recall ${recall.toFixed(2)}`);
  }

  const hint = `Green boxes overlap an object (dotted) by at least ${threshold}, the others are white. Gray curves ` +
    `belong to the other heads, the dashed one to the last of them, “${heads.at(-1)}”.`;
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});
