"use strict";
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false, showTips: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "resetScale2d"]],
  };
  const plots = Array.from(document.querySelectorAll("[data-plot]"));

  // Paper is narrower than most windows, and no resize tells a plot that it is printed.
  const PAPER = 660;

  function draw(inDark, width) {
    for (const element of plots) {
      let text = document.getElementById(element.dataset.plot).textContent;
      if (inDark) text = text.replace(/#[0-9A-F]{6}/g, (color) => DARK[color] || color);
      const figure = JSON.parse(text);
      if (width) figure.layout.width = width;
      Plotly.react(element, figure.data, figure.layout, config);
    }
  }

  draw(dark.matches);
  dark.addEventListener("change", (event) => draw(event.matches));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.print").forEach((d) => { d.open = true; });
    draw(false, PAPER);
  });
  window.addEventListener("afterprint", () => draw(dark.matches));
})();
