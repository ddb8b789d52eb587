// Small videos are shown with their pixels, large ones smoothly.
document.addEventListener("loadedmetadata", (event) => {
  event.target.style.imageRendering = event.target.videoWidth <= 256 ? "pixelated" : "auto";
}, true);

// Files dropped anywhere but on a field of their own go to the field that restores settings.
(() => {
  const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const hasOwnField = (event) => event.target.closest && event.target.closest("#picture, #restore");
  // The field is there only while its accordion is open.
  const give = (files, isOpening = false, tries = 50) => {
    const input = document.querySelector("#restore input[type=file]");
    if (input) {
      input.files = files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
      return;
    }
    if (!isOpening) document.querySelector("#restore-box button")?.click();
    if (tries > 0) setTimeout(give, 100, files, true, tries - 1);
  };
  let depth = 0;
  const leave = () => { depth = 0; document.body.classList.remove("dropping"); };
  document.addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) { depth += 1; document.body.classList.add("dropping"); }
  });
  document.addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) leave(); });
  document.addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    leave();
    if (!carriesFiles(event) || hasOwnField(event)) return;
    event.preventDefault();
    const files = new DataTransfer();
    files.items.add(event.dataTransfer.files[0]);
    give(files.files);
  });
})();
