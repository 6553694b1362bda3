// Filters, sorting and search of the table of claims; what is chosen stands in the address, after #.
const form = document.getElementById("filters"), table = document.getElementById("claims");
const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells];
let state = {};
function show() {
  state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const field of form.elements) if (field.name) field.value = state[field.name] || "";
  const words = (state.words || "").toLowerCase().split(/\s+/);
  let count = 0;
  for (const row of rows) {
    const found = Object.entries(JSON.parse(row.dataset.verdicts)).filter(([run, verdict]) =>
      (!state.run || run === state.run) && (!state.verdict || verdict === state.verdict));
    row.hidden = !(found.length && (!state.paper || row.dataset.paper === state.paper)
      && (!state.asks || row.dataset.asks === state.asks)
      && words.every(word => row.textContent.toLowerCase().includes(word)));
    count += !row.hidden;
  }
  for (const cell of table.querySelectorAll("[data-run]")) cell.hidden = !!state.run && cell.dataset.run !== state.run;
  form.querySelector("output").textContent = `${count} of ${rows.length} claims`;
  const column = heads.findIndex(head => head.textContent === (state.sort || "").replace(/^-/, ""));
  const down = (state.sort || "").startsWith("-");
  heads.forEach((head, at) => at === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending")
    : head.removeAttribute("aria-sort"));
  const key = row => row.cells[Math.max(column, 0)].dataset.sort;
  const order = [...rows].sort((one, other) => key(one).localeCompare(key(other), "en", {numeric: true}));
  table.tBodies[0].append(...(down ? order.reverse() : order));
}
function choose(changes) {
  const chosen = Object.entries({...state, ...changes}).filter(([, value]) => value);
  history.replaceState(null, "", "#" + new URLSearchParams(chosen));
  show();
}
form.hidden = false;
form.addEventListener("input", event => choose({[event.target.name]: event.target.value}));
form.addEventListener("submit", event => event.preventDefault());
for (const head of heads) {
  const name = head.textContent, button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => choose({sort: state.sort === name ? "-" + name : name}));
  head.replaceChildren(button);
}
addEventListener("hashchange", show);
show();
