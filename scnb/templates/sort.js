"use strict";
const text = (row, i) => row.cells[i].textContent.trim();
const number = s => /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?(%|\s|$)/i.test(s) ? parseFloat(s.replace(/,/g, "")) : NaN;
function sort(table, i, up) {
  const body = table.tBodies[0], rows = [...body.rows];
  const numeric = rows.every(r => text(r, i) === "" || !isNaN(number(text(r, i))));
  rows.sort((p, q) => {
    const a = text(p, i), b = text(q, i);
    if (a === "" || b === "") return (a === "") - (b === "");
    const d = numeric ? number(a) - number(b) : a.localeCompare(b, "en", {numeric: true});
    return up ? d : -d;
  });
  body.append(...rows);
}
for (const table of document.querySelectorAll("table")) {
  if (table.closest(".plain") || table.tBodies[0].rows.length < 3) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((th, i) => {
    const button = document.createElement("button");
    button.type = "button"; button.append(...th.childNodes); th.append(button);
    button.addEventListener("click", () => {
      const up = th.getAttribute("aria-sort") !== "ascending";
      heads.forEach(h => h.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(table, i, up);
    });
  });
}
