/* The page "Try it": the button that loads the detector, and what is said if that fails. */
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
    const lasting = [...root.children];
    button.addEventListener("click", async () => {
      button.hidden = true;
      const bar = touch.make(root, "progress", {max: 1, value: 0, "aria-label": "loading the detector"});
      message.textContent = "Loading the detector …";
      try {
        await tryIt.load(base, files, (share) => { bar.value = share; });
        await tryIt.begin(root);
        button.remove();
        still.classList.add("live");
        message.textContent = "";
      } catch (error) {
        for (const part of [...root.children]) if (!lasting.includes(part)) part.remove();
        message.textContent = error.missing ? "A part of the detector did not arrive. Please see whether you are " +
          `still connected, and try again. (${error.message})` : "The detector cannot run in this browser: " +
          error.message;
        Object.assign(button, {hidden: false, textContent: "Try again"});
      } finally {
        bar.remove();
      }
    });
  }
}
