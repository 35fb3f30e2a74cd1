"use strict";
// Everything is shown with textContent and `data:` addresses: no name of a class or a file is ever taken for markup.

function element(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The images of a cell of the confusion matrix

const albums = {};

function album(id) {
  return albums[id] ??= JSON.parse(document.getElementById(`${id}-album`).textContent);
}

function show(button) {
  const { images, cells, names } = album(button.dataset.album);
  const [row, column] = button.dataset.cell.split(",").map(Number);
  const indices = cells[button.dataset.cell] ?? [];
  const count = Number(button.textContent);
  const panel = document.getElementById(`${button.dataset.album}-panel`);
  for (const other of document.querySelectorAll(`button[data-album="${button.dataset.album}"][aria-pressed]`)) {
    other.removeAttribute("aria-pressed");
  }
  button.setAttribute("aria-pressed", "true");
  const some = indices.length < count ? `, ${indices.length} of them shown` : "";
  const title = element("p", `${names[row]} answered ${names[column]}: ${count} ${count === 1 ? "image" : "images"}${some}`);
  const gallery = element("div");
  gallery.className = "gallery";
  for (const index of indices) {
    const figure = element("figure");
    const image = element("img");
    image.src = images[index].src;
    image.alt = images[index].text;
    figure.append(image, element("figcaption", images[index].text));
    gallery.append(figure);
  }
  panel.replaceChildren(title, gallery);
  panel.scrollIntoView({ block: "nearest" }); // below a long table it would go unseen
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-cell]");
  if (button) show(button);
});

// One cell of a matrix is a stop of the Tab key; the arrow keys move on from there

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function place(table) {
  return [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("button")]);
}

function stopAt(table, button) {
  for (const other of table.querySelectorAll("button")) other.tabIndex = other === button ? 0 : -1;
}

for (const table of document.querySelectorAll(".matrix")) {
  stopAt(table, table.querySelector("button"));
  table.addEventListener("focusin", (event) => stopAt(table, event.target));
  table.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser's own
    const rows = place(table);
    const row = rows.findIndex((cells) => cells.includes(event.target));
    const column = rows[row].indexOf(event.target);
    rows[row + move[0]]?.[column + move[1]]?.focus();
    event.preventDefault();
  });
}

// The order of the classes

const cellCount = (id, row, column) =>
  Number(document.querySelector(`button[data-album="${id}"][data-cell="${row},${column}"]`).textContent);

function orders(id) {
  const { names } = album(id);
  const all = names.map((_, number) => number);
  const images = all.map((row) => all.reduce((sum, column) => sum + cellCount(id, row, column), 0));
  const recall = all.map((row) => (images[row] ? cellCount(id, row, row) / images[row] : 2));
  return {
    own: all,
    name: all.toSorted((a, b) => names[a].localeCompare(names[b], "en", { numeric: true })),
    recall: all.toSorted((a, b) => recall[a] - recall[b]),
    images: all.toSorted((a, b) => images[b] - images[a]),
  };
}

for (const select of document.querySelectorAll("select[data-order]")) {
  const id = select.dataset.order;
  const table = document.getElementById(`${id}-matrix`);
  const rows = [...table.tBodies[0].rows]; // in the order of the model, as are their cells
  const cells = [table.tHead.rows[0], ...rows].map((row) => [...row.cells]);
  select.addEventListener("change", () => {
    const order = orders(id)[select.value];
    [table.tHead.rows[0], ...rows].forEach((row, number) =>
      row.replaceChildren(cells[number][0], ...order.map((column) => cells[number][column + 1])));
    table.tBodies[0].replaceChildren(...order.map((number) => rows[number]));
  });
}

// Tables that a click on a heading sorts: numbers the greatest first, text by name, and the other way at the next click

const value = (cell) => cell.dataset.value ?? cell.textContent.trim();

function compare(one, other) {
  const difference = Number(one) - Number(other);
  return Number.isNaN(difference) ? one.localeCompare(other, "en", { numeric: true }) : difference;
}

for (const table of document.querySelectorAll(".sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const rows = [...table.tBodies[0].rows];
    const numbers = rows.every((row) => !Number.isNaN(Number(value(row.cells[column]))));
    const before = heading.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numbers && column > 0;
    rows.sort((a, b) => (down ? -1 : 1) * compare(value(a.cells[column]), value(b.cells[column])));
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].replaceChildren(...rows);
  }));
}
