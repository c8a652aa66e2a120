/* Precision, recall and average precision, built rank by rank down a list of detections. */
"use strict";

touch.figure("ranks", (stage, {lists, list, rank}) => {
  let hits, shown;
  const svg = touch.panel(stage, 340, 300, "Precision against recall");
  const view = touch.view([0, 1], [1, 0], [34, 326], [22, 250]);
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  touch.axes(svg, view, {x: ticks, y: ticks, xlabel: "recall", ylabel: "precision"});
  const area = touch.make(svg, "path", {class: "touch-area ink-a"});
  const best = touch.make(svg, "path", {class: "touch-curve ink-a"});
  const walk = touch.make(svg, "path", {class: "touch-curve dashed ink-b"});
  const dot = touch.make(svg, "circle", {class: "touch-spot ink-b"});

  const panel = touch.make(stage, "div", {class: "touch-side"});
  const which = {label: "list", min: 0, max: lists.length - 1, step: 1, value: list, say: (k) => lists[k].name};
  if (lists.length > 1) touch.slider(panel, {...which, act: choose});
  const how = {label: "score from", min: 0, max: 1, step: 1, value: 0, say: (k) => score(k)};
  const walker = touch.slider(panel, {...how, act: (value) => { rank = value; show(); }});
  const write = touch.readings(panel, ["rank", "precision", "recall", "AP"]);
  const row = touch.make(panel, "div", {class: "touch-row"});
  const say = touch.announcer(stage);

  function score(k) {
    return shown && k ? shown.scores[k - 1].toFixed(2) : "above all";
  }

  /** After each rank so far: precision and recall. */
  function curve() {
    let right = 0;
    return hits.slice(0, rank).map((hit, k) => {
      right += hit;
      return {right, precision: right / (k + 1), recall: right / shown.objects};
    });
  }

  /** At each of 101 recalls the best precision that is reached there or later. */
  function heights(points) {
    return Array.from({length: 101}, (_, k) => {
      const reached = points.filter(({recall}) => recall >= 0.01 * k).map(({precision}) => precision);
      return reached.reduce((most, value) => Math.max(most, value), 0);
    });
  }

  function choose(k) {
    shown = lists[k];
    hits = [...shown.hits];
    rank = Math.min(k === list && rank ? rank : hits.length, hits.length);
    walker.input.max = hits.length;
    walker.set(rank);
    row.replaceChildren();
    if (hits.length > 12) return show();
    hits.forEach((_, n) => {
      const button = touch.make(row, "button", {type: "button"});
      button.addEventListener("click", () => { hits[n] = !hits[n]; show(); });
    });
    show();
  }

  function show() {
    const points = curve(), at = points.at(-1), tops = heights(points);
    const mean = tops.reduce((sum, value) => sum + value, 0) / 101;
    const edges = (k) => [Math.max(0.01 * k - 0.005, 0), Math.min(0.01 * k + 0.005, 1)];
    const steps = tops.flatMap((top, k) => edges(k).map((recall) => [recall, top]));
    touch.set(best, {d: view.path(steps)});
    touch.set(area, {d: `${view.path(steps)}L${view.x(1)} ${view.y(0)}L${view.x(0)} ${view.y(0)}Z`});
    touch.set(walk, {d: points.length ? view.path(points.map(({recall, precision}) => [recall, precision])) : ""});
    touch.set(dot, at ? {cx: view.x(at.recall), cy: view.y(at.precision), r: 5} : {r: 0});
    walker.set(rank);
    [...row.children].forEach((button, n) => {
      button.textContent = `${n + 1} ${hits[n] ? "right" : "wrong"}`;
      touch.set(button, {"aria-pressed": hits[n], class: n < rank ? "walked" : ""});
    });
    write("rank", at ? `${rank} of ${hits.length}, ${hits[rank - 1] ? "right" : "wrong"}` : "before the first");
    write("precision", at ? `${at.right}/${rank} = ${at.precision.toFixed(2)}` : "none yet");
    write("recall", at ? `${at.right}/${shown.objects} = ${at.recall.toFixed(2)}` : `0/${shown.objects} = 0.00`);
    write("AP", mean.toFixed(4));
    say(`rank ${rank}, AP ${mean.toFixed(2)}`);
  }

  const hint = "Dashed is the walk down the list, solid the best precision there or later; AP is the mean of its " +
    "heights. A button turns a right detection into a wrong one.";
  touch.make(stage, "p", {class: "touch-hint"}, hint);
  choose(list);
});
