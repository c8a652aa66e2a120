/* The page "Try it": the button, and what happens from a changed scene to the last box. */
"use strict";

{
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
      button.remove();
      const bar = touch.make(root, "progress", {max: 1, value: 0, "aria-label": "loading the detector"});
      message.textContent = "Loading the detector …";
      try {
        await tryIt.load(base, files, (share) => { bar.value = share; });
        await begin();
        still.classList.add("live");
        message.textContent = "";
      } catch (error) {
        message.textContent = `The detector could not be loaded: ${error.message}`;
        throw error;
      } finally {
        bar.remove();
      }
    });
  }

  async function begin() {
    const {settings, data} = tryIt;
    const state = {count: settings.post_nms, score: 0.5, overlap: settings.nms_thr};
    const left = touch.make(root, "div", {class: "try-left"}), right = touch.make(root, "div", {class: "try-stages"});
    const announce = touch.announcer(root);
    let truth = [], picture, busy = null, stale = false;

    const scene = tryIt.scene(left, () => ask());
    const write = touch.readings(left, ["found", "time"]);
    const setGround = (image, keep, width = image.naturalWidth, height = image.naturalHeight) => {
      message.textContent = "";
      scene.setGround(image, width, height, keep);
    };
    const choice = tryIt.choice(left, async ({file, boxes = []}) => {
      const image = await tryIt.image(file);
      truth = boxes;
      setGround(image, !boxes.length);
    });
    tryIt.ownPicture(left, scene.stack.root, (image, width, height) => {
      truth = [];
      choice.own();
      setGround(image, false, width, height);
    }, (text) => { message.textContent = text; });
    tryIt.palette(left, scene);

    const stages = [tryIt.heat, tryIt.proposals, tryIt.regions, tryIt.detections];
    const views = stages.map((stage) => stage(right, state, show));

    /** Look at the scene as soon as the hand rests. */
    function ask() {
      stale = true;
      busy ??= work().finally(() => { busy = null; });
    }

    async function work() {
      while (stale) {
        stale = false;
        await new Promise((resolve) => setTimeout(resolve, 60));
        if (stale) continue;
        const begin = performance.now(), seen = await tryIt.look(scene.pixels()), proposals = tryIt.propose(seen);
        await tryIt.classify(seen, proposals);
        picture = {seen, proposals, time: performance.now() - begin, canvas: scene.canvas};
        show();
      }
    }

    /** What follows without the network: other sliders, the same scene. */
    function show() {
      if (!picture) return;
      const {proposals, canvas} = picture, regions = proposals.slice(0, state.count);
      const found = {...picture, regions, ...tryIt.detect(regions, state.score, state.overlap)};
      const {width, height} = canvas, name = ({label, score}) => `${settings.names[label]} ${score.toFixed(2)}`;
      for (const view of views) view({...found, width, height});
      const look = (one) => ({frame: "touch-frame kept", tag: "kept", text: name(one)});
      tryIt.frames(scene.marks, scene.stack.view, tryIt.sides(canvas), found.kept, look);
      for (const box of truth) {
        touch.make(scene.marks, "rect", {...scene.stack.view.rect(box), class: "touch-goal"});
      }
      const names = found.kept.map(name).join(", ") || "nothing";
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

    const glyph = (name) => data.glyphs.find((one) => one.name === name);
    setGround(await tryIt.image(data.backgrounds[0].file), true);
    const begun = [["elephant", 90, 90, 120, -8], ["pizza", 240, 70, 80, 15], ["teddy bear", 180, 175, 90, 0],
      ["robot face", 275, 180, 80, 10]];
    for (const [name, x, y, side, turn] of begun) {
      scene.add({name, image: await tryIt.image(glyph(name).file), x, y, side, turn});
    }
    await tryIt.settled();
    ask(); // once more: the browser has compiled while it answered first, and that took time
    await tryIt.settled();
  }
}
