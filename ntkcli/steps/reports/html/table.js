"use strict";
// Sorting, search and filters for tables of class "explore". Reads and writes text only, never HTML.
(() => {
  const make = (tag, words = {}, text = "") => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(words)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  };

  const valueOf = (cell) => {
    if (!cell.classList.contains("number")) return cell.textContent.trim().toLowerCase();
    return cell.hasAttribute("data-value") ? Number(cell.getAttribute("data-value")) : null;
  };

  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  };

  const explore = (block) => {
    const table = block.querySelector("table");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const name = table.caption.textContent;
    const filters = [];

    const sortBy = (index, head) => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map((row) => [valueOf(row.cells[index]), row]);
      keyed.sort((a, b) => {
        if (a[0] === null || b[0] === null) return compare(a[0], b[0]);
        return down ? -compare(a[0], b[0]) : compare(a[0], b[0]);
      });
      body.append(...keyed.map((pair) => pair[1]));
    };

    heads.forEach((head, index) => {
      const button = make("button", { type: "button" }, head.textContent);
      head.dataset.name = head.textContent; // for the printer, which repeats heads but not their buttons
      head.replaceChildren(button);
      button.addEventListener("click", () => sortBy(index, head));
    });

    const tools = make("div", { class: "tools" });
    const search = make("input", { type: "search" });
    const searchLabel = make("label", {}, "Search ");
    searchLabel.append(search);
    tools.append(searchLabel);
    const count = make("p", { role: "status", class: "count" });

    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row) => {
        const text = row.textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word)) &&
          filters.every(([index, select]) => select.value === "" || row.cells[index].textContent.trim() === select.value.slice(1));
        row.hidden = !fits;
        shown += fits;
      });
      count.textContent = `${shown} of ${rows.length} rows`;
    };

    heads.forEach((head, index) => {
      if (!head.dataset.filter) return;
      const values = [...new Set(rows.map((row) => row.cells[index].textContent.trim()))];
      const select = make("select");
      select.append(make("option", { value: "" }, "all"), ...values.map((value) => make("option", { value: `=${value}` }, value)));
      const label = make("label", {}, `${head.textContent[0].toUpperCase()}${head.textContent.slice(1)} `);
      label.append(select);
      tools.append(label);
      filters.push([index, select]);
      select.addEventListener("change", show);
    });

    search.addEventListener("input", show);
    search.setAttribute("aria-label", `Search: ${name}`);
    tools.append(count);
    block.prepend(tools);
    show();
  };

  document.querySelectorAll(".explore").forEach(explore);
})();
