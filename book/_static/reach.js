// What scrolls sideways can be reached and scrolled with the keyboard, too, also once it has been unfolded.
function reach() {
  for (const one of document.querySelectorAll(".bd-article :is(pre, table.table, figure.wide, .public-names)")) {
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0
    else one.removeAttribute("tabindex")
  }
}
for (const when of ["load", "resize", "click"]) addEventListener(when, reach)
addEventListener("toggle", reach, { capture: true }) // of <details>: it does not bubble
