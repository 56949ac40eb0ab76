"use strict";
// One sound at a time; a playhead over each picture; a click on a picture seeks there. Everything else is the
// browser's own player, so space and the arrow keys work as everywhere.
for (const card of document.querySelectorAll(".card")) {
  const audio = card.querySelector("audio");
  if (!audio) continue;
  const sound = card.querySelector(".sound");
  const head = card.querySelector(".head");
  const draw = () => {
    head.style.display = "block";
    head.style.left = `${(100 * audio.currentTime) / audio.duration || 0}%`;
    if (!audio.paused) requestAnimationFrame(draw);
  };
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    card.classList.add("playing");
    draw();
  });
  audio.addEventListener("pause", () => card.classList.remove("playing"));
  audio.addEventListener("seeked", draw);
  sound.addEventListener("click", (event) => {
    const box = sound.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const seek = () => {
      audio.currentTime = share * audio.duration;
    };
    if (audio.duration) seek();
    else audio.addEventListener("loadedmetadata", seek, { once: true }); // what is in the table loads when it is played
    audio.play();
  });
}
