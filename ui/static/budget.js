// The memory slider: its scale is logarithmic, from data-least to data-most bytes, so that MiB and GiB both have room.
const words = (bytes) => {
  const gib = bytes / 2 ** 30, mib = bytes / 2 ** 20;
  return gib >= 1 ? `${gib.toFixed(1)} GiB` : `${mib.toFixed(mib < 100 ? 1 : 0)} MiB`;
};
let timer = 0;
element.addEventListener("input", (event) => {
  const range = event.target.closest("input[type=range]");
  if (!range) return;
  const least = Number(range.dataset.least), most = Number(range.dataset.most);
  const share = range.value / range.max;
  const bytes = share === 1 ? most : Math.ceil(least * (most / least) ** share);
  range.style.setProperty("--at", `${share * 100}%`);
  range.setAttribute("aria-valuetext", words(bytes));
  element.querySelector("output").textContent = words(bytes);
  clearTimeout(timer);
  timer = setTimeout(() => trigger("input", { bytes }), 120);
});
