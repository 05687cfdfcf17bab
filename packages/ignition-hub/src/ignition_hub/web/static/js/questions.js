// The questions of the template that is chosen, and only those.

const sections = [...document.querySelectorAll("[data-questions]")];

function show() {
  const chosen = document.querySelector('input[name="template"]:checked')?.value;
  for (const section of sections) section.hidden = section.dataset.questions !== chosen;
}

for (const choice of document.querySelectorAll('input[name="template"]')) choice.addEventListener("change", show);
show();
