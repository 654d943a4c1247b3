// Tries calls of this page with the reader's own key; the page works without it.
"use strict";
const key = document.getElementById("key");
key.form.hidden = false;
key.form.addEventListener("submit", (event) => event.preventDefault());
for (const form of document.querySelectorAll("form.try")) {
  const shown = form.querySelector("pre");
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    shown.hidden = false;
    const path = form.elements.path.value;
    const missing = path.match(/\{(\w+)\}/);
    // Resolved before it is sent: the key must not go to another address.
    const target = new URL(path, location.origin);
    if (missing || target.origin !== location.origin) {
      shown.textContent = missing ? `Put a value in place of ${missing[0]}.` : "The path must begin with one /.";
      return;
    }
    const headers = {};
    if (key.value) headers.Authorization = `Bearer ${key.value.trim()}`;
    const body = form.elements.body ? form.elements.body.value : undefined;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    shown.textContent = "...";
    try {
      const response = await fetch(target, { method: form.dataset.method, headers, body });
      const text = await response.text();
      let content = text;
      try {
        content = JSON.stringify(JSON.parse(text), null, 2);
      } catch {
        // Not JSON: shown as it came.
      }
      shown.textContent = `${response.status} ${response.statusText}\n${content}`;
    } catch (error) {
      shown.textContent = `The gateway does not respond: ${error.message}`;
    }
  });
}
