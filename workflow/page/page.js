/* Binds the page's parts: charts, the slider over checkpoints, the current section, printing. */
(() => {
  const { runs, charts } = JSON.parse(document.getElementById("data").textContent);
  document.documentElement.classList.add("js");

  const byName = Object.fromEntries(runs.map((run) => [run.id, run]));
  for (const swatch of document.querySelectorAll("svg[data-run]"))
    swatch.replaceWith(marker(byName[swatch.dataset.run]));

  const drawn = [...document.querySelectorAll("[data-chart]")].map(
    (root) => new Chart(root, charts[root.dataset.chart], runs));

  /* Samples: one checkpoint and one sampler, of all runs. */
  const slider = document.getElementById("sample-step");
  if (slider) {
    const steps = slider.dataset.steps.split(" "), output = document.getElementById("sample-output");
    const sampler = document.getElementById("sample-sampler");
    const show = () => {
      const step = steps[slider.value], words = `${Number(step).toLocaleString("en-US")} steps`;
      output.value = words;
      slider.setAttribute("aria-valuetext", words);
      for (const sheets of document.querySelectorAll(".sheets")) {
        sheets.hidden = sampler ? sheets.dataset.sampler !== sampler.value : false;
        for (const figure of sheets.querySelectorAll("figure")) {
          const images = [...figure.querySelectorAll("img")];
          const shown = images.find((image) => image.dataset.step === step);
          for (const image of images) image.hidden = image !== shown;
          figure.querySelector(".absent").hidden = Boolean(shown);
          figure.querySelector(".at").textContent = words;
        }
      }
    };
    /* Another sampler may have been applied to the last checkpoint alone: go where it has samples. */
    const chooseSampler = () => {
      const own = [...document.querySelectorAll(`.sheets[data-sampler="${CSS.escape(sampler.value)}"] img`)]
        .map((image) => image.dataset.step);
      if (!own.includes(steps[slider.value])) slider.value = steps.indexOf(own.at(-1));
      show();
    };
    slider.addEventListener("input", show);
    sampler?.addEventListener("change", chooseSampler);
    show();
  }

  /* The section that is being read. */
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const section of document.querySelectorAll("main > section")) observer.observe(section);

  addEventListener("beforeprint", () => drawn.forEach((chart) => chart.draw()));
})();
