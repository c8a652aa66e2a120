/* The page "Try it": the button, and what happens from a changed scene to the last box. */
"use strict";

{
  const TRY = "Drag the things in the scene about, and watch each step from the picture to the boxes. Add others " +
    "from below the scene, or choose another picture here.";
  const HOW = "Drag a thing to move it, its corner to scale and turn it. By keyboard: arrows move it, with Shift " +
    "they scale and turn it, Delete removes it.";
  const NOTES = {
    background: "This course has drawn the background, as it draws those of the scenes that the detector learns from.",
    scene: "The white dotted boxes are the truth: what is in the scene, and where. The detector has not learned " +
      "from this scene.",
    own: "Your picture stays on your machine. The detector has learned from drawings alone.",
  };
  const root = document.querySelector("#detector"), still = document.querySelector("#fig-try-it");
  const {base, files} = JSON.parse(root.querySelector("script").textContent);
  const message = touch.make(root, "p", {class: "try-message", role: "status"});
  root.hidden = false;
  message.textContent = tryIt.obstacle();
  if (!message.textContent) offer();

  function offer() {
    const megabytes = Math.ceil(Object.values(files).reduce((sum, {bytes}) => sum + bytes, 0) / 1e6);
    const look = {type: "button", class: "try-load"};
    const button = touch.make(root, "button", look, `Load the detector (${megabytes} MB)`);
    button.addEventListener("click", async () => {
      button.hidden = true;
      const bar = touch.make(root, "progress", {max: 1, value: 0, "aria-label": "loading the detector"});
      message.textContent = "Loading the detector …";
      try {
        await tryIt.load(base, files, (share) => { bar.value = share; });
        await begin();
        button.remove();
        still.classList.add("live");
        message.textContent = "";
      } catch (error) {
        message.textContent = "A part of the detector did not arrive. Please see whether you are still connected, " +
          `and try again. (${error.message})`;
        Object.assign(button, {hidden: false, textContent: "Try again"});
      } finally {
        bar.remove();
      }
    });
  }

  async function begin() {
    const {settings, data} = tryIt;
    const begun = [["elephant", 90, 90, 120, -8], ["pizza", 240, 70, 80, 15], ["teddy bear", 180, 175, 90, 0],
      ["robot face", 275, 180, 80, 10]];
    const things = await Promise.all(begun.map(async ([name, x, y, side, turn]) => {
      return {name, x, y, side, turn, image: await tryIt.image(data.glyphs.find((one) => one.name === name).file)};
    }));
    await tryIt.image(data.backgrounds[0].file); // what is missing is missed before anything stands on the page
    const state = {score: 0.5, overlap: settings.nms_thr};
    const [top, left, right] = ["top", "left", "stages"].map((name) => touch.make(root, "div", {class: `try-${name}`}));
    const announce = touch.announcer(root);
    let truth = [], picture, busy = null, stale = false;

    const scene = tryIt.scene(left, () => ask());
    const write = touch.readings(left, ["time", "found"]);
    tryIt.palette(left, scene);
    tryIt.hint(left, HOW);
    tryIt.hint(top, TRY);
    const choice = tryIt.choice(top, open);
    const again = touch.make(top, "button", {type: "button"}, "start again");
    tryIt.ownPicture(top, scene.stack.root, choice.own);
    const note = tryIt.hint(top, "");
    again.addEventListener("click", () => { tryIt.opening = start(); });

    const stages = [tryIt.heat, tryIt.proposals, tryIt.regions, tryIt.detections];
    const views = stages.map((stage) => stage(right, state, show));

    /** Show a background under the things, or a scene or a picture of the reader's own instead of them. */
    async function open(entry, keep = !entry.boxes && !entry.image) {
      const image = entry.image ?? await tryIt.image(entry.file);
      const {width = image.naturalWidth, height = image.naturalHeight} = entry;
      truth = entry.boxes ?? [];
      note.textContent = entry.boxes ? NOTES.scene : entry.image ? NOTES.own : NOTES.background;
      scene.setGround(image, width, height, keep);
    }

    async function start() {
      choice.first();
      await open(data.backgrounds[0], false);
      things.forEach(scene.add);
    }

    /** Look at the scene, and once that is shown, at what it has become meanwhile. */
    function ask() {
      stale = true;
      busy ??= work().finally(() => { busy = null; });
    }

    async function work() {
      while (stale) {
        await new Promise((resolve) => setTimeout(resolve, 40)); // the browser shows how things are moved
        stale = false;
        const begin = performance.now(), seen = await tryIt.look(scene.pixels()), proposals = tryIt.propose(seen);
        await tryIt.classify(seen, proposals);
        picture = {seen, proposals, time: performance.now() - begin, canvas: scene.canvas};
        show();
      }
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
      write("time", `${Math.round(picture.time)} ms`);
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
    ask(); // once more: the browser has compiled while it answered first, and that took time
    await tryIt.settled();
  }
}
