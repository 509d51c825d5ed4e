"use strict";
// Draws the figures in the colours of the page's scheme, switches the scheme, and opens everything for the printer.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("scheme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.scheme || (prefersDark.matches ? "dark" : "light")) === "dark";

  const coloured = (value, style) => {
    if (typeof value === "string") {
      const found = /^var\((--[\w-]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((each) => coloured(each, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, style)]));
    }
    return value;
  };

  const axis = (own, style, muted) => ({
    automargin: true, zeroline: false, ticks: "", gridcolor: style.getPropertyValue("--rule").trim(),
    linecolor: style.getPropertyValue("--rule-strong").trim(), tickfont: { color: muted }, ...own,
    title: { ...(own && own.title), font: { color: muted, size: 12 }, standoff: 12 },
  });

  const draw = (plot) => {
    const style = getComputedStyle(document.body);
    const muted = style.getPropertyValue("--muted").trim();
    const figure = coloured(JSON.parse(plot.parentElement.querySelector("script").textContent), style);
    const own = figure.layout;
    const flat = figure.data.some((trace) => trace.orientation === "h" || trace.error_x || own.yaxis.autorange === "reversed");
    const layout = {
      ...own, height: Number(plot.dataset.height), autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.fontFamily, size: 12.5, color: style.getPropertyValue("--ink").trim() },
      margin: { l: 12, r: 28, t: 34, b: 12 },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { color: muted } },
      hoverlabel: {
        bgcolor: style.getPropertyValue("--raised").trim(), bordercolor: style.getPropertyValue("--rule-strong").trim(),
        font: { color: style.getPropertyValue("--ink").trim(), family: style.fontFamily, size: 12.5 }, align: "left",
      },
      xaxis: axis(own.xaxis, style, muted),
      yaxis: axis({ ...own.yaxis, showgrid: !flat && own.yaxis.showgrid !== false }, style, muted),
    };
    window.Plotly.react(plot, figure.data, layout, { displayModeBar: false, responsive: true, displaylogo: false });
  };

  const drawAll = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} scheme`);
    if (window.Plotly) document.querySelectorAll(".plot").forEach(draw);
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.scheme = isDark() ? "light" : "dark";
    drawAll();
  });
  prefersDark.addEventListener("change", drawAll);

  let before = null;
  window.addEventListener("beforeprint", () => {
    before = { scheme: root.dataset.scheme, closed: [...document.querySelectorAll("details:not([open])")] };
    before.closed.forEach((details) => { details.open = true; });
    root.dataset.scheme = "light";
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    if (!before) return;
    before.closed.forEach((details) => { details.open = false; });
    if (before.scheme) root.dataset.scheme = before.scheme; else delete root.dataset.scheme;
    before = null;
    drawAll();
  });
  drawAll();
})();
