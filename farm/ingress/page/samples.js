// What is there to see before the first picture: clips of three samples, one of them in the frame.

import * as picture from "./picture.js";

const frame = document.getElementById("frame");
const backdrop = document.getElementById("backdrop");
const buttons = [...document.querySelectorAll("[data-sample]")];
const still = matchMedia("(prefers-reduced-motion: reduce)");

// Play the samples. The first is in the frame, which has its shape.
export function show() {
  for (const button of buttons) {
    const image = button.querySelector("img");
    if (!still.matches && image.getAttribute("src") !== image.dataset.clip) image.src = image.dataset.clip;
  }
  frame.style.setProperty("--shape", "1 / 1");
  frame.style.setProperty("--ratio", 1);
  Object.assign(backdrop, { src: buttons[0].querySelector("img").src, className: "", hidden: false });
}

// Take a sample as the picture, then call `render`.
export function prepare(render) {
  for (const button of buttons) {
    button.addEventListener("click", async () => {
      const name = button.dataset.sample;
      const answer = await fetch(`page/sample-${name}.jpg`).catch(() => null);
      if (!answer?.ok) return;
      await picture.take(new File([await answer.blob()], `${name}.jpg`, { type: "image/jpeg", lastModified: 0 }));
      render();
    });
  }
}
