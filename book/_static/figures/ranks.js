/* Precision, recall and average precision, built rank by rank down a list of detections. */
"use strict";

touch.figure("ranks", (stage, {scores, hits, objects, rank}) => {
  const verdicts = [...hits];
  const draw = touch.ranking(touch.panel(stage, 340, 300, "Precision against recall"));
  const panel = touch.make(stage, "div", {class: "touch-side"});
  const how = {label: "score from", min: 0, max: hits.length, step: 1, value: rank, say: score};
  const walker = touch.slider(panel, {...how, act: (value) => { rank = value; show(); }});
  const write = touch.readings(panel, ["rank", "precision", "recall", "AP"]);
  const row = touch.make(panel, "div", {class: "touch-row"});
  const say = touch.announcer(stage);
  verdicts.forEach((_, n) => {
    const button = touch.make(row, "button", {type: "button"});
    button.addEventListener("click", () => { verdicts[n] = !verdicts[n]; show(); });
  });

  function score(k) {
    return k ? scores[k - 1].toFixed(2) : "above all";
  }

  function show() {
    const {right, ap} = draw(verdicts.slice(0, rank), objects);
    [...row.children].forEach((button, n) => {
      button.textContent = `${n + 1} ${verdicts[n] ? "right" : "wrong"}`;
      touch.set(button, {"aria-pressed": verdicts[n], class: n < rank ? "walked" : ""});
    });
    const verdict = rank ? `${rank} of ${hits.length}, ${verdicts[rank - 1] ? "right" : "wrong"}` : "before the first";
    write("rank", verdict);
    write("precision", rank ? `${right}/${rank} = ${(right / rank).toFixed(2)}` : "none yet");
    write("recall", `${right}/${objects} = ${(right / objects).toFixed(2)}`);
    write("AP", ap.toFixed(4));
    say(`rank ${rank}, AP ${ap.toFixed(2)}`);
  }

  const hint = "Dashed is the precision down the list, solid the best one there or later; AP is the mean of its " +
    "heights. A button turns a right detection into a wrong one.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  show();
});
