/* Detections of a class in a dozen scenes: what a score threshold and suppression make of them, and of their AP. */
"use strict";

touch.figure("cut", (stage, {pictures, sides, names, truth, found, kind, score, threshold}) => {
  let list, rank = Infinity;
  const offered = [...names.keys()].filter((k) => truth[k].some((boxes) => boxes.length)); // no object, no recall
  const grid = touch.make(stage, "div", {class: "touch-scenes"});
  const scenes = pictures.map((picture, n) => {
    const [width, height] = sides[n];
    const svg = touch.panel(grid, width, height, `Scene ${n + 1}`);
    touch.make(svg, "image", {href: picture, width, height});
    const look = {class: "touch-number", style: `font-size: ${width / 12}px`};
    touch.make(svg, "text", {x: width / 50, y: width / 11, ...look}, String(n + 1));
    svg.setAttribute("role", "img");
    return touch.make(svg, "g");
  });

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const words = (value) => (+value).toFixed(2);
  const which = {label: "class", min: 0, max: offered.length - 1, step: 1, say: (k) => names[offered[k]]};
  kind = offered.includes(kind) ? kind : offered[0];
  touch.slider(panel, {...which, value: offered.indexOf(kind), act: (k) => { kind = offered[k]; choose(); }});
  const least = {label: "score above", min: 0.05, max: 0.95, step: 0.05, value: score, say: words};
  touch.slider(panel, {...least, act: (value) => { score = value; choose(); }});
  const most = {label: "overlap above", min: 0.1, max: 1, step: 0.05, value: threshold, say: words};
  touch.slider(panel, {...most, act: (value) => { threshold = value; choose(); }});
  const walker = touch.slider(panel, {label: "rank", min: 0, max: 1, step: 1, value: 0, act: (value) => {
    rank = value === list.length ? Infinity : value;
    show();
  }});
  const write = touch.readings(panel, ["detection", "precision", "recall", "AP50"]);
  const draw = touch.ranking(touch.panel(stage, 340, 300, "Precision against recall"));
  const announce = touch.announcer(stage);

  /** What is left of the candidates in a scene, the best first: each takes the free object that it fits best. */
  function judged({boxes, scores}, scene) {
    const kept = [], free = truth[kind][scene].map((_, n) => n);
    boxes.forEach((box, k) => {
      if (scores[k] > score && !kept.some((other) => touch.iou(other.box, box) > threshold)) {
        const overlap = (n) => touch.iou(box, truth[kind][scene][n]);
        const best = free.filter((n) => overlap(n) >= 0.5).sort((one, other) => overlap(other) - overlap(one))[0];
        if (best !== undefined) free.splice(free.indexOf(best), 1);
        kept.push({scene, box, score: scores[k], hit: best !== undefined});
      }
    });
    return kept;
  }

  function choose() {
    list = found[kind].flatMap(judged).sort((one, other) => other.score - one.score);
    walker.input.max = list.length;
    show();
  }

  function frame(scene, [x1, y1, x2, y2], look) {
    const place = {x: x1, y: y1, width: x2 - x1, height: y2 - y1};
    touch.make(scenes[scene], "rect", {...place, class: look});
  }

  function show() {
    const walked = Math.min(rank, list.length), last = list[walked - 1];
    const objects = truth[kind].flat().length;
    walker.set(walked);
    scenes.forEach((group) => group.replaceChildren());
    truth[kind].forEach((boxes, n) => boxes.forEach((box) => frame(n, box, "touch-goal")));
    list.forEach(({scene, box, hit}, k) => {
      const look = k < walked ? (hit ? "kept" : "wrong") : "waiting";
      frame(scene, box, `touch-frame ${look}${k === walked - 1 && walked < list.length ? " now" : ""}`);
    });
    scenes.forEach((group, n) => {
      const [good, all] = [".kept", ":is(.kept, .wrong)"].map((look) => group.querySelectorAll(look).length);
      group.parentNode.setAttribute("aria-label", `Scene ${n + 1}: ${good} right, ${all - good} wrong`);
    });
    const {right, ap} = draw(list.slice(0, walked).map(({hit}) => hit), objects);
    const none = list.length ? `none of ${list.length} yet` : "none";
    const verdict = last ? `${walked} of ${list.length}: score ${last.score.toFixed(2)}, ` +
      `${last.hit ? "right" : "wrong"}, in scene ${last.scene + 1}` : none;
    write("detection", verdict);
    write("precision", walked ? `${right}/${walked} = ${(right / walked).toFixed(2)}` : "none yet");
    write("recall", `${right}/${objects} = ${(right / objects).toFixed(2)}`);
    write("AP50", ap.toFixed(4));
    announce(`${names[kind]}: ${walked} of ${list.length} detections, ${right} right, AP50 ${ap.toFixed(2)}`);
  }

  const hint = "Dotted: the objects of the class. A green box takes one, by an IoU of at least 0.5; a dashed red one " +
    "takes none: its object is taken already, or overlaps it by less than 0.5, or does not exist. White ones are " +
    "further down the list than the rank. The second threshold is between two boxes, not between a box and an " +
    "object. In the chart, dashed is the precision down the list, solid the best one there or later; AP50 is the " +
    "mean of its heights.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  choose();
});
