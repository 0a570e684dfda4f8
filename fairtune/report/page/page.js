"use strict";
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false, showTips: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "resetScale2d"]],
  };
  const plots = Array.from(document.querySelectorAll("[data-plot]"));

  function draw(inDark) {
    for (const element of plots) {
      let text = document.getElementById(element.dataset.plot).textContent;
      if (inDark) text = text.replace(/#[0-9A-F]{6}/g, (color) => DARK[color] || color);
      const figure = JSON.parse(text);
      Plotly.react(element, figure.data, figure.layout, config);
    }
  }

  draw(dark.matches);
  dark.addEventListener("change", (event) => draw(event.matches));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.print").forEach((d) => { d.open = true; });
    draw(false);
  });
  window.addEventListener("afterprint", () => draw(dark.matches));
})();
