// Two videos in step with each other, one wiped over the other.
const videos = () => [...element.querySelectorAll("video")];
const box = () => element.querySelector(".wipe");
let frame = 0;
const keepInStep = () => {
  const [lower, upper] = videos();
  if (lower && upper && Math.abs(lower.currentTime - upper.currentTime) > 0.05) upper.currentTime = lower.currentTime;
  frame = requestAnimationFrame(keepInStep);
};
const start = () => {
  cancelAnimationFrame(frame);
  videos().forEach((video) => { video.currentTime = 0; video.play().catch(() => {}); });
  if (videos().length === 2) keepInStep();
};
watch("value", start);
start();
element.addEventListener("input", (event) => {
  if (event.target.matches("input[name=cut]")) box().style.setProperty("--cut", `${event.target.value}%`);
  if (event.target.matches("select")) {
    box().classList.remove("side", "difference", "over");
    box().classList.add(event.target.value);
  }
});
element.addEventListener("click", (event) => {
  if (!event.target.closest("[data-pause]")) return;
  const paused = videos()[0].paused;
  videos().forEach((video) => (paused ? video.play() : video.pause()));
  event.target.textContent = paused ? "Pause" : "Play";
});
