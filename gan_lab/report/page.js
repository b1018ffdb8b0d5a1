"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (name) => document.getElementById(name);

  // ------------------------------------------------------------ sorting

  // The key of a unit (a row, or a tbody with a configuration's rows): a number, or a text; null sorts last.
  function keyOf(unit, column, isNumber) {
    const cell = (unit.tagName === "TBODY" ? unit.rows[0] : unit).cells[column];
    if (isNumber) {
      const value = parseFloat(cell.dataset.sort);
      return Number.isFinite(value) ? value : null;
    }
    return cell.textContent.trim() || null;
  }

  function sort(table, header) {
    const first = header.dataset.first === "descending" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const way = header.getAttribute("aria-sort") === first ? other : first;
    for (const one of all("th[aria-sort]", table)) one.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", way);
    const units = table.classList.contains("grouped") ? [...table.tBodies] : [...table.tBodies[0].rows];
    const isNumber = "number" in header.dataset;
    const keyed = units.map((unit) => [keyOf(unit, Number(header.dataset.column), isNumber), unit]);
    const sign = way === "ascending" ? 1 : -1;
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (isNumber ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    const parent = units[0]?.parentNode;
    for (const [, unit] of keyed) parent.append(unit);
  }

  for (const table of all("table.sortable")) {
    for (const header of all("th[aria-sort]", table)) {
      header.querySelector("button").addEventListener("click", () => sort(table, header));
    }
  }

  // ------------------------------------------------------------ filter, seeds and metrics on demand

  let visible = new Set(data.runs.keys());

  function showRows() {
    for (const group of all("table.grouped tbody")) {
      const runs = group.dataset.runs.split(" ").map(Number);
      group.hidden = !runs.some((run) => visible.has(run));
      const expanded = group.querySelector(".expand")?.getAttribute("aria-expanded") === "true";
      for (const row of all("tr.child", group)) row.hidden = !expanded || !visible.has(Number(row.dataset.run));
    }
    for (const one of all("[data-run]:not(.child)")) one.hidden = !visible.has(Number(one.dataset.run));
  }

  function filter() {
    const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const statuses = new Set(all("#filter [name=status]").filter((box) => box.checked).map((box) => box.value));
    visible = new Set();
    data.runs.forEach((run, index) => {
      if (statuses.has(run.status) && words.every((word) => run.text.includes(word))) visible.add(index);
    });
    const num = data.runs.length;
    byId("shown").textContent =
      visible.size === num ? `${num} run${num === 1 ? "" : "s"}` : `${visible.size} of ${num} runs`;
    showRows();
    drawCurves();
  }

  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("input", filter);

  for (const button of all(".expand")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
      showRows();
    });
  }
  for (const button of all(".expand-all, .extra-toggle")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      const board = button.closest(".board");
      if (button.classList.contains("extra-toggle")) board.querySelector("table").classList.toggle("all-metrics", on);
      else for (const one of all(".expand", board)) one.setAttribute("aria-expanded", String(on));
      showRows();
    });
  }

  // ------------------------------------------------------------ commands, pictures

  async function copy(button) {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  }
  for (const button of all(".copy")) button.addEventListener("click", () => copy(button));

  const dialog = byId("large");
  let enlarged = null;

  function enlarge(figure) {
    enlarged = figure;
    const image = figure.querySelector("img");
    dialog.querySelector("img").src = image.src;
    dialog.querySelector("img").alt = image.alt;
    dialog.querySelector("figcaption").textContent = figure.querySelector("figcaption").textContent.trim();
    if (!dialog.open) dialog.showModal();
  }
  function turn(by) {
    const figures = all(".sample:not([hidden])");
    enlarge(figures[(figures.indexOf(enlarged) + by + figures.length) % figures.length]);
  }
  for (const button of all(".enlarge")) button.addEventListener("click", () => enlarge(button.closest("figure")));
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });

  // ------------------------------------------------------------ plots

  const options = {
    displaylogo: false,
    responsive: true,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };

  // The layout in the page's colours, light or dark.
  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line") };
    const found = {
      ...layout,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--text") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--accent") },
    };
    for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) found[key] = { ...axis, ...layout[key] };
    found.shapes = (layout.shapes ?? []).map((one) => ({ ...one, line: { color: colour("--quiet"), ...one.line } }));
    return found;
  }

  function drawFigures() {
    for (const place of all("[data-figure]")) {
      const figure = data.figures[place.dataset.figure];
      Plotly.react(place, figure.data, themed(figure.layout), options);
    }
  }

  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const curves = data.curves.runs;
  const off = new Set();
  const cards = [...new Set(curves.map((run) => run.card).filter(Boolean))];
  if (cards.length > 1 && byId("card")) {
    byId("card-choice").hidden = false;
    byId("card").append(...cards.map((card) => new Option(card)));
    byId("card").addEventListener("change", () => choose("scores"));
  }

  // Runs that have the chosen metric; scores of unlike cards are never drawn on one axis.
  function having(kind) {
    const metric = document.querySelector(`[data-curves="${kind}"]`).value;
    const card = kind === "scores" && cards.length > 1 ? byId("card").value : null;
    return [metric, curves.filter((run) => run.series[metric] && (card === null || run.card === card))];
  }

  function isWide(values) {
    const positive = values.every((value) => value > 0);
    return positive && values.length > 0 && Math.max(...values) > 30 * Math.min(...values);
  }

  function drawCurve(kind) {
    const plot = byId(`curve-${kind}`);
    if (!plot) return;
    const [metric, runs] = having(kind);
    // The best come first in the data and last on the drawing, on top of the others.
    const drawn = runs.filter((run) => visible.has(run.run) && !off.has(run.configuration)).reverse();
    const traces = drawn.map((run) => {
      const [place, y] = run.series[metric];
      const x = run.kimg[place];
      const about = data.runs[run.run];
      const look = data.configurations[run.configuration];
      const ended = about.status === "finished" || about.status === "running";
      const dot = kind === "scores" && x.length < 40 ? 5 : x.length === 1 ? 5 : 0;
      return {
        type: "scatter",
        mode: "lines+markers",
        x,
        y,
        line: { color: look.colour, dash: look.dash, width: drawn.length > 24 ? 1.1 : 1.8 },
        opacity: look.own ? 0.9 : 0.45,
        marker: {
          color: look.colour,
          size: x.map((_, index) => (!ended && index === x.length - 1 ? 9 : dot)),
          symbol: x.map((_, index) => (!ended && index === x.length - 1 ? "x" : "circle")),
        },
        hovertemplate: `${escaped(about.title)}<br>run ${escaped(about.name)}, %{x:,.1f} kimg: %{y:.4g}<extra></extra>`,
      };
    });
    const floors = [...new Set(drawn.map((run) => run.floor[metric]).filter((value) => value !== undefined))];
    const isLog = document.querySelector(`[data-log="${kind}"]`).checked;
    const positive = [...traces.flatMap((trace) => trace.y), ...floors].filter((value) => value > 0);
    const few = Math.max(...positive) < 1e5 * Math.min(...positive);
    const scale = isLog ? { type: "log", dtick: few ? "D2" : 1, exponentformat: few ? "none" : "power" } : {};
    const layout = {
      xaxis: { title: { text: "images seen (thousands)" }, rangemode: "tozero", automargin: true },
      yaxis: { title: { text: escaped(data.curves.titles[metric]) }, automargin: true, ...scale },
      shapes: floors.map((y) => ({
        type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { dash: "dash", width: 1 },
      })),
      showlegend: false,
      hovermode: "closest",
      margin: { l: 20, r: 20, t: 30, b: 50 },
    };
    // The floor belongs into the view, which plotly sizes by the traces alone.
    if (floors.length > 0) {
      traces.push({
        type: "scatter", mode: "markers", x: floors.map(() => 0), y: floors, hoverinfo: "skip", marker: { opacity: 0 },
      });
    }
    Plotly.react(plot, traces, themed(layout), options);
  }

  function drawCurves() {
    drawCurve("scores");
    drawCurve("training");
  }

  // A new metric comes with the scale that shows it best.
  function choose(kind) {
    const [metric, runs] = having(kind);
    document.querySelector(`[data-log="${kind}"]`).checked = isWide(runs.flatMap((run) => run.series[metric][1]));
    drawCurve(kind);
  }
  for (const select of all("[data-curves]")) {
    select.addEventListener("change", () => choose(select.dataset.curves));
  }
  for (const box of all("[data-log]")) box.addEventListener("change", () => drawCurve(box.dataset.log));

  function makeLegend() {
    const legend = byId("legend");
    if (!legend) return;
    const used = [...new Set(curves.filter((run) => Object.keys(run.series).length).map((run) => run.configuration))];
    const own = used.filter((index) => data.configurations[index].own).map((index) => [[index], data.configurations[index].label]);
    const others = used.filter((index) => !data.configurations[index].own);
    const entries = [...own, ...(others.length ? [[others, `${others.length} other configurations`]] : [])];
    const buttons = entries.map(([indices, label]) => {
      const look = data.configurations[indices[0]];
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      const dash = { solid: "", dash: "6 4", dot: "2 3" }[look.dash];
      button.innerHTML = '<svg width="24" height="8" aria-hidden="true"><line x1="0" y1="4" x2="24" y2="4" stroke-width="2.5"/></svg>';
      button.querySelector("line").setAttribute("stroke", look.colour);
      if (dash) button.querySelector("line").setAttribute("stroke-dasharray", dash);
      button.append(label);
      button.addEventListener("click", () => press(button, indices, button.getAttribute("aria-pressed") !== "true"));
      return [button, indices];
    });
    function press(button, indices, on) {
      button.setAttribute("aria-pressed", String(on));
      for (const index of indices) on ? off.delete(index) : off.add(index);
      drawCurves();
    }
    legend.append(...buttons.map(([button]) => button));
    if (buttons.length > 2) {
      const every = document.createElement("button");
      every.type = "button";
      every.className = "every";
      every.textContent = "all / none";
      every.addEventListener("click", () => {
        const on = off.size > 0;
        for (const [button, indices] of buttons) {
          button.setAttribute("aria-pressed", String(on));
          for (const index of indices) on ? off.delete(index) : off.add(index);
        }
        drawCurves();
      });
      legend.append(every);
    }
  }

  makeLegend();
  drawFigures();
  for (const select of all("[data-curves]")) choose(select.dataset.curves);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawFigures();
    drawCurves();
  });
  if (byId("words").value || all("#filter [name=status]:not(:checked)").length) filter(); // a page that was reloaded
  document.documentElement.dataset.ready = "true";
})();
