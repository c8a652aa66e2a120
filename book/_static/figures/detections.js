/* What a detector in training finds in one scene, from moment to moment. */
"use strict";

touch.figure("detections", (stage, {picture, side, truth, moments, steps, ap50, at, score}) => {
  const svg = touch.panel(stage, 340, 340, "Detections on the scene");
  const view = touch.view([0, side], [0, side], [0, 340], [0, 340]);
  touch.make(svg, "image", {href: picture, width: 340, height: 340});
  for (const box of truth.boxes) touch.make(svg, "rect", {...view.rect(box), class: "touch-goal"});
  const frames = touch.make(svg, "g");

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const when = {label: "moment", min: 0, max: moments.length - 1, step: 1, value: at, say: (k) => moments[k].name};
  touch.slider(panel, {...when, act: (value) => { at = value; show(); }});
  const words = (value) => value.toFixed(2);
  const above = {label: "score above", min: 0.05, max: 0.95, step: 0.05, value: score, say: words};
  touch.slider(panel, {...above, act: (value) => { score = value; show(); }});
  const write = touch.readings(panel, ["objects found", "wrong boxes", "AP50 of all scenes"]);
  const chart = touch.panel(panel, 340, 190, "AP50 by training step");
  const top = Math.max(0.1, ...ap50) * 1.1, plot = touch.view([0, steps.at(-1)], [top, 0], [36, 324], [20, 148]);
  const marks = [0, 0.25, 0.5, 0.75, 1].filter((value) => value <= top);
  touch.axes(chart, plot, {x: steps, y: marks.length > 1 ? marks : [0, 0.1], xlabel: "step", ylabel: "AP50"});
  touch.make(chart, "path", {d: plot.path(ap50.map((value, k) => [steps[k], value])), class: "touch-curve ink-faint"});
  const dot = touch.make(chart, "circle", {r: 5, class: "touch-spot ink-a"});
  const announce = touch.announcer(stage);

  function show() {
    const {name, boxes, scores, labels, names} = moments[at];
    const sure = boxes.map((_, k) => k).filter((k) => scores[k] > score);
    const fits = (k, n) => labels[k] === truth.labels[n] && touch.iou(boxes[k], truth.boxes[n]) >= 0.5;
    const right = sure.map((k) => truth.boxes.some((_, n) => fits(k, n)));
    const found = truth.boxes.filter((_, n) => sure.some((k) => fits(k, n))).length;
    const wrong = right.filter((one) => !one).length;
    const looks = right.map((one) => (one ? "kept" : "wrong")), taken = [];
    frames.replaceChildren();
    sure.forEach((k, n) => touch.make(frames, "rect", {...view.rect(boxes[k]), class: `touch-frame ${looks[n]}`}));
    sure.slice(0, sure.length > 12 ? 0 : 12).forEach((k, n) => { // more words would cover the scene
      const place = view.rect(boxes[k]), text = `${names[k]} ${scores[k].toFixed(2)}`, wide = 6.4 * text.length;
      const x = Math.min(place.x + 1, 336 - wide), below = place.y + place.height;
      const free = (y) => y > 11 && y < 337 &&
        taken.every((tag) => Math.abs(tag.y - y) > 12 || x > tag.x + tag.wide || tag.x > x + wide);
      const places = [place.y - 4, place.y + 13, below - 4, below + 12], y = places.find(free) ?? places[1];
      taken.push({x, y, wide});
      touch.make(frames, "text", {x, y, class: `touch-tag ${looks[n]}`}, text);
    });
    write("objects found", `${found} of ${truth.boxes.length}`);
    write("wrong boxes", String(wrong));
    write("AP50 of all scenes", at < ap50.length ? ap50[at].toFixed(2) : "not measured here");
    touch.set(dot, at < ap50.length ? {cx: plot.x(steps[at]), cy: plot.y(ap50[at]), r: 5} : {r: 0});
    announce(`${name}: ${found} of ${truth.boxes.length} objects found, ${wrong} wrong boxes`);
  }

  const hint = "Green boxes find an object (dotted), dashed red ones find none: their class or their place " +
    "is wrong. A second box on the same object is green, too.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});
