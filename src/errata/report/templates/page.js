"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, kind) => {
    const found = document.createElement(tag);
    if (text !== undefined) found.textContent = text;
    if (kind) found.className = kind;
    return found;
  };

  const themes = ["auto", "light", "dark"];
  const remembered = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("errata-theme", value);
      return localStorage.getItem("errata-theme");
    } catch { return null; }
  };
  const setTheme = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    const button = byId("theme");
    button.textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[name];
    button.setAttribute("aria-label", name === "auto" ? "Colours: as the system has them" : `Colours: ${name}`);
  };
  let theme = themes.includes(remembered()) ? remembered() : "auto";
  setTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    remembered(theme);
    setTheme(theme);
  });

  // Missing values go last in either direction; equal ones keep their order.
  const compared = (a, b, way) => {
    const none = (value) => value === null || value === undefined || value === "";
    if (none(a) || none(b)) return none(a) - none(b);
    if (typeof a === "number" && typeof b === "number") return way * (a - b);
    return way * String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  const pressed = (head, heads) => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    return up ? 1 : -1;
  };

  for (const table of document.querySelectorAll("table.sorts")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      const way = pressed(head, heads), body = table.tBodies[0];
      const worth = (row) => {
        const cell = row.cells[i];
        if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
        const text = cell.textContent.trim();
        return text === "-" || text === "" ? null : text;
      };
      const rows = [...body.rows].map((row) => [worth(row), row]);
      rows.sort((a, b) => compared(a[0], b[0], way));
      body.append(...rows.map((pair) => pair[1]));
    }));
  }

  const data = JSON.parse(byId("data").textContent);
  if (!data.groups.length) return;
  const FIRST = 200;
  const table = byId("facts"), find = byId("find"), viewPick = byId("view"), only = byId("only");
  let group, views, side, columns, order, shown = FIRST;

  data.groups.forEach((each, g) => {
    const box = data.groups.length > 1 ? viewPick.appendChild(make("optgroup")) : viewPick;
    if (box !== viewPick) box.label = each.name;
    if (each.views.length > 1) box.append(option("All side by side", `${g}/-1`));
    each.views.forEach((view, v) => box.append(option(view.name, `${g}/${v}`)));
  });
  viewPick.value = `0/${data.groups[0].first}`;
  function option(text, value) {
    const found = make("option", text);
    found.value = value;
    return found;
  }

  const known = (list) => list && list.some((value) => value !== null && value !== "");
  const verdictOf = (fact) => {
    const found = views.map((view) => view.verdict[fact]).filter((value) => value !== null);
    return found.length ? Math.min(...found) : null;
  };
  const trouble = (fact) => views.reduce((sum, view) => {
    const kept = view.values.generalisation_accuracy || view.values.generalisation_success;
    return sum + 10 * (view.verdict[fact] ?? 3) + ((kept && kept[fact]) ?? 0);
  }, 0) / views.length;

  function choose() {
    const [g, v] = viewPick.value.split("/").map(Number);
    group = data.groups[g];
    side = v < 0;
    views = side ? group.views : [group.views[v]];
    const facts = group.facts.map((_, i) => i);
    columns = [{ title: "Fact", kind: "fact", of: (i) => group.facts[i][1] }];
    if (group.seeds > 1) columns.push({ title: "Seed", of: (i) => group.facts[i][0] });
    if (known(facts.map((i) => group.facts[i][2]))) columns.push({ title: "To say", kind: "said", of: (i) => group.facts[i][2] });
    if (known(facts.map((i) => group.facts[i][3]))) columns.push({ title: "Before", kind: "said", of: (i) => group.facts[i][3] });
    for (const view of views) {
      const said = view.said ? (i) => view.said[i] : null;
      if (side) {
        columns.push({ title: view.name, kind: "said", of: (i) => view.verdict[i], said, mark: true });
        continue;
      }
      if (said) columns.push({ title: "After", kind: "said", of: said });
      columns.push({ title: "Verdict", kind: "said", of: (i) => view.verdict[i], mark: true });
      for (const [key, title] of data.scores)
        if (view.values[key]) columns.push({ title, of: (i) => view.values[key][i], score: true });
    }
    const counts = [0, 0, 0];
    for (const i of facts) if (verdictOf(i) !== null) counts[verdictOf(i)] += 1;
    const kept = only.value;
    only.replaceChildren(option(`All ${facts.length.toLocaleString("en")} facts`, ""));
    const words = side ? ["missed by some", "in part by some", "held by all"] : data.verdicts;
    words.forEach((name, value) => only.append(option(`${name} (${counts[value].toLocaleString("en")})`, String(value))));
    only.value = kept;
    order = facts.sort((a, b) => trouble(a) - trouble(b));
    const row = make("tr");
    for (const column of columns) {
      const head = make("th", undefined, column.kind ? "word" : "");
      head.scope = "col";
      head.setAttribute("aria-sort", "none");
      const button = make("button", column.title.replace("D_KL", "D"));
      if (column.title.includes("D_KL")) button.append(make("sub", "KL"));
      button.type = "button";
      button.addEventListener("click", () => {
        const way = pressed(head, [...row.cells]);
        order.sort((a, b) => compared(column.of(a), column.of(b), way));
        draw();
      });
      head.append(button);
      row.append(head);
    }
    const top = make("thead");
    top.append(row);
    table.replaceChildren(top, make("tbody"));
    draw();
  }

  function matching() {
    const words = find.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    const wanted = only.value === "" ? null : Number(only.value);
    return order.filter((i) => {
      if (wanted !== null && verdictOf(i) !== wanted) return false;
      if (!words.length) return true;
      const text = [...group.facts[i].slice(1), ...views.map((view) => (view.said ? view.said[i] : ""))];
      const all = text.join(" ").toLocaleLowerCase();
      return words.every((part) => all.includes(part));
    });
  }

  function cellOf(column, i) {
    const cell = make("td", undefined, column.kind);
    const value = column.of(i);
    if (column.mark) {
      if (column.said && column.said(i)) cell.append(make("span", `${column.said(i)} `));
      if (value !== null) cell.append(make("span", data.verdicts[value], `verdict v${value}`));
    } else if (column.score) {
      cell.textContent = value === null ? "–" : value.toFixed(2);
    } else {
      cell.textContent = value ?? "";
    }
    return cell;
  }

  function draw() {
    const found = matching();
    const rows = found.slice(0, shown).map((i) => {
      const row = make("tr");
      row.append(...columns.map((column) => cellOf(column, i)));
      return row;
    });
    table.tBodies[0].replaceChildren(...rows);
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${order.length.toLocaleString("en")}`;
    const more = byId("more");
    more.hidden = found.length <= shown;
    more.textContent = `Show all ${found.length.toLocaleString("en")}`;
  }

  byId("more").addEventListener("click", () => { shown = Infinity; draw(); });
  find.addEventListener("input", draw);
  only.addEventListener("change", draw);
  viewPick.addEventListener("change", choose);
  choose();
})();
