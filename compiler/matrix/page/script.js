for (const button of document.querySelectorAll("#matrix button")) {
  button.addEventListener("click", () => document.getElementById(button.dataset.opens).showModal());
}
