// What scrolls sideways can be reached by keyboard.
const watch = new ResizeObserver(entries => entries.forEach(({target}) => {
  if (target.scrollWidth > target.clientWidth) target.tabIndex = 0; else target.removeAttribute("tabindex");
}));
document.querySelectorAll(".scroll, .highlight pre").forEach(area => watch.observe(area));
