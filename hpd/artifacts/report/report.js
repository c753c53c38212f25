"use strict";
// Shows an image large in the dialog, beside the nearest real one. Without it the page still reads.
(() => {
  const dialog = document.getElementById("zoom");
  const tiles = [...document.querySelectorAll("button.tile")];
  if (!dialog || !tiles.length) return;
  const part = (name) => dialog.querySelector(`[data-part=${name}]`);
  let current = 0;

  const show = (index) => {
    current = (index + tiles.length) % tiles.length;
    const [image, real] = tiles[current].querySelectorAll("img");
    // names reach the page as text, never as markup
    part("name").textContent = tiles[current].dataset.name;
    part("place").textContent = tiles[current].dataset.place;
    part("image").src = image.src;
    part("image").alt = image.alt;
    part("pair").hidden = !real;
    if (real) {
      part("real").src = real.src;
      part("real").alt = real.alt;
      part("distance").textContent = tiles[current].dataset.distance;
    }
  };

  tiles.forEach((tile, index) => {
    tile.disabled = false;
    tile.addEventListener("click", () => {
      show(index);
      dialog.showModal();
    });
  });
  part("next").addEventListener("click", () => show(current + 1));
  part("previous").addEventListener("click", () => show(current - 1));
  part("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(current + 1);
    if (event.key === "ArrowLeft") show(current - 1);
  });
  // the dialog itself is hit only outside its content
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => tiles[current].focus());
})();
