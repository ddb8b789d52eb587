// A click, or Enter, on anything with data-action inside this component is told to Python with all its data,
// as the event that data-event names, or else as a click.
element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-action]");
  if (target) trigger(target.dataset.event || "click", { ...target.dataset });
});
