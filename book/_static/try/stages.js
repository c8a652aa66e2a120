/* What the detector sees on its way: objectness by level, proposals, regions with their classes, suppression. */
"use strict";

Object.assign(tryIt, {
  SHOWN: 6, // regions at a time

  /** A stage with its title, and the chapter that builds it. */
  stage(parent, title, chapter, href) {
    const stage = touch.make(parent, "section", {class: "try-stage"});
    touch.make(stage, "h2", {}, title);
    const more = touch.make(stage, "p", {class: "touch-hint"});
    tryIt.link(more, `../nbs/chapters/${href}.html`, chapter);
    return stage;
  },

  /** A number from 0 to 1 as a color. */
  color(value) {
    return tryIt.data.magma[Math.min(Math.floor(value * tryIt.data.magma.length), tryIt.data.magma.length - 1)];
  },

  /** Heat maps, one a level: for each cell the highest objectness of its anchors. */
  heat(parent) {
    const stage = tryIt.stage(parent, "Where could something be?", "Chapter 3: objectness", "03_rpn");
    const maps = touch.make(stage, "div", {class: "try-maps"});
    const levels = [2, 3, 4, 5, 6].map((level) => {
      const figure = touch.make(maps, "div");
      const canvas = touch.make(figure, "canvas", {role: "img"});
      touch.make(figure, "i", {class: `try-swatch try-p${level}`});
      return {canvas, caption: touch.make(figure, "span"), name: `P${level}`};
    });
    tryIt.hint(stage, "Each map is a [level] of the first network, from fine (P2) to coarse (P6). A cell shows the " +
      "highest [objectness] of its [anchors|anchor], from black (0) to pale yellow (1).");
    return ({seen, width, height}) => seen.levels.forEach(({start, rows, columns, shapes}, k) => {
      const {canvas, caption, name} = levels[k], image = new ImageData(columns, rows);
      let most = 0;
      for (let cell = 0; cell < rows * columns; cell++) {
        const from = start + cell * shapes, logit = Math.max(...seen.logits.data.subarray(from, from + shapes));
        const value = 1 / (1 + Math.exp(-logit));
        most = Math.max(most, value);
        image.data.set([...tryIt.color(value), 255], 4 * cell);
      }
      Object.assign(canvas, {width: columns, height: rows});
      canvas.style.aspectRatio = `${width} / ${height}`;
      canvas.getContext("2d").putImageData(image, 0, 0);
      caption.textContent = `${name}, highest ${most.toFixed(2)}`;
      const cells = `${rows} × ${columns} cells`;
      touch.set(canvas, {"aria-label": `objectness on ${name}, ${cells}, at most ${most.toFixed(2)}`});
    });
  },

  /** The best proposals over the scene. */
  proposals(parent, state, show) {
    const stage = tryIt.stage(parent, "The best proposals", "Chapter 3: from anchors to proposals", "03_rpn");
    const stack = tryIt.stack(stage, "proposals"), group = touch.make(stack.svg, "g");
    const most = tryIt.settings.post_nms, count = (notch) => Math.max(notch, Math.round(most * (notch / 40) ** 2));
    const there = {drawn: most, used: most}; // how many there are to draw and to use
    const sliders = [["proposals drawn", "drawn", 16], ["proposals used", "used", 40]].map(([label, name, value]) => {
      const act = (notch) => { state[name] = count(notch); show(); };
      const say = (notch) => (count(notch) > there[name] ? `all ${there[name]}` : `${count(notch)}`);
      state[name] = count(value);
      return touch.slider(stage, {label, min: 1, max: 40, step: 1, value, say, act});
    });
    tryIt.hint(stage, "The boxes of highest [objectness], in the colors of their [levels|level]. The second network " +
      `gets the [proposals|proposal] that are used and no others. In the library these are the best ${most}.`);
    return ({canvas, proposals, regions}) => {
      const drawn = regions.slice(0, state.drawn);
      Object.assign(there, {drawn: regions.length, used: proposals.length});
      for (const {set, input} of sliders) set(+input.value);
      stack.fit(canvas.width, canvas.height);
      stack.context.drawImage(canvas, 0, 0);
      touch.set(stack.canvas, {"aria-label": `proposals: the best ${drawn.length} over the scene`});
      const look = ({level}) => ({frame: `touch-frame try-proposal try-p${level}`});
      tryIt.frames(group, stack.view, tryIt.sides(canvas), drawn, look);
    };
  },

  /** Some regions as squares of 7 × 7 bins, and what the second network says of them. */
  regions(parent) {
    const stage = tryIt.stage(parent, "What the second network sees", "Chapter 4: classes and boxes", "04_roi_head");
    const list = touch.make(stage, "ol", {class: "try-regions"}), row = touch.make(stage, "div", {class: "touch-row"});
    let first = 0, last;
    const step = (by) => { first += by; show(last); };
    const [back, on] = [["better ones", -tryIt.SHOWN], ["next ones", tryIt.SHOWN]].map(([name, by]) => {
      return tryIt.button(row, name, () => step(by));
    });
    const ranks = touch.make(row, "span");
    tryIt.hint(stage, "The [proposals|proposal] that are used, by falling [objectness]. Whatever its shape, each one " +
      "is read in [7 × 7 bins|ROIAlign], not from these pixels but from one [level] of the feature " +
      "pyramid. The bars are the three most probable classes.");

    function show(found) {
      last = found;
      const {regions, canvas} = found, [sx, sy] = tryIt.sides(canvas);
      first = Math.max(Math.min(first, Math.ceil(regions.length / tryIt.SHOWN - 1) * tryIt.SHOWN), 0);
      list.replaceChildren();
      regions.slice(first, first + tryIt.SHOWN).forEach((one) => {
        const item = touch.make(list, "li"), [x1, y1, x2, y2] = one.box;
        const crop = touch.make(item, "canvas", {width: 84, height: 84, "aria-hidden": true});
        const context = crop.getContext("2d");
        context.drawImage(canvas, x1 * sx, y1 * sy, (x2 - x1) * sx, (y2 - y1) * sy, 0, 0, 84, 84);
        context.fillStyle = "#ffffff66";
        for (let line = 12; line < 84; line += 12) {
          context.fillRect(line, 0, 1, 84);
          context.fillRect(0, line, 84, 1);
        }
        const bars = touch.make(item, "div", {class: "try-bars"});
        for (const label of tryIt.best(one.probabilities, 0, one.probabilities.length, 3)) {
          const share = one.probabilities[label], name = label ? tryIt.settings.names[label] : "no object";
          const bar = touch.make(bars, "span", {class: label ? "" : "none"}, `${name} ${share.toFixed(2)}`);
          bar.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
        }
      });
      const end = Math.min(first + tryIt.SHOWN, regions.length);
      ranks.textContent = end ? `${first + 1} to ${end} of ${regions.length}` : "none";
      back.allow(first);
      on.allow(end < regions.length);
    }
    return show;
  },

  /** Detections before and after suppression. */
  detections(parent, state, show) {
    const stage = tryIt.stage(parent, "One box for each thing", "Chapter 6: detections", "06_inference");
    const stack = tryIt.stack(stage, "detections"), group = touch.make(stack.svg, "g");
    for (const [label, name] of [["lowest score", "score"], ["largest overlap", "overlap"]]) {
      const range = {min: 0.05, max: 0.95, step: 0.05, value: state[name], say: (value) => value.toFixed(2)};
      touch.slider(stage, {label, ...range, act: (value) => { state[name] = value; show(); }});
    }
    const names = ["boxes before suppression", "boxes after it"], write = touch.readings(stage, names);
    tryIt.hint(stage, "A box needs at least the lowest [score]. The dashed orange boxes are dropped by " +
      "[suppression|non-maximum suppression]: a better box of their class overlaps them by more than the largest " +
      "overlap ([IoU]).");
    return ({canvas, before, kept}) => {
      stack.fit(canvas.width, canvas.height);
      stack.context.drawImage(canvas, 0, 0);
      const look = (one) => ({frame: `touch-frame ${one.by ? "dropped" : "kept"}`});
      tryIt.frames(group, stack.view, tryIt.sides(canvas), before, look);
      const dropped = before.length - kept.length;
      const label = `detections: ${dropped} dashed, dropped by suppression, ${kept.length} solid, kept`;
      touch.set(stack.canvas, {"aria-label": label});
      write(names[0], `${before.length}`);
      write(names[1], `${kept.length}`);
    };
  },
});
