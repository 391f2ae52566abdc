// Without this script the page is a table and a plain list. With it the matrix can be narrowed down, and a cell opens in a window.
// What is shown is always what the address says after its #: the open cell first, then the values of the form, joined by &.

const form = document.getElementById("filter");
const dialog = document.getElementById("window");
const table = document.getElementById("matrix");
const fields = [...table.querySelectorAll("td.field")].map((field) => ({
  field,
  row: field.parentElement,
  links: [...field.querySelectorAll("a")],
  place: { ...field.closest("tbody").dataset, ...field.parentElement.dataset, ...field.dataset },
}));

// The folded place of the cell that is in the window, and what had the focus before it was opened.
let home = null;
let opener = null;

/** What the address says. */
function wanted() {
  const parts = location.hash.slice(1).split("&");
  const cell = parts[0].startsWith("cell-") ? decoded(parts.shift()) : "";
  return { cell, values: new URLSearchParams(parts.join("&")) };
}

/** A part of an address as it was before it became one; nothing if it never was anything. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

/** The address of a cell (or of none) with the form as it is now. */
function address(cell) {
  const values = [...new FormData(form)].filter(([, value]) => value);
  const parts = cell ? [encodeURIComponent(cell)] : [];
  if (values.length) parts.push(new URLSearchParams(values).toString());
  return parts.length ? `#${parts.join("&")}` : location.pathname + location.search;
}

/** Shows what the address says. */
function show() {
  const { cell, values } = wanted();
  for (const control of form.elements) {
    if (control.type === "checkbox") control.checked = values.has(control.name);
    else if (control.name) control.value = values.get(control.name) ?? "";
  }
  narrow();
  if (cell && document.getElementById(cell)) open(cell);
  else if (home) close();
}

/** Shows what the form says, and how much that is. */
function narrow() {
  const { text, failed, ...place } = Object.fromEntries(new FormData(form));
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  let bad = 0;
  let all = 0;
  const rows = new Set();
  for (const field of fields) {
    const fits = Object.entries(place).every(([name, value]) => !value || field.place[name] === value);
    for (const link of field.links) {
      const name = link.dataset.name.toLowerCase();
      const isBad = link.dataset.verdict === "failed";
      const is = fits && (!failed || isBad) && words.every((word) => name.includes(word));
      link.classList.toggle("other", !is);
      all += 1;
      shown += is;
      bad += is && isBad;
      if (is) rows.add(field.row);
    }
  }
  for (const { row } of fields) row.hidden = !rows.has(row);
  for (const body of table.tBodies) body.hidden = [...body.rows].every((row) => row.hidden || row.matches(".group"));
  for (const element of table.querySelectorAll("[data-debian]")) {
    element.hidden = place.debian !== "" && element.dataset.debian !== place.debian;
  }
  form.querySelector("output").textContent = `${shown} of ${all} cells shown, ${bad} failed`;
}

/** Opens a cell in the window. */
function open(id) {
  const article = document.getElementById(id);
  if (!dialog.contains(article)) {
    if (home) putBack();
    else opener = document.activeElement;
    home = article.parentElement;
    dialog.append(article);
    dialog.setAttribute("aria-labelledby", article.getAttribute("aria-labelledby"));
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  article.querySelector("h3").focus();
}

/** Closes the window and gives the focus back. */
function close() {
  const link = putBack();
  dialog.close();
  (opener?.matches("a") && opener.checkVisibility() ? opener : link)?.focus();
}

/** Leaves the cell in the window, as its reader wants. */
function leave() {
  history.pushState(null, "", address(""));
  show();
}

/** Puts the cell in the window back where it was; gives its link in the table. */
function putBack() {
  const article = dialog.querySelector("article");
  home.append(article);
  home = null;
  return fields.flatMap(({ links }) => links).find((link) => decoded(link.hash.slice(1)) === article.id);
}

/** The link that is so many rows and columns away from one. */
function neighbour(link, down, right) {
  const row = link.closest("tr");
  const column = [...row.cells].indexOf(link.closest("td"));
  const rows = [...table.rows].filter((row) => row.checkVisibility() && row.querySelector("td.field"));
  for (let y = rows.indexOf(row) + down, x = column + right; rows[y]?.cells[x]?.matches(".field"); y += down, x += right) {
    const found = rows[y].cells[x].querySelector("a");
    if (found?.checkVisibility()) return found;
  }
  return null;
}

addEventListener("hashchange", show);
addEventListener("popstate", show);

for (const type of ["input", "change"]) {
  form.addEventListener(type, () => {
    history.replaceState(null, "", address(""));
    narrow();
  });
}
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", (event) => {
  event.preventDefault();
  history.replaceState(null, "", location.pathname + location.search);
  show();
});

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[href^='#cell-']");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    history.pushState(null, "", address(decoded(link.hash.slice(1))));
    show();
  }
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const said = copy.parentElement.querySelector("output");
    try {
      await navigator.clipboard.writeText(copy.dataset.copy);
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(copy.parentElement.querySelector("code"));
      said.textContent = "selected: copy it with Ctrl-C";
    }
  }
  if (event.target === dialog || event.target.closest(".close")) leave();
});

table.addEventListener("keydown", (event) => {
  const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
  const link = event.target.closest("td.field a");
  if (!step || !link) return;
  event.preventDefault();
  neighbour(link, ...step)?.focus();
});

// The browser closes the dialog on Escape, and reports that only later: the address can have opened a cell again meanwhile.
dialog.addEventListener("close", () => {
  if (home && !dialog.open) leave();
});

document.documentElement.classList.add("scripted");
form.hidden = false;
show();
