/* The page "Try it" once it runs: from a changed scene to the last box. */
"use strict";

Object.assign(tryIt, {
  TRY: "Drag the things in the scene about, and watch each step from the picture to the boxes. Add others " +
    "from below the scene, or choose another picture here. Each picture keeps what you put on it; the backgrounds " +
    "share theirs.",
  HOW: "Drag a thing to move it, the dot at its corner to scale and turn it. By keyboard: Tab goes to a thing; " +
    "arrows move it, with Shift they scale and turn it, Delete removes it. Below the scene, arrows walk through what " +
    "can be added, and Enter adds it.",
  NOTES: {
    background: "This course has drawn the background, as it draws those of the scenes that the detector learns from.",
    scene: "The white dotted boxes are the truth: where things are. The list of pictures says what they are. The " +
      "detector has not learned from this scene.",
    own: "Your picture stays on your machine. The detector has learned from drawings alone.",
  },

  /** Build the page in `root`; it is done once the first scene is answered. */
  async begin(root) {
    const {settings, data} = tryIt;
    const begun = [["elephant", 90, 90, 120, -8], ["pizza", 240, 70, 80, 15], ["teddy bear", 180, 175, 90, 0],
      ["robot face", 275, 180, 80, 10]];
    const things = await Promise.all(begun.map(async ([name, x, y, side, turn]) => {
      return {name, x, y, side, turn, image: await tryIt.image(data.glyphs.find((one) => one.name === name).file)};
    }));
    const [first] = data.backgrounds;
    first.image = await tryIt.image(first.file); // what is missing is missed before anything stands on the page
    const state = {score: 0.5, overlap: settings.nms_thr};
    const [top, left, right] = ["top", "left", "stages"].map((name) => touch.make(root, "div", {class: `try-${name}`}));
    touch.set(top, {tabindex: -1});
    const announce = touch.announcer(root, true);
    let truth = [], current, picture, busy = null, stale = false, failure = null;

    const scene = tryIt.scene(left, ask);
    const write = touch.readings(left, ["answered in", "found"]);
    tryIt.palette(left, scene);
    tryIt.hint(left, tryIt.HOW);
    tryIt.hint(top, tryIt.TRY);
    const open = tryIt.pictures(top, root, lay, complain);
    const again = touch.make(top, "button", {type: "button"}, "start again");
    const complaint = touch.make(top, "p", {class: "try-complaint", role: "alert"});
    const note = tryIt.hint(top, "");
    again.addEventListener("click", () => { tryIt.opening = start(); });

    const stages = [tryIt.heat, tryIt.proposals, tryIt.regions, tryIt.detections];
    const views = stages.map((stage) => stage(right, state, show));

    function complain(text) { complaint.textContent = text; }

    /** Lay a picture under its glyphs. */
    function lay(entry) {
      [current, picture, truth] = [entry, null, entry.boxes ?? []];
      note.textContent = tryIt.NOTES[entry.boxes ? "scene" : entry.own ? "own" : "background"];
      scene.setGround(entry.image, entry.boxes || entry.own ? entry : data.backgrounds);
    }

    async function start() {
      if (!await open(first)) return;
      scene.begin(things);
      for (const input of right.querySelectorAll("input")) {
        input.value = input.defaultValue;
        input.dispatchEvent(new Event("input"));
      }
    }

    /** Look at the scene, and once that is shown, at what it has become meanwhile. */
    function ask() {
      stale = true;
      busy ??= work();
    }

    async function work() {
      for (const part of [right, scene.marks]) touch.set(part, {"aria-busy": true});
      try {
        while (stale) {
          await new Promise((resolve) => setTimeout(resolve, 40)); // the browser shows how things are moved
          stale = false;
          await look();
        }
        if (failure) complain("");
        failure = null;
      } catch (error) {
        failure = error;
        complain(`The detector has not answered; the boxes are those of its last answer. (${error.message})`);
      }
      busy = null;
      for (const part of [right, scene.marks]) touch.set(part, {"aria-busy": false});
    }

    async function look() {
      const of = current, begin = performance.now(), seen = await tryIt.look(scene.pixels());
      const proposals = tryIt.propose(seen);
      await tryIt.classify(seen, proposals);
      if (of !== current) return; // another picture has been laid there
      picture = {seen, proposals, time: performance.now() - begin, canvas: scene.canvas};
      show();
    }

    /** What follows without the network: other sliders, the same scene. */
    function show() {
      if (!picture) return;
      const {proposals, canvas} = picture, regions = proposals.slice(0, state.used);
      const found = {...picture, regions, ...tryIt.detect(regions, state.score, state.overlap)};
      const {width, height} = canvas, name = ({label, score}) => `${settings.names[label]} ${score.toFixed(2)}`;
      for (const view of views) view({...found, width, height});
      const look = (one) => ({frame: "touch-frame kept", text: name(one)});
      tryIt.frames(scene.marks, scene.stack.view, tryIt.sides(canvas), found.kept, look);
      for (const box of truth) {
        touch.make(scene.marks, "rect", {...scene.stack.view.rect(box), class: "touch-goal"});
      }
      const counts = new Map();
      for (const {label} of found.kept) counts.set(label, (counts.get(label) ?? 0) + 1);
      const count = ([label, times]) => settings.names[label] + (times > 1 ? ` ×${times}` : "");
      const names = Array.from(counts, count).join(", ") || "nothing";
      write("found", names);
      write("answered in", `${Math.round(picture.time)} ms`);
      announce(`found: ${names}`);
      tryIt.found = found;
    }

    /** For tests: all that was asked for is shown. */
    tryIt.settled = async () => {
      await tryIt.opening;
      while (busy) await busy;
    };

    await start();
    await tryIt.settled();
    if (!picture) throw failure;
    ask(); // once more: the browser has compiled while it answered first, and that took time
    await tryIt.settled();
    if (document.activeElement === document.body) top.focus({preventScroll: true}); // the button that had it is gone
  },
});
