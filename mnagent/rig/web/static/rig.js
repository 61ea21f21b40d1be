// Keeps what is marked with data-live up to date from its stream of events.
"use strict";

for (const section of document.querySelectorAll("[data-live]")) {
  const picture = section.querySelector("[data-picture]");
  const status = section.querySelector("[data-status]");
  const source = new EventSource(section.dataset.live);
  let said = status.textContent;
  source.addEventListener("picture", (event) => {
    // Made and escaped by the server that made this page; the policy lets nothing in it run.
    picture.innerHTML = event.data;
  });
  source.addEventListener("status", (event) => {
    said = event.data;
    status.textContent = said;
  });
  source.addEventListener("reload", () => {
    source.close();
    location.reload();
  });
  source.addEventListener("open", () => {
    status.textContent = said;
  });
  source.addEventListener("error", () => {
    status.textContent = "The server does not answer; trying again.";
  });
}
