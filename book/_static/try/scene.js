/* The scene: a ground, glyphs that a hand moves, scales and turns on it, and the pixels that the detector gets. */
"use strict";

Object.assign(tryIt, {
  /** A scene in `parent`. `changed()` is told when its pixels are others. */
  scene(parent, changed) {
    const stack = tryIt.stack(parent, "the scene"), {svg, canvas, context} = stack;
    stack.root.classList.add("try-scene");
    svg.removeAttribute("aria-hidden");
    touch.set(svg, {role: "group", "aria-label": "the things in the scene"});
    const how = "Arrow keys move it; with Shift, up and down scale it, left and right turn it. Delete removes it.";
    touch.make(parent, "p", {id: "try-how", hidden: ""}, how);
    const marks = touch.make(svg, "g"), hands = touch.make(svg, "g");
    const handle = touch.make(svg, "g", {class: "touch-box ink-e"});
    const dot = touch.make(handle, "circle", {class: "dot", r: 5});
    const spot = touch.make(handle, "circle", {class: "spot", r: 16});
    const row = touch.make(parent, "div", {class: "touch-row", role: "group", "aria-label": "the chosen thing"});
    let ground, owner = null, lists = new WeakMap(), glyphs = [], chosen = null;
    const acts = {
      larger: () => change({side: chosen.side * 1.15}), smaller: () => change({side: chosen.side / 1.15}),
      "turn left": () => change({turn: chosen.turn - 10}), "turn right": () => change({turn: chosen.turn + 10}),
      "to the front": () => { glyphs = [...glyphs.filter((one) => one !== chosen), chosen]; build(); },
      remove: () => { glyphs = glyphs.filter((one) => one !== chosen); chosen = glyphs.at(-1) ?? null; build(); },
    };
    const buttons = Object.entries(acts).map(([name, act]) => tryIt.button(row, name, act));

    svg.addEventListener("pointerdown", ({target, isPrimary}) => { if (target === svg && isPrimary) choose(null); });

    const longest = () => Math.max(canvas.width, canvas.height);
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

    /** Change the chosen glyph, within the scene. */
    function change(to) {
      const one = Object.assign(chosen, to), most = longest();
      one.x = clamp(one.x, 0, canvas.width);
      one.y = clamp(one.y, 0, canvas.height);
      one.side = clamp(one.side, most / 20, most);
      one.turn = ((one.turn + 180) % 360 + 360) % 360 - 180;
      draw();
    }

    function choose(one) {
      chosen = one;
      for (const other of glyphs) other.hand.classList.toggle("chosen", other === one);
      for (const button of buttons) button.allow(one);
      handle.style.display = one ? "" : "none";
      if (one) place(one);
    }

    /** A hand for one glyph: it moves it. */
    function grip(one) {
      const look = {class: "touch-box ink-e", tabindex: 0, role: "application", "aria-describedby": "try-how"};
      const hand = touch.make(hands, "g", look), face = touch.make(hand, "rect", {class: "face"});
      const take = () => { choose(one); return {...one}; }; // it may have the focus and not be chosen
      touch.drag(hand, take, (dx, dy, from) => {
        change({x: from.x + dx / stack.view.sx, y: from.y + dy / stack.view.sy});
      });
      touch.arrows(hand, (dx, dy, shift) => {
        const {x, y, side, turn} = take();
        change(shift ? {side: side * (1 - 0.05 * dy), turn: turn + 5 * dx} : {x: x + 4 * dx, y: y + 4 * dy});
      });
      hand.addEventListener("focus", take);
      hand.addEventListener("keydown", ({key}) => {
        if (key !== "Delete" && key !== "Backspace") return;
        take();
        acts.remove();
      });
      Object.assign(one, {hand, face});
      place(one);
    }

    /** The handle scales and turns the chosen glyph. */
    const corner = (one) => tryIt.corner(one, canvas, 6 / stack.view.sx);
    touch.drag(handle, () => ({...chosen, corner: corner(chosen)}), (dx, dy, {side, turn, corner: [x, y]}) => {
      const [toX, toY] = [x + dx / stack.view.sx, y + dy / stack.view.sy];
      const angle = Math.atan2(toY, toX) - Math.atan2(y, x), stretch = Math.hypot(toX, toY) / Math.hypot(x, y);
      change({side: side * stretch, turn: turn + angle * 180 / Math.PI});
    });

    /** New hands for all glyphs; the focus stays where it is, and on a hand, if it was on one. */
    function build() {
      const focused = hands.contains(document.activeElement);
      hands.replaceChildren();
      glyphs.forEach(grip);
      choose(glyphs.includes(chosen) ? chosen : null);
      if (focused) chosen?.hand.focus({preventScroll: true});
      draw();
    }

    /** What a glyph is and where, and its hand there. */
    function place(one) {
      const {view} = stack, [w, h] = tryIt.half(one);
      const at = `translate(${view.x(one.x)} ${view.y(one.y)}) rotate(${one.turn})`;
      const [x, y, side, turn] = [one.x, one.y, one.side, one.turn].map(Math.round);
      touch.set(one.hand, {transform: at, "aria-label": `${one.name}: x ${x}, y ${y}, ${side} pixels, ${turn}°`});
      touch.set(one.face, {x: -w * view.sx, y: -h * view.sy, width: 2 * w * view.sx, height: 2 * h * view.sy});
      if (one !== chosen) return;
      buttons[0].allow(one.side < longest());
      buttons[1].allow(one.side > longest() / 20);
      const [cx, cy] = corner(one);
      for (const part of [dot, spot]) touch.set(part, {cx: view.x(one.x + cx), cy: view.y(one.y + cy)});
    }

    function draw() {
      context.drawImage(ground, 0, 0);
      for (const one of glyphs) {
        const [w, h] = tryIt.half(one);
        context.save();
        context.translate(one.x, one.y);
        context.rotate(one.turn * Math.PI / 180);
        context.drawImage(one.image, -w, -h, 2 * w, 2 * h);
        context.restore();
        place(one);
      }
      changed();
    }

    return {
      stack, marks, svg, canvas,
      pixels() {
        const {width, height} = canvas;
        return {pixels: context.getImageData(0, 0, width, height).data, width, height};
      },
      /** Put another picture under the glyphs of its `next` owner: each has its own, but for an owner of several. */
      setGround(image, next) {
        if (owner) lists.set(owner, glyphs);
        [ground, owner, glyphs] = [image, next, lists.get(next) ?? []];
        marks.replaceChildren(); // they belong to the old picture
        stack.fit(image.naturalWidth ?? image.width, image.naturalHeight ?? image.height);
        build();
      },
      /** Begin anew: these glyphs, and none in any other picture. */
      begin(things) {
        lists = new WeakMap();
        glyphs = things.map((thing) => ({...thing}));
        chosen = glyphs.at(-1);
        build();
      },
      /** Add a glyph, where it is dropped or where there is room. */
      add({name, image, ...at}) {
        const {x, y} = at.x === undefined ? tryIt.free(glyphs, canvas) : at;
        chosen = {name, image, x, y, side: canvas.width / 3, turn: 0};
        glyphs = [...glyphs, chosen];
        build();
      },
    };
  },
});
