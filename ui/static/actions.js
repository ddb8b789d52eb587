// A click, or Enter, on anything with data-action inside this component is told to Python with all its data.
element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-action]");
  if (target) trigger("click", { ...target.dataset });
});
