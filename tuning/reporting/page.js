// Shows what `page_data.py` has computed. Text of users is only ever set as text. There is no arithmetic here that says
// anything about a study: the tables, rankings and findings of each objective come with the page.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const state = { view: 0, selected: -1, scales: {}, sort: { column: "objective", down: false }, filter: "" };
const drawn = new Map(); // plot's id -> its Vega view
const SEVERITIES = {
  problem: "● problem", warning: "▲ warning", note: "■ note", cannot_tell: "? cannot tell", ok: "✓ ok",
};
const SECTIONS = {
  comparison: "Comparison", hyperparameters: "Hyperparameters", isolation: "Each hyperparameter, with the others at their best",
  curves: "Training curves", search: "Enough trials?", steps: "Steps and gradients",
};
const LABEL = 150; // Pixels of a legend's entry.
const AROUND = 62; // Pixels of a plot's axis and legend.
const SHOWN = 5; // as in charts.py
const CATEGORIES = ["#3d7dca", "#d95f02", "#2d9a72", "#a55fb8", "#b8860b", "#c94c7c", "#5c9bb8", "#8a6d4f"];

const view = () => data.views[state.view];
const objective = () => data.objectives[state.view];
const place = new Map(data.trials.trial.map((trial, index) => [trial, index]));

function make(tag, options = {}, ...children) {
  const { class: name, text, ...rest } = options;
  const element = Object.assign(document.createElement(tag), rest);
  if (name) element.className = name;
  if (text !== undefined && text !== null) element.textContent = text;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const number = (value, digits = 4) => {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return Array.isArray(value) ? value.map((each) => number(each)).join(", ") : typeof value === "object"
    ? Object.entries(value).filter(([, inner]) => inner !== null && !(typeof inner === "object" && !Object.keys(inner).length))
      .map(([name, inner]) => `${name.replaceAll("_", " ")} ${typeof inner === "object" ? `(${number(inner)})` : number(inner)}`).join(", ") : String(value);
  return Number.isInteger(value) ? value.toLocaleString("en-US") : String(Number(value.toPrecision(digits)));
};

// A value of the objective, whose zero may be far away: with the digits that show how trials differ.
const worth = (value) => number(value, view().digits);

function code(text) {
  const copy = make("button", { type: "button", text: "copy" });
  const block = make("pre", { text });
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "copied";
      setTimeout(() => (copy.textContent = "copy"), 1200);
    } catch {
      getSelection().selectAllChildren(block); // Not every browser lets a local file write to the clipboard.
    }
  };
  return make("div", { class: "code" }, block, copy);
}

// Tables: columns to rows, as plots take them.

function rows(...parts) {
  const columns = Object.entries(Object.assign({}, ...parts));
  const count = columns.length ? columns[0][1].length : 0;
  return Array.from({ length: count }, (_, index) => Object.fromEntries(columns.map(([name, all]) => [name, all[index]])));
}

function shownTrials() {
  const best = view().order.slice(0, SHOWN);
  return state.selected < 0 || best.includes(state.selected) ? best : [...best, state.selected];
}

function curveRows(metric, split) {
  const curves = data.curves.values[metric] ?? {};
  return shownTrials().flatMap((trial, place_) => {
    const [at, values] = curves[trial] ?? [0, []];
    const steps = data.curves.steps[at];
    const chosen = view().tables.trials.step[place.get(trial)];
    return values.map((value, index) => ({
      trial, place: place_, metric, split, value, step: steps[index],
      chosen: split === "objective" && steps[index] === chosen,
    }));
  });
}

function table(name) {
  switch (name) {
    case "trials": return rows(data.trials, view().tables.trials);
    case "curves": {
      const metric = objective().metric, training = view().training_metric;
      return [...curveRows(metric, "objective"), ...(training && training !== metric ? curveRows(training, "training") : [])];
    }
    case "grad_norm": return curveRows("grad_norm", "objective");
    default: return rows(view().tables[name] ?? data.curves.tables[name] ?? {});
  }
}

// Plots.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function look(width) {
  const ink = css("--ink"), soft = css("--soft"), line = css("--line"), font = getComputedStyle(document.body).fontFamily;
  return {
    background: "transparent", font, view: { stroke: null }, range: { category: CATEGORIES },
    axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500 },
    legend: { labelColor: ink, titleColor: soft, labelFontSize: 11, titleFontSize: 11, columns: Math.max(1, Math.floor(width / LABEL)), labelLimit: LABEL - 24 },
  };
}

const OF_OBJECTIVE = new Set(["objective", "value", "p5", "p25", "median", "reference", "low", "typical"]); // as in plot.py

function channels(spec, visit) {
  for (const layer of spec.layer ?? [spec]) for (const [name, channel] of Object.entries(layer.encoding ?? {})) visit(name, channel);
}

// A logarithmic axis has no place for zero: points of a curve are left out there, trials never are.
function logarithmic(plot, tables) {
  const of_curves = plot.datasets.includes("curves") || plot.datasets.includes("grad_norm");
  let low = Infinity, high = -Infinity, all = true;
  for (const row of Object.values(tables).flat()) for (const name of ["objective", "value", "p5", "p95", "low", "high"]) {
    if (typeof row[name] !== "number") continue;
    if (row[name] > 0) { low = Math.min(low, row[name]); high = Math.max(high, row[name]); } else all = false;
  }
  return { possible: high > low && (all || of_curves), usual: high / low > 8 && all, all };
}

async function draw(plot, element) {
  const tables = Object.fromEntries(plot.datasets.map((name) => [name, table(name)]));
  const holder = element.querySelector(".chart"), button = element.querySelector(".switch");
  const turn = (element.turn = (element.turn ?? 0) + 1);
  drawn.get(plot.id)?.finalize();
  drawn.delete(plot.id);
  element.dataset.drawn = "";
  if (!Object.values(tables).some((each) => each.length)) {
    holder.replaceChildren(make("p", { class: "empty", text: "nothing to show" }));
    element.dataset.drawn = "empty";
    return;
  }
  const spec = structuredClone(plot.spec);
  const log = logarithmic(plot, tables);
  const scale = log.possible ? state.scales[plot.id] ?? (log.usual ? "log" : "linear") : "linear";
  if (scale === "log" && !log.all) for (const name of plot.datasets) tables[name] = tables[name].filter((row) => row.value > 0);
  channels(spec, (name, channel) => {
    if (!OF_OBJECTIVE.has(channel.field)) return;
    if (name === "y" && plot.switch && channel.scale) channel.scale = scale === "log" ? { type: "log", nice: false, padding: 12 } : { type: "linear", zero: false };
    if ((name === "y" || name === "x") && !plot.id.startsWith("grad_")) channel.title = objective().metric;
  });
  if (button) {
    button.disabled = !log.possible;
    button.textContent = scale === "log" ? "linear" : "log";
    button.title = !log.possible ? "not all values are positive" : `switch the axis${log.all ? "" : "; a logarithmic axis leaves out zeros"}`;
    button.onclick = () => { state.scales[plot.id] = scale === "log" ? "linear" : "log"; draw(plot, element); };
  }
  for (const one of spec.params) one.value = one.name === "ink" ? css("--ink") : state.selected;
  spec.datasets = { ...spec.datasets, ...tables };
  const { view: made } = await vegaEmbed(holder, spec, {
    // Errors only: a layer without marks, such as that of a selection when there is none, is no mistake.
    config: look(holder.clientWidth), renderer: "canvas", logLevel: 1, tooltip: { theme: document.documentElement.dataset.scheme },
    actions: false,
  });
  if (element.turn !== turn) { made.finalize(); return; } // Another objective was chosen in the meantime.
  made.addEventListener("click", (_, item) => { if (typeof item?.datum?.trial === "number") select(item.datum.trial); });
  element.querySelector(".save").onclick = async () => make("a", { href: await made.toImageURL("png", 2), download: `${plot.id}.png` }).click();
  drawn.set(plot.id, made);
  element.dataset.drawn = "yes";
}

const waiting = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    waiting.unobserve(target);
    draw(data.plots[target.dataset.plot], target);
  }
}, { rootMargin: "500px" });

function redraw() {
  document.querySelectorAll("#plot-list figure").forEach((figure) => {
    waiting.unobserve(figure);
    waiting.observe(figure);
  });
}

function layPlots() {
  for (const [section, title] of Object.entries(SECTIONS)) {
    const here = data.plots.map((plot, index) => ({ plot, index })).filter(({ plot }) => plot.section === section);
    if (!here.length) continue;
    const grid = make("div", { class: "grid" });
    // What is to be said of all plots of a section is said once.
    const caption = here.every(({ plot }) => plot.caption === here[0].plot.caption) ? here[0].plot.caption : null;
    for (const { plot, index } of here) {
      const buttons = make("span", { class: "buttons" });
      if (plot.switch) buttons.append(make("button", { type: "button", class: "switch", text: "log" }));
      buttons.append(make("button", { type: "button", class: "save", text: "png", title: "save as a picture" }));
      const head = make("div", { class: "head" }, make("span", { class: "title", text: plot.title }), buttons);
      const chart = make("div", { class: "chart" });
      chart.style.minHeight = `${plot.spec.height + AROUND}px`; // Drawn later, it must not move what the reader looks at.
      const figure = make("figure", { class: plot.wide ? "wide" : "" }, head, chart);
      if (!caption) figure.append(make("figcaption", { text: plot.caption }));
      figure.id = `plot-${index}`;
      figure.dataset.plot = index;
      grid.append(figure);
    }
    document.getElementById("plot-list").append(make("h3", { text: title }), ...(caption ? [make("p", { class: "caption", text: caption })] : []), grid);
  }
}

function showPlot(id) {
  const index = data.plots.findIndex((plot) => plot.id === id);
  const figure = document.getElementById(`plot-${index}`);
  document.querySelectorAll("figure.found").forEach((other) => other.classList.remove("found"));
  figure.classList.add("found");
  figure.scrollIntoView({ block: "center" });
}

// Selection.

async function select(trial) {
  state.selected = trial;
  document.querySelectorAll("#table tbody tr").forEach((row) => row.classList.toggle("selected", Number(row.dataset.trial) === trial));
  showSelection();
  await Promise.all([...drawn].map(([id, made]) => {
    for (const name of data.plots.find((plot) => plot.id === id).datasets) {
      if (name === "curves" || name === "grad_norm") made.data(name, table(name));
    }
    return made.signal("selected", trial).runAsync();
  }));
}

function showSelection() {
  const panel = document.getElementById("selection"), index = place.get(state.selected);
  panel.hidden = index === undefined;
  if (panel.hidden) return;
  const { state: states, objective: values, step, reason } = view().tables.trials;
  const close = make("button", { type: "button", text: "✕", title: "clear the selection (Escape)" });
  close.onclick = () => select(-1);
  const value = values[index] === null ? "" : `${objective().metric} ${worth(values[index])} at step ${number(step[index])}`;
  panel.replaceChildren(make("div", { class: "row" },
    make("strong", { text: `trial ${state.selected}` }),
    data.trials.source ? make("span", { text: data.trials.source[index] }) : null,
    make("span", { text: reason[index] ? `${states[index]}: ${reason[index]}` : states[index] }),
    make("span", { text: value }), make("span", { text: data.trials.values[index] }), close));
  if (data.commands[state.selected]) panel.append(make("div", { class: "row" }, code(data.commands[state.selected]), make("span")));
}

// Text.

function showSummary() {
  document.getElementById("answer").textContent = view().answer.sentence;
  const warning = document.getElementById("objective-warning");
  warning.hidden = !objective().warning;
  warning.textContent = objective().warning ?? "";
  const next = document.getElementById("next"), best = document.getElementById("best");
  next.replaceChildren(make("p", { text: view().answer.next ?? "No finding asks for another study." }));
  if (view().answer.because) next.append(make("p", { class: "because", text: view().answer.because }));
  if (view().answer.more_because) {
    next.append(make("p", { id: "more" }, make("strong", { text: `Further trials: ${view().answer.further}. ` }), view().answer.more_because));
  }
  const index = place.get(view().best);
  if (index === undefined) { best.replaceChildren(make("p", { text: "none yet" })); return; }
  const { objective: values, step, mean } = view().tables.trials;
  const link = make("button", { type: "button", text: `trial ${view().best}` });
  link.onclick = () => select(view().best);
  // Of several retrains the best one is good by chance: the point is worth their mean.
  const retrained = mean && view().answer.retrains > 1;
  best.replaceChildren(
    make("p", {}, make("span", { class: "big", text: worth(retrained ? mean[index] : values[index]) }),
      retrained ? ` ${objective().metric}, mean of ${view().answer.retrains} retrains; the best of them is ` : ` ${objective().metric} at step ${number(step[index])}, `,
      link, retrained ? ` with ${worth(values[index])} at step ${number(step[index])}` : ""),
    make("p", { class: "because", text: data.trials.values[index] }));
  if (data.commands[view().best]) best.append(code(data.commands[view().best]));
}

function showSince() {
  const place_ = document.getElementById("since");
  place_.hidden = !data.since || state.view !== 0; // It is about the study's own objective.
  if (place_.hidden) return;
  place_.replaceChildren(make("summary", { text: data.since.summary }), make("ul", {}, ...data.since.findings.map((text) => make("li", { text }))));
}

function showStates() {
  document.getElementById("states").replaceChildren(...Object.entries(view().states).map(([name, count]) => make("span", { class: "pill", text: `${count} ${name}` })),
    make("span", { class: "pill", text: `written ${data.study.written}` }));
}

// A row for a number, or for each of several things that have numbers, such as settings; none for what is not known.
function numberRows(name, value) {
  if (value === null || value === undefined) return [];
  const inner = typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : [];
  if (!inner.some(([, each]) => each && typeof each === "object" && !Array.isArray(each))) return [[name, value]];
  return inner.map(([of, each]) => [`${name}: ${of}`, each]);
}

function finding(one) {
  const box = make("details", { class: "finding" });
  box.style.setProperty("--severity", `var(--${one.severity})`);
  box.dataset.id = one.id;
  box.dataset.severity = one.severity;
  box.append(make("summary", {}, make("span", { class: "badge", text: SEVERITIES[one.severity] }),
    make("span", { class: "text", text: one.title }), make("span", { class: "id", text: one.id })));
  const body = make("div", { class: "body" }, make("p", { text: one.why }));
  if (one.action) body.append(make("p", { class: "todo", text: one.action }));
  if (one.until) body.append(make("p", { class: "until" }, make("strong", { text: "Would change this: " }), one.until));
  if (one.paste) body.append(code(one.paste));
  const numbers = Object.entries(one.numbers).flatMap(([name, value]) => numberRows(name.replaceAll("_", " "), value));
  if (numbers.length) {
    body.append(make("table", { class: "numbers" }, make("tbody", {}, ...numbers.map(([name, value]) =>
      make("tr", {}, make("th", { text: name }), make("td", { text: number(value) }))))));
  }
  const chips = make("div", { class: "chips" });
  if (one.plot && data.plots.some((plot) => plot.id === one.plot)) {
    const see = make("button", { type: "button", class: "see", text: "see the plot" });
    see.onclick = () => showPlot(one.plot);
    chips.append(see);
  }
  if (one.trials.length) chips.append("trials ");
  for (const trial of one.trials.slice(0, 12)) {
    const chip = make("button", { type: "button", text: String(trial) });
    chip.onclick = () => select(trial);
    chips.append(chip);
  }
  if (one.trials.length > 12) chips.append(`and ${one.trials.length - 12} more`);
  if (chips.childNodes.length) body.append(chips);
  box.append(body);
  return box;
}

function showFindings() {
  const own = view().answer.findings.map((index) => view().findings[index]);
  const all = view().findings.filter((one) => !own.includes(one));
  const quiet = (one) => one.severity === "ok" || one.severity === "cannot_tell";
  const list = document.getElementById("finding-list");
  list.replaceChildren();
  if (own.length) {
    // What the study was made to answer is read without a click.
    const opened = own.map((one) => Object.assign(finding(one), { open: true }));
    list.append(make("h3", { text: "The study's question" }), ...opened, make("h3", { text: "Other findings" }));
  }
  list.append(...all.filter((one) => !quiet(one)).map(finding));
  for (const [severity, [one_, many]] of [["cannot_tell", ["check needs more data", "checks need more data"]], ["ok", ["check passed", "checks passed"]]]) {
    const here = all.filter((one) => one.severity === severity);
    if (here.length) list.append(make("details", { class: "more" }, make("summary", { text: `${here.length} ${here.length === 1 ? one_ : many}` }), ...here.map(finding)));
  }
}

// The table.

const COLUMNS = [
  { name: "trial", title: "trial" }, { name: "state", title: "state" }, { name: "objective", title: "" },
  ...(data.views.some((each) => each.tables.trials.mean) ? [{ name: "mean", title: "mean of retrains" }] : []), { name: "step", title: "step" },
  ...data.hyperparameters.map((one, index) => ({ name: `h${index}`, title: one.scale === "reverse_log" ? `1 − ${one.short}` : one.short })),
  { name: "seconds", title: "seconds" }, { name: "reason", title: "reason" },
  ...(data.trials.source ? [{ name: "source", title: "original name" }] : []),
];

function compare(a, b) {
  if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1; // What is missing stands last, either way.
  if (b === null || b === undefined) return -1;
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return state.sort.down ? -order : order;
}

function showTable() {
  const head = document.querySelector("#table thead"), body = document.querySelector("#table tbody");
  head.replaceChildren(make("tr", {}, ...COLUMNS.map((column) => {
    const button = make("button", { type: "button", text: column.name === "objective" ? objective().metric : column.title });
    button.onclick = () => {
      state.sort = { column: column.name, down: state.sort.column === column.name && !state.sort.down };
      showTable();
    };
    const cell = make("th", { scope: "col" }, button);
    if (state.sort.column === column.name) cell.setAttribute("aria-sort", state.sort.down ? "descending" : "ascending");
    return cell;
  })));
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = table("trials").filter((row) => {
    const text = COLUMNS.map(({ name }) => row[name] ?? "").join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  found.sort((a, b) => compare(a[state.sort.column], b[state.sort.column]) || compare(a.objective, b.objective));
  body.replaceChildren(...found.map((row) => {
    const line = make("tr", { class: [row.best ? "best" : "", row.trial === state.selected ? "selected" : ""].join(" ").trim() });
    line.dataset.trial = row.trial;
    for (const { name } of COLUMNS) {
      line.append(make("td", { class: name === "state" ? row.state : "", text: name === "seconds" && row.seconds !== null ? Number(row.seconds).toFixed(1) : name === "objective" || name === "mean" ? worth(row[name]) : number(row[name]) }));
    }
    line.onclick = () => select(row.trial === state.selected ? -1 : row.trial);
    return line;
  }));
}

function showAll() {
  state.sort = { column: view().tables.trials.mean ? "mean" : "objective", down: objective().mode === "max" };
  showStates();
  showSummary();
  showSince();
  showFindings();
  showTable();
  showSelection();
  redraw();
}

function setScheme(scheme) {
  document.documentElement.dataset.scheme = scheme;
}

const dark = matchMedia("(prefers-color-scheme: dark)");
setScheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => { setScheme(dark.matches ? "dark" : "light"); redraw(); });
document.getElementById("scheme").onclick = () => {
  setScheme(document.documentElement.dataset.scheme === "dark" ? "light" : "dark");
  redraw();
};
const choice = document.getElementById("objective");
choice.append(...data.objectives.map((one, index) => make("option", { value: index, text: one.label })));
choice.onchange = () => { state.view = Number(choice.value); showAll(); };
document.getElementById("filter").oninput = (event) => { state.filter = event.target.value; showTable(); };
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.selected >= 0) select(-1); });
addEventListener("beforeprint", () => document.querySelectorAll("#plot-list figure").forEach((figure) => {
  if (!figure.dataset.drawn) draw(data.plots[figure.dataset.plot], figure);
}));
document.getElementById("warnings").append(...data.warnings.map((text) => make("li", { text })));
document.getElementById("provenance").append(...data.provenance.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
layPlots();
showAll();
